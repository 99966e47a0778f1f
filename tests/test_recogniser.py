"""The recogniser: opened once, it hears audio of either type, refuses what would be misheard, says what is missing."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kaldi_uq.attacks.goal import Say
from kaldi_uq.attacks.pgd import PGD
from kaldi_uq.cli.main import main
from kaldi_uq.detector import GaussianDetector
from kaldi_uq.detector.judge import judge
from kaldi_uq.engine.base import Aligner, Decoder
from kaldi_uq.engine.embedded.engine import EmbeddedEngine
from kaldi_uq.errors import DataError, EngineError, ModelFileError
from kaldi_uq.io.files import file_digest
from kaldi_uq.io.wav import to_int16
from kaldi_uq.io.waves import CPU_BATCH_SAMPLES
from kaldi_uq.recogniser.heard import Heard
from kaldi_uq.recogniser.hybrid import HybridModel
from kaldi_uq.recogniser.recogniser import Recogniser
from tests import tiny
from tests.tiny import FRONT_END, RATE, TinySystem

Waves = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> TinySystem:
    """A system with exp/dnn and exp/dropout of trained networks."""
    system = tiny.make_system(tmp_path_factory.mktemp("system"))
    for kind in ("dnn", "dropout"):
        system.write_model(system.train(kind), system.mono.parent / "exp" / kind)
    return system


def load(system: TinySystem, kind: str = "dnn", **options: Any) -> Recogniser:
    options = {"lang_dir": system.lang.path, "engine": system.engine, "device": "cpu", **options}
    return Recogniser.load(system.mono.parent / "exp" / kind, **options)


@pytest.fixture(scope="module")
def recogniser(system: TinySystem) -> Recogniser:
    return load(system)


@pytest.fixture(scope="module")
def speech() -> tuple[Waves, dict[str, list[str]]]:
    return tiny.make_waves(6, seed=31)


def same(one: Heard, other: Heard, rel: float = 0.0) -> None:
    assert one.words == other.words
    assert one.statistics == pytest.approx(other.statistics, rel=rel, abs=0.0)
    assert list(one.frames) == list(other.frames)
    for name, values in one.frames.items():
        np.testing.assert_allclose(values, other.frames[name], rtol=rel, atol=0.0)


class TestHearing:
    def test_trained_recogniser_hears_what_is_spoken(self, recogniser: Recogniser, speech: tuple[Waves, Any]) -> None:
        waves, text = speech
        heard = recogniser.hear(waves)
        assert list(heard) == list(waves)
        assert sum(heard[utt].words == tuple(text[utt]) for utt in waves) >= 5
        for utt, one in heard.items():
            assert set(one.frames) == {"predictive_entropy", "expected_entropy"}  # of a network without draws
            values = one.frames["predictive_entropy"]
            assert values.shape == (recogniser.num_frames(len(waves[utt])),)
            assert one.statistics["max_predictive_entropy"] == pytest.approx(float(values.max()))
            assert one.statistics["mean_predictive_entropy"] == pytest.approx(float(values.mean()), rel=1e-5)

    def test_int16_and_float_of_the_same_audio_are_the_same(
        self, recogniser: Recogniser, speech: tuple[Waves, Any]
    ) -> None:
        waves, _ = speech
        as_int16 = recogniser.hear({utt: to_int16(wave) for utt, wave in waves.items()})
        as_double = recogniser.hear({utt: wave.astype(np.float64) for utt, wave in waves.items()})
        for utt, one in recogniser.hear(waves).items():
            same(one, as_int16[utt])
            same(one, as_double[utt])

    def test_several_are_heard_as_one_at_a_time(self, recogniser: Recogniser, speech: tuple[Waves, Any]) -> None:
        waves, _ = speech
        together = recogniser.hear(waves)
        for utt, wave in waves.items():
            # products of matrices of other sizes round otherwise in the last bits
            same(together[utt], recogniser.hear({utt: wave})[utt], rel=1e-3)

    def test_draws_of_a_random_one_belong_to_the_seed_and_alone_to_the_utterance(
        self, system: TinySystem, speech: tuple[Waves, Any]
    ) -> None:
        waves, _ = speech
        random = load(system, "dropout", num_draws=4)
        utt = list(waves)[2]
        first, again, other = (random.hear(waves, seed=seed)[utt] for seed in (3, 3, 4))
        same(first, again)
        assert first.statistics != other.statistics
        alone = random.hear(waves, seed=3, alone=True)[utt]
        same(alone, random.hear({utt: waves[utt]}, seed=3, alone=True)[utt])
        same(alone, random.hear(dict(reversed(waves.items())), seed=3, alone=True)[utt])

    def test_without_words_nobody_decodes(self, system: TinySystem, speech: tuple[Waves, Any]) -> None:
        class Deaf(EmbeddedEngine):
            def decoder(self, *args: Any) -> Decoder:
                raise AssertionError("nobody asked for words")

        waves, _ = speech
        heard = load(system, engine=Deaf()).hear(waves, words=False)
        expected = load(system).hear(waves)
        for utt, one in heard.items():
            same(replace(expected[utt], words=None), one)

    def test_nothing_to_hear_is_no_error(self, recogniser: Recogniser) -> None:
        assert recogniser.hear({}) == {}


BAD: dict[str, tuple[Callable[[np.ndarray], np.ndarray], str]] = {
    "16-bit values as float": (lambda x: 32768 * x, "looks like 16-bit values; divide by 32768"),
    "beyond full scale": (lambda x: 1.5 * x / np.abs(x).max(), r"samples reach 1\.5, expected at most 1"),
    "NaN": (lambda x: np.where(np.arange(len(x)) == 7, np.nan, x), "1 samples are NaN or infinite, the first at 7"),
    "infinite": (lambda x: np.where(np.arange(len(x)) < 2, np.inf, x), "2 samples are NaN or infinite"),
    "stereo": (lambda x: np.stack([x, x], 1), r"expected one channel, \(N,\)"),
    "too short": (lambda x: x[:199], r"199 samples \(0\.0249 s\), the shortest that can be judged is 200"),
    "empty": (lambda x: x[:0], "no samples"),
    "int32": (lambda x: (x * 2**31).astype(np.int32), "samples are int32, expected int16 or float"),
}


class TestRefusing:
    @pytest.mark.parametrize("what", BAD)
    def test_audio_that_would_be_misheard_is_one_line_that_names_it(
        self, recogniser: Recogniser, speech: tuple[Waves, Any], what: str
    ) -> None:
        change, message = BAD[what]
        waves = {**speech[0], "call 7": change(speech[0]["utt00"])}
        with pytest.raises(DataError, match=f"^call 7: .*{message}") as error:
            recogniser.hear(waves)
        assert "\n" not in str(error.value)

    def test_further_ones_are_counted_and_named(self, recogniser: Recogniser, speech: tuple[Waves, Any]) -> None:
        waves = {**speech[0], "x": np.zeros(3, np.float32), "y": np.ones((2, 900), np.float32), "z": np.zeros(0)}
        with pytest.raises(DataError, match=r"^x: 3 samples .*; 2 more cannot be judged: y, z$"):
            recogniser.hear(waves)

    def test_attack_and_verdict_refuse_it_as_well(self, recogniser: Recogniser) -> None:
        detector = GaussianDetector(statistic="max_predictive_entropy").fit([1.0, 2.0]).calibrate(0.1)
        waves = {"call": np.full(900, np.nan, np.float32)}
        with pytest.raises(DataError, match=r"^call: 900 samples are NaN"):
            judge(recogniser, detector, waves)
        with pytest.raises(DataError, match=r"^call: 900 samples are NaN"):
            PGD()(recogniser, waves, Say({"call": "one"}))


class TestOpening:
    def test_it_knows_its_model(self, system: TinySystem, recogniser: Recogniser) -> None:
        model = system.mono.parent / "exp/dnn/final.safetensors"
        assert (recogniser.sample_rate, recogniser.frame_shift_s, recogniser.min_samples) == (RATE, 0.01, 200)
        assert (recogniser.kind, recogniser.is_random, recogniser.device) == ("dnn", False, torch.device("cpu"))
        assert recogniser.model_key == file_digest(model)
        assert model in recogniser.files and recogniser.graph_dir / "HCLG.fst" in recogniser.files
        assert load(system, "dropout").is_random
        assert recogniser.why_no_words == ""

    def test_missing_model_says_what_makes_it(self, tmp_path: Path) -> None:
        with pytest.raises(ModelFileError, match=r"final\.safetensors: no such .*; steps/uq/train\.sh makes it"):
            Recogniser.load(tmp_path, device="cpu")

    @pytest.mark.parametrize("name", ["HCLG.fst", "words.txt"])
    def test_missing_graph_says_what_makes_it_and_costs_the_words_alone(
        self, system: TinySystem, speech: tuple[Waves, Any], tmp_path: Path, name: str
    ) -> None:
        graph = tmp_path / "graph"
        shutil.copytree(system.graph, graph)
        (graph / name).unlink()
        recogniser = load(system, graph_dir=graph)
        expected = f"{graph / name}: no such file; utils/mkgraph.sh makes it"
        assert recogniser.why_no_words == expected
        with pytest.raises(ModelFileError) as error:
            recogniser.hear(speech[0])
        assert str(error.value) == expected
        assert recogniser.hear(speech[0], words=False)["utt00"].words is None
        shutil.copy(system.graph / name, graph)
        assert recogniser.hear(speech[0])["utt00"].words  # nothing was kept of the failure

    @pytest.mark.parametrize("command", ["", "nnet-decode", "nnet-attack"])
    def test_graph_of_another_model_is_refused(
        self, system: TinySystem, tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        graph, model = tmp_path / "graph", system.mono.parent / "exp/dnn"
        shutil.copytree(system.graph, graph)
        (graph / "num_pdfs").write_text("67\n")
        expected = (
            f"{graph / 'num_pdfs'}: the graph is of another model: it has 67 pdfs, {model} has {system.table.num_pdfs}"
            "; take the graph of this model, which steps/uq/train.sh or utils/mkgraph.sh makes"
        )
        if command:
            data = tiny.write_set(tmp_path / "data", *tiny.make_waves(1))
            options = ["--device", "cpu", "--engine", "embedded"]
            options += ["--lang-dir", str(system.lang.path)] if command == "nnet-attack" else []
            words = [command, *options, *map(str, (data, model, graph, tmp_path / "out"))]
            assert main(words) == 1
            assert capsys.readouterr().err.splitlines()[-1] == f"kaldi-uq {command}: error: {expected}"
            assert not list((tmp_path / "out").glob("*"))
            return
        with pytest.raises(EngineError) as error:
            load(system, graph_dir=graph)
        assert str(error.value) == expected
        (graph / "num_pdfs").unlink()  # as of a graph that Kaldi's mkgraph.sh did not make
        load(system, graph_dir=graph)

    def test_missing_lexicon_says_how_to_name_it(
        self, system: TinySystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        recogniser = load(system, lang_dir=None)
        with pytest.raises(DataError, match=r"no such language directory; say where the lexicon is with --lang-dir"):
            recogniser.check_target("a", ["one"], 99, "given")
        shutil.copytree(system.lang.path, tmp_path / "data/lang")  # where a recipe has it
        recogniser.check_target("a", ["one"], 99, "given")

    def test_draws_of_a_network_without_any_are_refused(self, system: TinySystem) -> None:
        with pytest.raises(ValueError, match="is not random, leave the"):
            load(system, num_draws=3)
        load(system, num_draws=1)

    def test_device_that_is_not_there_is_refused(self, system: TinySystem) -> None:
        with pytest.raises(ValueError, match="device must be cpu or cuda, got 'gpu'"):
            load(system, device="gpu")

    @pytest.mark.parametrize("cmvn", ["none", "speaker"])
    def test_decoder_and_aligner_are_built_once(self, system: TinySystem, speech: tuple[Waves, Any], cmvn: str) -> None:
        built: list[str] = []

        class Counting(EmbeddedEngine):
            def decoder(self, *args: Any) -> Decoder:
                built.append("decoder")
                return super().decoder(*args)

            def aligner(self, *args: Any) -> Aligner:
                built.append("aligner")
                return super().aligner(*args)

        model = HybridModel(replace(FRONT_END, cmvn=cmvn), system.network()).eval()
        recogniser = Recogniser(model, Counting(), system.mono, graph_dir=system.graph, lang_dir=system.lang.path)
        assert built == []  # not before they are needed
        waves, text = speech
        attack = PGD(eps=0.05, num_steps=3, realign_every=1, judge_every=1)
        # with CMVN of speakers each of these is by a copy for its utterances
        attack(recogniser, waves, Say(spoken=text))
        assert built == ["aligner"]  # a small graph is searched in batches, without the engine's decoder
        recogniser.hear(waves)
        assert sorted(built) == ["aligner", "decoder"]
        for _ in range(2):
            recogniser.hear(waves)
            attack(recogniser, waves, Say(spoken=text))
        assert sorted(built) == ["aligner", "decoder"]


class TestSpeakers:
    def test_each_utterance_is_a_speaker_of_its_own_where_none_is_known(
        self, system: TinySystem, speech: tuple[Waves, Any]
    ) -> None:
        model = HybridModel(replace(FRONT_END, cmvn="speaker"), system.network()).eval()
        recogniser, waves = system.recogniser(model), speech[0]
        together = recogniser.hear(waves)
        for utt, wave in waves.items():
            same(together[utt], recogniser.hear({utt: wave})[utt], rel=1e-3)
        with pytest.raises(DataError, match="'utt00': no CMVN statistics of its speaker"):
            recogniser.adaptation(["utt00"])  # the copies know them, it does not

    def test_statistics_of_a_speaker_change_what_is_heard_and_the_key_of_the_audio(
        self, system: TinySystem, speech: tuple[Waves, Any]
    ) -> None:
        model = HybridModel(replace(FRONT_END, cmvn="speaker"), system.network()).eval()
        recogniser, waves = system.recogniser(model), speech[0]
        one = recogniser.with_speakers(waves)
        assert one.with_speakers({"utt00": waves["utt00"]}) is one
        other = recogniser.with_speakers({utt: np.concatenate([wave, wave[:400]]) for utt, wave in waves.items()})
        heard = [who.hear(waves)["utt01"].statistics for who in (one, other)]
        assert heard[0] != heard[1]
        assert len({who.audio_key(waves) for who in (one, other)}) == 2


def test_batches_of_a_cpu_are_small(system: TinySystem) -> None:
    size = 50_000
    waves = {f"u{i}": np.zeros(size, np.float32) for i in range(100)}
    batches = list(load(system, "dropout").batches(waves))
    assert max(len(batch.utts) for batch in batches) == CPU_BATCH_SAMPLES // size
    assert sorted(utt for batch in batches for utt in batch.utts) == sorted(waves)
