"""Commands that only decode a file are read without a shell; all that looks like one and does more is not."""

from __future__ import annotations

import gzip
import os
import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kaldi_uq.cli.main import main
from kaldi_uq.errors import DataError, MissingDependencyError
from kaldi_uq.io.ark import MatrixWriter, read_matrix
from kaldi_uq.io.commands import decoding_of
from kaldi_uq.io.datadir import DataDir
from kaldi_uq.io.wav import read_channels, read_wav, to_int16
from kaldi_uq.io.waves import read_waves
from tests.audio_files import RATE, encode, speech, write
from tests.recipe import REPO
from tests.test_sphere import write_sphere


@pytest.fixture(autouse=True)
def no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here starts a program."""

    def refuse(*args: object, **options: object) -> None:
        raise AssertionError(f"a program was started: {args}")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    monkeypatch.setattr(os, "system", refuse)


READ = [
    ("flac -c -d -s {} |", "flac"),
    ("flac -s -d -c {}|", "flac"),
    ("flac -dcs {} |", "flac"),
    ("  flac  {}\t--decode --stdout --totally-silent | ", "flac"),
    ("/usr/bin/flac -c -d {} |", "flac24"),
    ("sph2pipe -f wav {} |", "sphere"),
    ("/opt/kaldi/tools/sph2pipe_v2.5/sph2pipe -p -f wav -c 1 {} |", "sphere"),
    ("sox {} -t wav - |", "flac"),
    ("sox {} -t wav - |", "wav24"),
    ("sox -t flac {} -t wavpcm -e signed-integer -b 16 - |", "flac"),
    ("sox {} -r 16k -c 1 -b 16 -t wav - |", "wav"),
    ("sox {} -r 16000 -t wav - remix 1 |", "sphere"),
    ("ffmpeg -i {} -f wav -ar 16000 -ac 1 - |", "vorbis"),
    ("ffmpeg -nostdin -hide_banner -loglevel error -i {} -vn -acodec pcm_s16le -f wav pipe:1 |", "mp3"),
    ("mpg123 -q -w - {} |", "mp3"),
    ("mpg123 --mono -r 16000 -w - {} |", "mp3"),
    ("cat {} |", "wav"),
    ("cat {} |", "flac"),
    ("cat {} |", "opus"),
    ("/bin/cat {} |", "sphere"),
]


@pytest.mark.parametrize("name", ["x", "a b.wav", "it's", "(1) & more;", "ünï.flac", "x#y", 'say "a"', "$HOME"])
@pytest.mark.parametrize("command, kind", READ)
def test_what_it_decodes_is_read(tmp_path: Path, command: str, kind: str, name: str) -> None:
    path = write(tmp_path / name, speech(), kind)
    found = read_wav(command.format(shlex.quote(str(path))), where="wav.scp:1")[0]
    assert np.array_equal(found, read_wav(path)[0])


@pytest.mark.parametrize("quoted", ["a\\ b", "'a b'", '"a b"', "a' 'b", 'a" "b'])
def test_names_are_quoted_as_for_the_shell(tmp_path: Path, quoted: str) -> None:
    write(tmp_path / "a b", speech(), "flac")
    assert len(read_wav(f"flac -cd {tmp_path}/{quoted} |")[0]) == 8000


@pytest.mark.parametrize("command", ["gunzip -c {} |", "zcat {} |", "gzip -dc {} |", "gzip -c --decompress {} |"])
def test_packed_files(tmp_path: Path, command: str) -> None:
    (tmp_path / "x.wav.gz").write_bytes(gzip.compress(encode(speech(), "wav")))
    assert np.array_equal(to_int16(read_wav(command.format(tmp_path / "x.wav.gz"))[0]), speech())
    with pytest.raises(DataError, match="compressed; unpack it with gunzip"):
        read_wav(f"cat {tmp_path / 'x.wav.gz'} |")


def test_features_too(tmp_path: Path) -> None:
    with MatrixWriter(tmp_path / "x.ark", tmp_path / "x.scp") as writer:
        writer.write("a", np.eye(3, dtype=np.float32))
    (tmp_path / "a.mat").write_bytes((tmp_path / "x.ark").read_bytes()[2:])
    (tmp_path / "a.mat.gz").write_bytes(gzip.compress((tmp_path / "a.mat").read_bytes()))
    for command in (f"cat {tmp_path}/a.mat |", f"gunzip -c {tmp_path}/a.mat.gz |"):
        assert np.array_equal(read_matrix(command), np.eye(3))
        assert np.array_equal(read_matrix(f"{command}[1:2]"), np.eye(3)[1:])


@pytest.mark.parametrize("command, channel", [("sph2pipe -f wav -p -c 2 {} |", 1), ("sox {} -t wav - remix 2 |", 1),
                                              ("sox {} -t wav -c 1 - remix 1 |", 0)])  # fmt: skip
def test_channel_is_picked(tmp_path: Path, command: str, channel: int) -> None:
    path = write(tmp_path / "x", speech(channels=2), "sphere")
    assert np.array_equal(to_int16(read_wav(command.format(path))[0]), speech(channels=2)[:, channel])
    assert len(read_channels(f"sph2pipe -f wav {path} |")[0]) == 2
    with pytest.raises(DataError, match=r"x: no channel 3, there are 2 \(s:1\)"):
        read_wav(f"sox {path} -t wav - remix 3 |", where="s:1")


@pytest.mark.parametrize(
    "command, kind, why",
    [
        ("sox {} -r 8k -t wav - |", "wav", "x has 16000 Hz, and sox resamples it to 8000 Hz"),
        ("ffmpeg -i {} -ar 44100 -f wav - |", "flac", "x has 16000 Hz, and ffmpeg resamples it to 44100 Hz"),
        ("sox {} -c 2 -t wav - |", "wav", "x has 1 channels, and sox makes 2 of them"),
        ("sox {} -b 16 -t wav - |", "flac24", "x has more than 16 bits a sample, and sox rounds it"),
        ("sox {} -b 8 -t wav - |", "flac", "x has more than 8 bits a sample, and sox rounds it"),
        ("ffmpeg -i {} -f wav - |", "wav24", "x has more than 16 bits a sample, and ffmpeg rounds it"),
        ("sox {} -t wav - |", "float", "x holds floating point, and sox rounds it"),
    ],
)
def test_what_does_more_to_this_very_file_needs_leave(tmp_path: Path, command: str, kind: str, why: str) -> None:
    values = (speech() / 32768).astype(np.float32) if kind == "float" else speech()
    pipe = command.format(write(tmp_path / "x", values, kind))
    with pytest.raises(DataError, match=rf"^wav\.scp:7: '.*' is a pipe, \S*{why}, .*--allow-pipes, .*_PIPES=1"):
        read_wav(pipe, where="wav.scp:7")
    with pytest.raises(AssertionError, match="a program was started"):
        read_wav(pipe, where="wav.scp:7", allow_pipes=True)


def test_what_the_documentation_says_is_recognised() -> None:
    text = (REPO / "docs/kaldi.md").read_text()
    block = text[text.index("flac -c -d -s F |") :].partition("```")[0]
    commands = [command.strip() + " |" for line in block.splitlines() for command in line.split("|")[:-1]]
    assert len(commands) == 7
    for command in commands:
        assert decoding_of(command.replace("[", "").replace("]", "")), command
        assert decoding_of(re.sub(r"\[.*?\]", "", command)), command


LOOKALIKES = [
    "flac -c -d -s {}; touch {mark} |",
    "flac -c -d -s {} && touch {mark} |",
    "flac -c -d -s {} & touch {mark} |",
    "flac -c -d -s {}\ntouch {mark} |",
    "flac -c -d -s $(touch {mark}; echo {}) |",
    "flac -c -d -s `touch {mark}; echo {}` |",
    'flac -c -d -s "$(touch {mark})" |',
    'flac -c -d -s "`touch {mark}`" |',
    'flac -c -d -s "${{x:=a}}" |',
    "flac -c -d -s $x |",
    "flac -c -d -s {} > {mark} |",
    "flac -c -d -s < {} |",
    "flac -c -d -s {} | sox -t wav - -t wav - |",
    "flac -c -d -s {} {} |",
    "flac -c -d -s -o {mark} {} |",
    "flac -c -d -s {}* |",
    "flac -c -d -s '{}*' |",
    "flac -c -d -s {}? |",
    "flac -c -d -s ~/x |",
    "flac -c -d -s {}{{a,b}} |",
    "flac -c -d -s {} # |",
    "flac -c -d -s {} \\\n |",
    "flac -c -d -s '{} |",
    "flac -c -d -s -- {} |",
    "flac -c -d -s -x.flac |",
    "flac -c -d -s - |",
    "flac -c -d -s |",
    "flac -c -d -s '' |",
    "flac -d -s {} |",
    "flac -c {} |",
    "flac -c -d --until=1 {} |",
    "X=1 flac -c -d -s {} |",
    "env flac -c -d -s {} |",
    "(flac -c -d -s {}) |",
    "! flac -c -d -s {} |",
    "flac -c -d -s {} |:10",
    "| flac -c -d -s {}",
    "cat {} - |",
    "cat -A {} |",
    "cat |",
    "gunzip {} |",
    "gunzip -c {} |",
    "gunzip -c -k {}.gz |",
    "sph2pipe {} |",
    "sph2pipe -f raw {} |",
    "sph2pipe -f wav -c 3 {} |",
    "sph2pipe -f wav -t 0:1 {} |",
    "sph2pipe -f wav {} {mark} |",
    "sph2pipe -f wav -u {} |",
    "sox -t wav {} -t wav - speed 0.9 |",
    "sox {} -t wav - vol 0.5 |",
    "sox --norm {} -t wav - |",
    "sox -v 0.5 {} -t wav - |",
    "sox {} -t raw - |",
    "sox {} -t wav {mark} |",
    "sox {} -t wav - remix 1,2 |",
    "sox {} -t wav - remix - |",
    "sox {} -t wav - remix 1 trim 0 1 |",
    "sox -r 8k {} -t wav - |",
    "sox {} -e mu-law -t wav - |",
    "sox {} -r fast -t wav - |",
    "sox '|touch {mark}' -t wav - |",
    "sox http://example.org/x.wav -t wav - |",
    "ffmpeg -i {} -f wav {mark} |",
    "ffmpeg -i {} -ss 1 -f wav - |",
    "ffmpeg -i {} -af volume=2 -f wav - |",
    "ffmpeg -ss 1 -i {} -f wav - |",
    "ffmpeg -i {} -c:a pcm_mulaw -f wav - |",
    "ffmpeg -f wav -i {} - |",
    "ffmpeg -i concat:{}|{} -f wav - |",
    "ffmpeg -i http://example.org/x.wav -f wav - |",
    "ffmpeg -i {} -i {} -f wav - |",
    "mpg123 -w {mark} {} |",
    "mpg123 -s {} |",
    "mpg123 -f 100 -w - {} |",
    "wget -O - http://example.org/x.wav |",
    "curl http://example.org/x.wav |",
    "flac\x0b-c -d -s {} |",
    "flac -c -d -s {}\u2028rm |",
    "python3 -c pass |",
]


@pytest.mark.parametrize("command", LOOKALIKES)
def test_lookalike_is_not_read_and_not_run(tmp_path: Path, command: str) -> None:
    path, mark = write(tmp_path / "x", speech(), "flac"), tmp_path / "mark"
    pipe = command.format(path, path, mark=mark)
    assert decoding_of(pipe) is None
    with pytest.raises(DataError, match=r"^wav\.scp:1: .*(is a pipe|not a pipe to read from)"):
        read_wav(pipe, where="wav.scp:1")
    assert not mark.exists()


def make_directory(path: Path) -> None:
    path.mkdir()


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def make_link_to_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize(
    "make, what",
    [
        (make_directory, "a directory"),
        (make_fifo, "a named pipe"),
        (make_link_to_device, "a device"),
        (None, "no such"),
    ],
)
@pytest.mark.parametrize("command", ["flac -c -d -s {} |", "cat {} |", "sox {} -t wav - |", "sph2pipe -f wav {} |"])
def test_what_is_no_file(tmp_path: Path, command: str, make: Callable[[Path], None] | None, what: str) -> None:
    if make:
        make(tmp_path / "x")
    with pytest.raises(DataError, match=rf"/x: {what}.* \(wav\.scp:3\)"):
        read_wav(command.format(tmp_path / "x"), where="wav.scp:3")


@pytest.mark.parametrize(
    "command, kind, expected",
    [
        ("flac -c -d {} |", "wav", "FLAC"),
        ("sph2pipe -f wav {} |", "flac", "SPHERE"),
        ("mpg123 -w - {} |", "flac", "MP3"),
    ],
)
def test_program_that_does_not_read_this_kind(tmp_path: Path, command: str, kind: str, expected: str) -> None:
    path = write(tmp_path / "x", speech(), kind)
    with pytest.raises(DataError, match=rf"x: no {expected} file, as \w+ takes it \(s:1\); correct the line"):
        read_wav(command.format(path), where="s:1")


def test_compressed_sphere_needs_sph2pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("KALDI_ROOT", raising=False)
    path = write_sphere(tmp_path / "x", b"ajkg", count=9, sample_coding="pcm,embedded-shorten-v2.00")
    with pytest.raises(MissingDependencyError, match="x: shorten-compressed SPHERE audio needs sph2pipe"):
        read_wav(f"sph2pipe -f wav {path} |")


def test_channel_must_be_picked(tmp_path: Path) -> None:
    path = write(tmp_path / "x", speech(channels=2), "sphere")
    with pytest.raises(
        DataError, match=r"^s:1: output of .* 2 channels, expected 1; choose one, for .* -c 1 of sph2pipe$"
    ):
        read_wav(f"sph2pipe -f wav {path} |", where="s:1")


def test_bounds_are_those_of_files(tmp_path: Path) -> None:
    path = write(tmp_path / "x", speech(), "wav")
    for command in ("cat {} |", "sox {} -t wav - |"):
        with pytest.raises(DataError, match=r"more than 0\.01 MB"):
            read_wav(command.format(path), max_bytes=10_000)
    path.write_bytes(path.read_bytes()[:-10])
    for command in ("cat {} |", "sox {} -t wav - |"):
        with pytest.raises(DataError, match="truncated: the header promises"):
            read_wav(command.format(path))


class TestDataDir:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        both = speech(32_000, channels=2)
        write(tmp_path / "call.sph", both, "sphere")
        write(tmp_path / "talk.flac", both[:, 0], "flac")
        data = tmp_path / "data"
        data.mkdir()
        (data / "wav.scp").write_text(
            f"call-A sph2pipe -f wav -p -c 1 {tmp_path}/call.sph |\n"
            f"call-B sph2pipe -f wav -p -c 2 {tmp_path}/call.sph |\n"
            f"talk flac -c -d -s {tmp_path}/talk.flac |\n"
        )
        (data / "segments").write_text("s-1 call-A 0 1\ns-2 call-B 0.5 1.5\ns-3 talk 1 -1\n")
        (data / "utt2spk").write_text("s-1 s\ns-2 s\ns-3 s\n")
        (data / "spk2utt").write_text("s s-1 s-2 s-3\n")
        (data / "reco2file_and_channel").write_text("call-A call A\ncall-B call B\ntalk talk A\n")
        return data

    def test_segments_over_recognised_pipes(self, folder: Path, tmp_path: Path) -> None:
        waves = read_waves(DataDir.read(folder), sample_rate=RATE)
        both = speech(32_000, channels=2)
        assert np.array_equal(to_int16(waves["s-1"]), both[:16000, 0])
        assert np.array_equal(to_int16(waves["s-2"]), both[8000:24000, 1])
        assert np.array_equal(to_int16(waves["s-3"]), both[16000:, 0])
        (tmp_path / "call.sph").unlink()
        assert len(read_waves(DataDir.read(folder), sample_rate=RATE, utts=["s-3"])) == 1

    def test_commands_need_no_option(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["validate-data", "--no-feats", "--no-text", str(folder)]) == 0
        (folder / "mfcc.conf").write_text(f"--sample-frequency={RATE}\n")
        words = ["--mfcc-config", str(folder / "mfcc.conf"), str(folder), f"{folder}/m.ark", f"{folder}/m.scp"]
        assert main(["compute-mfcc", *words]) == 0
        out = folder.parent / "noisy"
        assert main(["disturb-data", "--kind", "white", "--snr-db", "20", str(folder), str(out)]) == 0
        assert {path.name for path in (out / "wav").iterdir()} == {"s-1.wav", "s-2.wav", "s-3.wav"}
        text = (folder / "wav.scp").read_text()
        (folder / "wav.scp").write_text(text.replace("flac |", "flac | cat |"))
        capsys.readouterr()
        assert main(["validate-data", "--no-feats", "--no-text", str(folder)]) == 1
        assert "wav.scp:3: 'talk': 'flac -c -d" in capsys.readouterr().err
