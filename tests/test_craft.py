"""Attacking a data directory: what is written keeps the promises of the attack, and a killed run goes on.

One file: every test attacks with the same recogniser, which takes seconds to make.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import wavfile

from kaldi_uq.attacks import directory
from kaldi_uq.attacks.attack import Adversarial, Attack
from kaldi_uq.attacks.config import AttackConfig
from kaldi_uq.attacks.directory import _finished, craft, craft_shard
from kaldi_uq.attacks.goal import MAX_ATTEMPTS, Goal, Say
from kaldi_uq.attacks.pgd import PGD
from kaldi_uq.cli.main import main
from kaldi_uq.engine.base import DecodeConfig
from kaldi_uq.errors import AlignmentError, DataError
from kaldi_uq.io import waves as io_waves
from kaldi_uq.io.datadir import write_data_dir
from kaldi_uq.io.files import write_json, write_text
from kaldi_uq.io.wav import read_wav, to_int16
from kaldi_uq.nnet.config import MODEL_KINDS
from kaldi_uq.recogniser.base import BaseRecogniser
from kaldi_uq.recogniser.hybrid import HybridModel
from kaldi_uq.recogniser.parts import Shard
from kaldi_uq.recogniser.recogniser import Recogniser
from kaldi_uq.training.config import TrainConfig
from tests import tiny
from tests.tiny import TinySystem

CONFIG = AttackConfig(eps=0.05, num_steps=4)
GRID = 32768


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> TinySystem:
    """A recogniser with a trained network in ``dnn``."""
    folder = tmp_path_factory.mktemp("system")
    system = tiny.make_system(folder, num_utts=24)
    out = folder / "dnn"
    config = TrainConfig(num_epochs=8, num_viterbi_epochs=1, batch_size=32, learning_rate=0.01)
    system.trainer(out, HybridModel(tiny.FRONT_END, system.network()), config).run()
    system.engine.make_graph(system.lang, out, out / "graph", **tiny.GRAPH_SCALES)
    return system


@pytest.fixture(scope="module")
def model_dir(system: TinySystem) -> Path:
    return system.mono.parent / "dnn"


@pytest.fixture(scope="module")
def recogniser(system: TinySystem, model_dir: Path) -> Recogniser:
    return load(system, model_dir)


def load(system: TinySystem, model_dir: Path, **options: Any) -> Recogniser:
    return Recogniser.load(model_dir, lang_dir=system.lang.path, engine=system.engine, device="cpu", **options)


@pytest.fixture(scope="module")
def speech() -> tuple[dict[str, np.ndarray], dict[str, list[str]]]:
    return tiny.make_waves(6, seed=31)


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of two or three utterances."""

    def plan(_: BaseRecogniser, waves: Mapping[str, np.ndarray]) -> list[list[str]]:
        return io_waves.plan_waves(waves, max_samples=2 * max(map(len, waves.values())))

    monkeypatch.setattr(BaseRecogniser, "plan", plan)


