"""kaldi-uq detect as a gate: exit statuses, bad files beside good ones, standard input, bounds, names of any bytes.

One file: all tests put files before the same gate.
"""

from __future__ import annotations

import gzip
import io
import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kaldi_uq.cli import detect as detect_command
from kaldi_uq.cli.main import main
from kaldi_uq.cli.options import _OneLine
from kaldi_uq.detector import GaussianDetector, save_detector
from kaldi_uq.detector.judge import Verdict, judge_each
from kaldi_uq.detector.normal import FILE_NAME, FrameCounter, save_frame_quantiles
from kaldi_uq.errors import DataError, MissingDependencyError, ModelFileError, printable
from kaldi_uq.io.files import file_digest
from kaldi_uq.io.wav import to_int16, write_wav
from kaldi_uq.recogniser.hybrid import MODEL_FILE
from tests.recipe import LIMIT_S, REPO
from tests.tiny import RATE, make_system, make_waves

Gate = Callable[..., tuple[int, str, str]]
STATISTIC = "mean_predictive_entropy"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with dnn/ (model, graph, detector/), benign.wav and attack.wav, which is only noisy."""
    folder = tmp_path_factory.mktemp("gate")
    system = make_system(folder)
    model = system.train()
    system.write_model(model, folder / "dnn")
    recogniser = system.recogniser(model)
    counter, values = FrameCounter(), []
    for heard in recogniser.hear(make_waves(30, seed=1)[0], words=False).values():
        counter.add(heard.frames)
        values.append(heard.statistics[STATISTIC])
    detector = GaussianDetector(statistic=STATISTIC, two_sided=False).fit(values).calibrate(0.01)
    save_detector(detector, folder / f"dnn/detector/{STATISTIC}.json")
    save_frame_quantiles(
        counter.result(model=file_digest(folder / "dnn" / MODEL_FILE)), folder / f"dnn/detector/{FILE_NAME}"
    )
    wave = make_waves(1, seed=2)[0]["utt00"]
    write_wav(folder / "benign.wav", to_int16(wave), RATE)
    noise = 0.3 * np.random.default_rng(0).standard_normal(len(wave))
    write_wav(folder / "attack.wav", to_int16(np.clip(wave + noise, -1, 1)), RATE)
    return folder


@pytest.fixture
def gate(place: Path, capsys: pytest.CaptureFixture[str]) -> Gate:
    """Run the command on files; its status, output and errors."""

    def run(*words: str | Path) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            status = main(["detect", str(place / "dnn"), "--statistic", STATISTIC, *map(str, words)])
        except SystemExit as exit_:
            status = int(exit_.code or 0)
        return status, *capsys.readouterr()

    return run


def verdicts(out: str) -> list[str]:
    return [json.loads(line)["verdict"] for line in out.splitlines()]


# exit statuses


@pytest.mark.parametrize("json_too", [False, True])
@pytest.mark.parametrize(
    "names, status, failing",
    [
        (["benign"], 0, 0),
        (["attack"], 0, 2),
        (["benign", "attack"], 0, 2),
        (["missing"], 1, 1),
        (["benign", "missing"], 1, 1),
        (["missing", "attack", "benign"], 1, 1),
    ],
)
def test_status_tells_benign_attack_and_error_apart(
    place: Path, gate: Gate, names: list[str], status: int, failing: int, json_too: bool
) -> None:
    words: list[str | Path] = [place / f"{name}.wav" for name in names]
    words += ["--json"] if json_too else []
    assert gate(*words)[0] == status
    assert gate("--fail-on-attack", *words)[0] == failing


def test_help_states_the_statuses(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["detect", "--help"])
    out = capsys.readouterr().out
    for line in (" 1  error: ", " 2  with --fail-on-attack: ", " 0  every file was judged"):
        assert f"\n{line}" in out


@pytest.mark.parametrize(
    "words",
    [["--fpr", "2"], ["--no-such-option"], ["--statistic", "none"], ["--max-mb", "0"], ["--scp", "missing"], []],
)
def test_nothing_that_goes_wrong_looks_benign(place: Path, gate: Gate, words: list[str]) -> None:
    files = [] if not words or words[0] == "--scp" else [place / "benign.wav"]
    status, out, err = gate("--fail-on-attack", *words, *files)
    assert (status, out, err.count("\n")) == (1, "", 1)


def test_model_that_fails_on_all_audio_judges_none(
    place: Path, gate: Gate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*args: object, **options: object) -> None:
        raise ModelFileError("the detector looks at what the model does not measure")

    monkeypatch.setattr("kaldi_uq.detector.judge.judge", none)
    status, out, err = gate("--json", place / "benign.wav", place / "attack.wav")
    assert (status, out) == (1, "")
    assert err == "kaldi-uq detect: error: the detector looks at what the model does not measure\n"


def test_score_that_is_no_number_is_an_error_and_not_benign(
    place: Path, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = GaussianDetector.score

    def score(self: GaussianDetector, values: Any) -> Any:
        found = real(self, values)
        return np.where(found == found.max(), np.nan, found) if len(found) > 1 or found[0] > 3 else found

    monkeypatch.setattr(GaussianDetector, "score", score)
    status, out, err = gate("--json", "--fail-on-attack", place / "benign.wav", place / "attack.wav")
    assert (status, verdicts(out)) == (1, ["benign", "error"])
    assert f"{place}/attack.wav: its score is nan" in err


# bad files beside good ones


def bad_files(folder: Path, good: bytes) -> dict[str, Path]:
    """Files that cannot be judged, by what is wrong with them."""
    contents = {
        "empty": b"",
        "header cut": good[:20],
        "samples cut": good[:4001],
        "text": b"not audio\n",
        "short": good[:40] + (200).to_bytes(4, "little") + good[44:244],
        "silent": good[:44] + bytes(len(good) - 44),
        "other rate": good[:24] + (16000).to_bytes(4, "little") + good[28:],
    }
    files = {}
    for number, (kind, data) in enumerate(contents.items()):
        files[kind] = folder / f"bad{number}.wav"
        files[kind].write_bytes(data)
    write_wav_channels(folder / "stereo.wav", good)
    (folder / "directory.wav").mkdir()
    return files | {
        "stereo": folder / "stereo.wav",
        "directory": folder / "directory.wav",
        "missing": folder / "missing.wav",
    }


def write_wav_channels(path: Path, good: bytes) -> None:
    header = bytearray(good[:44])
    header[22:24] = (2).to_bytes(2, "little")
    header[28:32] = (4 * RATE).to_bytes(4, "little")
    header[32:34] = (4).to_bytes(2, "little")
    size = (len(good) - 44) // 4 * 4
    header[40:44] = size.to_bytes(4, "little")
    path.write_bytes(bytes(header) + good[44 : 44 + size])


def test_bad_files_do_not_silence_the_others(place: Path, gate: Gate, tmp_path: Path) -> None:
    bad = bad_files(tmp_path, (place / "benign.wav").read_bytes())
    files = [place / "benign.wav", *bad.values(), place / "attack.wav"]
    status, out, err = gate("--json", *files)
    records = [json.loads(line) for line in out.splitlines()]
    assert status == 1
    assert [record["path"] for record in records] == list(map(str, files))
    assert verdicts(out) == ["benign", *["error"] * len(bad), "attack"]
    alone = json.loads(gate("--json", place / "attack.wav")[1])
    assert records[-1]["score"] == pytest.approx(alone["score"])
    for record in records[1:-1]:
        assert set(record) == {"path", "verdict", "error"}
        assert record["error"].startswith(f"{record['path']}: ")
    assert err.count("\n") == 1 and f"; {len(bad) - 1} more cannot be judged" in err
    status, out, _ = gate(*files)
    assert status == 1
    starts = re.findall(r"(?m)^(benign|ATTACK|ERROR) ", out)
    assert starts == ["benign", *["ERROR"] * len(bad), "ATTACK"]
    assert out.endswith(f"\n1 of {len(files)} files judged an attack; {len(bad)} cannot be judged\n")


def test_a_table_has_the_utterance_of_a_bad_file_too(place: Path, gate: Gate, tmp_path: Path) -> None:
    (tmp_path / "wav.scp").write_text(f"a {tmp_path}/none.wav\nb {place}/benign.wav\n")
    status, out, _ = gate("--json", "--scp", tmp_path / "wav.scp")
    assert status == 1
    assert [(r["utt"], r["verdict"]) for r in map(json.loads, out.splitlines())] == [("a", "error"), ("b", "benign")]


def test_a_file_may_come_again(place: Path, gate: Gate) -> None:
    files = [place / "benign.wav", place / "attack.wav", place / "benign.wav"]
    assert verdicts(gate("--json", *files)[1]) == ["benign", "attack", "benign"]


class Judge:
    """A judge of numbers: every wave is benign whose first sample is positive; NaN cannot be judged."""

    def __init__(self) -> None:
        self.groups: list[list[str]] = []

    def __call__(self, waves: Mapping[str, np.ndarray]) -> dict[str, Verdict]:
        self.groups.append(list(waves))
        for name, wave in waves.items():
            if np.isnan(wave[0]):
                raise DataError(f"{name}: NaN")
        return {name: Verdict(bool(wave[0] < 0), 0.0, 1.0, {}, None, None, 0.0) for name, wave in waves.items()}


def read_number(name: str) -> np.ndarray:
    if name == "none":
        raise DataError("none: no such file")
    if name == "packed":
        raise MissingDependencyError("packed: needs sph2pipe")
    return np.full(10, float(name.split("#")[0]))


def outcome(one: object) -> str:
    return ("attack" if one.attack else "benign") if isinstance(one, Verdict) else str(one)


def test_groups_hold_no_more_than_they_may_and_are_judged_again_one_by_one() -> None:
    judge = Judge()
    names = ["1", "-1", "none", "nan", "2", "packed", "3", "1"]
    found = list(judge_each(names, read_number, judge, group_samples=25))
    assert [name for name, _ in found] == names
    benign, attack = "benign", "attack"
    assert [outcome(one) for _, one in found] == [
        benign, attack, "none: no such file", "nan: NaN", benign, "packed: needs sph2pipe", benign, benign,
    ]  # fmt: skip
    assert judge.groups == [["1", "-1", "nan"], ["1"], ["-1"], ["nan"], ["2", "3", "1"]]


def test_verdicts_come_before_further_files_are_read() -> None:
    read: list[str] = []

    def reader(name: str) -> np.ndarray:
        read.append(name)
        return read_number(name)

    found = judge_each((f"1#{n}" for n in range(100)), reader, Judge(), group_samples=30)
    next(found)
    assert len(read) == 4


def test_error_that_is_no_files_own_is_not_one_of_the_outcomes() -> None:
    def decide(waves: Mapping[str, np.ndarray]) -> dict[str, Verdict]:
        raise ModelFileError("damaged")

    with pytest.raises(ModelFileError, match="damaged"):
        list(judge_each(["1", "2"], read_number, decide))
    assert list(judge_each([], read_number, decide)) == []
    assert [outcome(one) for _, one in judge_each(["none"], read_number, decide)] == ["none: no such file"]


# standard input and bounds


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], io.BytesIO]:
    def give(data: bytes) -> io.BytesIO:
        stream = io.BytesIO(data)
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(stream))
        return stream

    return give


@pytest.mark.parametrize("name, status", [("benign", 0), ("attack", 2)])
def test_dash_is_standard_input(
    place: Path, gate: Gate, stdin: Callable[[bytes], io.BytesIO], name: str, status: int
) -> None:
    data = (place / f"{name}.wav").read_bytes()
    endless = (
        data[:4] + b"\xff\xff\xff\xff" + data[8:40] + b"\xff\xff\xff\xff" + data[44:]
    )  # as ffmpeg writes to a pipe
    for given in (data, endless):
        stdin(given)
        found, out, err = gate("--json", "--fail-on-attack", "-")
        assert (found, err) == (status, "")
        assert json.loads(out)["path"] == "-"


@pytest.mark.parametrize(
    "data, message",
    [(b"", "not a WAV file"), (b"RIFF", "not a WAV file"), (b"text\n" * 9, "not a WAV file")],
)
def test_bad_standard_input_is_an_error(
    gate: Gate, stdin: Callable[[bytes], io.BytesIO], data: bytes, message: str
) -> None:
    stdin(data)
    status, out, err = gate("-")
    assert status == 1
    assert "ERROR -\n" in out
    assert "standard input: " in err and message in err


def test_standard_input_is_read_once_and_beside_files(
    place: Path, gate: Gate, stdin: Callable[[bytes], io.BytesIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    stdin((place / "attack.wav").read_bytes())
    assert verdicts(gate("--json", place / "benign.wav", "-", place / "missing.wav")[1]) == [
        "benign",
        "attack",
        "error",
    ]
    stdin(b"")
    status, out, err = gate("-", "-")
    assert (status, out) == (1, "") and "can be read once" in err
    monkeypatch.setattr(sys, "stdin", None)  # as `<&-` leaves it
    assert gate("-")[0] == 1


def test_no_more_is_read_than_the_bound(
    place: Path, gate: Gate, stdin: Callable[[bytes], io.BytesIO], tmp_path: Path
) -> None:
    data = (place / "benign.wav").read_bytes()
    stream = stdin(data[:40] + b"\xff\xff\xff\xff" + bytes(3_000_000))
    status, _, err = gate("--max-mb", "1", "-")
    assert status == 1
    assert "standard input: more than 1 MB" in err
    assert stream.tell() < 1_100_000
    (tmp_path / "long.wav").write_bytes(data[:44] + bytes(3_000_000))
    status, out, err = gate("--json", "--max-mb", "1", tmp_path / "long.wav", place / "benign.wav")
    assert (status, verdicts(out)) == (1, ["error", "benign"])
    assert f"{tmp_path}/long.wav: more than 1 MB" in err
    packed, ark = tmp_path / "long.wav.gz", tmp_path / "wav.ark"
    packed.write_bytes(gzip.compress(data[:44] + bytes(3_000_000)))
    member = b"RIFF" + (3_000_000).to_bytes(4, "little") + data[8:44] + bytes(3_000_000)
    ark.write_bytes(b"utt " + member)
    for source in (packed, f"{ark}:4"):
        assert f"{source}: more than 1 MB" in gate("--max-mb", "1", source)[2]
        assert f"{source}: more than 1 MB" not in gate("--max-mb", "4", source)[2]


# terminals and pipes

NASTY = "a\x1b[2J\x1b]0;owned\x07\rbenign b\n\u202egood\u2028.wav"


def test_names_do_nothing_to_a_terminal(place: Path, gate: Gate, tmp_path: Path) -> None:
    good, missing = tmp_path / NASTY, tmp_path / f"no{NASTY}"
    good.write_bytes((place / "benign.wav").read_bytes())
    status, out, err = gate(good, missing)
    assert status == 1
    for text in (out, err):
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e\u2028]", text)
    assert r"a\x1b[2J\x1b]0;owned\x07\x0dbenign" in " ".join(out.split())
    assert re.findall(r"(?m)^(?! )\S+", out)[1:] == ["benign", "ERROR", "0"]
    records = [json.loads(line) for line in gate("--json", good, missing)[1].splitlines()]
    assert [record["path"] for record in records] == [str(good), str(missing)]
    assert "\x1b" not in records[1]["error"]


def test_files_of_any_bytes_are_not_taken_for_one_another(place: Path, gate: Gate, tmp_path: Path) -> None:
    raw, spelled = tmp_path / os.fsdecode(b"\xff.wav"), tmp_path / r"\xff.wav"
    raw.write_bytes((place / "benign.wav").read_bytes())
    spelled.write_bytes((place / "attack.wav").read_bytes())
    assert verdicts(gate("--json", raw, spelled)[1]) == ["benign", "attack"]
    assert gate(raw, spelled, tmp_path / "a b %20 c.wav")[0] == 1


@pytest.mark.parametrize(
    "text, shown",
    [
        ("plain name.wav", "plain name.wav"),
        ("\u0627\u200c\u0628 caf\u00e9 \u4e2d\U0001f600", "\u0627\u200c\u0628 caf\u00e9 \u4e2d\U0001f600"),
        ("\x1b[31m", r"\x1b[31m"),
        ("\x9b31m\x7f\t\r\n", r"\x9b31m\x7f\x09\x0d\x0a"),
        ("\u2066\u202b\u2029", r"\u2066\u202b\u2029"),
        ("\udc80\udcff\ud800", r"\x80\xff\ud800"),
        ("", ""),
    ],
)
def test_printable_text(text: str, shown: str) -> None:
    assert printable(text) == shown
    shown.encode()


def test_errors_of_every_command_are_printable(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["detect", "--graph-dir", f"{tmp_path}/\x1b[2J"])  # said by the parser of options
    assert main(["validate-data", f"{tmp_path}/\x1b[2J"]) == 1  # by the command
    assert main(["score-text", f"{tmp_path}/\x1b[2J", f"{tmp_path}/\x1b[2J"]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 3 and err.count(r"\x1b[2J") >= 3
    assert "\x1b" not in err


def test_log_lines_are_printable() -> None:
    record = logging.LogRecord("kaldi_uq", logging.WARNING, "", 0, "%s: bad", ("\x1b[2Ja\nb",), None)
    assert _OneLine("%(levelname)s %(message)s").format(record) == r"WARNING \x1b[2Ja\x0ab: bad"


def test_unexpected_errors_are_printable(monkeypatch: pytest.MonkeyPatch, gate: Gate, place: Path) -> None:
    def fail(*args: object, **options: object) -> None:
        raise RuntimeError("\x1b[2J of PyTorch")

    monkeypatch.setattr("kaldi_uq.detector.judge.judge", fail)
    status, out, err = gate("--fail-on-attack", place / "benign.wav")
    assert (status, out) == (1, "")
    assert err.startswith(r"kaldi-uq detect: error: RuntimeError: \x1b[2J of PyTorch")


@pytest.mark.long
def test_reader_that_closes_the_pipe_never_sees_benign(place: Path) -> None:
    """One process: standard output is a pipe that nobody reads."""
    read, write = os.pipe()
    os.close(read)
    words = [sys.executable, "-m", "kaldi_uq", "detect", place / "dnn", "--statistic", STATISTIC, place / "benign.wav"]
    done = subprocess.run(words, stdout=write, stderr=subprocess.PIPE, text=True, timeout=LIMIT_S)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


def test_bound_is_the_one_of_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["detect", "--help"])
    assert f"[{detect_command.MAX_MB}]" in capsys.readouterr().out


@pytest.mark.parametrize("status, said", [(0, "recognised x.wav"), (2, "x.wav: an attack"), (1, "x.wav: not judged")])
@pytest.mark.parametrize("more", [0, 123])
def test_scripts_of_the_documentation_let_only_benign_audio_through(status: int, said: str, more: int) -> None:
    """Statuses that nobody promised, such as of a kill, are errors too."""
    text = "".join((REPO / page).read_text() for page in ("README.md", "docs/gate.md"))
    blocks = re.findall(r"^```(?:bash|shell)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    scripts = [block for block in blocks if "--fail-on-attack" in block]
    assert scripts
    stubs = f'kaldi-uq() {{ return {status + more}; }}; recognise() {{ echo "recognised $1"; }}; wav=x.wav\n'
    for script in scripts:
        done = subprocess.run(["bash", "-c", stubs + script], capture_output=True, text=True, timeout=LIMIT_S)
        assert done.stdout + done.stderr == (f"{said}\n" if not more else "x.wav: not judged\n")


def test_closed_standard_output_leaves_the_status(place: Path, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)  # as `>&-` leaves it
    words = ["detect", str(place / "dnn"), "--statistic", STATISTIC, "--fail-on-attack"]
    assert [main([*words, str(place / f"{name}.wav")]) for name in ("benign", "attack", "none")] == [0, 2, 1]
