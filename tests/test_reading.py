"""The opener and the decoder: what is plain is read as it is meant, anything else is one line with file and line."""

from __future__ import annotations

import gzip
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from kaldi_uq.errors import DataError, UsageError
from kaldi_uq.feats.conf import read_mfcc_conf
from kaldi_uq.io.arpa import read_arpa
from kaldi_uq.io.datadir import DataDir, read_table
from kaldi_uq.io.files import DoneStamp, integer, parse_json, read_integers, read_json, read_lines, read_state
from kaldi_uq.io.lang import read_symbols
from kaldi_uq.io.reading import check_for_kaldi, open_file, read_bytes, read_up_to, take, text_lines
from kaldi_uq.io.rxfile import open_rxfile

BOM = b"\xef\xbb\xbf"


class TestOpening:
    @pytest.mark.parametrize(
        "path, kind", [("/dev/zero", "a device"), ("/dev/null", "a device"), (".", "a directory")], ids=str
    )
    def test_only_regular_files_are_opened(self, path: str, kind: str) -> None:
        for read in (read_bytes, read_lines, read_json, read_table, open_rxfile):
            with pytest.raises(DataError, match=f"^{path}: {kind}, expected a regular file"):
                read(path)  # type: ignore[operator]

    def test_named_pipe_that_a_table_names_is_not_waited_for(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "a.wav")
        with pytest.raises(DataError, match=r"a named pipe, expected a regular file \(wav\.scp:1\)"):
            open_rxfile(str(tmp_path / "a.wav"), where="wav.scp:1")

    def test_pipe_of_the_shell_is_read_as_text(self) -> None:
        reader, writer = os.pipe()
        os.write(writer, b"u1 one\n")
        os.close(writer)
        assert read_table(f"/dev/fd/{reader}") == {"u1": "one"}
        os.close(reader)

    @pytest.mark.parametrize("name, problem", [("x" * 300, "File name too long"), ("x\0y", "no name of a file")])
    def test_impossible_names(self, tmp_path: Path, name: str, problem: str) -> None:
        with pytest.raises(UsageError, match=rf"{problem}; see there$"):
            open_file(f"{tmp_path}/{name}", hint="; see there", error=UsageError)

    def test_file_in_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "a").write_bytes(b"")
        with pytest.raises(DataError, match="a/b: Not a directory"):
            open_file(tmp_path / "a/b")

    @pytest.mark.parametrize(
        "damage",
        [
            lambda packed: packed[:-9],
            lambda packed: b"no gzip",
            lambda packed: packed[:10] + b"\x7f" + packed[11:],
            lambda packed: packed[:-5] + b"\0" + packed[-4:],
            lambda packed: packed + b"junk",
            lambda packed: packed[:3],
        ],
        ids=["cut", "text", "deflate", "checksum", "tail", "header"],
    )
    def test_damaged_gzip_is_named(self, tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
        path = tmp_path / "lm.gz"
        path.write_bytes(damage(gzip.compress(bytes(range(256)) * 9)))
        for read in (read_bytes, read_arpa, read_json):
            with pytest.raises(DataError, match=r"lm\.gz: damaged gzip file \("):
                read(path)  # type: ignore[operator]

    def test_empty_gzip_is_an_empty_file(self, tmp_path: Path) -> None:
        (tmp_path / "x.gz").write_bytes(gzip.compress(b""))
        assert read_bytes(tmp_path / "x.gz") == b""

    def test_bomb_is_refused_before_it_fills_the_memory(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("kaldi_uq.io.reading.ALWAYS_UNPACKED", 1 << 16)
        path = tmp_path / "lm.gz"
        path.write_bytes(gzip.compress(bytes(1 << 25)))
        tracemalloc.start()
        with pytest.raises(DataError, match=r"lm\.gz: unpacks to more than 250 times its size"):
            read_bytes(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 24
        tracemalloc.stop()
        path.write_bytes(gzip.compress(bytes(1 << 16)))  # as packed, but small
        assert len(read_bytes(path)) == 1 << 16

    def test_offset_beyond_the_file_and_offsets_that_are_none(self, tmp_path: Path) -> None:
        path = tmp_path / "x.ark"
        path.write_bytes(b"0123456789")
        assert open_rxfile(f"{path}:4").read() == b"456789"
        with pytest.raises(DataError, match=r"x\.ark:11: the file ends before this place.*\(feats\.scp:3\)"):
            open_rxfile(f"{path}:11", where="feats.scp:3")
        for offset in ("9" * 30, "²", "-1", "1_0", "٣"):
            with pytest.raises(DataError, match="no such file"):
                open_rxfile(f"{path}:{offset}")


class TestSizes:
    @pytest.mark.parametrize("size", [11, 1 << 40, 1 << 70])
    def test_memory_is_taken_for_what_there_is(self, tmp_path: Path, size: int) -> None:
        (tmp_path / "x").write_bytes(b"0123456789")
        tracemalloc.start()
        with open_file(tmp_path / "x") as stream:
            assert read_up_to(stream, size) == b"0123456789"
        with open_file(tmp_path / "x") as stream, pytest.raises(ValueError, match=f"10 of {size} bytes"):
            take(stream, size)
        assert tracemalloc.get_traced_memory()[1] < 1 << 23
        tracemalloc.stop()

    def test_exact_and_negative_sizes(self, tmp_path: Path) -> None:
        (tmp_path / "x").write_bytes(b"0123456789")
        with open_file(tmp_path / "x") as stream:
            assert (take(stream, 3), take(stream, 0), take(stream, 7)) == (b"012", b"", b"3456789")
            with pytest.raises(ValueError, match="a size of -1 bytes"):
                read_up_to(stream, -1)


class TestText:
    @pytest.mark.parametrize(
        "content",
        [
            b"a one two\nb three\n",
            BOM + b"a one two\nb three\n",
            b"a one two\r\nb three\r\n",
            BOM + b"a one two\r\nb three\n",
            b"a\tone two\nb\tthree\n",
            b"a \t one two\t\nb   three \n",
            b"  a one two\n\tb three\n",
        ],
    )
    def test_what_means_the_same_is_read_the_same(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "text"
        path.write_bytes(content)
        assert read_table(path) == {"a": "one two", "b": "three"}
        assert [line.split() for _, line in read_lines(path)] == [["a", "one", "two"], ["b", "three"]]

    @pytest.mark.parametrize(
        "line, problem",
        [
            (
                "b one\u00a0two",
                r"U\+00A0 \(no-break space\) after 'b one' is no blank for Kaldi.*sed -i 's/\\xc2\\xa0/ /g' .*text$",
            ),
            ("b\u3000one", r"U\+3000 \(ideographic space\) after 'b'"),
            ("b one\u202ftwo", r"U\+202F \(narrow no-break space\)"),
            ("b one\u2028two", r"U\+2028 \(line separator\)"),
            ("b one\x85two", r"U\+0085 \(control character\)"),
            ("b one\x0ctwo", r"U\+000C \(control character\)"),
            ("b one\x1etwo", r"U\+001E \(control character\)"),
            ("b one\rc two", r"U\+000D \(control character\) after 'b one'"),
            ("b one\r\r", r"U\+000D"),
            ("\ufeffb one", r"U\+FEFF .*: a byte order mark inside: files were joined"),
            ("b one\0", r"U\+0000 .*: no text, or UTF-16"),
        ],
    )
    def test_what_kaldi_reads_otherwise_is_refused_with_its_line(self, tmp_path: Path, line: str, problem: str) -> None:
        path = tmp_path / "text"
        path.write_bytes(f"a one\n{line}\nc two\n".encode())
        for read in (read_table, read_lines):
            with pytest.raises(DataError, match=f"text:2: {problem}") as error:
                read(path)
            assert "\n" not in str(error.value)

    @pytest.mark.parametrize("word", ["می\u200cخواهم", "क्\u200dष", "a\u200fb", "e\u0301", "\ue000", "𓀀", "\u200bx"])
    def test_characters_without_a_width_are_letters(self, tmp_path: Path, word: str) -> None:
        (tmp_path / "text").write_text(f"a {word}\n", encoding="utf-8")
        assert read_table(tmp_path / "text") == {"a": word}

    @pytest.mark.parametrize(
        "content, code",
        [
            ("a grün\n".encode("latin-1"), "byte 0xfc.*-f ISO-8859-1"),
            ("a grün\n".encode("utf-16"), "byte 0xff.*-f UTF-16"),
        ],
    )
    def test_other_encodings_come_with_the_command_that_converts_them(
        self, tmp_path: Path, content: bytes, code: str
    ) -> None:
        path = tmp_path / "my text"
        path.write_bytes(content)
        with pytest.raises(DataError, match=rf"my text:1: not UTF-8 \({code} -t UTF-8 '.*my text'\)"):
            list(text_lines(path))

    def test_names_of_files_may_have_any_blanks_and_keys_not(self, tmp_path: Path) -> None:
        path = tmp_path / "wav.scp"
        path.write_text("a /x/10\u202fPM.wav\nb /x/b\u00a0c.wav\n", encoding="utf-8")
        assert list(read_table(path).values()) == ["/x/10\u202fPM.wav", "/x/b\u00a0c.wav"]
        path.write_text("a x.wav\nb\u00a0c.wav\n", encoding="utf-8")
        with pytest.raises(DataError, match=r"wav\.scp:2: U\+00A0"):
            read_table(path)
        path.write_bytes(b"a x.wav\rb y.wav\n")
        with pytest.raises(DataError, match=r"wav\.scp:1: U\+000D"):
            read_table(path)

    def test_every_text_is_decoded_by_these_rules(self, tmp_path: Path) -> None:
        (tmp_path / "mfcc.conf").write_bytes(BOM + b"--sample-frequency=8000\r\n")
        assert read_mfcc_conf(tmp_path / "mfcc.conf").sample_frequency == 8000
        (tmp_path / "words.txt").write_bytes(BOM + b"<eps>\t0\r\none\t1\r\n")
        assert read_symbols(tmp_path / "words.txt") == {"<eps>": 0, "one": 1}
        (tmp_path / "silence.int").write_bytes(BOM + b"1\r\n2\r\n")
        assert read_integers(tmp_path / "silence.int") == [1, 2]
        arpa = BOM + b"\\data\\\r\nngram 1=1\r\n\r\n\\1-grams:\r\n-1\tone\r\n\\end\\\r\n"
        for name, content in (("lm", arpa), ("lm.gz", gzip.compress(arpa))):
            (tmp_path / name).write_bytes(content)
            assert read_arpa(tmp_path / name).orders == ({("one",): (-1.0, 0.0)},)

    def test_line_of_an_arpa_that_is_no_text_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "lm").write_bytes(b"\\data\\\nngram 1=1\n\\1-grams:\n-1 o\xffe\n\\end\\\n")
        with pytest.raises(DataError, match="lm:4: not UTF-8"):
            read_arpa(tmp_path / "lm")

    @pytest.mark.parametrize("count", ["²", "9" * 5000, "-1", "1_0"])
    def test_counts_are_digits(self, tmp_path: Path, count: str) -> None:
        (tmp_path / "lm").write_text(f"\\data\\\nngram 1={count}\n", encoding="utf-8")
        with pytest.raises(DataError, match="lm:2: expected 'ngram 1=<count>'"):
            read_arpa(tmp_path / "lm")

    def test_infinite_probability_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "lm").write_text("\\data\\\nngram 1=1\n\\1-grams:\n1e999 one\n\\end\\\n")
        with pytest.raises(DataError, match="lm:4: expected '<log10 probability>"):
            read_arpa(tmp_path / "lm")

    @pytest.mark.parametrize("text", ["", "1.0", "²", "1_0", "0x1", "9" * 19])
    def test_integers(self, text: str) -> None:
        assert integer("-12", "x:1") == -12
        with pytest.raises(DataError, match=r"^x:1: expected an integer, found '"):
            integer(text, "x:1")

    def test_what_kaldis_programs_misread_is_refused_where_they_read_it(self, tmp_path: Path) -> None:
        path = tmp_path / "text"
        for content, place in (
            (BOM + b"a b\n", "1: a byte order mark"),
            (b"a b\nc d\r\n", "2: the line ends in CR LF"),
        ):
            path.write_bytes(content)
            with pytest.raises(DataError, match=rf"text:{place}.*; mend it$"):
                check_for_kaldi(path, "mend it")
        path.write_bytes(b"a b\r c\n")
        check_for_kaldi(path, "mend it")


class TestJson:
    @pytest.mark.parametrize(
        "content",
        ["[" * 100_000, "1" * 5000, '{"a": ' * 5000, "\ud800".encode("utf-8", "surrogatepass").decode("latin-1")],
    )
    def test_what_no_program_writes_is_refused(self, tmp_path: Path, content: str) -> None:
        (tmp_path / "x.json").write_text(content, encoding="latin-1")
        with pytest.raises(DataError, match=r"x\.json: not a JSON file"):
            read_json(tmp_path / "x.json")
        assert read_state(tmp_path / "x.json") == {}

    def test_byte_order_mark_is_dropped(self, tmp_path: Path) -> None:
        (tmp_path / "x.json").write_bytes(BOM + b'{"a": 1}')
        assert read_json(tmp_path / "x.json") == {"a": 1}

    def test_line_is_named(self) -> None:
        with pytest.raises(DataError, match=r"^x:3: not a JSON object"):
            parse_json("{", "x:3", "object")

    @pytest.mark.parametrize("content", ["[1]", "{}", '{"key": [', "[" * 100_000, '"key"'])
    def test_damaged_stamp_is_no_stamp(self, tmp_path: Path, content: str) -> None:
        stamp = DoneStamp(tmp_path, "step", options={})
        stamp.write()
        assert stamp.is_current()
        stamp.path.write_text(content)
        assert not stamp.is_current()


def test_tables_of_a_data_directory_may_all_begin_with_a_mark(tmp_path: Path) -> None:
    for name, text in (("wav.scp", "a x.wav\r\n"), ("utt2spk", "a\ts\r\n"), ("text", "a\tone  two\r\n")):
        (tmp_path / name).write_bytes(BOM + text.encode())
    data = DataDir.read(tmp_path)
    assert (data.utts, data.wav_scp, data.words("a")) == (["a"], {"a": "x.wav"}, ["one", "two"])


@pytest.mark.parametrize("value", ["inf", "nan", "x", "-1", "1_0s"])
def test_segment_that_is_none_is_named(tmp_path: Path, value: str) -> None:
    (tmp_path / "segments").write_text(f"a r 0 {value}\n" if value != "-1" else "a r 0 1 ²\n", encoding="utf-8")
    for name in ("wav.scp", "utt2spk"):
        (tmp_path / name).write_text("a x\n")
    with pytest.raises(DataError, match="segments:1: 'a': "):
        DataDir.read(tmp_path)
