"""Kaldi's ``final.mdl`` of a GMM system and the topology in it, binary and text, as plain Python objects.

Source of the format: Kaldi ``src/hmm/hmm-topology.cc``, ``src/hmm/transition-model.cc``, ``src/gmm/diag-gmm.cc``.

One file: what is read, what is refused and what is written are of one format and share its parts.
"""

from __future__ import annotations

import functools
import os
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kaldi_uq.errors import ModelFileError
from kaldi_uq.io.digests import recorded
from kaldi_uq.io.files import atomic_write
from kaldi_uq.io.token_stream import TokenReader, array_bytes, int_bytes, int_vector

NO_PDF = -1
MAX_PHONE = 1_000_000  # a larger id is damage, and a table of all ids up to it would fill the memory
MAX_PDF = 1_000_000  # recipes have up to ten thousand; a larger id is damage
MAX_PROBABILITY = 1.001  # a little beyond 1: what rounding makes of it in text files
MAX_LOG_PROB = 0.001


@dataclass(frozen=True)
class HmmState:
    """A state of a phone's HMM: its pdf classes (-1 in the final state) and transitions (destination, probability)."""

    forward_pdf_class: int
    self_loop_pdf_class: int
    transitions: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Topology:
    """Phones, the entry that each phone uses (-1: none), and the entries: tuples of states."""

    phones: tuple[int, ...]
    phone2idx: tuple[int, ...]
    entries: tuple[tuple[HmmState, ...], ...]

    @property
    def is_hmm(self) -> bool:
        """Whether every state uses one pdf for self-loop and forward transitions (all but chain models)."""
        return all(s.forward_pdf_class == s.self_loop_pdf_class for entry in self.entries for s in entry)

    def entry(self, phone: int) -> tuple[HmmState, ...]:
        """The states of a phone."""
        return self.entries[self.phone2idx[phone]]

    def min_frames(self, phone: int) -> int:
        """The fewest frames that a phone can last."""
        states = self.entry(phone)
        reached, frames = {0}, 0
        while len(states) - 1 not in reached:
            following = reached | {to for index in reached for to, _ in states[index].transitions}
            if following == reached:
                raise ModelFileError(f"topology of phone {phone}: its final state cannot be reached")
            reached, frames = following, frames + 1
        return frames

    def to_text(self) -> str:
        """Kaldi's text form."""
        lines = ["<Topology>"]
        for index, states in enumerate(self.entries):
            phones = " ".join(str(p) for p, i in enumerate(self.phone2idx) if i == index)
            lines += ["<TopologyEntry>", "<ForPhones>", phones, "</ForPhones>"]
            for number, state in enumerate(states):
                pdf = ""
                if state.forward_pdf_class != NO_PDF:
                    pdf = (
                        f" <PdfClass> {state.forward_pdf_class}"
                        if self.is_hmm
                        else f" <ForwardPdfClass> {state.forward_pdf_class} "
                        f"<SelfLoopPdfClass> {state.self_loop_pdf_class}"
                    )
                arcs = "".join(f" <Transition> {to} {probability:.9g}" for to, probability in state.transitions)
                lines.append(f"<State> {number}{pdf}{arcs} </State>")
            lines.append("</TopologyEntry>")
        return "\n".join([*lines, "</Topology>", ""])


@dataclass(frozen=True)
class TransitionTable:
    """A transition model: topology, (phone, hmm_state, forward_pdf, self_loop_pdf) tuples, log-probabilities.

    ``log_probs`` is (num_transition_ids + 1,) float32; index 0 is unused.
    """

    topology: Topology
    tuples: tuple[tuple[int, int, int, int], ...]
    log_probs: np.ndarray

    @property
    def num_pdfs(self) -> int:
        """Pdfs, C."""
        return 1 + max(max(forward, self_loop) for _, _, forward, self_loop in self.tuples)

    @property
    def num_tids(self) -> int:
        """Transition-ids, which are numbered from 1."""
        return len(self.log_probs) - 1

    @functools.cached_property
    def tid_to_pdf(self) -> np.ndarray:
        """(num_transition_ids + 1,) int64: the pdf of each transition-id; entry 0 is unused."""
        pdfs = [0]
        for phone, state, forward, self_loop in self.tuples:
            arcs = self.topology.entry(phone)[state].transitions
            pdfs += [self_loop if destination == state else forward for destination, _ in arcs]
        return np.asarray(pdfs, dtype=np.int64)


