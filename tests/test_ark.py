"""Archives: what Kaldi writes is read, damage and pipes are refused, and the wheel behind it leaves no trace."""

from __future__ import annotations

import base64
import contextlib
import gzip
import os
import struct
import subprocess
import sys
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kaldi_uq.errors import DataError
from kaldi_uq.io import ark
from kaldi_uq.io.ark import (
    MatrixWriter,
    read_alignments,
    read_archive,
    read_matrix,
    write_alignments,
)
from kaldi_uq.io.compressed import compress
from kaldi_uq.io.datadir import DataDir, read_table
from kaldi_uq.io.feats_dir import gmm_features, with_deltas
from tests.recipe import LIMIT_S, REPO

# One matrix in Kaldi's three compressed formats, written and read by kaldi-native-io 1.23.0, which compiles Kaldi's own
# compressed-matrix.cc: row t is (t, 5 - 2 t), but the first column has 100 in row 3.
COMPRESSED = {
    "CM": "AEJDTSAAAFDBAADiQgoAAAACAAAAcx37IU8t//8AABAJLxvHKAAgQP9zjabAwcH/6tXAoIBgQCAA",
    "CM2": "AEJDTTIgAABQwQAA4kIKAAAAAgAAAHMdxyi3Hz8k+yG3H///LxuDJqgWxyggEgsrmA1PLRAJky+IBNcxAAA=",
    "CM3": "AEJDTTMgAABQwQAA4kIKAAAAAgAAAB0pICQiIP8bJhcpEisOLQkvBTIA",
}
UNCOMPRESSED = {  # column by column
    "CM": "-7.3242188e-04 9.9934387e-01 1.9994202 100 3.9917598 5.0074620 5.9840994 6.9998016 8.4759951 8.4759951 "
    "4.9996490 2.9994965 9.9934387e-01 -1.0008087 -3.0005302 -5.0002518 -6.9999733 -8.9996948 -10.999847 -13",
    "CM2": "-7.3242188e-04 9.9934387e-01 1.9994202 100 3.9995728 4.9996490 5.9997253 6.9998016 7.9998779 8.9999542 "
    "4.9996490 2.9994965 9.9934387e-01 -1.0008087 -2.9992371 -4.9993896 -6.9995422 -8.9996948 -10.999847 -13",
    "CM3": "-0.14901924 1.1803923 2.0666666 100 3.8392162 5.168627 6.054903 6.9411774 7.8274517 9.156862 "
    "5.168627 2.952941 1.1803923 -1.0352936 -2.8078432 -5.0235295 -6.796078 -9.011765 -10.784313 -13",
}


def matrix(rows: int = 7, cols: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, cols)).astype(np.float32)


def write(folder: Path, **matrices: np.ndarray) -> dict[str, str]:
    with MatrixWriter(folder / "x.ark", folder / "x.scp") as writer:
        for key, value in matrices.items():
            writer.write(key, value)
    return read_table(folder / "x.scp")


