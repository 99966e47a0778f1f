"""What holds on every engine: alignments are those of a Viterbi search written here, decoding finds the best words."""

from __future__ import annotations

import itertools
import math
import shutil
from pathlib import Path

import numpy as np
import pytest

from kaldi_uq.engine.base import DecodeConfig, Hypothesis
from kaldi_uq.engine.embedded.engine import EmbeddedEngine
from kaldi_uq.errors import AlignmentError, EngineError
from kaldi_uq.io.ark import read_alignments
from kaldi_uq.io.kaldi_model import TransitionTable, read_gmm_model, read_transitions
from kaldi_uq.io.lang import Lang
from kaldi_uq.recogniser.hybrid import HybridModel
from tests import tiny
from tests.kaldi import tid_to_phone
from tests.tiny import TinySystem

ACWT = 0.3
DECODE = DecodeConfig(acwt=ACWT)


@pytest.fixture(scope="module", params=["embedded", "kaldi"])
def system(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TinySystem:
    """The recogniser, made by each engine from the dictionary on."""
    engine = EmbeddedEngine() if request.param == "embedded" else request.getfixturevalue("kaldi_engine")
    return tiny.make_system(tmp_path_factory.mktemp(request.param), engine=engine)


@pytest.fixture(scope="module")
def loglikes(system: TinySystem) -> dict[str, np.ndarray]:
    """Scores of other utterances than those of the training."""
    _, gmms = read_gmm_model(system.mono / "final.mdl")
    waves, _ = tiny.make_waves(6, seed=9)
    return {utt: gmms.loglikes(feats) for utt, feats in tiny.features(waves).items()}


def random_loglikes(num_frames: int, num_pdfs: int, seed: int) -> np.ndarray:
    return 6 * np.random.default_rng(seed).standard_normal((num_frames, num_pdfs)).astype(np.float32)


class Arcs:
    """Of each HMM state of a table: pdf, transition-ids and log-probabilities of its arcs."""

    def __init__(self, table: TransitionTable) -> None:
        self.of: dict[tuple[int, int], list[tuple[int, int, float]]] = {}
        self.pdf: dict[tuple[int, int], int] = {}
        tid = 0
        for phone, state, pdf, _ in table.tuples:
            self.pdf[phone, state] = pdf
            self.of[phone, state] = []
            for destination, _ in table.topology.entry(phone)[state].transitions:
                tid += 1
                self.of[phone, state].append((destination, tid, float(table.log_probs[tid])))


def viterbi(
    system: TinySystem, words: list[str], loglikes: np.ndarray, config: DecodeConfig
) -> tuple[float, list[int]]:
    """The best path through words with optional silence around each, by dynamic programming over (place, state).

    Whole-word HMMs, left to right.  Kaldi weighs the probability of a self-loop with self_loop_scale, that of leaving
    a state likewise, and what is left of a state's transitions, given that it is left, with transition_scale.
    Returns the score and the transition-ids in Kaldi's order: the way out of a state, then its self-loops.
    """
    table = system.table
    arcs = Arcs(table)
    half = math.log(0.5)
    sil = system.lang.phones["sil"]
    best: dict[tuple[int, int, int], tuple[float, list[int]]] = {}

    def enter(place: int, phone: int, state: int, score: float, path: list[int], frame: int) -> None:
        """Emit one frame in a state, its way out first."""
        pdf = arcs.pdf[phone, state]
        ways = arcs.of[phone, state]
        loop = next(((t, p) for to, t, p in ways if to == state), None)
        away = next((to, t, p) for to, t, p in ways if to != state)
        leave = math.log(1 - math.exp(loop[1])) if loop else 0.0
        scale = config.self_loop_scale * leave + config.transition_scale * (away[2] - leave)
        value = score + scale + config.acwt * float(loglikes[frame, pdf])
        key = (place, phone, state)
        if key not in following or value > following[key][0]:
            following[key] = (value, [*path, away[1]])

    phones = [system.lang.phones[word] for word in words]

    # place 2 k: optional silence before word k; place 2 k + 1: word k
    def starts(place: int) -> list[tuple[int, int, float]]:
        """What can begin after a place: (place, phone, cost)."""
        if place % 2 == 0:  # after silence comes the word
            return [(place + 1, phones[place // 2], 0.0)] if place // 2 < len(phones) else []
        found = [(place + 1, sil, half)]
        if place // 2 + 1 < len(phones):
            found.append((place + 2, phones[place // 2 + 1], half))
        return found

    def is_last(phone: int, state: int) -> bool:
        return state == len(table.topology.entry(phone)) - 2

    following: dict[tuple[int, int, int], tuple[float, list[int]]] = {}
    for place, phone, cost in starts(-1):
        enter(place, phone, 0, cost, [], 0)
    for frame in range(1, len(loglikes)):
        best, following = following, {}
        for (place, phone, state), (score, path) in best.items():
            for to, tid, p in arcs.of[phone, state]:
                if to == state:
                    value = score + config.self_loop_scale * p
                    value += config.acwt * float(loglikes[frame, arcs.pdf[phone, state]])
                    key = (place, phone, state)
                    if key not in following or value > following[key][0]:
                        following[key] = (value, [*path, tid])
            if is_last(phone, state):
                for at, start, cost in starts(place):
                    enter(at, start, 0, score + cost, path, frame)
            else:
                enter(place, phone, state + 1, score, path, frame)
    ends = []
    for (place, phone, state), (score, path) in following.items():
        if is_last(phone, state) and place >= 2 * len(phones) - 1:
            ends.append((score + (half if place % 2 else 0.0), path))
    return max(ends)


class TestAlign:
    @pytest.mark.parametrize("words", [["one"], ["three", "two"], ["two", "two"], ["one", "three", "one"]])
    @pytest.mark.parametrize("seed", [0, 1])
    @pytest.mark.parametrize("scales", [(1.0, 0.1), (1.0, 1.0), (0.0, 0.0)])
    def test_path_is_that_of_another_viterbi_search(
        self, system: TinySystem, words: list[str], seed: int, scales: tuple[float, float]
    ) -> None:
        config = DecodeConfig(acwt=ACWT, transition_scale=scales[0], self_loop_scale=scales[1])
        scores = random_loglikes(24, system.table.num_pdfs, seed)
        found = system.engine.aligner(system.mono, system.lang, config).align(
            [("u", scores)], {"u": system.word_ids(*words)}
        )
        _, expected = viterbi(system, words, scores, config)
        assert found["u"].tolist() == expected

    def test_phones_of_the_path_are_those_of_the_text(self, system: TinySystem) -> None:
        table, sil = system.table, system.lang.phones["sil"]
        for utt, ali in system.alignments.items():
            phones = [p for p, _ in itertools.groupby(tid_to_phone(table)[ali].tolist()) if p != sil]
            merged = [word for word, _ in itertools.groupby(system.text[utt])]
            names = {index: phone for phone, index in system.lang.phones.items()}
            spoken = [names[p] for p in phones]
            # the same word twice without silence between is one run of its phone
            assert [w for w, _ in itertools.groupby(spoken)] == merged

    def test_recogniser_says_when_the_words_of_a_text_are_spoken(
        self, system: TinySystem, loglikes: dict[str, np.ndarray]
    ) -> None:
        who = system.recogniser(HybridModel(tiny.FRONT_END, system.network()))
        _, text = tiny.make_waves(6, seed=9)
        for utt, scores in loglikes.items():
            times = who.word_times(text[utt], scores)
            assert [word for word, _, _ in times] == text[utt]
            edges = [edge for _, begin, end in times for edge in (begin, end)]
            assert edges == sorted(edges) and 0 <= edges[0] and edges[-1] <= len(scores) * who.frame_shift_s

    def test_utterance_too_short_for_its_text_is_absent_and_others_are_not(self, system: TinySystem) -> None:
        pdfs = system.table.num_pdfs
        scores = {"a": random_loglikes(2, pdfs, 0), "b": random_loglikes(3, pdfs, 1), "c": random_loglikes(0, pdfs, 2)}
        transcripts = dict.fromkeys(scores, system.word_ids("one"))
        assert list(system.engine.aligner(system.mono, system.lang, DECODE).align(scores.items(), transcripts)) == ["b"]

    def test_order_of_the_utterances_does_not_matter(self, system: TinySystem, loglikes: dict[str, np.ndarray]) -> None:
        transcripts = dict.fromkeys(loglikes, system.word_ids("one"))
        forth = system.engine.aligner(system.mono, system.lang, DECODE).align(loglikes.items(), transcripts)
        back = system.engine.aligner(system.mono, system.lang, DECODE).align(reversed(loglikes.items()), transcripts)
        assert all(np.array_equal(forth[utt], back[utt]) for utt in loglikes)

    def test_narrow_beam_loses_the_path_and_the_retry_finds_it(self, system: TinySystem) -> None:
        # Every frame says "the first state of three": to get to the end, a path has to leave the best state in time.
        # The decoder keeps its best 20 tokens whatever the beam is, so that the text has more states than that.
        table = system.table
        scores = np.full((40, table.num_pdfs), -100.0, np.float32)
        scores[:, Arcs(table).pdf[system.lang.phones["three"], 0]] = 0.0
        words = {"u": system.word_ids(*["three"] * 7)}

        def aligned(**beams: float) -> bool:
            config = DecodeConfig(acwt=1.0, **beams)
            return "u" in system.engine.aligner(system.mono, system.lang, config).align([("u", scores)], words)

        assert aligned(align_beam=1e5)
        assert not aligned(align_beam=0.01)
        assert aligned(align_beam=0.01, retry_beam=1e5)

    def test_text_that_the_lexicon_cannot_spell_is_an_error(self, system: TinySystem) -> None:
        scores = random_loglikes(9, system.table.num_pdfs, 0)
        words = {"u": [system.lang.words["<s>"]]}
        with pytest.raises(EngineError, match=r"L\.fst: no path for the text '<s>'"):
            system.engine.aligner(system.mono, system.lang, DECODE).align([("u", scores)], words)


class TestDecode:
    def decode(self, system: TinySystem, scores: np.ndarray, config: DecodeConfig = DECODE) -> Hypothesis:
        return system.engine.decoder(system.mono, system.graph, config).decode([("u", scores)])["u"]

    @pytest.mark.parametrize("words", [["one"], ["two", "two", "one"], ["three", "one", "three", "two"]])
    def test_words_are_recovered_from_peaked_scores(self, system: TinySystem, words: list[str]) -> None:
        table = system.table
        pdfs_of = {p: [pdf for phone, _, pdf, _ in table.tuples if phone == p] for p in table.topology.phones}
        sil = pdfs_of[system.lang.phones["sil"]]
        frames = sil * 3
        for word in words:
            frames += [pdf for pdf in pdfs_of[system.lang.phones[word]] for _ in range(4)] + sil * 2
        scores = np.full((len(frames), table.num_pdfs), -60.0, np.float32)
        scores[np.arange(len(frames)), frames] = 0.0
        found = self.decode(system, scores)
        assert list(found.words) == words
        assert found.reached_final
        assert table.tid_to_pdf[found.alignment].tolist() == frames

    def test_speech_is_recognised(self, system: TinySystem) -> None:
        _, gmms = read_gmm_model(system.mono / "final.mdl")
        waves, text = tiny.make_waves(6, seed=9)
        scores = ((utt, gmms.loglikes(feats)) for utt, feats in tiny.features(waves).items())
        found = system.engine.decoder(system.mono, system.graph, DecodeConfig()).decode(scores)
        assert {utt: list(h.words) for utt, h in found.items()} == text

    def test_best_of_all_texts_of_two_words_is_what_the_decoder_finds(self, system: TinySystem) -> None:
        scores = random_loglikes(14, system.table.num_pdfs, 3)
        config = DecodeConfig(acwt=ACWT, beam=200.0)
        found = self.decode(system, scores, config)
        assert 1 <= len(found.words) <= 4
        by_text = {
            words: viterbi(system, list(words), scores, config)[0] - (len(words) + 1) * math.log(4)
            for count in (1, 2, 3, 4)
            for words in itertools.product(sorted(tiny.TONES), repeat=count)
            if sum(tiny.STATES[w] for w in words) <= 14
        }
        # the graph sums over paths where it was determinised, so that the costs agree only nearly
        best = max(by_text, key=by_text.__getitem__)
        assert by_text[best] - by_text[found.words] < 1e-3
        assert abs(abs(found.score) - abs(by_text[found.words])) < 0.05

    def test_acoustic_weight_is_applied_once(self, system: TinySystem) -> None:
        scores = random_loglikes(30, system.table.num_pdfs, 4)
        one = self.decode(system, scores, DecodeConfig(acwt=0.2))
        other = self.decode(system, 2 * scores, DecodeConfig(acwt=0.1))
        assert one.words == other.words
        assert one.score == pytest.approx(other.score, rel=1e-5)

    def test_path_that_is_cut_off_in_a_word_says_so(self, system: TinySystem) -> None:
        table = system.table
        three = [pdf for phone, _, pdf, _ in table.tuples if phone == system.lang.phones["three"]]
        scores = np.full((2, table.num_pdfs), -np.inf, np.float32)
        scores[0, three[0]] = scores[1, three[1]] = 0.0
        found = self.decode(system, scores)
        assert not found.reached_final
        assert len(found.alignment) == 2

    def test_utterance_without_frames_or_without_a_path_is_absent(self, system: TinySystem) -> None:
        pdfs = system.table.num_pdfs
        scores = {"a": np.zeros((0, pdfs), np.float32), "b": np.full((9, pdfs), -np.inf, np.float32)}
        assert system.engine.decoder(system.mono, system.graph, DECODE).decode(scores.items()) == {}

    @pytest.mark.parametrize("method", ["decode", "align"])
    @pytest.mark.parametrize("columns", [-1, 1])
    def test_scores_of_another_model_are_refused(self, system: TinySystem, method: str, columns: int) -> None:
        scores = random_loglikes(9, system.table.num_pdfs + columns, 0)
        with pytest.raises(EngineError, match=rf"u: scores are \(9, {scores.shape[1]}\), expected \(frames, 10\)"):
            self.run(system, method, scores)

    @pytest.mark.parametrize("method", ["decode", "align"])
    def test_scores_that_are_nan_are_refused(self, system: TinySystem, method: str) -> None:
        scores = random_loglikes(9, system.table.num_pdfs, 0)
        scores[3, 2] = np.nan
        with pytest.raises(EngineError, match="u: the acoustic model gives NaN"):
            self.run(system, method, scores)

    def run(self, system: TinySystem, method: str, scores: np.ndarray) -> None:
        if method == "decode":
            self.decode(system, scores)
        else:
            system.engine.aligner(system.mono, system.lang, DECODE).align(
                [("u", scores)], {"u": system.word_ids("one")}
            )


class TestTransitions:
    def test_update_is_the_ratio_of_counts(self, system: TinySystem, tmp_path: Path) -> None:
        alignments = list(system.alignments.values())
        system.engine.update_transitions(system.mono, iter(alignments), tmp_path / "final.mdl")
        before, after = system.table, read_transitions(tmp_path / "final.mdl")
        assert after.tuples == before.tuples
        counts = np.bincount(np.concatenate(alignments), minlength=len(before.log_probs))
        checked = 0
        for ways in Arcs(before).of.values():
            tids = [tid for _, tid, _ in ways]
            total = counts[tids].sum()
            if total < 5:  # Kaldi's smallest count
                assert np.array_equal(after.log_probs[tids], before.log_probs[tids])
                continue
            expected = np.maximum(counts[tids] / total, 0.01)  # Kaldi's floor
            np.testing.assert_allclose(np.exp(after.log_probs[tids]), expected / expected.sum(), rtol=1e-3)
            checked += 1
        assert checked >= 5


class TestGraph:
    def test_graph_without_a_word_is_an_error(self, system: TinySystem, tmp_path: Path) -> None:
        shutil.copytree(system.lang.path, tmp_path / "lang")
        label = system.lang.words["<s>"]  # in no lexicon
        system.engine.compile_fst(f"0 1 {label} {label}\n1\n", tmp_path / "lang/G.fst", sort="ilabel")
        with pytest.raises(EngineError, match="the graph is empty: lexicon and grammar share no word"):
            system.engine.make_graph(Lang.read(tmp_path / "lang"), system.mono, tmp_path / "graph", **tiny.GRAPH_SCALES)
        assert not (tmp_path / "graph/HCLG.fst").exists()


class TestMonophoneTraining:
    def test_gaussians_grow_to_what_is_asked_for(self, system: TinySystem) -> None:
        _, gmms = read_gmm_model(system.mono / "final.mdl")
        assert len(gmms.weights) == sum(tiny.STATES.values())
        assert sum(tiny.STATES.values()) < gmms.num_gauss <= tiny.MONO.totgauss
        assert all(weight.sum() == pytest.approx(1, abs=1e-5) for weight in gmms.weights)

    def test_every_utterance_is_aligned_from_its_first_to_its_last_frame(self, system: TinySystem) -> None:
        lengths = {utt: len(feats) for utt, feats in tiny.features(system.waves).items()}
        assert {utt: len(ali) for utt, ali in read_alignments(system.mono).items()} == lengths

    def test_too_many_failures_are_an_error_that_names_them(self, system: TinySystem, tmp_path: Path) -> None:
        feats = {utt: f[:5] if utt < "utt04" else f for utt, f in tiny.features(system.waves).items()}
        transcripts = {utt: system.word_ids("one", "two", "three") for utt in feats}
        with pytest.raises(
            AlignmentError, match=r"4 of 16 utterances cannot be aligned .*\(utt00, utt01, utt02, utt03\)"
        ):
            system.engine.train_mono(feats, transcripts, system.lang, tmp_path, tiny.MONO)
        assert not (tmp_path / "final.mdl").exists()

    def test_constant_feature_is_an_error(self, system: TinySystem, tmp_path: Path) -> None:
        feats = {
            utt: np.concatenate([f, np.ones((len(f), 1), np.float32)], 1)
            for utt, f in tiny.features(system.waves).items()
        }
        transcripts = {utt: system.word_ids(*words) for utt, words in system.text.items()}
        with pytest.raises(EngineError, match="feature dimension 14 is constant"):
            system.engine.train_mono(feats, transcripts, system.lang, tmp_path, tiny.MONO)
