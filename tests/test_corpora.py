"""The digit corpora: what local/prepare_*.py write, and what they refuse.

One file: the three corpora keep the same promises, checked by the same code.
"""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import sys
import wave
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from kaldi_uq.io.datadir import DataDir
from kaldi_uq.io.wav import read_wav, write_wav

pytestmark = pytest.mark.long

ROOT = Path(__file__).resolve().parent.parent
SETS = ("train", "fit", "test", "attack")
FEW = "--num-train 12 --num-fit 4 --num-test 5 --num-attack 3 --nj 1".split()
WORDS = dict(zip("oz123456789", "oh zero one two three four five six seven eight nine".split(), strict=True))


class Script:
    """One of the scripts, run in this process."""

    def __init__(self, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        monkeypatch.syspath_prepend(str(ROOT / "local"))
        self.module: ModuleType = importlib.import_module(name)
        self.name, self._monkeypatch, self._capsys = name, monkeypatch, capsys

    def __call__(self, *args: object) -> str:
        """Run it; returns its output."""
        status, out, err = self.run(*args)
        assert status == 0, err
        return out

    def error(self, *args: object) -> str:
        """Run it; returns its one line of error."""
        status, _, err = self.run(*args)
        assert status == 1
        lines = [line for line in err.splitlines()[1:] if not line.startswith("warning: ")]
        assert len(lines) == 1, err
        prefix = f"{self.name}.py: error: "
        assert lines[0].startswith(prefix)
        return lines[0][len(prefix) :]

    def run(self, *args: object) -> tuple[int, str, str]:
        self._monkeypatch.setattr(sys, "argv", [f"{self.name}.py", *map(str, args)])
        self._capsys.readouterr()
        status = self.module.main()
        captured = self._capsys.readouterr()
        return status, captured.out, captured.err


def contents(directory: Path) -> dict[str, bytes]:
    """All files but the stamps, by their relative names."""
    files = (path for path in sorted(directory.rglob("*")) if path.is_file() and not path.name.startswith("."))
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


def check_corpus(out: Path, sizes: dict[str, int], rate: int) -> dict[str, DataDir]:
    """What holds for every corpus: whole tables, names that agree with the text, good waveforms."""
    sets = {name: DataDir.read(out / name, need=["wav.scp", "text", "utt2spk", "utt2dur", "spk2utt"]) for name in SETS}
    assert {name: len(data.utts) for name, data in sets.items()} == sizes
    for name, data in sets.items():
        for utt, path in data.wav_scp.items():
            assert path == str(out / "wav" / name / f"{utt}.wav")
            spk, _, string = utt.partition("-")
            assert spk == data.utt2spk[utt]
            assert data.words(utt) == [WORDS[letter] for letter in re.fullmatch(r"([1-9zo]{1,7}?)[a-z]", string)[1]]
            samples, _ = read_wav(path, expected_rate=rate)
            assert data.utt2dur[utt] == pytest.approx(len(samples) / rate, abs=1e-4)
    return sets


# --- the synthetic corpus


@pytest.fixture
def synth(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Script:
    pytest.importorskip("espeakng_loader", reason="pip install espeakng-loader")
    return Script("prepare_synth", monkeypatch, capsys)


def test_synth_makes_four_sets_without_a_common_speaker(synth: Script, tmp_path: Path) -> None:
    out = tmp_path / "data"
    printed = synth(*FEW, out)
    sets = check_corpus(out, {"train": 12, "fit": 4, "test": 5, "attack": 3}, rate=16000)
    speakers = [spk for data in sets.values() for spk in data.spk2utt]
    assert len(speakers) == len(set(speakers))
    assert re.search(r"test: 5 utterances, 5 speakers, 0\.00 hours\n", printed)
    for data in sets.values():
        for path in data.wav_scp.values():
            samples, rate = read_wav(path)
            assert 0.19 < np.max(np.abs(samples)) < 0.61
            lead = samples[: rate // 20]
            assert np.std(lead) > 0  # a noise floor: no digital silence
            loud = np.sort(np.abs(samples))[-len(samples) // 2 :]
            assert 20 * np.log10(np.std(loud) / np.std(lead)) > 20


def test_synth_has_240_speakers_of_both_sexes_and_no_voice_twice(synth: Script) -> None:
    speakers = synth.module.choose_speakers(seed=3)
    everyone = [(spk, voice) for voices in speakers.values() for spk, voice in voices.items()]
    assert len({spk for spk, _ in everyone}) == 240
    assert len({(voice.accent, voice.variant) for _, voice in everyone}) == 240
    assert sum(spk.startswith("f") for spk, _ in everyone) == 120
    for name, voices in speakers.items():
        assert {spk[0] for spk in voices} == {"f", "m"}, name
    usable = set(synth.module.synthesizer().variants())
    assert set(synth.module.WOMEN + synth.module.MEN) <= usable
    assert speakers != synth.module.choose_speakers(seed=4)


def test_synth_strings_have_the_lengths_and_digits_of_tidigits(synth: Script) -> None:
    digits = importlib.import_module("digits")
    generator = digits.random_generator(0, "test")
    plan = digits.plan_strings("train", ["a", "b"], 1400, "".join(WORDS), productions={}, generator=generator)
    lengths = np.bincount([len(u.code) for u in plan], minlength=8) / 200
    np.testing.assert_allclose(lengths, [0, 2, 1, 1, 1, 1, 0, 1], atol=0.25)
    spoken = "".join(u.code for u in plan)
    for letter in WORDS:
        assert spoken.count(letter) / len(spoken) == pytest.approx(1 / 11, rel=0.15)
    assert len({u.utt for u in plan}) == 1400


def test_join_keeps_level_pauses_and_noise_within_their_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "local"))
    digits = importlib.import_module("digits")
    tone = np.sin(2 * np.pi * 0.05 * np.arange(4000))
    for number in range(20):
        generator = digits.random_generator("join", number)
        samples = digits.join([tone, 3 * tone], 8000, generator=generator, peak=(0.35, 0.85)) / 32768
        assert 8000 + 0.25 * 8000 - 4 * 80 <= len(samples) <= 8000 + 0.9 * 8000 + 4 * 80
        assert 0.35 <= np.max(np.abs(samples)) <= 0.851
        # The first 0.1 s is noise alone; the larger half of the samples has slightly more power than all the speech.
        speech = np.mean(np.sort(np.abs(samples))[-8000:] ** 2)
        assert 29 < 10 * np.log10(speech / np.mean(samples[:700] ** 2)) < 47


def test_synth_gives_the_same_bytes_with_two_processes_and_after_a_kill(synth: Script, tmp_path: Path) -> None:
    out = tmp_path / "data"
    synth(*FEW, out)
    expected = contents(out)
    # As after a kill: no stamp, a missing and a cut-off waveform, the temporary file of an unfinished one.
    (out / ".done.corpus").unlink()
    waveforms = sorted((out / "wav" / "train").iterdir())
    waveforms[0].unlink()
    waveforms[1].write_bytes(waveforms[1].read_bytes()[:1000])
    (out / "wav" / "train" / f".{waveforms[0].name}.x1.tmp").write_bytes(b"RIFF")
    shutil.rmtree(out / "test")
    untouched = waveforms[2].stat().st_mtime_ns
    options = [*FEW[:-2], "--nj", "2"]
    assert "22 of 24 waveforms are there" in synth(*options, out)
    assert contents(out) == expected
    assert not list((out / "wav").rglob("*.tmp"))
    assert waveforms[2].stat().st_mtime_ns == untouched
    assert synth(*options, out) == f"{out}: done before with the same options, nothing to do\n"


def test_synth_with_other_options_leaves_nothing_of_the_first_run(synth: Script, tmp_path: Path) -> None:
    out, fresh = tmp_path / "data", tmp_path / "fresh"
    synth(*FEW, out)
    (out / "train" / "feats.scp").write_text("computed from the old waveforms\n")
    synth(*FEW, "--seed", 7, out)
    synth(*FEW, "--seed", 7, fresh)
    assert contents(out / "wav") == contents(fresh / "wav")
    assert not (out / "train" / "feats.scp").exists()


def test_a_data_directory_of_somebody_else_is_not_overwritten(synth: Script, tmp_path: Path) -> None:
    (tmp_path / "data" / "test").mkdir(parents=True)
    (tmp_path / "data" / "test" / "wav.scp").write_text("mine mine.wav\n")
    assert "was made by something else" in synth.error(*FEW, tmp_path / "data")
    assert contents(tmp_path / "data") == {"test/wav.scp": b"mine mine.wav\n"}


@pytest.mark.parametrize(
    "options, message",
    [
        (["--nj", "0"], "--nj must be 1 or more, got 0"),
        (["--seed", "-1"], "--seed must be 0 or more, got -1"),
        (["--num-test", "0"], "--num-test must be 1 or more, got 0"),
        (["--min-snr-db", "50"], "--min-snr-db 50 is above --max-snr-db 45"),
    ],
)
def test_bad_options_are_refused_before_anything_is_written(
    synth: Script, tmp_path: Path, options: list[str], message: str
) -> None:
    assert synth.error(*options, tmp_path / "data") == message
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("name", ["prepare_synth", "prepare_fsdd", "prepare_tidigits"])
def test_scripts_explain_themselves_and_refuse_unknown_options(name: str) -> None:
    def run(*args: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        command = [sys.executable, str(ROOT / "local" / f"{name}.py"), *args]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    assert os.access(ROOT / "local" / f"{name}.py", os.X_OK)
    helped = run("--help")
    assert helped.returncode == 0
    assert f"Example: local/{name}.py" in helped.stdout
    refused = run("--no-such-option", "out")
    assert refused.returncode == 1
    assert len(refused.stderr.splitlines()) == 1


# --- the Free Spoken Digit Dataset


@pytest.fixture
def fsdd(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Script:
    return Script("prepare_fsdd", monkeypatch, capsys)


def make_fsdd(root: Path, speakers: str = "anna bert", count: int = 6, rate: int = 8000) -> Path:
    """A tree in the dataset's layout: noise bursts, each file another length and level."""
    generator = np.random.default_rng(0)
    for spk in speakers.split():
        for digit in range(10):
            for number in range(count):
                level, length = 3000 * generator.uniform(0.1, 1), int(generator.integers(1200, 4000))
                samples = (level * generator.standard_normal(length)).clip(-32000, 32000).astype(np.int16)
                write_wav(root / "recordings" / f"{digit}_{spk}_{number}.wav", samples, rate)
    return root


def recordings_used(script: Script, corpus_dir: Path, held_out: tuple[str, ...] = ()) -> dict[str, set[str]]:
    """Names of the recordings that each set may use."""
    sets = script.module.choose_recordings(script.module.find_recordings(corpus_dir), held_out)
    return {
        name: {path.name for digits in speakers.values() for paths in digits.values() for path in paths}
        for name, speakers in sets.items()
    }


def test_fsdd_makes_strings_of_one_speaker_each(fsdd: Script, tmp_path: Path) -> None:
    corpus = make_fsdd(tmp_path / "fsdd")
    out = tmp_path / "data"
    fsdd("--corpus-dir", corpus, *FEW, out)
    check_corpus(out, {"train": 12, "fit": 4, "test": 5, "attack": 3}, rate=8000)
    # No utterance id occurs twice, although the sets have the same speakers, and the size of train is its own affair.
    sets = fsdd.module.choose_recordings(fsdd.module.find_recordings(corpus), [])
    plans = [fsdd.module.plan(0, dict.fromkeys(SETS, 300) | {"train": count}, sets) for count in (300, 50)]
    assert len({u.utt for u in plans[0]}) == 1200
    assert [u for u in plans[0] if u.set_name != "train"] == [u for u in plans[1] if u.set_name != "train"]
    # A waveform is at least as long as its recordings, in their order and by its own speaker.
    for utterance in fsdd.module.plan(0, {"train": 12, "fit": 4, "test": 5, "attack": 3}, sets):
        names = [Path(path).name.split("_") for path in utterance.source]
        assert [spk for _, spk, _ in names] == [utterance.spk] * len(utterance.code)
        assert "".join(digit for digit, _, _ in names) == utterance.code.replace("z", "0")
        speech = sum(len(read_wav(path)[0]) for path in utterance.source)
        spoken = len(read_wav(out / "wav" / utterance.set_name / f"{utterance.utt}.wav")[0])
        assert speech + 0.2 * 8000 - 400 * len(names) < spoken < speech + (0.6 + 0.3 * len(names)) * 8000
    expected = contents(out)
    again = tmp_path / "again"  # the recordings directory itself will do as well
    fsdd("--corpus-dir", corpus / "recordings", *FEW[:-1], 2, again)
    assert contents(again / "wav" / "test") == {
        name.removeprefix("wav/test/"): data for name, data in expected.items() if name.startswith("wav/test/")
    }


@pytest.mark.parametrize("count", [4, 6, 23, 50])
def test_fsdd_sets_share_no_recording_and_use_all(fsdd: Script, tmp_path: Path, count: int) -> None:
    (tmp_path / "recordings").mkdir()
    everything = {f"{digit}_anna_{number}.wav" for digit in range(10) for number in range(count)}
    for name in everything:
        (tmp_path / "recordings" / name).touch()
    used = recordings_used(fsdd, tmp_path)
    assert sum(map(len, used.values())) == len(set().union(*used.values()))
    assert set().union(*used.values()) == everything
    if count == 50:  # the dataset's own test split, and the two blocks after it
        for name, first in (("test", 0), ("fit", 5), ("attack", 10)):
            assert used[name] == {f"{digit}_anna_{first + i}.wav" for digit in range(10) for i in range(5)}


def test_fsdd_held_out_speakers_are_only_in_test_and_attack(fsdd: Script, tmp_path: Path) -> None:
    corpus, out = make_fsdd(tmp_path / "fsdd", "anna bert carl"), tmp_path / "data"
    used = recordings_used(fsdd, corpus, ("carl",))
    assert not used["test"] & used["attack"]
    fsdd("--corpus-dir", corpus, "--held-out-speakers", "carl", *FEW, out)
    speakers = {name: set(DataDir.read(out / name).spk2utt) for name in SETS}
    assert speakers == {"train": {"anna", "bert"}, "fit": {"anna", "bert"}, "test": {"carl"}, "attack": {"carl"}}
    command = ["--corpus-dir", corpus, "--held-out-speakers"]
    assert "no speaker 'dora'; there are anna, bert, carl" in fsdd.error(*command, "dora", tmp_path / "x")
    assert "none is left for train" in fsdd.error(*command, "anna bert carl", tmp_path / "x")


def test_fsdd_with_too_few_recordings_says_whose(fsdd: Script, tmp_path: Path) -> None:
    corpus = make_fsdd(tmp_path / "fsdd", count=4)
    for number in (1, 3):
        (corpus / "recordings" / f"7_bert_{number}.wav").unlink()
    assert fsdd.error("--corpus-dir", corpus, tmp_path / "x").startswith("speaker 'bert', digit 7: 2 recordings;")


def test_fsdd_names_the_bad_file_and_writes_nothing(fsdd: Script, tmp_path: Path) -> None:
    corpus, out = make_fsdd(tmp_path / "fsdd"), tmp_path / "data"
    victim = corpus / "recordings" / "3_anna_2.wav"
    good = victim.read_bytes()
    with wave.open(str(tmp_path / "stereo.wav"), "wb") as stream:
        stream.setnchannels(2)
        stream.setsampwidth(2)
        stream.setframerate(8000)
        stream.writeframes(b"\1\2" * 2000)
    write_wav(tmp_path / "fast.wav", np.full(2000, 99, np.int16), 16000)
    bad = {
        "2 channels, expected 1": (tmp_path / "stereo.wav").read_bytes(),
        "sample rate 16000 Hz, expected 8000 Hz": (tmp_path / "fast.wav").read_bytes(),
        "truncated": good[:-300],
        "not a WAV file": b"",
    }
    for message, data in bad.items():
        victim.write_bytes(data)
        error = fsdd.error("--corpus-dir", corpus, *FEW, out)
        assert error.startswith(f"{victim}: ")
        assert message in error
        assert not out.exists()
    victim.write_bytes(good)
    (corpus / "recordings" / "three.wav").write_bytes(good)
    assert "three.wav: expected a name like 7_jackson_32.wav" in fsdd.error("--corpus-dir", corpus, out)


@pytest.mark.parametrize("name", ["prepare_fsdd", "prepare_tidigits"])
def test_a_missing_or_empty_corpus_is_one_line_and_writes_nothing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script, corpus, out = Script(name, monkeypatch, capsys), tmp_path / "corpus", tmp_path / "data"
    assert script.error("--corpus-dir", corpus, out).startswith(f"{corpus}: ")
    corpus.mkdir()
    assert script.error("--corpus-dir", corpus, out).startswith(f"{corpus}: ")
    (corpus / "recordings").mkdir()
    for tree in ("train", "test"):
        (corpus / "tidigits" / tree).mkdir(parents=True)
    assert ": no .wav files; expected " in script.error("--corpus-dir", corpus, out)
    assert not out.exists()


def test_fsdd_itself(fsdd: Script, tmp_path: Path) -> None:
    if "KALDI_UQ_FSDD" not in os.environ:
        pytest.skip("KALDI_UQ_FSDD is not set (a clone of the Free Spoken Digit Dataset)")
    corpus, out = Path(os.environ["KALDI_UQ_FSDD"]), tmp_path / "data"
    used = recordings_used(fsdd, corpus)
    numbers = {name: {int(re.search(r"_(\d+)\.wav", file)[1]) for file in files} for name, files in used.items()}
    assert numbers["test"] == set(range(5))
    assert not numbers["test"] & (numbers["train"] | numbers["fit"] | numbers["attack"])
    fsdd("--corpus-dir", corpus, *FEW, out)
    sets = check_corpus(out, {"train": 12, "fit": 4, "test": 5, "attack": 3}, rate=8000)
    for data in sets.values():
        words = sum(len(data.words(utt)) for utt in data.utts)
        assert 0.25 < sum(data.utt2dur.values()) / words < 1.5  # seconds a digit, pauses included


# --- TIDIGITS


@pytest.fixture
def tidigits(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Script:
    return Script("prepare_tidigits", monkeypatch, capsys)


TEST_SPEAKERS = {"man": "ah ar at", "woman": "ac ag an"}
STRINGS = "1a 2b za oa 1z23a 8o6b 9876543a".split()


def sphere_bytes(samples: np.ndarray, order: str, coding: str = "pcm") -> bytes:
    fields = {"sample_count": len(samples), "sample_rate": 20000, "channel_count": 1, "sample_n_bytes": 2}
    lines = ["NIST_1A", "   1024", *(f"{name} -i {value}" for name, value in fields.items())]
    lines += [f"sample_byte_format -s2 {order}", f"sample_coding -s{len(coding)} {coding}", "end_head", ""]
    return "\n".join(lines).encode().ljust(1024) + samples.astype({"01": "<i2", "10": ">i2"}[order]).tobytes()


def make_tidigits(root: Path, coding: str = "pcm") -> Path:
    """Two speakers for training and six for testing; the byte order changes from speaker to speaker.

    Each file is a tone of 1 kHz, 0.1 s a digit.
    """
    orders = ["01", "10"]
    trees = {"train": {"man": "ae", "woman": "ad"}, "test": TEST_SPEAKERS}
    for tree, sexes in trees.items():
        for sex, speakers in sexes.items():
            for spk in speakers.split():
                orders.reverse()
                for string in STRINGS:
                    time = np.arange(2000 * (len(string) - 1)) / 20000
                    samples = np.rint(8000 * np.sin(2 * np.pi * 1000 * time)).astype(np.int16)
                    path = root / tree / sex / spk / f"{string}.wav"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(sphere_bytes(samples, orders[0], coding))
    return root


@pytest.mark.parametrize("layout", ["data/adults", "tidigits"])
def test_tidigits_becomes_four_sets_without_a_common_speaker(tidigits: Script, tmp_path: Path, layout: str) -> None:
    make_tidigits(tmp_path / "ldc" / layout)
    out = tmp_path / "data"
    status, _, err = tidigits.run("--corpus-dir", tmp_path / "ldc", "--preset", "full", "--nj", 1, out)
    assert status == 0, err
    assert f"{tmp_path / 'ldc' / layout / 'train'}: 14 files, TIDIGITS has 8623" in err
    sets = check_corpus(out, {"train": 14, "fit": 14, "test": 14, "attack": 14}, rate=16000)
    assert set(sets["train"].spk2utt) == {"ae", "ad"}
    speakers = [set(sets[name].spk2utt) for name in ("fit", "test", "attack")]
    assert sorted(spk for part in speakers for spk in part) == ["ac", "ag", "ah", "an", "ar", "at"]
    for part in speakers:  # a man and a woman each
        assert [len(part & set(spks.split())) for spks in TEST_SPEAKERS.values()] == [1, 1]
    assert sets["train"].text["ae-1z23a"] == "one zero two three"
    assert sets["train"].text["ad-8o6b"] == "eight oh six"
    for spk in ("ae", "ad"):  # one of each byte order
        samples, _ = read_wav(sets["train"].wav_scp[f"{spk}-9876543a"], expected_rate=16000)
        assert len(samples) == 0.7 * 16000
        expected = 8000 / 32768 * np.sin(2 * np.pi * 1000 * np.arange(len(samples)) / 16000)
        np.testing.assert_allclose(samples[200:-200], expected[200:-200], atol=0.002)


def test_tidigits_takes_a_seeded_subset(tidigits: Script, tmp_path: Path) -> None:
    make_tidigits(tmp_path / "ldc" / "tidigits")
    chosen = []
    for seed in (0, 0, 1):
        out = tmp_path / f"data{len(chosen)}"
        tidigits("--corpus-dir", tmp_path / "ldc", *FEW, "--seed", seed, "--sample-rate", 20000, out)
        sets = check_corpus(out, {"train": 12, "fit": 4, "test": 5, "attack": 3}, rate=20000)
        chosen.append([data.utts for data in sets.values()])
    assert chosen[0] == chosen[1] != chosen[2]


def test_tidigits_compressed_without_sph2pipe_is_one_line(
    tidigits: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_tidigits(tmp_path / "ldc" / "tidigits", coding="pcm,embedded-shorten-v2.00")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("KALDI_ROOT", raising=False)
    error = tidigits.error("--corpus-dir", tmp_path / "ldc", *FEW, tmp_path / "data")
    assert "needs sph2pipe" in error
    assert "one of Kaldi's tools" in error
    assert not (tmp_path / "data").exists()


def test_tidigits_names_a_bad_file(tidigits: Script, tmp_path: Path) -> None:
    make_tidigits(tmp_path / "ldc" / "tidigits")
    path = tmp_path / "ldc" / "tidigits" / "train" / "man" / "ae" / "za.wav"
    good = path.read_bytes()
    path.write_bytes(good[:-100])
    command = ["--corpus-dir", tmp_path / "ldc", "--preset", "full", "--nj", 1, tmp_path / "data"]
    assert "za.wav: truncated: 3900 of 4000 bytes" in tidigits.error(*command)
    assert not (tmp_path / "data" / "train").exists()
    path.write_bytes(good)
    tidigits(*command)  # what was good stays, the rest is made
    shutil.move(path, path.with_name("zero.wav"))
    assert "zero.wav: expected a name like 1z23a.wav" in tidigits.error(*command)


def test_tidigits_with_two_test_speakers_cannot_be_divided(tidigits: Script, tmp_path: Path) -> None:
    root = make_tidigits(tmp_path / "ldc" / "tidigits")
    for spk in ("man/ar", "man/at", "woman/ag", "woman/an"):
        shutil.rmtree(root / "test" / spk)
    error = tidigits.error("--corpus-dir", tmp_path / "ldc", tmp_path / "data")
    assert "2 speakers, too few to divide into test, attack and fit" in error


def test_join_keeps_the_level_of_the_pieces_without_a_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "local"))
    digits = importlib.import_module("digits")
    tone = 0.3 * np.sin(2 * np.pi * 0.05 * np.arange(4000))
    samples = digits.join([tone], 8000, generator=digits.random_generator("level")) / 32768
    assert np.max(np.abs(samples)) == pytest.approx(0.3, abs=0.05)  # noise of at most -30 dB on top
