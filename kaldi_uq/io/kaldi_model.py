"""Kaldi's ``final.mdl`` of a GMM system and the topology in it, binary and text, as plain Python objects.

Source of the format: Kaldi ``src/hmm/hmm-topology.cc``, ``src/hmm/transition-model.cc``, ``src/gmm/diag-gmm.cc``,
``src/base/io-funcs.cc``.
"""

from __future__ import annotations

import functools
import os
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kaldi_uq.errors import ModelFileError
from kaldi_uq.io.files import atomic_write

NO_PDF = -1


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
        distance = {0: 0}
        for index, state in enumerate(states):  # destinations lie ahead, except self-loops and Kaldi's silence states
            for destination, _ in state.transitions:
                if index in distance:
                    step = distance[index] + 1
                    distance[destination] = min(distance.get(destination, step), step)
        return distance[len(states) - 1]

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
                arcs = "".join(f" <Transition> {to} {probability:g}" for to, probability in state.transitions)
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

    @functools.cached_property
    def tid_to_pdf(self) -> np.ndarray:
        """(num_transition_ids + 1,) int64: the pdf of each transition-id; entry 0 is unused."""
        pdfs = [0]
        for phone, state, forward, self_loop in self.tuples:
            arcs = self.topology.entry(phone)[state].transitions
            pdfs += [self_loop if destination == state else forward for destination, _ in arcs]
        return np.asarray(pdfs, dtype=np.int64)

    @functools.cached_property
    def tid_to_phone(self) -> np.ndarray:
        """(num_transition_ids + 1,) int64: the phone of each transition-id; entry 0 is unused."""
        counts = [len(self.topology.entry(phone)[state].transitions) for phone, state, _, _ in self.tuples]
        phones = np.repeat([phone for phone, *_ in self.tuples], counts)
        return np.concatenate([[0], phones]).astype(np.int64)


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
    def _stacked(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The Gaussians of all pdfs as one matrix: log-likelihoods are one product for the terms in x and x^2."""
        terms = np.concatenate([np.concatenate(self.means_invvars), -0.5 * np.concatenate(self.inv_vars)], axis=1)
        sizes = np.array([len(w) for w in self.weights])
        starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        return np.ascontiguousarray(terms.T), np.concatenate(self.gconsts).astype(np.float32), starts, sizes

    def loglikes(self, feats: np.ndarray) -> np.ndarray:
        """Log-likelihoods of every pdf.

        Args:
            feats: (T, D) float32.

        Returns:
            (T, C) float32.
        """
        terms, gconsts, starts, sizes = self._stacked
        scores = np.concatenate([feats, feats**2], axis=1) @ terms + gconsts
        if (sizes == 1).all():
            return scores
        peak = np.maximum.reduceat(scores, starts, axis=1)
        scores -= np.repeat(peak, sizes, axis=1)
        return peak + np.log(np.add.reduceat(np.exp(scores, out=scores), starts, axis=1))


class _Reader:
    """Kaldi's token stream, binary or text, from memory."""

    def __init__(self, data: bytes, path: Path) -> None:
        self.path, self.data, self.at = path, data, 0
        self.binary = data[:2] == b"\0B"
        if self.binary:
            self.at = 2

    def fail(self, message: str) -> ModelFileError:
        return ModelFileError(f"{self.path}: not a model of Kaldi's GMM format: {message} at byte {self.at}")

    def token(self) -> str:
        data, at = self.data, self.at
        while at < len(data) and not self.binary and data[at : at + 1].isspace():
            at += 1
        end = at
        while end < len(data) and not data[end : end + 1].isspace() and end - at < 64:
            end += 1
        if (end >= len(data) and self.binary) or at == end:
            raise self.fail("unexpected end")
        self.at = end + 1
        try:
            return data[at:end].decode("ascii")
        except UnicodeDecodeError:
            raise self.fail("a token is not text") from None

    def expect(self, *tokens: str) -> str:
        found = self.token()
        if found not in tokens:
            raise self.fail(f"expected {' or '.join(tokens)}, found {found!r}")
        return found

    def take(self, size: int) -> bytes:
        if size < 0 or self.at + size > len(self.data):
            raise self.fail("unexpected end")
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self, kind: str) -> float:
        if not self.binary:
            found = self.token()
            try:
                return float(found)
            except ValueError:
                raise self.fail(f"expected a number, found {found!r}") from None
        if self.take(1) != b"\4":
            raise self.fail("expected a 4-byte number")
        return float(struct.unpack("<" + kind, self.take(4))[0])

    def integer(self) -> int:
        return int(self.number("i"))

    def real(self) -> float:
        return self.number("f")

    def integers(self) -> tuple[int, ...]:
        if self.take(1) != b"\4":
            raise self.fail("expected a vector of 4-byte integers")
        size = struct.unpack("<i", self.take(4))[0]
        return tuple(int(v) for v in np.frombuffer(self.take(4 * size), "<i4"))

    def array(self, num_axes: int) -> np.ndarray:
        if self.binary:
            kind = self.expect("FV", "DV") if num_axes == 1 else self.expect("FM", "DM")
            shape = [self.integer() for _ in range(num_axes)]
            dtype = "<f4" if kind[0] == "F" else "<f8"
            values = np.frombuffer(self.take(int(np.prod(shape)) * int(dtype[2])), dtype)
            return values.reshape(shape).astype(np.float32)
        end = self.data.find(b"]", self.at)
        text = self.data[self.at : end].decode("ascii", "replace").strip()
        if end < 0 or not text.startswith("["):
            raise self.fail("expected '[ ... ]'")
        self.at = end + 1
        try:
            rows = [[float(v) for v in line.split()] for line in text[1:].split("\n") if line.split()]
            return np.array(rows[0] if num_axes == 1 else rows, dtype=np.float32)
        except (ValueError, IndexError) as error:
            raise self.fail(f"malformed numbers ({error})") from None


