"""Pipes: refused with file, line and option; run, and their failures told, where they are allowed."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest

from kaldi_uq.cli.main import main
from kaldi_uq.engine.embedded.engine import EmbeddedEngine
from kaldi_uq.errors import DataError, MissingDependencyError, UsageError
from kaldi_uq.io.ark import MatrixWriter, read_matrix
from kaldi_uq.io.datadir import DataDir, write_table
from kaldi_uq.io.feats_dir import features
from kaldi_uq.io.pipes import LEAVE, is_pipe, read_pipe, run_program
from kaldi_uq.io.wav import read_wav, write_wav
from kaldi_uq.io.waves import read_waves
from tests.recipe import is_alive, wait_for
from tests.tiny import GRAPH_SCALES, RATE, make_lang, make_waves, write_set


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data directory whose second line is a pipe."""
    rng = np.random.default_rng(0)
    data = tmp_path / "data"
    data.mkdir()
    for name in ("a", "b"):
        write_wav(tmp_path / f"{name}.wav", rng.integers(-3000, 3000, 1600).astype(np.int16), RATE)
    (data / "wav.scp").write_text(
        f"s-a {tmp_path / 'a.wav'}\ns-b tail -c +1 {shlex.quote(str(tmp_path / 'b.wav'))} |\n"
    )
    (data / "utt2spk").write_text("s-a s\ns-b s\n")
    (data / "spk2utt").write_text("s s-a s-b\n")
    (data / "mfcc.conf").write_text("--sample-frequency=8000\n")
    return data


def test_pipe_gives_the_samples_of_the_file_and_only_if_allowed(folder: Path, tmp_path: Path) -> None:
    data = DataDir.read(folder)
    message = (
        r"wav\.scp:2: 'tail .*b\.wav.* \|' is a pipe, .* only with --allow-pipes, .* exports KALDI_UQ_ALLOW_PIPES=1"
    )
    with pytest.raises(DataError, match=message):
        read_waves(data, sample_rate=RATE, min_samples=1)
    waves = read_waves(data, sample_rate=RATE, min_samples=1, allow_pipes=True)
    (folder / "wav.scp").write_text(f"s-a {tmp_path / 'a.wav'}\ns-b {tmp_path / 'b.wav'}\n")
    files = read_waves(DataDir.read(folder), sample_rate=RATE, min_samples=1)
    assert all(np.array_equal(waves[utt], files[utt]) for utt in files)


@pytest.mark.parametrize(
    "command, message",
    [
        ("echo one >&2; echo two words >&2; exit 3", r"wav\.scp:2: the pipe .* failed with status 3: one / two words"),
        ("no-such-program-at-all", r"failed with status 127: .*no-such-program-at-all"),
        ("kill -9 $$", r"failed with signal 9: no message"),
        ("true", r"wrote nothing: no message"),
        ("echo hello", r"wav\.scp:2: output of .*not a WAV file \(6 bytes"),
    ],
)
def test_failure_is_told_with_status_and_the_last_lines(folder: Path, command: str, message: str) -> None:
    first = (folder / "wav.scp").read_text().splitlines()[0]
    (folder / "wav.scp").write_text(f"{first}\ns-b {command} |\n")
    with pytest.raises(DataError, match=message):
        read_waves(DataDir.read(folder), sample_rate=RATE, min_samples=1, allow_pipes=True)


@pytest.mark.parametrize("length", [0, 0x7FFFF000, 0xFFFFFFFF])
def test_header_of_a_program_that_could_not_know_the_length(folder: Path, tmp_path: Path, length: int) -> None:
    whole = (tmp_path / "b.wav").read_bytes()
    expected = read_waves(DataDir.read(folder), sample_rate=RATE, min_samples=1, allow_pipes=True)["s-b"]
    at = whole.index(b"data") + 4
    (tmp_path / "b.wav").write_bytes(whole[:at] + length.to_bytes(4, "little") + whole[at + 4 :])
    found = read_waves(DataDir.read(folder), sample_rate=RATE, min_samples=1, allow_pipes=True)["s-b"]
    assert np.array_equal(found, expected)


