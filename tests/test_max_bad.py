"""--max-bad: a thousand utterances of which fifty are broken in every way, named with reasons; the rest as if alone."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kaldi_uq.cli.main import main
from kaldi_uq.errors import DataError
from kaldi_uq.io.ark import read_matrix
from kaldi_uq.io.bad import REPORT, read_data_dir
from kaldi_uq.io.datadir import DataDir, read_table, write_table
from kaldi_uq.io.wav import write_wav
from kaldi_uq.io.waves import read_waves
from tests.conftest import REPO, RunScript
from tests.tiny import RATE, TinySystem, make_system, make_waves, write_segments, write_set

MFCC_CONF = "--sample-frequency=8000\n--use-energy=false\n--num-mel-bins=15\n--num-ceps=7\n--dither=0\n"


def wav_file(samples: np.ndarray, *, rate: int = RATE, channels: int = 1, coding: int = 1) -> bytes:
    """A WAV file of any coding: 1 is PCM, 3 floating point, 17 ADPCM."""
    data = samples.tobytes()
    width = samples.itemsize
    block = channels * width
    layout = struct.pack("<HHIIHH", coding, channels, rate, rate * block, block, 8 * width)
    chunks = b"fmt " + struct.pack("<I", len(layout)) + layout + b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


PCM = np.arange(1, 2001, dtype=np.int16)
NAN = np.full(2000, 0.1, dtype=np.float32)
NAN[77] = np.nan
FILES: dict[str, tuple[bytes | None, str]] = {
    "missing": (None, "no such file"),
    "empty": (b"", "not a WAV file|empty"),
    "header": (wav_file(PCM)[:30], "truncated|cut|not a (readable )?WAV file"),
    "sample": (wav_file(PCM)[:-1001], "truncated|cut"),
    "rate": (wav_file(PCM, rate=16000), "sample rate 16000 Hz, expected 8000 Hz"),
    "stereo": (wav_file(PCM, channels=2), "2 channels, expected 1"),
    "coding": (wav_file(PCM, coding=17), "the audio is IMA ADPCM"),
    "text": (b"one two three\n", "not a WAV file"),
    "short": (wav_file(PCM[:50]), "has 50 samples"),
    "nan": (wav_file(NAN, coding=3), "1 samples are NaN or infinite"),
    "folder": (b"folder", "directory"),
}
TABLES = {"words": "text", "speaker": "utt2spk"}  # what lacks a line
KINDS = [*FILES, *TABLES]


def spoil(data: Path, broken: dict[str, str]) -> None:
    """Break utterances of a data directory.

    Args:
        data: the directory.
        broken: utt -> how.
    """
    wav_scp = read_table(data / "wav.scp")
    for utt, kind in broken.items():
        if kind in TABLES:
            table = read_table(data / TABLES[kind], allow_empty=True)
            del table[utt]
            write_table(data / TABLES[kind], table)
            continue
        path = Path(wav_scp[utt])
        path.unlink()
        contents, _ = FILES[kind]
        if kind == "folder":
            path.mkdir()
        elif contents is not None:
            path.write_bytes(contents)


def without(data: Path, utts: set[str], out: Path) -> Path:
    """A copy of the tables without some utterances."""
    out.mkdir()
    for name in ("wav.scp", "text", "utt2spk"):
        write_table(out / name, {k: v for k, v in read_table(data / name, allow_empty=True).items() if k not in utts})
    return out


def reasons(report: Path) -> dict[str, tuple[str, str]]:
    """What the report has of each utterance: file and reason."""
    rows = [line.split("\t") for line in report.read_text().splitlines()]
    assert all(len(row) == 3 for row in rows)
    return {utt: (file, reason) for utt, file, reason in rows}


def check_reasons(found: dict[str, tuple[str, str]], broken: dict[str, str]) -> None:
    assert list(found) == sorted(broken)
    for utt, (file, reason) in found.items():
        if broken[utt] in TABLES:
            assert file.endswith(f"/{TABLES[broken[utt]]}")
        else:
            assert file.endswith(f"/{utt}.wav")
            assert re.search(FILES[broken[utt]][1], reason), (broken[utt], reason)


# a thousand utterances


@pytest.fixture(scope="module")
def thousand(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A data directory, and how fifty of its utterances are broken."""
    folder = tmp_path_factory.mktemp("thousand")
    data = folder / "data"
    (data / "wav").mkdir(parents=True)
    rng = np.random.default_rng(0)
    utts = [f"s{number % 20:02d}-{number:04d}" for number in range(1000)]
    for utt in utts:
        (data / f"wav/{utt}.wav").write_bytes(wav_file(rng.integers(-9000, 9000, 400, dtype=np.int16)))
    write_table(data / "wav.scp", {utt: str(data / f"wav/{utt}.wav") for utt in utts})
    write_table(data / "text", dict.fromkeys(utts, "one"))
    write_table(data / "utt2spk", {utt: utt[:3] for utt in utts})
    chosen = [str(utt) for utt in rng.choice(utts, 50, replace=False)]
    broken = {utt: KINDS[number % len(KINDS)] for number, utt in enumerate(chosen)}
    spoil(data, broken)
    return data, broken