class TestMatrices:
    def test_round_trip_is_exact_whatever_the_order(self, tmp_path: Path) -> None:
        matrices = {"b": matrix(seed=1), "a": matrix(5, 2, seed=2), "c": np.zeros((1, 4), np.float32)}
        scp = write(tmp_path, **matrices)
        assert list(scp) == ["a", "b", "c"]
        for key, place in scp.items():
            assert np.array_equal(read_matrix(place), matrices[key])

    def test_double_precision_is_kept(self, tmp_path: Path) -> None:
        stats = np.array([[1.0, 1e9 + 1 / 3], [2.0, 0.1]])
        scp = write(tmp_path, spk=stats)
        assert np.array_equal(read_matrix(scp["spk"], dtype=np.float64), stats)

    def test_kaldi_io_reads_what_is_written(self, tmp_path: Path) -> None:
        write(tmp_path, a=matrix(), b=matrix(seed=1))
        with open(tmp_path / "x.ark", "rb") as stream:
            found = dict(ark.kaldi_io.read_mat_ark(stream))
        assert list(found) == ["a", "b"]
        assert np.array_equal(found["b"], matrix(seed=1))

    def test_text_archive_with_offsets(self, tmp_path: Path) -> None:
        text = b"a  [\n  1 2.5\n  -3 4e-1 ]\nb  [ 7 ]\n"
        (tmp_path / "x.ark").write_bytes(text)
        assert read_matrix(f"{tmp_path}/x.ark:2").tolist() == [[1, 2.5], [-3, np.float32(0.4)]]
        assert read_matrix(f"{tmp_path}/x.ark:{text.index(b'b  [') + 2}").tolist() == [[7]]

    def test_gzipped_archive_and_file_without_offset(self, tmp_path: Path) -> None:
        with open(tmp_path / "one.mat", "wb") as stream:
            ark.kaldi_io.write_mat(stream, matrix())
        (tmp_path / "one.gz").write_bytes(gzip.compress(b"key " + (tmp_path / "one.mat").read_bytes()))
        with open(tmp_path / "one.mat", "wb") as stream:
            ark.kaldi_io.write_mat(stream, matrix())
        assert np.array_equal(read_matrix(f"{tmp_path}/one.mat"), matrix())
        assert np.array_equal(read_matrix(f"{tmp_path}/one.gz:4"), matrix())

    @pytest.mark.parametrize("kind", sorted(COMPRESSED))
    def test_compressed_matrix_is_what_kaldi_makes_of_it(self, tmp_path: Path, kind: str) -> None:
        (tmp_path / "x.ark").write_bytes(b"first " + base64.b64decode(COMPRESSED[kind]))
        found = read_matrix(f"{tmp_path}/x.ark:6")
        assert found.dtype == np.float32
        # single precision, in another order of operations: a few units in the last place of numbers up to 100
        expected = np.array(UNCOMPRESSED[kind].split(), dtype=np.float64).reshape(2, 10).T
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=4e-6)

    @pytest.mark.parametrize(
        "bad", [np.zeros(3, np.float32), np.zeros((2, 2), np.int32), np.zeros((2, 2, 2), np.float32)]
    )
    def test_what_is_no_matrix_is_refused_and_nothing_is_left(self, tmp_path: Path, bad: np.ndarray) -> None:
        with pytest.raises(TypeError, match=r"b: matrix must be \(T, D\) float32"):
            write(tmp_path, a=matrix(), b=bad)
        assert list(tmp_path.iterdir()) == []

    def test_killed_writer_leaves_the_old_archive(self, tmp_path: Path) -> None:
        scp = write(tmp_path, a=matrix())
        with pytest.raises(KeyboardInterrupt):
            self.write_and_be_killed(tmp_path)
        assert np.array_equal(read_matrix(scp["a"]), matrix())
        assert sorted(p.name for p in tmp_path.iterdir()) == ["x.ark", "x.scp"]

    def write_and_be_killed(self, folder: Path) -> None:
        with MatrixWriter(folder / "x.ark", folder / "x.scp") as writer:
            writer.write("z", matrix(seed=5))
            raise KeyboardInterrupt

    @pytest.mark.parametrize("pipe", ["touch {} |", "| touch {}", "touch {} |:12"])
    def test_pipe_is_refused_and_not_run(self, tmp_path: Path, pipe: str) -> None:
        marker = tmp_path / "marker"
        with pytest.raises(DataError, match=r"--allow-pipes|not a pipe to read from"):
            read_matrix(pipe.format(marker))
        assert not marker.exists()

    def test_missing_archive(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"x\.ark: no such file"):
            read_matrix(f"{tmp_path}/x.ark:12")

    @pytest.mark.parametrize("kind", ["plain", "text", *sorted(COMPRESSED)])
    def test_no_damage_causes_another_exception_or_a_warning(self, tmp_path: Path, kind: str) -> None:
        if kind == "plain":
            with open(tmp_path / "one.mat", "wb") as stream:
                ark.kaldi_io.write_mat(stream, matrix(3, 2))
            whole = (tmp_path / "one.mat").read_bytes()
        else:
            whole = b" [\n 1 2\n 3 4 ]\n" if kind == "text" else base64.b64decode(COMPRESSED[kind])
        damaged = [whole[:size] for size in range(len(whole) - 1)]
        truncated = len(damaged)
        for place in range(min(len(whole), 60)):
            for bits in (0x01, 0x80, 0xFF):
                damaged.append(whole[:place] + bytes([whole[place] ^ bits]) + whole[place + 1 :])
        for number, content in enumerate(damaged):
            (tmp_path / "x").write_bytes(content)
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                with contextlib.suppress(DataError):
                    read_matrix(f"{tmp_path}/x")
                    assert number >= truncated or kind == "text"

    @pytest.mark.parametrize(
        "header",
        [
            b"\0BFM \4\xff\xff\xff\x07\4\x08\0\0\0",
            b"\0BDM \4\xff\xff\xff\x7f\4\xff\xff\xff\x7f",
            b"\0BFM \4\xff\xff\xff\xff\4\x08\0\0\0",
            b"\0BCM " + struct.pack("<ffii", 0, 1, 2**30, 2),
            b"\0BCM2 " + struct.pack("<ffii", 0, 1, 2**31 - 1, 2**31 - 1),
            b"\0BCM3 " + struct.pack("<ffii", 0, 1, -1, -5),
        ],
        ids=["gigabytes", "overflow", "negative", "compressed", "compressed 2", "compressed 3"],
    )
    def test_header_that_promises_more_than_there_is_takes_no_memory(self, tmp_path: Path, header: bytes) -> None:
        (tmp_path / "x.ark").write_bytes(b"a " + header + bytes(8))
        tracemalloc.start()
        with pytest.raises(DataError, match=r"x\.ark:2: damaged archive, or no matrix \(.*\(feats\.scp:1\)") as error:
            read_matrix(f"{tmp_path}/x.ark:2", where="feats.scp:1")
        assert "\n" not in str(error.value)
        with pytest.raises(DataError, match=r"x\.ark: damaged archive"):
            list(read_archive(tmp_path / "x.ark"))
        assert tracemalloc.get_traced_memory()[1] < 1 << 23
        tracemalloc.stop()

    @pytest.mark.parametrize("token", ["CM", "CM2", "CM3"])
    @pytest.mark.parametrize("low, span", [(np.nan, 1), (0, np.inf), (-np.inf, np.inf), (3e38, 3e38)])
    def test_compressed_range_that_is_not_finite(self, tmp_path: Path, token: str, low: float, span: float) -> None:
        header = f"\0B{token} ".encode() + struct.pack("<ffii", low, span, 1, 1)
        (tmp_path / "x").write_bytes(header + bytes(9))
        with pytest.raises(DataError, match=r"x: damaged archive, or no matrix \(.*are no finite numbers"):
            read_matrix(f"{tmp_path}/x")

    @pytest.mark.parametrize("size", [2**31 - 1, 2**29, -1])
    def test_integers_that_are_not_there_take_no_memory(self, tmp_path: Path, size: int) -> None:
        with gzip.open(tmp_path / "ali.1.gz", "wb") as stream:
            stream.write(b"a \0B\4" + struct.pack("<i", size) + b"\4\1\0\0\0")
        tracemalloc.start()
        with pytest.raises(DataError, match=r"ali\.1\.gz: damaged archive"):
            read_alignments(tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 23
        tracemalloc.stop()


class TestWhatKaldiWrites:
    """Ranges, text, sequential reading, compression."""

    @pytest.mark.parametrize(
        "part, rows, columns",
        [("0:2", slice(0, 3), slice(None)), ("4:4", slice(4, 5), slice(None)), (":,1:2", slice(None), slice(1, 3)),
         ("2:3,0:0", slice(2, 4), slice(0, 1)), ("5:9", slice(5, 7), slice(None))],
    )  # fmt: skip
    def test_range_takes_both_ends_and_may_reach_a_little_beyond(
        self, tmp_path: Path, part: str, rows: slice, columns: slice
    ) -> None:
        scp = write(tmp_path, a=matrix(), b=matrix(seed=1))
        assert np.array_equal(read_matrix(f"{scp['b']}[{part}]"), matrix(seed=1)[rows, columns])

    @pytest.mark.parametrize("part", ["0:10", "7:8", "3:2", "-1:2", "0:1,0:3", "0", "a:b", "0:1,0:1,0:1"])
    def test_range_outside_the_matrix_is_refused_with_its_place(self, tmp_path: Path, part: str) -> None:
        scp = write(tmp_path, a=matrix())
        with pytest.raises(DataError, match=r"feats\.scp:3: range "):
            read_matrix(f"{scp['a']}[{part}]", where="feats.scp:3")

    @pytest.mark.parametrize("value", [1e39, -1e300])
    def test_number_beyond_single_precision_is_refused(self, tmp_path: Path, value: float) -> None:
        with MatrixWriter(tmp_path / "x.ark", tmp_path / "x.scp") as writer:
            writer.write("u", np.array([[1.0, value]]))
        name = read_table(tmp_path / "x.scp")["u"]
        with pytest.raises(DataError, match=r"x\.ark:2: a number beyond single precision.*\(cmvn\.scp:3\)"):
            read_matrix(name, where="cmvn.scp:3")
        assert read_matrix(name, dtype=np.float64).tolist() == [[1.0, value]]

    def test_text_keeps_double_precision(self, tmp_path: Path) -> None:
        (tmp_path / "x").write_text("s  [\n  1000000001.5 2\n  3 0 ]\n")
        assert read_matrix(f"{tmp_path}/x:2", dtype=np.float64).tolist() == [[1000000001.5, 2], [3, 0]]

    @pytest.mark.parametrize("pack", [lambda data: data, gzip.compress], ids=["plain", "gz"])
    def test_archive_is_read_from_its_beginning(self, tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
        write(tmp_path, **{"ü": matrix(), "b": matrix(4, 2)})
        name = tmp_path / ("y.gz" if pack is gzip.compress else "y.ark")
        text = b"t  [\n  1 2\n  3 4 ]\nu  [ ]\n"
        packed = base64.b64decode(COMPRESSED["CM2"])
        name.write_bytes(pack((tmp_path / "x.ark").read_bytes() + text + b"c " + packed))
        found = dict(read_archive(name))
        assert [(key, value.shape) for key, value in found.items()] == [
            ("ü", (7, 3)), ("b", (4, 2)), ("t", (2, 2)), ("u", (0, 0)), ("c", (10, 2))
        ]  # fmt: skip
        assert np.array_equal(found["ü"], matrix())
        assert found["t"].tolist() == [[1, 2], [3, 4]]

    def test_integer_vectors_of_one_number_and_of_none(self, tmp_path: Path) -> None:
        (tmp_path / "t.ark").write_text("a 7\nb \nc 1 2 3 \nd 5 \n")
        found = {key: value.tolist() for key, value in read_archive(tmp_path / "t.ark", "int vector")}
        assert found == {"a": [7], "b": [], "c": [1, 2, 3], "d": [5]}

    def test_speech_features_lose_less_than_a_step_of_their_column(self, tmp_path: Path) -> None:
        values = matrix(300, 4) * np.array([1, 10, 100, 0.1], np.float32)
        with MatrixWriter(tmp_path / "x.ark", tmp_path / "x.scp", compressed=True) as writer:
            writer.write("a", values)
            writer.write("constant", np.full((9, 2), 3.5, np.float32))
            writer.write("short", matrix(2, 3))
        scp = read_table(tmp_path / "x.scp")
        # in the tails the smallest part of a column's range has 63 steps; the corners have 16 bits of the whole range
        limits = (values.max(0) - values.min(0)) / 63 + 2 * np.ptp(values) / 65535
        assert (np.abs(read_matrix(scp["a"]) - values).max(0) < limits).all()
        assert np.allclose(read_matrix(scp["constant"]), 3.5, atol=1e-3)
        assert read_matrix(scp["short"]).shape == (2, 3)
        assert (tmp_path / "x.ark").stat().st_size < 300 * 4 * 4 / 3

    @pytest.mark.parametrize("bad", [np.full((3, 2), np.nan, np.float32), np.zeros((0, 4), np.float32)])
    def test_what_cannot_be_compressed(self, bad: np.ndarray) -> None:
        with pytest.raises(ValueError, match="only a matrix of finite numbers"):
            compress(bad)

    def test_compressed_bytes_are_kaldis(self) -> None:
        values = np.stack([np.arange(10.0), 5 - 2 * np.arange(10.0)], 1).astype(np.float32)
        values[3, 0] = 100
        assert b"\0B" + compress(values) == base64.b64decode(COMPRESSED["CM"])


class TestAlignments:
    ALIGNMENTS = {
        "a-1": np.array([2, 1, 1, 300], np.int32),
        "b": np.array([70_000], np.int32),
        "ü-2": np.arange(1, 50, dtype=np.int32),
    }

    def test_round_trip_is_exact_and_equal_content_is_equal_bytes(self, tmp_path: Path) -> None:
        write_alignments(tmp_path / "ali.1.gz", self.ALIGNMENTS)
        first = (tmp_path / "ali.1.gz").read_bytes()
        found = read_alignments(tmp_path)
        assert list(found) == list(self.ALIGNMENTS)
        assert all(np.array_equal(found[key], self.ALIGNMENTS[key]) for key in found)
        assert all(ali.dtype == np.int32 for ali in found.values())
        write_alignments(tmp_path / "ali.1.gz", found)
        assert (tmp_path / "ali.1.gz").read_bytes() == first

    def test_bytes_are_those_of_kaldi_io(self, tmp_path: Path) -> None:
        write_alignments(tmp_path / "ali.1.gz", {"a": self.ALIGNMENTS["a-1"]})
        with open(tmp_path / "theirs", "wb") as stream:
            ark.kaldi_io.write_vec_int(stream, self.ALIGNMENTS["a-1"], key="a")
        assert gzip.decompress((tmp_path / "ali.1.gz").read_bytes()) == (tmp_path / "theirs").read_bytes()

    def test_all_jobs_are_read_and_text_too(self, tmp_path: Path) -> None:
        write_alignments(tmp_path / "ali.1.gz", {"a": np.array([1, 2])})
        (tmp_path / "ali.2.gz").write_bytes(gzip.compress(b"b 3 4 5 \nc 10 11\n"))
        found = read_alignments(tmp_path)
        assert {key: ali.tolist() for key, ali in found.items()} == {"a": [1, 2], "b": [3, 4, 5], "c": [10, 11]}

    def test_utterance_in_two_archives_is_refused(self, tmp_path: Path) -> None:
        for job in (1, 2):
            write_alignments(tmp_path / f"ali.{job}.gz", {"a": np.array([1, 2])})
        with pytest.raises(DataError, match=r"ali\.2\.gz: utterance 'a' is in another archive too"):
            read_alignments(tmp_path)

    def test_no_alignments(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"no ali\.\*\.gz; steps/align_si\.sh makes them"):
            read_alignments(tmp_path)

    def test_no_damage_causes_another_exception(self, tmp_path: Path) -> None:
        path = tmp_path / "ali.1.gz"
        write_alignments(path, {"a": np.arange(9), "bc": np.arange(40)})
        whole = path.read_bytes()
        plain = gzip.decompress(whole)
        damaged = [whole[:size] for size in range(1, len(whole))]
        truncated = len(damaged)
        for place in range(len(whole)):
            for bits in (0x01, 0x80):
                damaged.append(whole[:place] + bytes([whole[place] ^ bits]) + whole[place + 1 :])
        for place in range(60):
            for bits in (0x01, 0x80, 0xFF):
                damaged.append(gzip.compress(plain[:place] + bytes([plain[place] ^ bits]) + plain[place + 1 :], 1))
        for number, content in enumerate(damaged):
            path.write_bytes(content)
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                with contextlib.suppress(DataError):
                    read_alignments(tmp_path)
                    assert number >= truncated


class TestImport:
    @pytest.mark.parametrize("root", [None, "/opt/kaldi"])
    def test_import_prints_nothing_and_leaves_the_environment(self, root: str | None) -> None:
        env = {key: value for key, value in os.environ.items() if key != "KALDI_ROOT"}
        env |= {"PYTHONPATH": str(REPO)} | ({"KALDI_ROOT": root} if root else {})
        code = (
            "import os\nbefore = dict(os.environ)\nimport kaldi_uq.io.ark\n"
            "assert dict(os.environ) == before, set(os.environ.items()) ^ set(before.items())"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=LIMIT_S, check=False
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


class TestGmmFeatures:
    def test_deltas_are_those_of_add_deltas(self) -> None:
        # Kaldi's definition, frame by frame: sum_j j x[t + j] / sum_j j^2, twice for the second order, with the
        # frames beyond the ends repeated before either filter
        feats = matrix(9, 2)
        kernel = np.array([-2, -1, 0, 1, 2]) / 10
        twice = np.convolve(kernel, kernel)
        expected = np.zeros((9, 6))
        for t in range(9):
            expected[t, :2] = feats[t]
            for j in range(-2, 3):
                expected[t, 2:4] += kernel[j + 2] * feats[min(max(t + j, 0), 8)]
            for j in range(-4, 5):
                expected[t, 4:] += twice[j + 4] * feats[min(max(t + j, 0), 8)]
        np.testing.assert_allclose(with_deltas(feats), expected, atol=1e-6)  # float32

    def test_mean_of_the_speaker_is_subtracted(self, tmp_path: Path) -> None:
        one, two = matrix(4, 2, seed=1), matrix(6, 2, seed=2)
        frames = np.concatenate([one, two]).astype(np.float64)
        stats = np.zeros((2, 3))
        stats[0] = [*frames.sum(0), len(frames)]
        feats = write(tmp_path, a=one, b=two)
        with MatrixWriter(tmp_path / "c.ark", tmp_path / "c.scp") as writer:
            writer.write("s", stats)
        data = DataDir(tmp_path, {}, {"a": "s", "b": "s"}, feats_scp=feats, cmvn_scp=read_table(tmp_path / "c.scp"))
        found = dict(gmm_features(data))
        assert [value.shape for value in found.values()] == [(4, 6), (6, 6)]
        np.testing.assert_allclose(found["b"][:, :2], two - frames.mean(0), atol=1e-6)  # float32