@dataclass(frozen=True)
class DiagGmmSet:
    """The GMMs of all pdfs: per pdf, weights (G,), means times inverse variances (G, D), inverse variances (G, D)."""

    weights: tuple[np.ndarray, ...]
    means_invvars: tuple[np.ndarray, ...]
    inv_vars: tuple[np.ndarray, ...]

    @property
    def dim(self) -> int:
        """Feature dimension."""
        return int(self.inv_vars[0].shape[1])

    @property
    def num_gauss(self) -> int:
        """Gaussians over all pdfs."""
        return sum(len(w) for w in self.weights)

    @functools.cached_property
    def gconsts(self) -> tuple[np.ndarray, ...]:
        """Per pdf, the constants of the Gaussians' log-likelihoods, (G,) float64."""
        half_log_2pi = 0.5 * self.dim * np.log(2 * np.pi)
        return tuple(
            np.log(w.astype(np.float64))
            - half_log_2pi
            + 0.5 * np.log(v.astype(np.float64)).sum(1)
            - 0.5 * (m.astype(np.float64) ** 2 / v).sum(1)
            for w, m, v in zip(self.weights, self.means_invvars, self.inv_vars, strict=True)
        )

    @functools.cached_property
    def _by_rank(self) -> tuple[np.ndarray, np.ndarray, list[slice], np.ndarray]:
        """The Gaussians of all pdfs as one matrix, so that log-likelihoods are one product for the terms in x and x^2.

        The pdfs' first Gaussians come first, then the second ones of those that have any, and so on; the pdfs with most
        Gaussians are the first.

        Returns:
            terms (G, 2D) and constants (G, 1), float32; the rows of each rank; and the place (C,) of each pdf.
        """
        sizes = np.array([len(w) for w in self.weights])
        order = np.argsort(-sizes, kind="stable")
        counts = [int((sizes > rank).sum()) for rank in range(int(sizes.max()))]
        ends = np.cumsum(counts)
        ranks = [slice(int(end) - count, int(end)) for count, end in zip(counts, ends, strict=True)]
        firsts = np.cumsum(sizes) - sizes
        rows = np.concatenate([firsts[order[:count]] + rank for rank, count in enumerate(counts)])
        terms = np.concatenate([np.concatenate(self.means_invvars), -0.5 * np.concatenate(self.inv_vars)], axis=1)
        gconsts = np.concatenate(self.gconsts).astype(np.float32)
        return np.ascontiguousarray(terms[rows]), gconsts[rows, None], ranks, np.argsort(order)

    def loglikes(self, feats: np.ndarray, pdfs: np.ndarray | None = None) -> np.ndarray:
        """Log-likelihoods of every pdf, or of some.

        Args:
            feats: features, (T, D) float32.
            pdfs: (P,) int64, those that are wanted, each once.

        Returns:
            (T, C) float32, or (T, P).
        """
        terms, gconsts, ranks, places = self._by_rank
        if pdfs is not None:
            chosen = np.sort(places[pdfs])
            counts = [int(np.searchsorted(chosen, rank.stop - rank.start)) for rank in ranks]
            rows = np.concatenate([rank.start + chosen[:count] for rank, count in zip(ranks, counts, strict=True)])
            ends = np.cumsum(counts)
            ranks = [slice(int(end) - count, int(end)) for count, end in zip(counts, ends, strict=True) if count]
            terms, gconsts, places = terms[rows], gconsts[rows], np.searchsorted(chosen, places[pdfs])
        scores = terms @ np.concatenate([feats, feats**2], axis=1).T
        scores += gconsts
        # a loop over the Gaussians of one pdf, not over pdfs: reduceat takes three times as long
        peak = scores[ranks[0]].copy()
        for rank in ranks[1:]:
            part = peak[: rank.stop - rank.start]
            np.maximum(part, scores[rank], out=part)
        total = np.zeros_like(peak)
        for rank in ranks:
            count = rank.stop - rank.start
            total[:count] += np.exp(scores[rank] - peak[:count])
        peak += np.log(total)
        return np.ascontiguousarray(peak[places].T)