def test_pipe_has_no_input_and_paths_with_quotes_work(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "it's.wav").write_bytes((tmp_path / "b.wav").read_bytes())
    lines = (folder / "wav.scp").read_text().splitlines()
    pipe = f"cat - {shlex.quote(str(tmp_path) + '/it' + chr(39) + 's.wav')} |"
    (folder / "wav.scp").write_text(f"{lines[0]}\ns-b {pipe}\n")
    assert len(read_waves(DataDir.read(folder), sample_rate=RATE, min_samples=1, allow_pipes=True)["s-b"]) == 1600


def test_matrix_from_a_pipe_names_feats_scp(tmp_path: Path) -> None:
    with MatrixWriter(tmp_path / "x.ark", tmp_path / "x.scp") as writer:
        writer.write("s-a", np.eye(3, dtype=np.float32))
    (tmp_path / "one").write_bytes((tmp_path / "x.ark").read_bytes()[4:])
    pipe = f"tail -c +1 {tmp_path / 'one'} |"
    (tmp_path / "feats.scp").write_text(f"s-a {pipe}\n")
    (tmp_path / "utt2spk").write_text("s-a s\n")
    data = DataDir.read(tmp_path, need=("feats.scp",))
    with pytest.raises(DataError, match=r"feats\.scp:1: 'tail .*' is a pipe, .* --allow-pipes"):
        list(features(data))
    assert np.array_equal(dict(features(data, allow_pipes=True))["s-a"], np.eye(3))
    assert np.array_equal(read_matrix(f"{pipe}[1:2]", allow_pipes=True), np.eye(3)[1:])


@pytest.mark.parametrize("name", ["| cat", "cat x |:12"])
def test_what_cannot_be_read_from_is_no_pipe_to_read(tmp_path: Path, name: str) -> None:
    assert is_pipe(name)
    with pytest.raises(DataError, match=r"^here: .*not a pipe to read from"):
        read_pipe(name, where="here", allow_pipes=True)


@pytest.mark.parametrize("value, allowed", [("1", True), ("0", False), ("", False)])
def test_leave_for_a_whole_recipe(folder: Path, monkeypatch: pytest.MonkeyPatch, value: str, allowed: bool) -> None:
    monkeypatch.setenv(LEAVE, value)
    data = DataDir.read(folder)
    if allowed:
        assert len(read_waves(data, sample_rate=RATE)["s-b"]) == 1600
        assert main(["validate-data", "--no-feats", "--no-text", str(folder)]) == 0
    else:
        with pytest.raises(DataError, match="is a pipe"):
            read_waves(data, sample_rate=RATE)


def test_leave_that_is_neither_yes_nor_no(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LEAVE, "yes")
    with pytest.raises(UsageError, match="KALDI_UQ_ALLOW_PIPES is 'yes', expected 1"):
        read_waves(DataDir.read(folder), sample_rate=RATE, allow_pipes=True)


@pytest.mark.long
def test_pipe_without_end_is_ended(tmp_path: Path) -> None:
    """With what it has started, and what it says for ever on the other stream."""
    said = tmp_path / "pid"
    command = f"sleep 600 & echo $! >{said}; yes >&2 & yes |"
    with pytest.raises(DataError, match=r"^here: the pipe .* writes more than 3 MB, the most that is taken$"):
        read_pipe(command, where="here", allow_pipes=True, max_bytes=3_000_000)
    pid = int(said.read_text())
    wait_for(lambda: not is_alive(pid))


def test_most_that_a_pipe_may_write_is_taken() -> None:
    assert read_pipe("printf 12345 |", where="here", allow_pipes=True, max_bytes=5) == b"12345"
    with pytest.raises(DataError, match="writes more than"):
        read_pipe("printf 123456 |", where="here", allow_pipes=True, max_bytes=5)


