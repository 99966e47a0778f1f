"""Files: what lies under a name is whole, and a step knows whether its output is still what it would make."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from kaldi_uq.errors import DataError
from kaldi_uq.io.files import DoneStamp, atomic_write, digest, file_digest, read_json, write_json, write_text
from tests.recipe import LIMIT_S, REPO


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def write_and_fail(path: Path, error: type[BaseException]) -> None:
    before = path.read_bytes() if path.exists() else None
    with atomic_write(path) as stream:
        stream.write("half of what was to be written\n")
        stream.flush()
        assert (path.read_bytes() if path.exists() else None) == before
        raise error


class TestAtomicWrite:
    @pytest.mark.parametrize("mode, content", [("w", "grün\n"), ("wb", b"\0B\xff")])
    def test_content_arrives_with_the_usual_permissions(self, tmp_path: Path, mode: str, content: str | bytes) -> None:
        path = tmp_path / "new" / "folder" / "x"
        old = os.umask(0o027)
        try:
            with atomic_write(path, mode) as stream:
                stream.write(content)
        finally:
            os.umask(old)
        assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        assert names(path.parent) == ["x"]

    def test_line_ends_are_not_translated(self, tmp_path: Path) -> None:
        write_text(tmp_path / "x", "a\nb\r\n")
        assert (tmp_path / "x").read_bytes() == b"a\nb\r\n"

    @pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
    def test_exception_leaves_no_file_and_no_temporary_file(self, tmp_path: Path, error: type[BaseException]) -> None:
        with pytest.raises(error):
            write_and_fail(tmp_path / "x", error)
        assert names(tmp_path) == []

    def test_exception_leaves_the_old_file(self, tmp_path: Path) -> None:
        write_text(tmp_path / "x", "old\n")
        with pytest.raises(RuntimeError):
            write_and_fail(tmp_path / "x", RuntimeError)
        assert (tmp_path / "x").read_text() == "old\n"
        assert names(tmp_path) == ["x"]

    def test_disk_that_fills_at_the_last_moment_leaves_the_old_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(_: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        write_text(tmp_path / "x", "old\n")
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            write_text(tmp_path / "x", "new\n")
        assert (tmp_path / "x").read_text() == "old\n"
        assert names(tmp_path) == ["x"]

    def test_write_that_the_system_cuts_off_leaves_nothing(self, tmp_path: Path) -> None:
        # a limit on the size of files: write() fails in the middle, as on a full disk
        code = (
            "import resource, signal, sys\n"
            "from kaldi_uq.io.files import atomic_write\n"
            "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
            "try:\n"
            "    with atomic_write('x', 'wb') as stream:\n"
            "        stream.write(bytes(100_000))\n"
            "except OSError as error:\n"
            "    sys.exit(f'errno {error.errno}')\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(REPO)},
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        assert done.stderr.strip() == f"errno {errno.EFBIG}"
        assert names(tmp_path) == []

    @pytest.mark.parametrize("mode", ["a", "r", "r+", "x"])
    def test_other_modes_are_refused(self, tmp_path: Path, mode: str) -> None:
        with pytest.raises(ValueError, match="'w' or 'wb'"), atomic_write(tmp_path / "x", mode):
            pass
        assert names(tmp_path) == []


def test_text_that_utf8_cannot_hold_leaves_the_old_file(tmp_path: Path) -> None:
    write_text(tmp_path / "wav.scp", "old")
    with pytest.raises(DataError, match=r"wav\.scp: 'a /audio/gr\\udcfcn\.wav' is not UTF-8; rename"):
        write_text(tmp_path / "wav.scp", "a /audio/gr\udcfcn.wav\n")
    assert [path.name for path in tmp_path.iterdir()] == ["wav.scp"]
    assert (tmp_path / "wav.scp").read_text() == "old"


class TestJson:
    @pytest.mark.parametrize("value", [float("nan"), [float("inf")], {"a": -float("inf")}])
    def test_numbers_that_json_does_not_have_are_refused(self, tmp_path: Path, value: object) -> None:
        with pytest.raises(ValueError, match="not JSON compliant"):
            write_json(tmp_path / "x.json", value)
        assert names(tmp_path) == []

    @pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"{} {}"])
    def test_damaged_file_is_named(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "x.json").write_bytes(content)
        with pytest.raises(DataError, match=r"x\.json: not a JSON file"):
            read_json(tmp_path / "x.json")

    def test_missing_file_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"x\.json: no such file"):
            read_json(tmp_path / "x.json")

    def test_what_is_written_is_read(self, tmp_path: Path) -> None:
        write_json(tmp_path / "x.json", {"b": [1, 2.5, None], "a": "grün"})
        assert read_json(tmp_path / "x.json") == {"b": [1, 2.5, None], "a": "grün"}
        assert (tmp_path / "x.json").read_bytes().endswith(b"}\n")


class TestDigest:
    def test_order_of_keys_does_not_matter_and_anything_else_does(self) -> None:
        assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
        values = ({"a": 1}, {"a": 2}, {"a": "1"}, {"b": 1}, [{"a": 1}], {"a": 1.5}, {"a": None})
        assert len({digest(value) for value in values}) == len(values)
        assert digest("a", "b") != digest("ab")

    def test_file_digest_is_that_of_sha256sum(self, tmp_path: Path) -> None:
        (tmp_path / "x").write_bytes(b"abc")
        assert file_digest(tmp_path / "x") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


class TestDoneStamp:
    def stamp(self, folder: Path, **options: object) -> DoneStamp:
        return DoneStamp(folder, "step", options={"eps": 0.02, **options}, inputs=[folder / "input"])

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        (tmp_path / "input").write_text("1\n")
        return tmp_path

    def test_step_is_done_once_it_is_recorded(self, folder: Path) -> None:
        assert not self.stamp(folder).is_current()
        self.stamp(folder).write()
        assert self.stamp(folder).is_current()

    def test_other_options_are_another_step(self, folder: Path) -> None:
        self.stamp(folder).write()
        assert not self.stamp(folder, eps=0.05).is_current()
        assert not self.stamp(folder, seed=1).is_current()
        assert not DoneStamp(folder, "other", options={"eps": 0.02}, inputs=[folder / "input"]).is_current()

    def test_content_of_an_input_counts_and_its_time_does_not(self, folder: Path) -> None:
        self.stamp(folder).write()
        os.utime(folder / "input", (0, 0))
        assert self.stamp(folder).is_current()
        (folder / "input").write_text("2\n")
        assert not self.stamp(folder).is_current()

    def test_cleared_stamp_is_gone_and_can_be_cleared_again(self, folder: Path) -> None:
        stamp = self.stamp(folder)
        stamp.write()
        stamp.clear()
        assert not stamp.is_current()
        stamp.clear()

    @pytest.mark.parametrize("content", ["", "{", '{"key": 1}', "[]", "null"])
    def test_damaged_stamp_means_not_done(self, folder: Path, content: str) -> None:
        stamp = self.stamp(folder)
        stamp.path.write_text(content)
        assert not stamp.is_current()

    def test_stamp_says_which_options_the_output_has(self, folder: Path) -> None:
        self.stamp(folder, seed=3).write()
        assert json.loads((folder / ".done.step").read_text())["options"] == {"eps": 0.02, "seed": 3}