def _read_topology(reader: TokenReader) -> Topology:
    reader.expect("<Topology>")
    entries: list[tuple[HmmState, ...]] = []
    if reader.binary:
        phones, phone2idx = reader.integers(), reader.integers()
        count, is_hmm = reader.integer(), True
        if count == -1:
            count, is_hmm = reader.integer(), False
        for _ in range(count):
            states = []
            for _ in range(reader.integer()):
                forward = reader.integer()
                self_loop = forward if is_hmm else reader.integer()
                arcs = tuple((reader.integer(), reader.real()) for _ in range(reader.integer()))
                states.append(HmmState(forward, self_loop, arcs))
            entries.append(tuple(states))
        reader.expect("</Topology>")
        topology = Topology(phones, phone2idx, tuple(entries))
        _check_topology(reader, topology)
        return topology
    index: dict[int, int] = {}
    while reader.expect("<TopologyEntry>", "</Topology>") == "<TopologyEntry>":
        reader.expect("<ForPhones>")
        while (word := reader.token()) != "</ForPhones>":
            if not word.isdigit() or int(word) in index or int(word) > MAX_PHONE:
                raise reader.fail(f"expected a phone-id of one entry, found {word!r}")
            index[int(word)] = len(entries)
        states = []
        while reader.expect("<State>", "</TopologyEntry>") == "<State>":
            states.append(_read_text_state(reader, len(states)))
        entries.append(tuple(states))
    phone2idx = tuple(index.get(p, -1) for p in range(max(index, default=0) + 1))
    topology = Topology(tuple(sorted(index)), phone2idx, tuple(entries))
    _check_topology(reader, topology)
    return topology


def _read_text_state(reader: TokenReader, number: int) -> HmmState:
    if reader.integer() != number:
        raise reader.fail(f"expected state {number}")
    forward = self_loop = NO_PDF
    arcs: list[tuple[int, float]] = []
    while (token := reader.token()) != "</State>":
        if token == "<PdfClass>":
            forward = self_loop = reader.integer()
        elif token == "<ForwardPdfClass>":
            forward = reader.integer()
        elif token == "<SelfLoopPdfClass>":
            self_loop = reader.integer()
        elif token == "<Transition>":
            arcs.append((reader.integer(), reader.real()))
        else:
            raise reader.fail(f"unexpected {token!r} in a state")
    return HmmState(forward, self_loop, tuple(arcs))


def _read_transitions(reader: TokenReader) -> TransitionTable:
    reader.expect("<TransitionModel>")
    topology = _read_topology(reader)
    kind = reader.expect("<Triples>", "<Tuples>")
    tuples = []
    for _ in range(reader.integer()):
        phone, state, forward = reader.integer(), reader.integer(), reader.integer()
        tuples.append((phone, state, forward, reader.integer() if kind == "<Tuples>" else forward))
    reader.expect(kind.replace("<", "</"))
    reader.expect("<LogProbs>")
    log_probs = reader.array(1)
    reader.expect("</LogProbs>")
    reader.expect("</TransitionModel>")
    table = TransitionTable(topology, tuple(tuples), log_probs)
    _check_table(reader, table)
    return table