def test_max_bytes_of_a_file_holds_for_a_pipe(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^s\.scp:1: the pipe 'yes \|' writes more than 1 MB"):
        read_wav("yes |", where="s.scp:1", allow_pipes=True, max_bytes=1_000_000)


def test_only_the_beginning_of_an_endless_line_is_kept() -> None:
    command = "{ head -c 3000000 /dev/zero | tr '\\0' x; echo; echo last; } >&2; exit 2 |"
    with pytest.raises(DataError, match=r"failed with status 2: x+ / last$") as caught:
        read_pipe(command, where="here", allow_pipes=True)
    assert len(str(caught.value)) < 700


def test_missing_program() -> None:
    with pytest.raises(MissingDependencyError, match="no-such-program: no such program"):
        run_program(["no-such-program"])


@pytest.mark.parametrize("command", ["validate-data", "compute-mfcc"])
def test_commands_have_the_option(
    folder: Path, tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = {
        "validate-data": ["--no-feats", "--no-text", str(folder)],
        "compute-mfcc": ["--mfcc-config", str(folder / "mfcc.conf"), str(folder), str(tmp_path / "m.ark"),
                         str(tmp_path / "m.scp")],
    }[command]  # fmt: skip
    assert main([command, *words]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert "wav.scp:2: " in line and "--allow-pipes" in line
    assert main([command, "--allow-pipes", *words]) == 0


def test_gmm_commands_take_features_from_pipes_if_allowed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lang, (waves, text) = make_lang(tmp_path), make_waves(12)
    data = write_set(tmp_path / "data", waves, text)
    (tmp_path / "mfcc.conf").write_text(f"--sample-frequency={RATE}\n")
    for command in (["compute-mfcc", "--mfcc-config", tmp_path / "mfcc.conf"], ["compute-cmvn"]):
        name = {"compute-mfcc": "feats", "compute-cmvn": "cmvn"}[command[0]]
        assert main([*map(str, command), str(data), str(tmp_path / f"{name}.ark"), str(data / f"{name}.scp")]) == 0
    piped = Path(shutil.copytree(data, tmp_path / "piped"))
    for line in (data / "feats.scp").read_text().splitlines():
        utt, place = line.split()
        ark, _, offset = place.rpartition(":")
        (tmp_path / f"{utt}.mat").write_bytes(Path(ark).read_bytes()[int(offset) :])
    write_table(piped / "feats.scp", {utt: f"tail -c +1 {tmp_path / utt}.mat |" for utt in waves})
    small = ["--num-iters", "3", "--totgauss", "15", "--realign-iters", "1,2"]

    def commands(source: Path, out: Path) -> list[list[str | Path]]:
        mono, ali, graph = out / "mono", out / "ali", out / "mono/graph"
        return [
            ["train-mono", *small, "--max-iter-inc", "2", source, lang.path, mono],
            ["align-gmm", source, lang.path, mono, ali / "ali.1.gz"],
            ["train-deltas", *small, "--max-iter-inc", "2", "--num-leaves", "20", source, lang.path, ali, out / "tri"],
            ["decode-gmm", source, mono, graph, out / "text"],
        ]

    for source, allowed in ((data, []), (piped, ["--allow-pipes"])):
        out = tmp_path / f"exp_{source.name}"
        for command in commands(source, out):
            words = [str(word) for word in command]
            if words[0] == "decode-gmm":
                EmbeddedEngine().make_graph(lang, out / "mono", out / "mono/graph", **GRAPH_SCALES)
            if words[0] == "train-deltas":
                for name in ("final.mdl", "tree"):
                    shutil.copy(out / "mono" / name, out / "ali")
                (out / "ali/num_jobs").write_text("1\n")
            if allowed:
                capsys.readouterr()
                assert main(words) == 1
                (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
                assert "feats.scp:1: " in line and "--allow-pipes" in line
            assert main([words[0], *allowed, *words[1:]]) == 0
    for name in ("mono/final.mdl", "ali/ali.1.gz", "tri/final.mdl", "text"):
        assert (tmp_path / "exp_piped" / name).read_bytes() == (tmp_path / "exp_data" / name).read_bytes()