@pytest.fixture
def mfcc(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Run compute-mfcc; its status and errors."""
    (tmp_path / "mfcc.conf").write_text(MFCC_CONF)

    def run(data: Path, *words: str, name: str = "raw") -> tuple[int, str]:
        capsys.readouterr()
        out = [str(tmp_path / f"{name}.{ending}") for ending in ("ark", "scp")]
        status = main(["compute-mfcc", "--mfcc-config", str(tmp_path / "mfcc.conf"), *words, str(data), *out])
        return status, capsys.readouterr().err

    return run


def test_strict_by_default_and_one_line(
    thousand: tuple[Path, dict[str, str]], mfcc: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    status, err = mfcc(thousand[0])
    assert (status, err.count("\n")) == (1, 1)
    assert not (tmp_path / f"raw.{REPORT}").exists() and not (tmp_path / "raw.scp").exists()


@pytest.mark.long
def test_fifty_of_a_thousand_are_named_and_the_others_are_as_without_them(
    thousand: tuple[Path, dict[str, str]], mfcc: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    data, broken = thousand
    status, err = mfcc(data, "--max-bad", "50")
    assert status == 0, err
    check_reasons(reasons(tmp_path / f"raw.{REPORT}"), broken)
    clean = without(data, set(broken), tmp_path / "clean")
    assert mfcc(clean, name="clean")[0] == 0
    found, expected = (read_table(tmp_path / f"{name}.scp") for name in ("raw", "clean"))
    assert list(found) == list(expected) and len(found) == 950
    assert (tmp_path / "raw.ark").read_bytes() == (tmp_path / "clean.ark").read_bytes()
    assert read_matrix(next(iter(found.values()))).shape[1] == 7


def test_one_too_many_is_an_error_with_the_first_and_the_count(
    thousand: tuple[Path, dict[str, str]], mfcc: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    data, broken = thousand
    status, err = mfcc(data, "--max-bad", "49")
    assert (status, err.count("\n")) == (1, 1)
    assert f"{data}: 50 of 1000 utterances are bad, --max-bad allows 49; the first, {min(broken)!r}: " in err
    assert f"all are in {tmp_path}/raw.{REPORT}" in err
    check_reasons(reasons(tmp_path / f"raw.{REPORT}"), broken)
    assert not (tmp_path / "raw.scp").exists()


def test_disturb_data_takes_the_rate_of_most_files(tmp_path: Path) -> None:
    data = write_set(tmp_path / "data", *make_waves(8))
    broken = {"utt00": "rate", "utt03": "stereo", "utt05": "words", "utt06": "rate"}  # the first one too
    spoil(data, {"utt04": "short", **broken})  # short for a frame, but not for noise
    options = ["disturb-data", "--kind", "white", "--snr-db", "20"]
    assert main([*options, "--max-bad", "4", str(data), str(tmp_path / "white")]) == 0
    check_reasons(reasons(tmp_path / f"white/{REPORT}"), broken)
    clean = without(data, set(broken), tmp_path / "clean")
    assert main([*options, str(clean), str(tmp_path / "alone")]) == 0
    white, alone = tmp_path / "white", tmp_path / "alone"
    names = [path.relative_to(alone) for path in sorted(alone.rglob("*.*")) if path.suffix in (".wav", ".jsonl")]
    assert len(names) == 5
    for name in [*names, "text", "utt2spk", "spk2utt"]:
        assert (white / name).read_bytes() == (alone / name).read_bytes()
    assert list(read_table(white / "wav.scp")) == ["utt01", "utt02", "utt04", "utt07"]


# models


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> TinySystem:
    return make_system(tmp_path_factory.mktemp("system"))


@pytest.fixture(scope="module")
def place(system: TinySystem, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with dnn/, data/ of 16 utterances of which 6 are broken, and clean/ without these."""
    folder = tmp_path_factory.mktemp("models")
    system.write_model(system.train(), folder / "dnn")
    write_set(folder / "data", system.waves, system.text)
    utts = list(system.waves)
    broken = dict(zip(utts[::3], ("rate", "words", "nan", "missing", "speaker", "folder"), strict=True))
    spoil(folder / "data", broken)
    without(folder / "data", set(broken), folder / "clean")
    (folder / "broken.json").write_text(json.dumps(broken))
    (folder / "mfcc.conf").write_text(MFCC_CONF)
    return folder


def both(place: Path, tmp_path: Path, command: str, words: list[str], ending: str = "") -> tuple[Path, Path]:
    """Run a command on the broken directory with --max-bad, and on the one without the bad ones; DATA, OUT replaced."""
    outs = tmp_path / f"bad{ending}", tmp_path / f"alone{ending}"
    for data, out, more in ((place / "data", outs[0], ["--max-bad", "6"]), (place / "clean", outs[1], [])):
        names = {"DATA": str(data), "OUT": str(out), "SCP": f"{out}.scp"}
        assert main([command, *more, *(names.get(word, word) for word in words)]) == 0
    report = outs[0] / REPORT if not ending else outs[0].with_suffix(f".{REPORT}")
    check_reasons(reasons(report), json.loads((place / "broken.json").read_text()))
    assert not list(tmp_path.glob(f"alone*/{REPORT}")) and not list(tmp_path.glob(f"alone*.{REPORT}"))
    return outs


def test_decode(place: Path, tmp_path: Path) -> None:
    words = ["DATA", str(place / "dnn"), str(place / "dnn/graph"), "OUT"]
    bad, alone = both(place, tmp_path, "nnet-decode", words)
    for name in ("results.jsonl", "hypotheses", "frame_quantiles.json"):
        assert (bad / name).read_bytes() == (alone / name).read_bytes()


def test_forward(place: Path, tmp_path: Path) -> None:
    bad, alone = both(place, tmp_path, "nnet-forward", ["DATA", str(place / "dnn"), "OUT", "SCP"], ".ark")
    assert bad.read_bytes() == alone.read_bytes()


@pytest.mark.long
@pytest.mark.parametrize("num_utts", ["0", "4"])
def test_attack(place: Path, system: TinySystem, tmp_path: Path, num_utts: str) -> None:
    words = ["DATA", str(place / "dnn"), str(place / "dnn/graph"), "OUT", "--lang-dir", str(system.lang.path)]
    words += ["--eps", "0.05", "--num-steps", "2", "--num-utts", num_utts]
    bad, alone = both(place, tmp_path, "nnet-attack", words)
    assert (bad / "results.jsonl").read_bytes() == (alone / "results.jsonl").read_bytes()
    for path in sorted((alone / "wav").glob("*.wav")):
        assert (bad / "wav" / path.name).read_bytes() == path.read_bytes()


def test_train(place: Path, system: TinySystem, tmp_path: Path) -> None:
    words = ["DATA", str(system.lang.path), str(system.mono), "OUT", "--mfcc-config", str(place / "mfcc.conf")]
    words += ["--num-epochs", "1", "--num-viterbi-epochs", "0", "--hidden-dims", "8"]
    bad, alone = both(place, tmp_path, "nnet-train", words)
    assert (bad / "final.safetensors").read_bytes() == (alone / "final.safetensors").read_bytes()


# the reader


def test_strict_reading_removes_the_report_of_an_earlier_run(tmp_path: Path) -> None:
    data = write_set(tmp_path / "data", *make_waves(2))
    (tmp_path / REPORT).write_text("old\n")
    assert read_data_dir(data, report=tmp_path / REPORT).utts == ["utt00", "utt01"]
    assert not (tmp_path / REPORT).exists()
    (tmp_path / REPORT).write_text("old\n")
    whole = read_data_dir(data, max_bad=5, report=tmp_path / REPORT)
    assert not (tmp_path / REPORT).exists()
    assert whole == DataDir.read(data)


def test_all_bad_is_an_error_however_many_are_allowed(tmp_path: Path) -> None:
    data = write_set(tmp_path / "data", *make_waves(2))
    spoil(data, {"utt00": "text", "utt01": "words"})
    with pytest.raises(DataError, match="2 of 2 utterances are bad, --max-bad allows 100"):
        read_data_dir(data, max_bad=100, report=tmp_path / REPORT)
    assert list(reasons(tmp_path / REPORT)) == ["utt00", "utt01"]


def test_line_without_a_value_is_a_missing_one_but_an_empty_transcript_is_none(tmp_path: Path) -> None:
    data = write_set(tmp_path / "data", *make_waves(4))
    for name, utt in (("wav.scp", "utt00"), ("utt2spk", "utt01"), ("text", "utt02")):
        table = read_table(data / name)
        write_table(data / name, table | {utt: ""})
    found = read_data_dir(data, max_bad=2, report=tmp_path / REPORT)
    assert found.utts == ["utt02", "utt03"]
    assert {utt: Path(file).name for utt, (file, _) in reasons(tmp_path / REPORT).items()} == {
        "utt00": "wav.scp",
        "utt01": "utt2spk",
    }


def test_table_that_cannot_be_read_is_no_bad_utterance(tmp_path: Path) -> None:
    data = write_set(tmp_path / "data", *make_waves(3))
    lines = (data / "wav.scp").read_text().splitlines(keepends=True)
    (data / "wav.scp").write_text("".join(reversed(lines)))
    with pytest.raises(DataError, match=r"wav.scp:2: .* C-locale order"):
        read_data_dir(data, max_bad=3, report=tmp_path / REPORT)
    (data / "text").unlink()
    with pytest.raises(DataError, match="text: no such file"):
        read_data_dir(data, need=("text",), max_bad=3, report=tmp_path / REPORT)


def test_segments_of_a_bad_recording_are_bad_and_a_part_keeps_its_line(tmp_path: Path) -> None:
    data = write_segments(tmp_path / "data", *make_waves(3))
    write_wav(tmp_path / "other.wav", np.ones(4000, dtype=np.int16), RATE)
    wav_scp = {"other": str(tmp_path / "other.wav"), "session": str(data / "recording.wav")}
    write_table(data / "wav.scp", {"gone": str(tmp_path / "gone.wav"), **wav_scp})
    own = {"a1": "gone 0 1", "a2": "gone 1 2", "a3": "other 0 0.4", "a4": "other 0.3 9", "a5": "nowhere 0 1"}
    write_table(data / "segments", {**read_table(data / "segments"), **own})
    write_table(data / "utt2spk", {**read_table(data / "utt2spk"), **{utt: utt for utt in own}})
    write_table(data / "text", {**read_table(data / "text"), **dict.fromkeys(own, "one")})
    found = read_data_dir(data, sample_rate=RATE, max_bad=4, report=tmp_path / REPORT)
    assert found.utts == ["a3", "utt00", "utt01", "utt02"]
    bad = reasons(tmp_path / REPORT)
    assert list(bad) == ["a1", "a2", "a4", "a5"]
    assert bad["a1"][0] == str(tmp_path / "gone.wav") and "no such file" in bad["a2"][1]
    assert "segments:4: 'a4': it ends at 9 s" in bad["a4"][1]
    assert bad["a5"] == (str(data / "wav.scp"), f"{data / 'wav.scp'}: no entry")
    (tmp_path / "other.wav").unlink()  # between the check and the reading
    with pytest.raises(DataError, match=r"other.wav: no such file \(.*wav.scp:2\)"):
        read_waves(found, sample_rate=RATE)
    assert found.where("segments", "utt00").endswith("segments:6")


def test_pipes_run_only_if_allowed(tmp_path: Path) -> None:
    data = write_set(tmp_path / "data", *make_waves(3))
    wav_scp = read_table(data / "wav.scp")
    write_table(data / "wav.scp", wav_scp | {"utt01": f"tail -c +1 {wav_scp['utt01']} |"})
    report = tmp_path / REPORT
    assert read_data_dir(data, max_bad=1, report=report).utts == ["utt00", "utt02"]
    assert "--allow-pipes" in reasons(report)["utt01"][1]
    assert len(read_data_dir(data, max_bad=1, allow_pipes=True, report=report).utts) == 3


def test_names_in_the_report_stay_in_their_columns(tmp_path: Path) -> None:
    data = write_set(tmp_path / "data", *make_waves(2))
    write_table(data / "wav.scp", read_table(data / "wav.scp") | {"utt00": "a\tb\x1b[2J.wav"})
    read_data_dir(data, max_bad=1, report=tmp_path / REPORT)
    assert reasons(tmp_path / REPORT)["utt00"][0] == r"a\x09b\x1b[2J.wav"


# the scripts


@pytest.mark.long
def test_make_mfcc_names_the_bad_ones_and_says_what_to_do(run_script: RunScript, tmp_path: Path) -> None:
    """Two processes of Python: more bad ones than allowed is an error of the same command, tested above."""
    data = write_set(tmp_path / "data", *make_waves(6))
    spoil(data, {"utt01": "text", "utt03": "words"})
    (tmp_path / "mfcc.conf").write_text(MFCC_CONF)
    (tmp_path / "path.sh").write_text(f'export PATH="{REPO}/utils/bin:$PATH"\n')
    for name in ("steps", "utils"):
        (tmp_path / name).symlink_to(REPO / name)
    done = run_script("steps/make_mfcc.sh", "--mfcc-config", "mfcc.conf", "--nj", "3", "--max-bad", "2", data)
    assert done.returncode == 0, done.stderr
    assert list(reasons(data / REPORT)) == ["utt01", "utt03"]
    assert f"2 bad utterances are left out: {data}/{REPORT}\n" in done.stderr
    assert f"drop them with utils/fix_data_dir.sh {data}" in done.stderr
    assert list(read_table(data / "feats.scp")) == ["utt00", "utt02", "utt04", "utt05"]
    assert main(["fix-data", str(data)]) == 0
    assert DataDir.read(data, need=("feats.scp",)).utts == ["utt00", "utt02", "utt04", "utt05"]


STEPS = {
    "train": ("{data} {lang} {ali} {out}", "nnet-train"),
    "decode": ("{graph} {data} {model} {out}", "nnet-decode"),
    "attack": ("{data} {lang} {model} {graph} {out}", "nnet-attack"),
}


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("given", [0, 7])
def test_steps_pass_it_on_and_tell_how_many(step: str, given: int, run_script: RunScript, tmp_path: Path) -> None:
    """No process of Python: the job only notes its words, and leaves names where there are some."""
    names = {name: tmp_path / name for name in ("data", "lang", "ali", "graph", "model", "out")}
    empty = ("data/wav.scp", "data/text", "lang/L.fst", "graph/HCLG.fst", "model/final.safetensors")
    empty += ("ali/final.mdl", "ali/tree", "ali/ali.1.gz", "conf/mfcc.conf", "path.sh")
    for path in empty:
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).touch()
    (tmp_path / "ali/num_jobs").write_text("1\n")
    left = f"printf 'a\\tb\\tc\\nd\\te\\tf\\n' >{tmp_path}/out/{REPORT}\n" if given else ""
    (tmp_path / "job").write_text(
        f'#!/bin/sh\nshift\necho "$@" >{tmp_path}/words\ntouch {tmp_path}/out/log/{step}.log\n{left}'
    )
    (tmp_path / "job").chmod(0o755)
    words, command = STEPS[step]
    more = ["--max-bad", str(given)] if given else []
    arguments = words.format(**names).split()
    done = run_script(REPO / f"steps/uq/{step}.sh", "--cmd", tmp_path / "job", *more, *arguments)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "words").read_text().startswith(f"kaldi-uq {command} ")
    assert f" --max-bad {given} " in (tmp_path / "words").read_text()
    assert (f"2 bad utterances are left out: {tmp_path}/out/{REPORT}\n" in done.stderr) == bool(given)


def test_telephone_audio_of_the_right_rate_is_not_bad(tmp_path: Path) -> None:
    data = write_set(tmp_path / "data", *make_waves(2))
    law = np.random.default_rng(0).integers(0, 256, 2000, dtype=np.uint8)
    Path(read_table(data / "wav.scp")["utt00"]).write_bytes(wav_file(law, coding=7))
    assert len(read_data_dir(data, sample_rate=RATE, max_bad=1, report=tmp_path / REPORT).utts) == 2
