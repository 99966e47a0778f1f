"""The search in batches: beside the engine's decoder and aligner with a wide beam, on random graphs and scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kaldi_uq.attacks.goal import Say
from kaldi_uq.attacks.pgd import PGD
from kaldi_uq.engine import batched
from kaldi_uq.engine.base import Aligner, DecodeConfig
from kaldi_uq.engine.batched import BatchAligner, BatchDecoder
from kaldi_uq.engine.graph_tables import graph_tables
from kaldi_uq.engine.viterbi import Viterbi, labels_of
from kaldi_uq.errors import EngineError
from kaldi_uq.io.files import write_text
from kaldi_uq.io.fst import ARC, FstArrays, vector_bytes
from kaldi_uq.recogniser.heard import FrameScores
from kaldi_uq.recogniser.recogniser import Recogniser
from tests.tiny import TinySystem, make_system, make_waves

CPU = torch.device("cpu")
WIDE = DecodeConfig(acwt=0.3, beam=1e4, max_active=100_000, align_beam=1e4)
WORDS = ("<eps>", "one", "three", "two")
LENGTHS = [1, 2, 7, 20, 20, 33]


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> TinySystem:
    return make_system(tmp_path_factory.mktemp("viterbi"))


@pytest.fixture(scope="module")
def who(system: TinySystem) -> Recogniser:
    return system.recogniser(system.train())


def fst_of(arcs: Sequence[tuple[int, int, int, int, float]], finals: dict[int, float], size: int) -> FstArrays:
    """A transducer of arcs (source, destination, input, output, cost), state 0 first."""
    ordered = sorted(arcs, key=lambda arc: arc[0])
    rows = np.array([(i, o, cost, to) for _, to, i, o, cost in ordered], ARC)
    offsets = np.concatenate([[0], np.cumsum(np.bincount([arc[0] for arc in ordered], minlength=size))])
    costs = np.full(size, np.inf, np.float32)
    costs[list(finals)] = list(finals.values())
    return FstArrays(0, costs, offsets.astype(np.int64), rows)


def random_graph(seed: int, num_tids: int) -> FstArrays:
    """Loops, silent arcs with and without words, one behind the other, costs below 0, several arcs between states."""
    rng = np.random.default_rng(seed)
    size = int(rng.integers(2, 14))
    arcs = []
    for _ in range(int(rng.integers(size, 4 * size))):
        source, to = (int(x) for x in rng.integers(size, size=2))
        silent = source < to and rng.random() < 0.35
        word = int(rng.integers(1, len(WORDS))) if rng.random() < 0.4 else 0
        arcs.append((source, to, 0 if silent else int(rng.integers(1, num_tids + 1)), word, float(rng.normal(0.5, 1))))
    finals = {int(state): float(rng.normal()) for state in rng.integers(size, size=int(rng.integers(0, 3)))}
    return fst_of(arcs, finals, size)


def graph_dir(folder: Path, fst: FstArrays) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "HCLG.fst").write_bytes(vector_bytes(fst))
    write_text(folder / "words.txt", "".join(f"{word} {i}\n" for i, word in enumerate(WORDS)))
    return folder


def random_scores(num_pdfs: int, lengths: Sequence[int] = LENGTHS, seed: int = 0) -> tuple[FrameScores, dict[str, Any]]:
    rng = np.random.default_rng(seed)
    arrays = {f"u{i}": rng.normal(0, 8, (size, num_pdfs)).astype(np.float32) for i, size in enumerate(lengths)}
    scores = FrameScores.of(arrays, CPU)
    for row, size in enumerate(lengths):
        scores.values[row, size:] = torch.nan  # what follows an utterance is not read
    return scores, arrays


class TestDecoding:
    @pytest.mark.parametrize("seed", range(40))
    def test_words_and_weights_are_those_of_the_engine_with_a_wide_beam(
        self, system: TinySystem, tmp_path: Path, seed: int
    ) -> None:
        table = system.table
        folder = graph_dir(tmp_path / "graph", random_graph(seed, len(table.tid_to_pdf) - 1))
        expected = system.engine.decoder(system.mono, folder, WIDE)
        decoder = BatchDecoder.open(folder, table, WIDE.acwt, CPU)
        assert decoder is not None
        scores, arrays = random_scores(table.num_pdfs, seed=seed)
        before = scores.values.clone()
        found = decoder.decode(scores.values, scores.lengths)
        assert torch.equal(scores.values.nan_to_num(), before.nan_to_num())
        hypotheses = expected.decode(arrays.items())
        assert found == [hypotheses[utt].words if utt in hypotheses else () for utt in arrays]
        done = {utt: one for utt, one in hypotheses.items() if one.reached_final}
        paths = [table.tid_to_pdf[one.alignment] for one in done.values()]
        for (utt, one), path, weight in zip(done.items(), paths, decoder.weights(paths), strict=True):
            frames = float(arrays[utt][np.arange(len(path)), path].sum())
            assert WIDE.acwt * (weight + frames) == pytest.approx(one.score, abs=1e-3)

    def test_random_graphs_have_what_is_to_be_tested(self, system: TinySystem, tmp_path: Path) -> None:
        """Ends in final states and elsewhere, and utterances without any path."""
        kinds = set()
        for seed in range(40):
            folder = graph_dir(tmp_path / str(seed), random_graph(seed, len(system.table.tid_to_pdf) - 1))
            _, arrays = random_scores(system.table.num_pdfs, seed=seed)
            found = system.engine.decoder(system.mono, folder, WIDE).decode(arrays.items())
            kinds |= {found[utt].reached_final if utt in found else None for utt in arrays}
        assert kinds == {True, False, None}

    def test_real_graph_on_real_scores(self, system: TinySystem, who: Recogniser) -> None:
        arrays = {utt: one.scores for utt, one in who.score(system.waves)}
        assert who.decode_batch(FrameScores.of(arrays, CPU)) == who.decode(arrays.items())

    def test_utterance_does_not_depend_on_its_batch(self, who: Recogniser, system: TinySystem) -> None:
        scores, arrays = random_scores(system.table.num_pdfs)
        together = who.decode_batch(scores)
        for utt, array in arrays.items():
            assert who.decode_batch(FrameScores.of({utt: array}, CPU)) == {utt: together[utt]}

    def test_parts_that_the_memory_holds_are_the_whole(
        self, who: Recogniser, system: TinySystem, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        scores, _ = random_scores(system.table.num_pdfs)
        texts = {utt: [["one"], ["two", "three"]] for utt in list(scores.utts)[2:]}
        whole, paths = who.decode_batch(scores), who.align_batch(scores, texts)
        known = [path for some in paths.values() for path in some if path is not None]
        weights = who.graph_weights(known)
        for size in (1, 40_000):
            monkeypatch.setattr(batched, "CPU_BYTES", size)
            assert who.decode_batch(scores) == whole
            assert who.graph_weights(known) == weights
            same_paths(who.align_batch(scores, texts), paths)

    def test_of_equal_paths_the_states_of_the_lowest_numbers_count(self) -> None:
        arcs = [(0, 1, 1, 3, 0.0), (0, 2, 1, 2, 0.0), (1, 3, 1, 0, 0.0), (2, 3, 1, 0, 0.0), (0, 2, 1, 1, 0.0)]
        graph = graph_tables(fst_of(arrays := arcs, {3: 0.0}, 4), np.array([0, 0]), 100)
        assert graph is not None
        for rows in (1, 3):
            paths = Viterbi([graph], CPU).paths(torch.zeros(2, len(graph.columns), rows), [2] * rows)
            assert labels_of(graph, paths, [2] * rows) == [(3,)] * rows
        turned = graph_tables(fst_of(arrays[1:], {3: 0.0}, 4), np.array([0, 0]), 100)
        assert turned is not None  # of two arcs between two states the first in the file
        paths = Viterbi([turned], CPU).paths(torch.zeros(2, len(turned.columns), 1), [2])
        assert labels_of(turned, paths, [2]) == [(2,)]

    def test_impossible_arcs_are_not_taken(self) -> None:
        graph = graph_tables(fst_of([(0, 1, 1, 1, np.inf), (0, 1, 1, 2, 5.0)], {1: 0.0}, 2), np.array([0, 0]), 100)
        assert graph is not None
        paths = Viterbi([graph], CPU).paths(torch.zeros(1, len(graph.columns), 1), [1])
        assert labels_of(graph, paths, [1]) == [(2,)] and paths.scores[0] == -5

    def test_path_that_cannot_end_ends_anywhere_with_what_it_has(self) -> None:
        fst = fst_of([(0, 1, 1, 1, 2.0), (1, 2, 0, 3, -1.0), (1, 3, 1, 2, 0.0), (0, 2, 0, 1, -3.0)], {3: 0.5}, 4)
        graph = graph_tables(fst, np.array([0, 0]), 100)
        assert graph is not None
        paths = Viterbi([graph], CPU).paths(torch.zeros(3, len(graph.columns), 3), [1, 2, 3])
        assert paths.reached_final.tolist() == [False, True, False]
        assert paths.scores.tolist() == [-1.0, -2.5, -np.inf]
        assert labels_of(graph, paths, [1, 2, 3]) == [(1, 3), (1, 2), ()]

    def test_scores_of_another_model_and_nan_are_refused(self, who: Recogniser, system: TinySystem) -> None:
        scores, _ = random_scores(system.table.num_pdfs + 1)
        with pytest.raises(EngineError, match=r"scores are \(33, 11\), expected \(frames, 10\)"):
            who.decode_batch(scores)
        scores, _ = random_scores(system.table.num_pdfs)
        scores.values[3, 5] = torch.nan
        with pytest.raises(EngineError, match="the acoustic model gives NaN"):
            who.decode_batch(scores)
        with pytest.raises(EngineError, match="the acoustic model gives NaN"):
            who.align_batch(scores, {"u3": [["one"]]})

    def test_missing_and_damaged_graphs_are_refused(self, system: TinySystem, tmp_path: Path) -> None:
        with pytest.raises(EngineError, match=r"HCLG.fst: no such file"):
            BatchDecoder.open(tmp_path, system.table, 0.1, CPU)
        folder = graph_dir(tmp_path, fst_of([(0, 0, 10_000, 0, 0.0)], {0: 0.0}, 1))
        with pytest.raises(EngineError, match="input label 10000 is none of the"):
            BatchDecoder.open(folder, system.table, 0.1, CPU)


class TestLimit:
    def test_large_graphs_have_no_tables(self) -> None:
        """Neither many arcs, nor many silent ways, nor many ways between words."""
        many = [(0, 0, 1 + k, 0, 0.0) for k in range(60)]
        chain = [(k, k + 1, 0, 0, 0.0) for k in range(30)] + [(30, 0, 1, 0, 0.0)]
        words = [(0, k, k, 0, 0.0) for k in range(1, 20)] + [(k, 0, 0, k, 0.0) for k in range(1, 20)]
        columns = np.arange(100)
        for arcs, size, places in ((many, 1, 59), (chain, 31, 100), (words, 20, 300)):
            fst = fst_of(arcs, {0: 0.0}, size)
            assert graph_tables(fst, columns, places) is None
            assert graph_tables(fst, columns, 10_000) is not None

    def test_without_tables_the_engine_is_asked(self, who: Recogniser, system: TinySystem) -> None:
        scores, _ = random_scores(system.table.num_pdfs)
        texts: Any = {"u5": [["one"], ["two", "one"]], "u2": [], "u3": [["three"]]}
        alone = by_engine(who)
        assert alone.decode_batch(scores) == who.decode_batch(scores)
        paths = alone.align_batch(scores, texts)
        same_paths(who.align_batch(scores, texts), paths)
        known = [path for some in paths.values() for path in some if path is not None]
        assert alone.graph_weights(known) == pytest.approx(who.graph_weights(known), abs=0.05)


class TestAlignment:
    @pytest.mark.parametrize("seed", range(5))
    def test_paths_are_those_of_the_engine_with_a_wide_beam(self, system: TinySystem, seed: int) -> None:
        rng = np.random.default_rng(seed)
        lengths = rng.integers(2, 60, 12).tolist()
        scores, arrays = random_scores(system.table.num_pdfs, lengths, seed)
        texts = [(row, system.word_ids(*rng.choice(WORDS[1:], rng.integers(1, 6)))) for row in [*range(12), *range(12)]]
        engine = system.engine.aligner(system.mono, system.lang, WIDE)
        found = BatchAligner(engine, system.table, WIDE.acwt, CPU).align(scores.values, lengths, texts)
        assert found is not None
        for number, (row, text) in enumerate(texts):
            alone = engine.align([(f"u{row}", arrays[f"u{row}"])], {f"u{row}": text})
            expected = [system.table.tid_to_pdf[path] for path in alone.values()]
            same_paths({"": [found[number]]}, {"": expected or [None]})
        assert any(path is None for path in found) and any(path is not None for path in found)

    def test_engine_that_hands_out_no_graphs_aligns_itself(self, system: TinySystem) -> None:
        class Silent(Aligner):
            def align(self, loglikes: Any, transcripts: Any) -> Any:
                raise AssertionError("not asked here")

        scores, _ = random_scores(system.table.num_pdfs)
        aligner = BatchAligner(Silent(), system.table, 0.1, CPU)
        assert aligner.align(scores.values, scores.lengths, [(0, [1])]) is None

    def test_no_texts_have_no_paths(self, who: Recogniser, system: TinySystem) -> None:
        scores, _ = random_scores(system.table.num_pdfs)
        assert who.align_batch(scores, {"u0": []}) == {"u0": []}
        assert who.graph_weights([]) == []


class TestAttacks:
    @pytest.mark.long
    @pytest.mark.parametrize(
        "options", [{"loss": "decoder_margin", "realign_every": 2}, {"loss": "margin", "realign_every": 5}]
    )
    def test_attacks_reach_what_they_reach_with_the_engine(
        self, who: Recogniser, system: TinySystem, options: dict[str, Any]
    ) -> None:
        waves, text = make_waves(8, seed=5)
        goal = Say({utt: ["two", "one"] if words != ["two", "one"] else ["one"] for utt, words in text.items()})
        attack = PGD(eps=0.03, num_steps=16, judge_every=4, **options)
        said = []
        for one in (who, by_engine(who)):
            made = attack(one, waves, replace(goal))
            said.append([heard.words for heard in who.hear(made.waves).values()])
        assert sum(a == b for a, b in zip(*said, strict=True)) >= 7


def by_engine(who: Recogniser) -> Recogniser:
    """The same recogniser without searches in batches."""

    class Closed:
        def align(self, *_: Any) -> None:
            return None

    found = Recogniser(
        who.model, who.engine, who.model_dir, graph_dir=who.graph_dir, lang_dir=who.lang_dir, decode=who.decode_config
    )
    found._batch_decoder = lambda: None  # type: ignore[assignment,misc]
    found._batch_aligner = lambda: Closed()  # type: ignore[assignment,misc,return-value]
    return found


def same_paths(found: Any, expected: Any) -> None:
    assert found.keys() == expected.keys()
    for utt, paths in expected.items():
        for one, other in zip(found[utt], paths, strict=True):
            assert (one is None) == (other is None)
            if one is not None:
                np.testing.assert_array_equal(one, other)