def _check_topology(reader: TokenReader, topology: Topology) -> None:
    """Refuse indices that point nowhere."""
    for phone in topology.phones:
        if not (0 < phone < len(topology.phone2idx) and 0 <= topology.phone2idx[phone] < len(topology.entries)):
            raise reader.fail(f"phone {phone} has no topology")
    for states in topology.entries:
        problem = _problem_of_entry(states)
        if problem:
            raise reader.fail(f"a topology {problem}")


def _problem_of_entry(states: tuple[HmmState, ...]) -> str:
    """What is wrong with a phone's HMM; empty if nothing is.  The rules are Kaldi's (``HmmTopology::Check``)."""
    if len(states) < 2:
        return "has no state but the final one"
    classes = {pdf for state in states for pdf in (state.forward_pdf_class, state.self_loop_pdf_class)} - {NO_PDF}
    if classes != set(range(len(classes))):
        return "has pdf classes that are not numbered from 0"
    for number, state in enumerate(states):
        destinations = [to for to, _ in state.transitions]
        if not all(0 <= to < len(states) for to in destinations):
            return "has a transition to a state that it does not have"
        if not all(0 < probability <= MAX_PROBABILITY for _, probability in state.transitions):  # false for NaN
            return "has a transition whose probability is not between 0 and 1"
        if len(set(destinations)) < len(destinations):
            return "has two transitions between the same states"
        if number == len(states) - 1:
            if destinations or (state.forward_pdf_class, state.self_loop_pdf_class) != (NO_PDF, NO_PDF):
                return "has a final state with transitions or with a pdf class"
        elif (state.forward_pdf_class == NO_PDF) != (state.self_loop_pdf_class == NO_PDF):
            return "has a state with half a pdf class"
        elif state.forward_pdf_class == NO_PDF and (number == 0 or number in destinations):
            return "has a state without a pdf class that begins it or stays in itself"
    return ""


def _check_table(reader: TokenReader, table: TransitionTable) -> None:
    """Refuse tuples of phones and states that the topology does not have, and log-probabilities of another number."""
    phones = set(table.topology.phones)
    for phone, state, *pdfs in table.tuples:
        if phone not in phones or not 0 <= state < len(table.topology.entry(phone)):
            raise reader.fail(f"state {state} of phone {phone} is not in the topology")
        if not 0 <= min(pdfs) <= max(pdfs) <= MAX_PDF:
            raise reader.fail(f"state {state} of phone {phone} has pdf {min(pdfs) if min(pdfs) < 0 else max(pdfs)}")
    if not table.tuples or len(table.log_probs) != len(table.tid_to_pdf):
        raise reader.fail(f"{len(table.log_probs)} log-probabilities do not fit {len(table.tuples)} states")
    wrong = ~(np.isfinite(table.log_probs) & (table.log_probs <= MAX_LOG_PROB))
    if wrong.any():
        raise reader.fail(f"the log-probability of transition-id {wrong.argmax()} is {table.log_probs[wrong.argmax()]}")


def _open_reader(path: str | os.PathLike[str]) -> TokenReader:
    try:
        return TokenReader(Path(path).read_bytes(), Path(path))
    except FileNotFoundError:
        raise ModelFileError(f"{path}: no such file; steps/train_mono.sh makes a final.mdl") from None


def read_topology(path: str | os.PathLike[str]) -> Topology:
    """Read ``data/lang/topo``."""
    return _read_topology(_open_reader(path))


def read_transitions(path: str | os.PathLike[str]) -> TransitionTable:
    """Read the transition model with which any ``final.mdl`` begins (GMM or network)."""
    return _read_transitions(_open_reader(path))