def _read_topology(reader: _Reader) -> Topology:
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
        return Topology(phones, phone2idx, tuple(entries))
    index: dict[int, int] = {}
    while reader.expect("<TopologyEntry>", "</Topology>") == "<TopologyEntry>":
        reader.expect("<ForPhones>")
        while (word := reader.token()) != "</ForPhones>":
            if not word.isdigit() or int(word) in index:
                raise reader.fail(f"expected a phone-id of one entry, found {word!r}")
            index[int(word)] = len(entries)
        states = []
        while reader.expect("<State>", "</TopologyEntry>") == "<State>":
            states.append(_read_text_state(reader, len(states)))
        entries.append(tuple(states))
    phone2idx = tuple(index.get(p, -1) for p in range(max(index, default=0) + 1))
    return Topology(tuple(sorted(index)), phone2idx, tuple(entries))


def _read_text_state(reader: _Reader, number: int) -> HmmState:
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


def _read_transitions(reader: _Reader) -> TransitionTable:
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
    return TransitionTable(topology, tuple(tuples), log_probs)


def _open_reader(path: str | os.PathLike[str]) -> _Reader:
    try:
        return _Reader(Path(path).read_bytes(), Path(path))
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
    return transitions, DiagGmmSet(tuple(weights), tuple(means), tuple(variances))


def _int(value: int) -> bytes:
    return b"\4" + struct.pack("<i", value)


def _ints(values: tuple[int, ...]) -> bytes:
    return b"\4" + struct.pack("<i", len(values)) + np.asarray(values, "<i4").tobytes()


def _array(values: np.ndarray) -> bytes:
    kind = b"FV " if values.ndim == 1 else b"FM "
    return kind + b"".join(_int(n) for n in values.shape) + np.ascontiguousarray(values, "<f4").tobytes()


def _transitions_bytes(table: TransitionTable) -> bytes:
    topology, is_hmm = table.topology, table.topology.is_hmm
    out = [b"<TransitionModel> <Topology> ", _ints(topology.phones), _ints(topology.phone2idx)]
    out += [b"" if is_hmm else _int(-1), _int(len(topology.entries))]
    for states in topology.entries:
        out.append(_int(len(states)))
        for state in states:
            out += [_int(state.forward_pdf_class), b"" if is_hmm else _int(state.self_loop_pdf_class)]
            out.append(_int(len(state.transitions)))
            out += [_int(to) + b"\4" + struct.pack("<f", probability) for to, probability in state.transitions]
    name = b"Triples" if is_hmm else b"Tuples"
    out += [b"</Topology> <" + name + b"> ", _int(len(table.tuples))]
    out += [_int(value) for entry in table.tuples for value in (entry[:3] if is_hmm else entry)]
    out += [b"</" + name + b"> <LogProbs> ", _array(table.log_probs), b"</LogProbs> </TransitionModel> "]
    return b"".join(out)


def write_model(path: str | os.PathLike[str], transitions: TransitionTable, gmms: DiagGmmSet | None = None) -> None:
    """Write a ``final.mdl`` in Kaldi's binary format: the transition model and, for a GMM system, the GMMs."""
    out = [b"\0B", _transitions_bytes(transitions)]
    if gmms is not None:
        out += [b"<DIMENSION> ", _int(gmms.dim), b"<NUMPDFS> ", _int(len(gmms.weights))]
        for gconst, weight, mean, variance in zip(
            gmms.gconsts, gmms.weights, gmms.means_invvars, gmms.inv_vars, strict=True
        ):
            out += [b"<DiagGMM> <GCONSTS> ", _array(gconst.astype(np.float32)), b"<WEIGHTS> ", _array(weight)]
            out += [b"<MEANS_INVVARS> ", _array(mean), b"<INV_VARS> ", _array(variance), b"</DiagGMM> "]
    with atomic_write(path, "wb") as stream:
        stream.write(b"".join(out))
