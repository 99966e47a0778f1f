"""Utterance ids as file names: each file lies in its directory, and nothing outside it is written or removed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kaldi_uq.cli.main import main
from kaldi_uq.errors import DataError
from kaldi_uq.io.datadir import write_table
from kaldi_uq.io.names import check_not_input, id_problem, remove_left_over, wave_files
from kaldi_uq.io.validate import validate_data_dir
from kaldi_uq.io.wav import write_wav

RATE = 8000
LEAVING = ["/home/you/x", "../x", "../../x", "a/../../x", "a/..", "..", ".", "a/./b", "a//b", "a/", "//x", "./x"]


def data_dir(folder: Path, *utts: str) -> Path:
    """A data directory with these utterances; their audio lies in ``corpus`` beside it."""
    corpus = folder.parent / "corpus"
    rng = np.random.default_rng(0)
    for number, _ in enumerate(utts):
        write_wav(corpus / f"{number}.wav", rng.integers(-9000, 9000, 800).astype(np.int16), RATE)
    write_table(folder / "wav.scp", {utt: str(corpus / f"{n}.wav") for n, utt in enumerate(utts)})
    write_table(folder / "utt2spk", {utt: utt for utt in utts})
    write_table(folder / "spk2utt", {utt: utt for utt in utts})
    write_table(folder / "text", {utt: "one" for utt in utts})
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def disturb(data: Path, out: Path) -> int:
    return main(["disturb-data", "--kind", "white", "--snr-db", "10", str(data), str(out)])


@pytest.mark.parametrize("utt", LEAVING)
def test_id_that_leaves_the_directory_is_refused_everywhere_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], utt: str
) -> None:
    data = data_dir(tmp_path / "a/data", "ok", utt)
    before = contents(tmp_path)
    with pytest.raises(DataError, match="as a file name it leaves the directory"):
        wave_files(tmp_path / "out", ["ok", utt])
    assert disturb(data, tmp_path / "deep/out") == 1
    assert f"utterance {utt!r}: as a file name it leaves the directory" in capsys.readouterr().err
    with pytest.raises(DataError, match=r"utt2spk:\d: .*as a file name it leaves the directory.*rename the utterance"):
        validate_data_dir(data, spk_sort=False)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("utt", ["s-a", "s/a", "s/t/a", "...", "a..b", "..a", "ü", "a:b", "-x", "a\\..\\b", "x.wav"])
def test_plain_ids_and_speaker_slash_utterance_stay_possible(tmp_path: Path, utt: str) -> None:
    data = data_dir(tmp_path / "a/data", utt)
    assert validate_data_dir(data) == (1, 1)
    assert disturb(data, tmp_path / "out") == 0
    assert list(wave_files(tmp_path / "out", [utt]).values()) == [tmp_path / f"out/wav/{utt}.wav"]
    assert [name for name in contents(tmp_path / "out") if name.endswith(".wav")] == [f"wav/{utt}.wav"]


@pytest.mark.parametrize(
    "utt, problem", [("x" * 201, "201 bytes"), ("ü" * 101 + "/a", "202 bytes"), ("a\x07b", "control")]
)
def test_ids_that_no_file_can_have(utt: str, problem: str) -> None:
    assert problem in id_problem(utt)


class TestLinks:
    def test_link_inside_the_output_is_not_written_through(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        data = data_dir(tmp_path / "a/data", "s/0")
        before = contents(tmp_path / "a/corpus")
        for place, target in (("wav", "."), ("wav/s", ".")):
            out = tmp_path / place.replace("/", "-")
            (out / place).parent.mkdir(parents=True)
            (out / place).symlink_to(tmp_path / "a/corpus" / target)
            assert disturb(data, out) == 1
            assert f"{out / place}: a symbolic link to " in capsys.readouterr().err
        assert contents(tmp_path / "a/corpus") == before

    def test_output_directory_may_be_a_link_as_a_whole(self, tmp_path: Path) -> None:
        (tmp_path / "disk").mkdir()
        (tmp_path / "out").symlink_to(tmp_path / "disk")
        assert disturb(data_dir(tmp_path / "a/data", "u"), tmp_path / "out") == 0
        assert (tmp_path / "disk/wav/u.wav").is_file()

    def test_cleaning_removes_files_and_links_but_follows_none(self, tmp_path: Path) -> None:
        recordings, out = tmp_path / "recordings", tmp_path / "out"
        write_wav(recordings / "r.wav", np.ones(9, np.int16), RATE)
        for name in ("keep", "old", "s/old", "s/keep"):
            write_wav(out / f"wav/{name}.wav", np.ones(9, np.int16), RATE)
        (out / "wav/linked").symlink_to(recordings)
        (out / "wav/file.wav").symlink_to(recordings / "r.wav")
        (out / "wav/notes.txt").write_text("kept")
        remove_left_over(out, wave_files(out, ["keep", "s/keep"]).values())
        assert sorted(contents(out)) == ["wav/keep.wav", "wav/notes.txt", "wav/s/keep.wav"]
        assert (recordings / "r.wav").is_file()
        (out / "wav").rename(out / "elsewhere")
        (out / "wav").symlink_to(out / "elsewhere")
        remove_left_over(out, [])
        assert (out / "elsewhere/keep.wav").is_file()

    def test_file_that_is_a_link_is_replaced_and_not_what_it_leads_to(self, tmp_path: Path) -> None:
        data = data_dir(tmp_path / "a/data", "u")
        (tmp_path / "precious.wav").write_bytes(b"precious")
        (tmp_path / "out/wav").mkdir(parents=True)
        (tmp_path / "out/wav/u.wav").symlink_to(tmp_path / "precious.wav")
        assert disturb(data, tmp_path / "out") == 0
        assert (tmp_path / "precious.wav").read_bytes() == b"precious"
        assert not (tmp_path / "out/wav/u.wav").is_symlink()


class TestInput:
    def test_output_never_replaces_the_recordings_that_are_read(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        data = data_dir(tmp_path / "a/data", "0", "1")
        corpus = tmp_path / "a/corpus"
        (corpus / "wav").mkdir()
        for path in list(corpus.glob("*.wav")):
            path.rename(corpus / "wav" / path.name)
        write_table(data / "wav.scp", {utt: str(corpus / "wav" / f"{utt}.wav") for utt in "01"})
        before = contents(corpus)
        assert disturb(data, corpus) == 1
        assert "the output would replace its input" in capsys.readouterr().err
        assert contents(corpus) == before

    def test_links_and_places_in_archives_are_looked_through_and_pipes_are_not_files(self, tmp_path: Path) -> None:
        (tmp_path / "out/wav").mkdir(parents=True)
        (tmp_path / "out/wav/x.ark").write_bytes(b"x")
        (tmp_path / "link").symlink_to(tmp_path / "out")
        inside = f"{tmp_path}/out/wav/x.ark"
        for source in (f"{tmp_path}/link/wav/x.ark:1", f"{tmp_path}/out/wav/../wav/x.ark", f"cat {inside} |"):
            with pytest.raises(DataError, match="the output would replace its input"):
                check_not_input(tmp_path / "out", ["a.wav", source])
        check_not_input(tmp_path / "out", [f"tail {inside} |", f"{tmp_path}/out/x.wav", "wav/x.wav"])