class Counting:
    """Counts the batches that are computed; kills the run at one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, kill_at: int = -1) -> None:
        self.utts: list[tuple[str, ...]] = []
        original = Attack.attack

        def counting(attack: Attack, who: BaseRecogniser, waves: io_waves.WaveBatch, *args: Any) -> Any:
            if len(self.utts) == kill_at:
                raise KeyboardInterrupt
            self.utts.append(waves.utts)
            return original(attack, who, waves, *args)

        monkeypatch.setattr(Attack, "attack", counting)


def make(
    recogniser: Recogniser, waves: dict[str, np.ndarray], goal: Goal, out: Path, *, key: str = "", **changes: Any
) -> Adversarial:
    """Attack into a directory, with ``CONFIG`` but for some options."""
    return craft(PGD(CONFIG, **changes), recogniser, waves, goal, out, key=key)


def read_attack(out: Path) -> dict[str, np.ndarray]:
    return {path.stem: read_wav(path, expected_rate=tiny.RATE)[0] for path in sorted((out / "wav").iterdir())}


def difference(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> float:
    return max(float(np.abs(one[utt].astype(np.float64) - other[utt]).max()) for utt in other)


class TestResult:
    def test_recogniser_hears_the_target_within_eps(
        self, recogniser: Recogniser, tmp_path: Path, speech: tuple[Any, Any]
    ) -> None:
        waves, text = speech
        targets = {utt: ["two"] if words != ["two"] else ["one"] for utt, words in text.items()}
        made = make(recogniser, waves, Say(targets), tmp_path, eps=0.1, num_steps=30, realign_every=10)
        heard = read_attack(tmp_path)
        assert list(made.records) == list(made.waves) == list(waves)
        assert difference(made.waves, heard) == 0.0
        assert 0.5 * 0.1 < difference(waves, heard) <= 0.1
        found = recogniser.hear(heard)
        right = sum(found[utt].words == tuple(targets[utt]) for utt in waves)
        assert right >= 5
        for record in made.records.values():
            assert record["last_loss"] < 0.5 * record["first_loss"]
            assert record["live_samples"] > 0.8

    @pytest.mark.parametrize("kind", MODEL_KINDS)
    def test_every_kind_of_model_is_attacked_within_eps(
        self, system: TinySystem, tmp_path: Path, speech: tuple[Any, Any], kind: str
    ) -> None:
        waves, text = speech
        recogniser = system.recogniser(HybridModel(tiny.FRONT_END, system.network(kind), seed=1).eval())
        eot_samples = 2 if kind in ("dropout", "bnn") else 1
        first = make(recogniser, waves, Say(spoken=text), tmp_path / "a", eot_samples=eot_samples)
        again = make(recogniser, waves, Say(spoken=text), tmp_path / "b", eot_samples=eot_samples)
        assert first.records == again.records  # random models draw from a generator of the batch
        heard = read_attack(tmp_path / "a")
        assert 0 < difference(waves, heard) <= CONFIG.eps
        assert {utt: len(wave) for utt, wave in heard.items()} == {utt: len(wave) for utt, wave in waves.items()}
        for utt, record in first.records.items():
            assert (tmp_path / f"a/wav/{utt}.wav").read_bytes() == (tmp_path / f"b/wav/{utt}.wav").read_bytes()
            assert record["target"] != text[utt]

    def test_eps_of_zero_writes_the_original(
        self, recogniser: Recogniser, tmp_path: Path, speech: tuple[Any, Any]
    ) -> None:
        waves, text = speech
        make(recogniser, waves, Say(spoken=text), tmp_path, eps=0.0)
        assert difference(waves, read_attack(tmp_path)) == 0.0

    def test_result_of_an_utterance_hardly_depends_on_its_batch(
        self, recogniser: Recogniser, tmp_path: Path, speech: tuple[Any, Any], small_batches: None
    ) -> None:
        # Products of matrices of other sizes round otherwise in the last bit.  That changes a sample only where the
        # gradient is nearly zero, so that its sign can flip; most samples are the same.
        waves, text = speech
        make(recogniser, waves, Say(spoken=text), tmp_path / "together")
        alone = {utt: waves[utt] for utt in list(waves)[2:3]}
        make(recogniser, alone, Say(spoken=text), tmp_path / "alone")
        for utt, wave in read_attack(tmp_path / "alone").items():
            assert np.mean(wave != read_attack(tmp_path / "together")[utt]) < 0.02

    @pytest.mark.parametrize("kind", ["dnn", "dropout"])
    def test_in_memory_it_is_the_same_as_in_files_whatever_the_type_of_the_samples(
        self, system: TinySystem, tmp_path: Path, speech: tuple[Any, Any], small_batches: None, kind: str
    ) -> None:
        waves, text = speech
        recogniser = system.recogniser(HybridModel(tiny.FRONT_END, system.network(kind), seed=1).eval())
        written = make(recogniser, waves, Say(spoken=text), tmp_path, eot_samples=2)
        assert len(list((tmp_path / "parts").iterdir())) > 1
        for given in (waves, {utt: to_int16(wave) for utt, wave in waves.items()}):
            made = PGD(CONFIG, eot_samples=2)(recogniser, given, Say(spoken=text))
            assert made.records == written.records
            assert made.config == written.config
            assert list(made.waves) == list(waves)
            for utt in waves:
                assert made.waves[utt].dtype == np.float32
                assert np.array_equal(made.waves[utt], written.waves[utt])
                assert np.array_equal(made.originals[utt], waves[utt])

    def test_audio_that_cannot_be_attacked_is_named(self, recogniser: Recogniser, speech: tuple[Any, Any]) -> None:
        waves = {**speech[0], "loud": 5 * speech[0]["utt00"], "short": np.zeros(9, np.float32)}
        with pytest.raises(DataError, match=r"loud: samples reach .* 1 more cannot be attacked: short"):
            PGD(CONFIG)(recogniser, waves, Say(spoken=speech[1]))


class TestResuming:
    def test_killed_run_goes_on_after_its_last_batch(
        self, recogniser: Recogniser, tmp_path: Path, speech: tuple[Any, Any], small_batches: None,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        waves, text = speech
        whole = make(recogniser, waves, Say(spoken=text), tmp_path / "whole", key="k")
        with monkeypatch.context() as patch:
            before = Counting(patch, kill_at=2)
            with pytest.raises(KeyboardInterrupt):
                make(recogniser, waves, Say(spoken=text), tmp_path / "x", key="k")
        after = Counting(monkeypatch)
        assert make(recogniser, waves, Say(spoken=text), tmp_path / "x", key="k").records == whole.records
        assert len(before.utts) == 2
        assert sorted(utt for batch in before.utts + after.utts for utt in batch) == sorted(waves)
        for utt in waves:
            name = f"wav/{utt}.wav"
            assert (tmp_path / "x" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()

    @pytest.mark.long
    @pytest.mark.parametrize("what", ["nothing", "key", "eps", "attack", "target", "acwt", "part", "wav"])
    def test_what_has_changed_is_made_again(
        self, system: TinySystem, model_dir: Path, tmp_path: Path, speech: tuple[Any, Any], small_batches: None,
        monkeypatch: pytest.MonkeyPatch, what: str,
    ) -> None:  # fmt: skip
        waves, _ = speech
        targets = {utt: ["two", "one"] for utt in waves}
        make(load(system, model_dir), waves, Say(targets), tmp_path, key="model and audio")
        if what == "part":
            (tmp_path / "parts/1.json").write_text('{"key": "')
        elif what == "wav":
            (tmp_path / f"wav/{next(iter(waves))}.wav").unlink()
        elif what == "target":
            targets["utt03"] = ["one"]
        recogniser = load(system, model_dir, decode=DecodeConfig(acwt=0.2) if what == "acwt" else None)
        attack = (Attack if what == "attack" else PGD)(CONFIG, eps=0.04 if what == "eps" else CONFIG.eps)
        key = "another model" if what == "key" else "model and audio"
        made = Counting(monkeypatch)
        craft(attack, recogniser, waves, Say(targets), tmp_path, key=key)
        total = len(list((tmp_path / "parts").iterdir()))
        assert total >= 3
        assert len(made.utts) == {"nothing": 0, "part": 1, "wav": 1}.get(what, total)
        assert set(read_attack(tmp_path)) == set(waves)


class TestShards:
    def test_shards_make_the_files_of_the_whole(
        self, recogniser: Recogniser, tmp_path: Path, speech: tuple[Any, Any], small_batches: None,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        waves, text = speech
        goal = Say(spoken=text)
        whole = make(recogniser, waves, goal, tmp_path / "whole", key="k")
        made = Counting(monkeypatch)
        shards = [
            craft_shard(PGD(CONFIG), recogniser, waves, goal, tmp_path / "x", key="k", shard=Shard(number, 5))
            for number in (5, 3, 1, 2, 4)  # of three or four batches: one shard at least has none
        ]
        assert sorted(utt for shard in shards for utt in shard) == sorted(waves)
        assert {} in shards
        before = len(made.utts)
        assert make(recogniser, waves, goal, tmp_path / "x", key="k").records == whole.records
        assert len(made.utts) == before
        for path in (tmp_path / "whole").rglob("*.*"):
            assert (tmp_path / "x" / path.relative_to(tmp_path / "whole")).read_bytes() == path.read_bytes()

    def test_shard_that_failed_is_made_alone(
        self, recogniser: Recogniser, tmp_path: Path, speech: tuple[Any, Any], small_batches: None,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        waves, text = speech

        def shard(number: int) -> dict[str, Any]:
            return craft_shard(
                PGD(CONFIG), recogniser, waves, Say(spoken=text), tmp_path, key="k", shard=Shard(number, 2)
            )

        shard(2)
        with pytest.MonkeyPatch.context() as patch:
            Counting(patch, kill_at=1)
            with pytest.raises(KeyboardInterrupt):
                shard(1)
        made = Counting(monkeypatch)
        done = shard(1) | shard(2)
        assert set(done) == set(waves)
        assert len(made.utts) == 1

    @pytest.mark.parametrize("stale", [1, 2])
    def test_shard_leaves_what_the_others_made_of_an_earlier_run(
        self, recogniser: Recogniser, tmp_path: Path, speech: tuple[Any, Any], small_batches: None, stale: int
    ) -> None:
        waves, text = speech
        make(recogniser, waves, Say(spoken=text), tmp_path, key="before")
        before = {path.name: path.read_bytes() for path in (tmp_path / "parts").iterdir()}
        shard = Shard(stale, 2)
        craft_shard(PGD(CONFIG), recogniser, waves, Say(spoken=text), tmp_path, key="after", shard=shard)
        for name, content in before.items():
            same = (tmp_path / "parts" / name).read_bytes() == content
            assert same != shard.has(int(Path(name).stem))

    def test_part_that_another_job_of_the_same_shard_removes_first_is_no_error(
        self, recogniser: Recogniser, tmp_path: Path, speech: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        waves, text = speech
        write_json(tmp_path / "parts/0.json", {"key": "of another attack"})
        monkeypatch.setattr(directory, "_finished", lambda part, *_: part.unlink(missing_ok=True))
        assert craft_shard(PGD(CONFIG), recogniser, waves, Say(spoken=text), tmp_path).keys() == waves.keys()

    @pytest.mark.parametrize("text", ["", "0/2", "3/2", "1", "1/0", "a/2", "1/2/3", "-1/2", "1 / 2", "1/1000000000"])
    def test_what_is_no_shard_is_refused(self, text: str) -> None:
        with pytest.raises(ValueError, match="expected J/N with J from 1 to N"):
            Shard.parse(text)


class TestTargets:
    @pytest.mark.parametrize("utt", ["/home/you/x", "../../x", "a/../../../x"])
    def test_id_that_is_a_path_writes_nothing_anywhere(
        self, recogniser: Recogniser, speech: tuple[Any, Any], tmp_path: Path, utt: str
    ) -> None:
        (wave, *_), words = speech[0].values(), next(iter(speech[1].values()))
        with pytest.raises(DataError, match=f"utterance '{utt}': as a file name it leaves the directory"):
            make(recogniser, {utt: wave}, Say({utt: words}), tmp_path / "a/b/c")
        assert list(tmp_path.rglob("*")) == []

    def test_target_that_is_too_long_stops_before_any_work(
        self, recogniser: Recogniser, tmp_path: Path, speech: tuple[Any, Any]
    ) -> None:
        waves, _ = speech
        targets = {utt: ["one"] for utt in waves}
        targets["utt04"] = ["three"] * 90
        num_frames = recogniser.num_frames(len(waves["utt04"]))
        with pytest.raises(AlignmentError, match=rf"given: target .* needs at least 360 .* the audio has {num_frames}"):
            make(recogniser, waves, Say(targets, where="given"), tmp_path)
        assert list(tmp_path.iterdir()) == []

    def test_unknown_word_is_named_with_its_place(
        self, recogniser: Recogniser, tmp_path: Path, speech: tuple[Any, Any]
    ) -> None:
        waves, _ = speech
        targets = {utt: ["one", "four"] for utt in waves}
        with pytest.raises(DataError, match="given: utt00: word 'four' is not in"):
            make(recogniser, waves, Say(targets, where="given"), tmp_path)

    def unalignable(self, monkeypatch: pytest.MonkeyPatch, times: int) -> list[list[str]]:
        """Let the alignment of the first utterance fail so many times; returns the targets that were tried."""
        tried: list[list[str]] = []
        original = Recogniser.align_batch

        def failing(who: Recogniser, scores: Any, texts: Mapping[str, list[list[str]]]) -> dict[str, list[Any]]:
            found = original(who, scores, texts)
            if "utt00" in found:
                tried.extend(texts["utt00"])
                if len(tried) <= times:
                    found["utt00"] = [None]
            return found

        monkeypatch.setattr(Recogniser, "align_batch", failing)
        return tried

    def test_random_target_without_a_path_is_replaced_and_recorded(
        self, recogniser: Recogniser, tmp_path: Path, speech: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        waves, text = speech
        goal = Say(spoken=text)
        first = goal.choose(recogniser, waves, CONFIG.seed)
        tried = self.unalignable(monkeypatch, times=2)
        records = make(recogniser, waves, goal, tmp_path).records
        assert tried[0] == first["utt00"]
        assert len(tried) == 3
        assert records["utt00"]["target"] == tried[-1] != text["utt00"]
        assert {utt: records[utt]["target"] for utt in waves if utt != "utt00"} == {
            utt: first[utt] for utt in waves if utt != "utt00"
        }

    def test_after_so_many_targets_it_is_an_error_that_names_the_last(
        self, recogniser: Recogniser, tmp_path: Path, speech: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tried = self.unalignable(monkeypatch, times=99)
        with pytest.raises(AlignmentError, match="'utt00' cannot be aligned with its target") as error:
            make(recogniser, speech[0], Say(spoken=speech[1]), tmp_path)
        assert len(tried) == MAX_ATTEMPTS
        assert repr(" ".join(tried[-1])) in str(error.value)

    def test_given_target_is_never_replaced(
        self, recogniser: Recogniser, tmp_path: Path, speech: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        waves, text = speech
        tried = self.unalignable(monkeypatch, times=99)
        with pytest.raises(AlignmentError, match="'utt00' cannot be aligned with its target 'two'"):
            make(recogniser, waves, Say({utt: ["two"] for utt in waves}, spoken=text), tmp_path)
        assert tried == [["two"]]


class TestCommand:
    def run(self, folder: Path, system: TinySystem, model_dir: Path, *options: str) -> int:
        words = ["nnet-attack", "--lang-dir", system.lang.path, "--num-steps", "3", "--eps", "0.03", *options]
        words += [folder / "data", model_dir, model_dir / "graph", folder / "attack"]
        return main([str(word) for word in words])

    def write_data(self, folder: Path, speech: tuple[Any, Any], dtype: type) -> None:
        """A data directory with files of this sample format, float ones between the steps of 16 bit and up to 1.0."""
        waves, text = speech
        (folder / "wav").mkdir(parents=True)
        scp = {}
        for number, (utt, wave) in enumerate(waves.items()):
            scp[utt] = str(folder / f"wav/{utt}.wav")
            samples = np.rint(wave * GRID).astype(np.int16)
            if dtype == np.float32:
                samples = (wave + np.float32(0.4 / GRID)).astype(np.float32)
                samples[100 + number] = 1.0
            wavfile.write(scp[utt], tiny.RATE, samples)
        write_data_dir(
            folder / "data", wav_scp=scp, text={utt: " ".join(words) for utt, words in text.items()},
            utt2spk={utt: utt for utt in waves}, utt2dur=dict.fromkeys(waves, 1.0),
        )  # fmt: skip

    @pytest.mark.parametrize("dtype", [np.int16, np.float32])
    def test_all_checks_pass_whatever_the_sample_format(
        self, tmp_path: Path, system: TinySystem, model_dir: Path, speech: tuple[Any, Any], dtype: type
    ) -> None:
        self.write_data(tmp_path, speech, dtype)
        assert self.run(tmp_path, system, model_dir) == 0
        found = json.loads((tmp_path / "attack/checks.json").read_text())
        assert found["eps_respected"]["passed"], found["eps_respected"]
        assert found["gradient_reaches_audio"]["passed"]
        lines = [json.loads(line) for line in (tmp_path / "attack/results.jsonl").read_text().splitlines()]
        assert [line["utt"] for line in lines] == list(speech[0])
        for line in lines:
            assert line["target"] != line["original"] == " ".join(speech[1][line["utt"]])

    def test_second_run_does_nothing_and_other_audio_is_attacked_anew(
        self, tmp_path: Path, system: TinySystem, model_dir: Path, speech: tuple[Any, Any],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        self.write_data(tmp_path, speech, np.int16)
        assert self.run(tmp_path, system, model_dir) == 0
        made = Counting(monkeypatch)
        assert self.run(tmp_path, system, model_dir) == 0
        assert made.utts == []
        path = tmp_path / "wav/utt02.wav"
        rate, samples = wavfile.read(path)
        samples[10] += 1
        wavfile.write(path, rate, samples)
        assert self.run(tmp_path, system, model_dir) == 0
        assert sorted(utt for batch in made.utts for utt in batch) == sorted(speech[0])

    def test_target_that_is_said_already_is_refused_and_one_that_is_heard_is_told(
        self, tmp_path: Path, system: TinySystem, model_dir: Path, speech: tuple[Any, Any],
        capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture,
    ) -> None:  # fmt: skip
        waves, text = speech
        self.write_data(tmp_path, speech, np.int16)
        heard = {utt: list(found.words) for utt, found in load(system, model_dir).hear(waves).items()}
        said = {utt: " ".join(words) for utt, words in text.items()}
        others = {utt: "one" if words != ["one"] != heard[utt] else "two" for utt, words in text.items()}
        first = next(utt for utt in waves if heard[utt])

        def attack(targets: dict[str, str]) -> int:
            (tmp_path / "targets").write_text("".join(f"{utt} {words}\n" for utt, words in targets.items()))
            return self.run(tmp_path, system, model_dir, "--target-text", str(tmp_path / "targets"))

        assert attack({**others, first: said[first]}) == 1
        assert f"targets: '{said[first]}' is what {first} says already: to be heard" in capsys.readouterr().err
        assert not (tmp_path / "attack/results.jsonl").exists()
        mended = {**said, first: " ".join(["three", *said[first].split()][:3])}  # as if it were misheard
        (tmp_path / "data/text").write_text("".join(f"{utt} {words}\n" for utt, words in mended.items()))
        assert attack({**others, first: " ".join(heard[first])}) == 0
        assert (
            f"1 of {len(waves)} utterances are heard as their target without any change ({first}, ...)" in caplog.text
        )

    def test_change_louder_than_the_speech_is_told(
        self, tmp_path: Path, system: TinySystem, model_dir: Path, speech: tuple[Any, Any],
        caplog: pytest.LogCaptureFixture,
    ) -> None:  # fmt: skip
        self.write_data(tmp_path, speech, np.int16)
        assert self.run(tmp_path, system, model_dir, "--eps", "0.9") == 0
        count = len(speech[0])
        assert f"the change may be as loud as the speech in {count} of {count} utterances (SNR -" in caplog.text

    @pytest.mark.long
    def test_shards_are_jobs_of_one_attack(
        self, system: TinySystem, model_dir: Path, tmp_path: Path, speech: tuple[Any, Any], small_batches: None,
        capsys: pytest.CaptureFixture[str],
    ) -> None:  # fmt: skip
        for name in ("whole", "shards"):
            self.write_data(tmp_path / name, speech, np.int16)
        assert self.run(tmp_path / "whole", system, model_dir) == 0
        for shard in ("2/2", "1/2"):
            assert self.run(tmp_path / "shards", system, model_dir, "--shard", shard) == 0
            assert f"shard {shard}: " in capsys.readouterr().out
            assert not (tmp_path / "shards/attack/results.jsonl").exists()
        assert self.run(tmp_path / "shards", system, model_dir) == 0
        for name in ("results.jsonl", "checks.json", "target_text"):
            whole, shards = (tmp_path / place / "attack" / name for place in ("whole", "shards"))
            assert whole.read_text() == shards.read_text()
        assert self.run(tmp_path / "shards", system, model_dir, "--shard", "1/2") == 0
        assert "shard 1/2: the attack is up to date" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (("--shard", "3/2"), "--shard: expected J/N"),
            (("--shard", "1/2", "--results", "r.json"), "--results is for"),
        ],
    )
    def test_shard_that_makes_no_sense_is_refused(
        self, system: TinySystem, model_dir: Path, tmp_path: Path, speech: tuple[Any, Any],
        capsys: pytest.CaptureFixture[str], options: tuple[str, ...], message: str,
    ) -> None:  # fmt: skip
        self.write_data(tmp_path, speech, np.int16)
        assert self.run(tmp_path, system, model_dir, *options) == 1
        assert message in capsys.readouterr().err
        assert not (tmp_path / "attack").exists()


@pytest.mark.parametrize("records", [{"other": {}}, {"../x": {}}, {"\ud800": {}}, {"a": {}}, {"a": {}, "b": {}}])
def test_part_of_other_utterances_or_without_their_audio_is_made_again(tmp_path: Path, records: dict[str, Any]) -> None:
    files = {"a": tmp_path / "wav/a.wav", "b": tmp_path / "wav/b.wav"}
    write_json(tmp_path / "parts/0.json", {"key": "k", "records": records})
    assert _finished(tmp_path / "parts/0.json", "k", files) is None
    for file in files.values():
        write_text(file, "")
    found = _finished(tmp_path / "parts/0.json", "k", files)
    assert found == (records if records.keys() <= files.keys() else None)
