"""Decision trees of triphones: statistics against a loop over frames, splits against brute force, the file's bytes."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from kaldi_uq.engine.base import DecodeConfig, DeltasConfig
from kaldi_uq.engine.embedded.deltas import convert_alignments
from kaldi_uq.engine.embedded.engine import EmbeddedEngine
from kaldi_uq.engine.embedded.tree_build import Root, TreeBuilder, read_roots
from kaldi_uq.engine.embedded.tree_questions import obtain_questions
from kaldi_uq.engine.embedded.tree_stats import UNKNOWN, TreeStats, accumulate, frames_of, log_likelihood
from kaldi_uq.engine.embedded.wheels import read_tree
from kaldi_uq.errors import AlignmentError, DataError, EngineError
from kaldi_uq.io.ark import read_alignments, write_alignments
from kaldi_uq.io.event_map import PDF_CLASS, EventMap, Leaf, Split, Table, map_event, write_tree
from kaldi_uq.io.kaldi_model import HmmState, Topology, TransitionTable, read_transitions
from kaldi_uq.language.prepare import silence_states, state_chain
from tests.tiny import GRAPH_SCALES, TinySystem, features, make_system


def table_of(states: dict[int, tuple[HmmState, ...]]) -> TransitionTable:
    """A transition model in which each state of each phone has a pdf of its own."""
    entries = tuple(dict.fromkeys(states.values()))
    phone2idx = tuple(entries.index(states[p]) if p in states else -1 for p in range(max(states) + 1))
    topology = Topology(tuple(states), phone2idx, entries)
    tuples, pdf = [], 0
    for phone, chain in states.items():
        for state in range(len(chain) - 1):
            tuples.append((phone, state, pdf, pdf))
            pdf += 1
    num = sum(len(states[phone][state].transitions) for phone, state, *_ in tuples)
    return TransitionTable(topology, tuple(tuples), np.zeros(num + 1, np.float32))


def tid_of(table: TransitionTable, phone: int, state: int, arc: int) -> int:
    tid = 1
    for p, s, *_ in table.tuples:
        if (p, s) == (phone, state):
            return tid + arc
        tid += len(table.topology.entry(p)[s].transitions)
    raise KeyError((phone, state))


SIL, A, B = 1, 2, 3
TABLE = table_of({SIL: silence_states(5), A: state_chain(2), B: state_chain(1)})


def spell(*visits: tuple[int, int, int, int], reordered: bool = True) -> np.ndarray:
    """Visits of states (phone, state, next state, frames) as an alignment."""
    tids = []
    for phone, state, following, frames in visits:
        arcs = [destination for destination, _ in TABLE.topology.entry(phone)[state].transitions]
        out, loop = tid_of(TABLE, phone, state, arcs.index(following)), tid_of(TABLE, phone, state, arcs.index(state))
        loops = [loop] * (frames - 1)
        tids += [out, *loops] if reordered else [*loops, out]
    return np.array(tids, np.int32)


# silence falls back to an earlier state and is still one phone; "B" twice in a row is two
VISITS = (
    (SIL, 0, 1, 2), (SIL, 1, 3, 1), (SIL, 3, 2, 2), (SIL, 2, 4, 1), (SIL, 4, 5, 3),
    (A, 0, 1, 2), (A, 1, 2, 3), (B, 0, 1, 2), (B, 0, 1, 1), (SIL, 0, 3, 1), (SIL, 3, 4, 1), (SIL, 4, 5, 2),
)  # fmt: skip
PHONES = [(0, SIL, A, 9), (SIL, A, B, 5), (A, B, B, 2), (B, B, SIL, 1), (B, SIL, 0, 4)]


class TestStatistics:
    @pytest.mark.parametrize("reordered", [True, False])
    def test_frames_know_their_phone_and_its_neighbours(self, reordered: bool) -> None:
        frames = frames_of([spell(*VISITS, reordered=reordered), spell((B, 0, 1, 2), reordered=reordered)], TABLE)
        found = list(zip(frames.left.tolist(), frames.central.tolist(), frames.right.tolist(), strict=True))
        assert found == [event[:3] for event in PHONES for _ in range(event[3])] + [(0, B, 0)] * 2
        assert frames.pdf_class[:9].tolist() == [0, 0, 1, 3, 3, 2, 4, 4, 4]

    def test_sums_are_those_of_a_loop_over_frames(self) -> None:
        rng = np.random.default_rng(0)
        alignments = {"u": spell(*VISITS), "v": spell((A, 0, 1, 1), (A, 1, 2, 1))}
        feats = {utt: rng.normal(size=(len(a), 3)).astype(np.float32) for utt, a in alignments.items()}
        stats = accumulate(feats, alignments, TABLE, [SIL])
        expected: dict[tuple[int, ...], np.ndarray] = {}
        contexts = {"u": [event[:3] for event in PHONES for _ in range(event[3])], "v": [(0, A, 0)] * 2}
        for utt, alignment in alignments.items():
            frames = frames_of([alignment], TABLE)
            for (left, phone, right), c, x in zip(
                contexts[utt], frames.pdf_class, feats[utt].astype(float), strict=True
            ):
                key = (UNKNOWN, phone, UNKNOWN, int(c)) if phone == SIL else (left, phone, right, int(c))
                row = np.concatenate([[1.0], x, x**2])
                expected[key] = expected.get(key, 0) + row
        assert {tuple(event) for event in stats.events.tolist()} == set(expected)
        for event, sums in zip(stats.events.tolist(), stats.sums, strict=True):
            np.testing.assert_allclose(sums, expected[tuple(event)], rtol=1e-12)

    def test_log_likelihood_is_that_of_the_gaussian_of_the_data(self) -> None:
        x = np.random.default_rng(1).normal(2, 3, (50, 2))
        sums = np.concatenate([[len(x)], x.sum(0), (x**2).sum(0)])
        var = x.var(0)
        expected = (-0.5 * ((x - x.mean(0)) ** 2 / var + np.log(2 * np.pi * var))).sum()
        assert log_likelihood(sums) == pytest.approx(expected)
        assert log_likelihood(np.zeros((2, 5))).tolist() == [0, 0]


def sums_around(mean: float, count: float = 1000.0) -> np.ndarray:
    return np.array([count, count * mean, count * (mean**2 + 1.0)])


def stats_of(means: dict[tuple[int, int, int, int], float]) -> TreeStats:
    return TreeStats(np.array(list(means)), np.stack([sums_around(m) for m in means.values()]))


class TestQuestions:
    def test_phones_that_sound_alike_are_asked_about_together(self) -> None:
        means = {1: -20.0, 2: 0.0, 3: 0.5, 4: 10.0, 5: 10.5, 6: 11.0}
        stats = stats_of({(0, p, 0, 1): m for p, m in means.items()})
        found = obtain_questions(stats, [(p,) for p in means], generator=np.random.default_rng(0))
        assert found[0] == set(means)
        assert {frozenset(q) for q in ({2, 3}, {4, 5, 6}, {1})} <= set(found)
        assert len(found) == len(set(found)) == 11  # a binary tree of six

    def test_phones_without_data_and_hmms_of_one_state_are_no_problem(self) -> None:
        stats = stats_of({(0, 1, 0, 0): 0.0, (0, 2, 0, 0): 5.0})
        found = obtain_questions(stats, [(1,), (2,), (3, 4)], generator=np.random.default_rng(0))
        assert {frozenset({1}), frozenset({2}), frozenset({3, 4})} <= set(found)


class TestBuilding:
    def build(
        self, stats: TreeStats, max_leaves: int, roots: list[Root] | None = None, thresh: float = 0.0
    ) -> EventMap:
        questions = [frozenset(q) for q in ({1, 2}, {3}, {4}, {3, 4})]
        roots = roots or [Root((p,), True, True) for p in (1, 2)]
        return TreeBuilder(stats, questions, {1: 2, 2: 2, 3: 2, 4: 2}, roots).build(max_leaves, thresh)

    def test_the_question_that_separates_the_data_is_asked_first(self) -> None:
        means = {
            (left, p, r, c): 5.0 * (r == 3) + 20.0 * c + p
            for left, p, r, c in itertools.product((3, 4), (1, 2), (3, 4), (0, 1))
        }
        tree = self.build(stats_of(means), max_leaves=8)
        assert isinstance(tree, Table) and tree.key == 1
        assert tree.branches[0] is None
        for root in tree.branches[1:]:
            assert isinstance(root, Split) and root.key == PDF_CLASS and root.values == {0}
            assert isinstance(root.yes, Split) and root.yes.key == 2 and root.yes.values in ({3}, {4})
            assert isinstance(root.yes.yes, Leaf)
        pdfs = {key: map_event(tree, {0: key[0], 1: key[1], 2: key[2], PDF_CLASS: key[3]}) for key in means}
        assert sorted(set(pdfs.values())) == list(range(8))
        assert all(pdfs[3, p, r, c] == pdfs[4, p, r, c] for p in (1, 2) for r in (3, 4) for c in (0, 1))

    def test_leaves_that_sound_alike_are_merged_within_a_root_only(self) -> None:
        means = {(left, p, r, c): 30.0 * c for left, p, r, c in itertools.product((3, 4), (1, 2), (3, 4), (0, 1))}
        tree = self.build(stats_of(means), max_leaves=16, thresh=1.0)
        assert {map_event(tree, {0: 3, 1: p, 2: 3, PDF_CLASS: c}) for p in (1, 2) for c in (0, 1)} == {0, 1, 2, 3}

    def test_number_of_leaves_is_a_multiple_of_eight(self) -> None:
        rng = np.random.default_rng(0)
        means = {
            (left, p, r, c): rng.normal(0, 20) for left, p, r, c in itertools.product((3, 4), (1, 2), (3, 4), (0, 1))
        }
        tree = self.build(stats_of(means), max_leaves=13)
        assert len({map_event(tree, {0: left, 1: p, 2: r, PDF_CLASS: c}) for left, p, r, c in means}) == 8

    def test_roots_that_are_not_shared_or_not_split(self) -> None:
        means = {(3, p, 3, c): 10.0 * c + p for p in (1, 2, 3, 4) for c in (0, 1)}
        roots = [Root((1, 2), False, False), Root((3, 4), True, False)]
        tree = self.build(stats_of(means), max_leaves=8, roots=roots)
        answers = {(p, c): map_event(tree, {0: 3, 1: p, 2: 3, PDF_CLASS: c}) for p in (1, 2, 3, 4) for c in (0, 1)}
        assert len({answers[p, 0] for p in (1, 2)}) == 1 and answers[1, 0] != answers[1, 1]
        assert len({answers[p, c] for p in (3, 4) for c in (0, 1)}) == 1
        assert len(set(answers.values())) == 3

    def test_context_of_a_phone_that_has_none_is_not_asked_about(self) -> None:
        means = {(UNKNOWN, 1, UNKNOWN, 0): 0.0, (UNKNOWN, 1, UNKNOWN, 1): 9.0, (3, 2, 4, 0): 1.0, (4, 2, 3, 0): 30.0}
        tree = self.build(stats_of(means), max_leaves=8)
        assert map_event(tree, {1: 1, PDF_CLASS: 0}) != map_event(tree, {1: 1, PDF_CLASS: 1})

    def test_more_roots_than_leaves_is_an_error(self) -> None:
        with pytest.raises(EngineError, match="the tree has 2 roots, more than the 1 leaves"):
            self.build(stats_of({(3, 1, 3, 0): 0.0, (3, 2, 3, 0): 0.0}), max_leaves=1)

    @pytest.mark.parametrize(
        "text, message",
        [("", "empty"), ("shared split 1\nshared split 1\n", "stands twice"), ("shared split\n", "roots:1: expected")]
        + [("shared 1\n", "roots:1: expected"), ("shared split one\n", "roots:1: phone-ids: expected an integer")],
    )  # fmt: skip
    def test_damaged_roots_are_named(self, tmp_path: Path, text: str, message: str) -> None:
        (tmp_path / "roots").write_text(text)
        with pytest.raises(DataError, match=message):
            read_roots(tmp_path / "roots")


def test_kaldi_code_reads_the_written_tree_and_gives_the_same_pdfs(tmp_path: Path) -> None:
    asks = Split(2, frozenset({3, 1}), Leaf(0), Split(PDF_CLASS, frozenset({0}), Leaf(1), Leaf(2)))
    tree = Split(1, frozenset({1}), asks, Table(1, (None, None, Leaf(3), Table(PDF_CLASS, (Leaf(4), Leaf(5))))))
    write_tree(tmp_path / "tree", tree, context_width=3, central_position=1)
    theirs = read_tree(tmp_path / "tree")
    assert (theirs.context_width, theirs.central_position, theirs.num_pdfs) == (3, 1, 6)
    for left, phone, right, pdf_class in itertools.product((0, 1, 3), (1, 2, 3), (0, 1, 2, 3), (0, 1)):
        expected = map_event(tree, {0: left, 1: phone, 2: right, PDF_CLASS: pdf_class})
        assert theirs.compute([left, phone, right], pdf_class) == (True, expected)


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> TinySystem:
    return make_system(tmp_path_factory.mktemp("tiny"), num_utts=24)


CONFIG = DeltasConfig(num_leaves=24, totgauss=48, num_iters=8, max_iter_inc=5, realign_iters=(3, 6))


def train(system: TinySystem, out: Path, config: DeltasConfig = CONFIG) -> Path:
    transcripts = {utt: system.word_ids(*words) for utt, words in system.text.items()}
    system.engine.train_deltas(features(system.waves), transcripts, system.lang, system.mono, out, config)
    return out


@pytest.fixture(scope="module")
def tri(system: TinySystem, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(system, tmp_path_factory.mktemp("tri"))


class TestTraining:
    def test_system_decodes_what_was_said(self, system: TinySystem, tri: Path) -> None:
        system.engine.make_graph(system.lang, tri, tri / "graph", **GRAPH_SCALES)
        found = system.engine.decode_gmm(tri, tri / "graph", features(system.waves).items(), DecodeConfig())
        right = sum(list(found[utt].words) == words for utt, words in system.text.items())
        assert right >= 0.9 * len(system.text)

    def test_all_leaves_are_used_and_each_belongs_to_one_phone(self, tri: Path) -> None:
        table = read_transitions(tri / "final.mdl")
        assert len({(phone, pdf) for phone, _, pdf, _ in table.tuples}) == table.num_pdfs <= CONFIG.num_leaves
        used = np.concatenate([table.tid_to_pdf[a] for a in read_alignments(tri).values()])
        assert set(used.tolist()) == set(range(table.num_pdfs))

    def test_same_seed_gives_the_same_files(self, system: TinySystem, tri: Path, tmp_path: Path) -> None:
        again = train(system, tmp_path / "again")
        for name in ("tree", "final.mdl"):
            assert (again / name).read_bytes() == (tri / name).read_bytes()

    def test_alignments_hold_the_pdfs_that_the_tree_gives_their_phones(self, system: TinySystem, tri: Path) -> None:
        table = read_transitions(tri / "final.mdl")
        tree = read_tree(tri / "tree")
        tids = list(read_alignments(tri).values())
        frames = frames_of(tids, table)
        pdfs = table.tid_to_pdf[np.concatenate(tids)]
        for row in range(0, len(pdfs), 7):
            window = [int(side[row]) for side in (frames.left, frames.central, frames.right)]
            assert tree.compute(window, int(frames.pdf_class[row])) == (True, int(pdfs[row]))

    def test_too_few_alignments_are_refused(self, system: TinySystem, tmp_path: Path) -> None:
        ali = tmp_path / "ali"
        ali.mkdir()
        (ali / "final.mdl").write_bytes((system.mono / "final.mdl").read_bytes())
        write_alignments(ali / "ali.1.gz", dict(list(system.alignments.items())[:12]))
        transcripts = {utt: system.word_ids(*words) for utt, words in system.text.items()}
        with pytest.raises(AlignmentError, match="12 of 24 utterances cannot be aligned"):
            EmbeddedEngine().train_deltas(
                features(system.waves), transcripts, system.lang, ali, tmp_path / "out", CONFIG
            )


def test_alignment_is_converted_state_by_state() -> None:
    """Each phone's states get pdfs by what stands to its right; the arcs out of the states stay."""
    states = {SIL: silence_states(5), A: state_chain(2), B: state_chain(1)}
    right_is_b = Split(2, frozenset({B}), Leaf(7), Leaf(8))
    tree = Table(
        1, (None, Table(PDF_CLASS, tuple(map(Leaf, range(5)))), Table(PDF_CLASS, (Leaf(5), Leaf(6))), right_is_b)
    )
    tuples = [(SIL, s, s, s) for s in range(5)] + [(A, 0, 5, 5), (A, 1, 6, 6), (B, 0, 7, 7), (B, 0, 8, 8)]
    num = sum(len(states[p][s].transitions) for p, s, *_ in tuples)
    table = TransitionTable(TABLE.topology, tuple(tuples), np.zeros(num + 1, np.float32))
    alignment = spell(*VISITS)
    found = convert_alignments({"u": alignment}, TABLE, table, tree)["u"]
    old, new = frames_of([alignment], TABLE), frames_of([found], table)
    for name in ("left", "central", "right", "state", "pdf_class", "arc"):
        np.testing.assert_array_equal(getattr(old, name), getattr(new, name))
    pdfs = table.tid_to_pdf[found]
    np.testing.assert_array_equal(pdfs[old.central == B], [7, 7, 8])
    np.testing.assert_array_equal(pdfs[old.central == SIL], old.state[old.central == SIL])
