"""The search of lattices: against all paths through small graphs, and against the decoder of the wheels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kaldi_uq.engine.base import DecodeConfig, EngineOptions
from kaldi_uq.engine.embedded.engine import EmbeddedEngine
from kaldi_uq.io.fst import ARC, FstArrays, read_fst_arrays
from kaldi_uq.io.kaldi_model import read_gmm_model
from kaldi_uq.io.lattice import Lattice, read_lattices
from kaldi_uq.lattice.determinize import determinize
from kaldi_uq.lattice.graph import SearchGraph
from kaldi_uq.lattice.paths import best_paths
from kaldi_uq.lattice.posteriors import LATTICE_STATISTICS, lattice_statistics
from kaldi_uq.lattice.search import SearchOptions, search
from tests import tiny
from tests.kaldi import Kaldi, read_text_vectors
from tests.lattices import all_paths, best_of_words
from tests.tiny import TinySystem

WIDE = SearchOptions(beam=1e4, lattice_beam=1e4)
Described = tuple[tuple[int, ...], tuple[float, float], tuple[int, ...]]  # words, costs, transition-ids of a path
TID_TO_PDF = np.array([-1, 0, 1, 2, 0])


def graph_of(arcs: list[tuple[int, int, int, int, float]], finals: dict[int, float], num_states: int) -> FstArrays:
    """A graph from (source, destination, transition-id, word, cost)."""
    arcs = sorted(arcs, key=lambda arc: arc[0])
    table = np.array([(tid, word, cost, to) for _, to, tid, word, cost in arcs], dtype=ARC)
    offsets = np.searchsorted([arc[0] for arc in arcs], np.arange(num_states + 1))
    costs = np.array([finals.get(state, np.inf) for state in range(num_states)], dtype=np.float32)
    return FstArrays(0, costs, offsets, table)


def random_graph(rng: np.random.Generator, num_states: int = 5) -> FstArrays:
    """Arcs of any direction that take a frame, and silent ones in the order of the states, which lead in no circle."""
    arcs = [(0, int(rng.integers(num_states)), 1, 1, 0.5)]
    for _ in range(12):
        source, to = (int(v) for v in rng.integers(num_states, size=2))
        silent = rng.random() < 0.3 and source < to
        tid = 0 if silent else int(rng.integers(1, len(TID_TO_PDF)))
        arcs.append((source, to, tid, int(rng.integers(3)) * int(rng.random() < 0.5), float(rng.integers(16)) / 8))
    finals = {int(state): float(rng.integers(8)) / 8 for state in rng.integers(num_states, size=2)}
    return graph_of(arcs, finals, num_states)


def paths_of(graph: FstArrays, scores: np.ndarray) -> list[Described]:
    """All paths through a graph."""
    found: list[Described] = []

    def follow(state: int, frame: int, path: Described) -> None:
        words, costs, tids = path
        if frame == len(scores) and np.isfinite(graph.finals[state]):
            found.append((words, (costs[0] + float(graph.finals[state]), costs[1]), tids))
        for ilabel, olabel, weight, to in graph.arcs_of(state).tolist():
            if ilabel and frame == len(scores):
                continue
            heard = -float(scores[frame, TID_TO_PDF[ilabel]]) if ilabel else 0.0
            further = (costs[0] + weight, costs[1] + heard)
            more_words, more_tids = ((label,) if label else () for label in (olabel, ilabel))
            follow(to, frame + bool(ilabel), (words + more_words, further, tids + more_tids))

    follow(graph.start, 0, ((), (0.0, 0.0), ()))
    return found


class TestSearch:
    @pytest.mark.parametrize("seed", range(40))
    def test_without_a_beam_all_paths_are_there(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        graph, scores = random_graph(rng), rng.normal(size=(4, 3)).astype(np.float32)
        expected = paths_of(graph, scores)
        found = search(SearchGraph.of(graph, TID_TO_PDF), scores, WIDE)
        if not expected:
            assert found is None or not found[1]
            return
        assert found is not None and found[1]
        here, there = (
            sorted((words, tids, round(g, 4), round(a, 4)) for words, (g, a), tids in paths)
            for paths in (all_paths(found[0]), expected)
        )
        assert here == there

    @pytest.mark.parametrize("seed", range(40))
    def test_lattice_beam_keeps_exactly_what_lies_on_a_near_path(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        graph, scores = random_graph(rng), rng.normal(size=(5, 3)).astype(np.float32)
        expected = paths_of(graph, scores)
        found = search(SearchGraph.of(graph, TID_TO_PDF), scores, SearchOptions(beam=1e4, lattice_beam=1.0))
        if not expected or found is None:
            return
        best = min(sum(costs) for _, costs, _ in expected)
        near = {(words, tids) for words, costs, tids in expected if sum(costs) <= best + 1.0}
        here = all_paths(found[0])
        assert near <= {(words, tids) for words, _, tids in here}
        assert len(here) <= len(expected)
        for arc in range(found[0].num_arcs):  # no arc without a near path through it
            assert min(cost for _, cost, arcs in routes(found[0]) if arc in arcs) <= best + 1.0 + 1e-4

    def test_pruning_in_between_changes_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        rng = np.random.default_rng(3)
        arcs = [(0, 0, 1, 0, 0.1), (0, 1, 2, 1, 1.0), (1, 1, 2, 0, 0.1), (1, 0, 0, 0, 0.2), (1, 2, 3, 2, 0.5)]
        arcs += [(2, 2, 3, 0, 0.1), (2, 0, 0, 0, 0.3)]
        graph = SearchGraph.of(graph_of(arcs, {0: 0.0, 2: 0.5}, 3), TID_TO_PDF)
        scores = rng.normal(size=(60, 3)).astype(np.float32)
        once = search(graph, scores, SearchOptions(beam=8, lattice_beam=3))
        monkeypatch.setattr("kaldi_uq.lattice.search.PRUNE_INTERVAL", 5)
        often = search(graph, scores, SearchOptions(beam=8, lattice_beam=3))
        assert once is not None and often is not None
        for name in ("sources", "destinations", "words", "costs", "tids"):
            assert np.array_equal(getattr(once[0], name), getattr(often[0], name)), name

    def test_no_final_state_ends_anywhere(self) -> None:
        graph = SearchGraph.of(graph_of([(0, 1, 1, 5, 0.5), (1, 2, 2, 0, 0.0)], {0: 0.0}, 3), TID_TO_PDF)
        found = search(graph, np.zeros((2, 3), np.float32), WIDE)
        assert found is not None and not found[1]
        assert all_paths(found[0]) == [((5,), (0.5, 0.0), (1, 2))]

    def test_no_path_and_no_frame(self) -> None:
        graph = SearchGraph.of(graph_of([(0, 1, 1, 5, 0.5)], {1: 0.0}, 2), TID_TO_PDF)
        assert search(graph, np.zeros((2, 3), np.float32), WIDE) is None
        assert search(graph, np.zeros((0, 3), np.float32), WIDE) is None

    def test_max_active_limits_the_tokens(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("kaldi_uq.lattice.search.MIN_ACTIVE", 1)
        arcs = [(0, state, 1, state, state / 10) for state in range(1, 30)] + [(s, s, 2, 0, 0.0) for s in range(1, 30)]
        graph = SearchGraph.of(graph_of(arcs, {s: 0.0 for s in range(1, 30)}, 30), TID_TO_PDF)
        found = search(graph, np.zeros((3, 3), np.float32), SearchOptions(beam=100, max_active=4, lattice_beam=100))
        assert found is not None
        assert [words for words, _, _ in all_paths(found[0])] == [(s,) for s in range(1, 6)]


def routes(lattice: Lattice) -> list[tuple[int, float, set[int]]]:
    """End, cost and arcs of every path."""
    found = []

    def follow(state: int, cost: float, arcs: set[int]) -> None:
        if np.isfinite(lattice.finals[state]).all():
            found.append((state, cost + float(lattice.finals[state].sum()), arcs))
        for arc in np.flatnonzero(lattice.sources == state).tolist():
            follow(int(lattice.destinations[arc]), cost + float(lattice.costs[arc].sum()), arcs | {arc})

    follow(lattice.start, 0.0, set())
    return found


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> TinySystem:
    return tiny.make_system(tmp_path_factory.mktemp("system"))


@pytest.fixture(scope="module")
def scores(system: TinySystem) -> dict[str, np.ndarray]:
    _, gmms = read_gmm_model(system.mono / "final.mdl")
    return {utt: gmms.loglikes(feats) for utt, feats in tiny.features(system.waves).items()}


class TestEngine:
    CONFIG = DecodeConfig(acwt=0.05, lattice_beam=8.0)

    def lattices(self, system: TinySystem, scores: dict[str, np.ndarray], out: Path) -> Path:
        engine = EmbeddedEngine(EngineOptions(work_dir=out, lattices=True, first_job=3))
        engine.decoder(system.mono, system.graph, self.CONFIG).decode(scores.items())
        return out / "lat.3.gz"

    def test_best_path_is_the_hypothesis_with_unscaled_acoustic_costs(
        self, system: TinySystem, scores: dict[str, np.ndarray], tmp_path: Path
    ) -> None:
        decoder = EmbeddedEngine().decoder(system.mono, system.graph, self.CONFIG)
        hypotheses = decoder.decode(scores.items())
        found = dict(read_lattices(self.lattices(system, scores, tmp_path)))
        assert list(found) == list(hypotheses)
        assert max(lattice.num_arcs for lattice in found.values()) > 8
        for utt, hypothesis in hypotheses.items():
            (path,) = best_paths(found[utt], [(1.0, self.CONFIG.acwt, 0.0)])
            assert path is not None
            assert tuple(system.lang.id_to_word[word] for word in path.words) == hypothesis.words
            assert np.array_equal(path.tids, hypothesis.alignment)
            pdfs = system.table.tid_to_pdf[path.tids]
            heard = scores[utt][np.arange(len(pdfs)), pdfs]
            assert path.costs[1] == pytest.approx(-heard.sum(), rel=1e-5)
            assert -(path.costs[0] + self.CONFIG.acwt * path.costs[1]) == pytest.approx(hypothesis.score, rel=1e-5)

    def test_every_frame_of_every_path_has_its_cost(
        self, system: TinySystem, scores: dict[str, np.ndarray], tmp_path: Path
    ) -> None:
        for utt, lattice in read_lattices(self.lattices(system, scores, tmp_path)):
            for _, (_, acoustic), tids in all_paths(lattice):
                heard = scores[utt][np.arange(len(tids)), system.table.tid_to_pdf[list(tids)]]
                assert len(tids) == len(scores[utt])
                assert acoustic == pytest.approx(-heard.sum(), rel=1e-4)

    def test_without_lattices_there_is_no_file_and_no_search(
        self, system: TinySystem, scores: dict[str, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("kaldi_uq.engine.embedded.decode.search", None)
        engine = EmbeddedEngine(EngineOptions(work_dir=tmp_path))
        assert engine.decoder(system.mono, system.graph, self.CONFIG).decode(scores.items())
        assert list(tmp_path.iterdir()) == []

    def test_what_is_less_sure_measures_higher(self, system: TinySystem, scores: dict[str, np.ndarray]) -> None:
        decoder = EmbeddedEngine().decoder(system.mono, system.graph, self.CONFIG)
        means = []
        for scale in (1.0, 0.1):
            measured: list[dict[str, float]] = []

            def measure(utt: str, lattice: Lattice, rows: list[dict[str, float]] = measured) -> None:
                rows.append(lattice_statistics(lattice, self.CONFIG.acwt))

            decoder.decode([(utt, scale * one) for utt, one in list(scores.items())[:6]], lattices=measure)
            means.append([np.mean([row[statistic] for row in measured]) for statistic in LATTICE_STATISTICS])
        assert (np.array(means[0]) < np.array(means[1])).all()


def test_programs_of_kaldi_read_our_lattices_as_we_do(
    kaldi: Kaldi, system: TinySystem, scores: dict[str, np.ndarray], tmp_path: Path
) -> None:
    config = TestEngine.CONFIG
    packed = TestEngine().lattices(system, scores, tmp_path)
    found = dict(read_lattices(packed))
    archive = f"ark:gunzip -c {packed}|"
    words = read_text_vectors(kaldi.run("lattice-best-path", f"--acoustic-scale={config.acwt}", archive, "ark,t:-"))
    lines = kaldi.run("lattice-depth", archive, "ark,t:-").splitlines()
    depths = {line.split()[0]: float(line.split()[1]) for line in lines}
    posteriors = kaldi.run("lattice-to-post", f"--acoustic-scale={config.acwt}", archive, "ark,t:-")
    assert len(posteriors.splitlines()) == len(found)
    for utt, lattice in found.items():
        (path,) = best_paths(lattice, [(1.0, config.acwt, 0.0)])
        assert path is not None and list(path.words) == list(words[utt])
        assert lattice_statistics(lattice, config.acwt)["lattice_depth"] == pytest.approx(depths[utt], rel=1e-4)


def test_lattices_hold_the_paths_that_those_of_kaldi_hold(
    kaldi: Kaldi, system: TinySystem, scores: dict[str, np.ndarray]
) -> None:
    config = DecodeConfig(acwt=0.01, lattice_beam=6.0)
    found: list[dict[str, Lattice]] = [{}, {}]
    for engine, lattices in zip((EmbeddedEngine(), kaldi.engine()), found, strict=True):
        engine.decoder(system.mono, system.graph, config).decode(scores.items(), lattices=lattices.__setitem__)
    for utt in found[0]:
        ours, theirs = (best_of_words(lattices[utt].scaled(acoustic=config.acwt)) for lattices in found)
        limit = min(sum(costs) for costs, _ in theirs.values()) + config.lattice_beam - 1e-3
        near = {words for words, (costs, _) in theirs.items() if sum(costs) <= limit}
        assert near == {words for words, (costs, _) in ours.items() if sum(costs) <= limit}
        for words in near:
            assert ours[words][0] == pytest.approx(theirs[words][0], abs=1e-2)
            assert ours[words][1] == theirs[words][1]


def test_deterministic_lattices_have_the_words_of_the_lattice_of_states(
    system: TinySystem, scores: dict[str, np.ndarray]
) -> None:
    graph = SearchGraph.of(read_fst_arrays(system.graph / "HCLG.fst"), system.table.tid_to_pdf)
    for one in list(scores.values())[:3]:
        found = search(graph, one[:20] * np.float32(0.05), SearchOptions(lattice_beam=2.0))
        assert found is not None
        expected = best_of_words(found[0])
        deterministic = best_of_words(determinize(found[0], 1e4))
        assert {w: pytest.approx(sum(c)) for w, (c, _) in expected.items()} == {
            w: sum(c) for w, (c, _) in deterministic.items()
        }