def read_gmm_model(path: str | os.PathLike[str]) -> tuple[TransitionTable, DiagGmmSet]:
    """Read a GMM system's ``final.mdl``.

    Raises:
        ModelFileError: missing, damaged, or not a GMM model.
    """
    reader = _open_reader(path)
    transitions = _read_transitions(reader)
    reader.expect("<DIMENSION>")
    dim = reader.integer()
    reader.expect("<NUMPDFS>")
    weights, means, variances = [], [], []
    for _ in range(reader.integer()):
        reader.expect("<DiagGMM>", "<DiagGMMBegin>")
        if reader.expect("<GCONSTS>", "<WEIGHTS>") == "<GCONSTS>":
            reader.array(1)  # computed from the rest, which is safer than trusting them
            reader.expect("<WEIGHTS>")
        weights.append(reader.array(1))
        reader.expect("<MEANS_INVVARS>")
        means.append(reader.array(2))
        reader.expect("<INV_VARS>")
        variances.append(reader.array(2))
        reader.expect("</DiagGMM>", "<DiagGMMEnd>")
        if variances[-1].shape != means[-1].shape or variances[-1].shape != (len(weights[-1]), dim):
            raise reader.fail("a GMM's arrays do not fit each other")
        if not weights[-1].size or not _is_gmm(weights[-1], means[-1], variances[-1]):
            raise reader.fail(f"weights or variances of pdf {len(weights) - 1} that are not positive numbers")
    if len(weights) != transitions.num_pdfs:
        raise reader.fail(f"{len(weights)} GMMs for {transitions.num_pdfs} pdfs")
    return transitions, DiagGmmSet(tuple(weights), tuple(means), tuple(variances))


def _is_gmm(weights: np.ndarray, means_invvars: np.ndarray, inv_vars: np.ndarray) -> bool:
    positive = (weights > 0).all() and (weights <= MAX_PROBABILITY).all() and (inv_vars > 0).all()  # false for NaN
    return bool(positive and np.isfinite(inv_vars).all() and np.isfinite(means_invvars).all())


def _transitions_bytes(table: TransitionTable) -> bytes:
    topology, is_hmm = table.topology, table.topology.is_hmm
    out = [b"<TransitionModel> <Topology> ", int_vector(topology.phones), int_vector(topology.phone2idx)]
    out += [b"" if is_hmm else int_bytes(-1), int_bytes(len(topology.entries))]
    for states in topology.entries:
        out.append(int_bytes(len(states)))
        for state in states:
            out += [int_bytes(state.forward_pdf_class), b"" if is_hmm else int_bytes(state.self_loop_pdf_class)]
            out.append(int_bytes(len(state.transitions)))
            out += [int_bytes(to) + b"\4" + struct.pack("<f", probability) for to, probability in state.transitions]
    name = b"Triples" if is_hmm else b"Tuples"
    out += [b"</Topology> <" + name + b"> ", int_bytes(len(table.tuples))]
    out += [int_bytes(value) for entry in table.tuples for value in (entry[:3] if is_hmm else entry)]
    out += [b"</" + name + b"> <LogProbs> ", array_bytes(table.log_probs), b"</LogProbs> </TransitionModel> "]
    return b"".join(out)


def write_model(path: str | os.PathLike[str], transitions: TransitionTable, gmms: DiagGmmSet | None = None) -> None:
    """Write a ``final.mdl`` in Kaldi's binary format: the transition model and, for a GMM system, the GMMs.

    Its digest is recorded beside it.
    """
    out = [b"\0B", _transitions_bytes(transitions)]
    if gmms is not None:
        out += [b"<DIMENSION> ", int_bytes(gmms.dim), b"<NUMPDFS> ", int_bytes(len(gmms.weights))]
        for gconst, weight, mean, variance in zip(
            gmms.gconsts, gmms.weights, gmms.means_invvars, gmms.inv_vars, strict=True
        ):
            out += [b"<DiagGMM> <GCONSTS> ", array_bytes(gconst.astype(np.float32)), b"<WEIGHTS> ", array_bytes(weight)]
            out += [b"<MEANS_INVVARS> ", array_bytes(mean), b"<INV_VARS> ", array_bytes(variance), b"</DiagGMM> "]
    with recorded(Path(path).parent, Path(path).name), atomic_write(path, "wb") as stream:
        stream.write(b"".join(out))
