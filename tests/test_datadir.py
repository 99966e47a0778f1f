"""Data directories and language directories: a table that is not plainly good is an error with file and line."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from kaldi_uq.errors import DataError
from kaldi_uq.io.datadir import DataDir, c_sorted, invert_utt2spk, read_table, write_data_dir, write_table
from kaldi_uq.io.lang import Lang, read_symbols, write_symbols


class TestTable:
    @pytest.mark.parametrize(
        "content, line, message",
        [
            (b"b x\na y\n", ":2", "'a' is not in C-locale order; run utils/fix_data_dir.sh"),
            (b"a x\na y\n", ":2", "'a' stands twice; run utils/fix_data_dir.sh"),
            (b"a x\nb x\na y\n", ":3", "'a' stands twice"),
            (b"a x\nb y", ":2", "no line end: the file is cut off"),
            (b"a x\nb \xff\nc z\n", ":2", "not UTF-8"),
            (b"a x\n\nb y\n", ":2", "expected '<key> <value>', found ''"),
            (b"a x\nb\n", ":2", "expected '<key> <value>', found 'b'"),
            (b"Z x\nA y\n", ":2", "'A' is not in C-locale order"),
            (b"", "", "empty, expected at least one line"),
        ],
    )
    def test_what_is_wrong_is_said_with_file_and_line(
        self, tmp_path: Path, content: bytes, line: str, message: str
    ) -> None:
        path = tmp_path / "utt2spk"
        path.write_bytes(content)
        with pytest.raises(DataError) as error:
            read_table(path)
        assert str(error.value).startswith(f"{path}{line}: ")
        assert message in str(error.value)

    def test_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="utt2spk: no such file"):
            read_table(tmp_path / "utt2spk")

    def test_order_is_that_of_bytes(self, tmp_path: Path) -> None:
        keys = ["z", "ä", "A", "a", "B-1", "B", "b", "B_1", "😀"]
        assert c_sorted(keys) == ["A", "B", "B-1", "B_1", "a", "b", "z", "ä", "😀"]
        write_table(tmp_path / "x", {key: "v" for key in keys})
        assert list(read_table(tmp_path / "x")) == c_sorted(keys)

    def test_values_are_the_rest_of_the_line(self, tmp_path: Path) -> None:
        (tmp_path / "x").write_text("a one  two \nb\tthree\nc sph2pipe -f wav x.sph |\n")
        assert read_table(tmp_path / "x") == {"a": "one  two", "b": "three", "c": "sph2pipe -f wav x.sph |"}

    def test_empty_value_where_allowed(self, tmp_path: Path) -> None:
        write_table(tmp_path / "text", {"a": "", "b": "one"})
        assert (tmp_path / "text").read_text() == "a\nb one\n"
        assert read_table(tmp_path / "text", allow_empty=True) == {"a": "", "b": "one"}


def test_spk2utt_is_sorted_and_complete() -> None:
    assert invert_utt2spk({"s2-b": "s2", "s1-a": "s1", "s2-a": "s2"}) == {"s1": ["s1-a"], "s2": ["s2-a", "s2-b"]}


class TestDataDir:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        folder = tmp_path / "data"
        write_data_dir(
            folder,
            wav_scp={"s-a": "a.wav", "s-b": "b.wav"},
            text={"s-a": "one two", "s-b": ""},
            utt2spk={"s-a": "s", "s-b": "s"},
            utt2dur={"s-a": 1.5, "s-b": 0.25},
        )
        return folder

    def test_what_is_written_is_read(self, folder: Path) -> None:
        data = DataDir.read(folder, need=("wav.scp", "utt2spk", "text", "spk2utt"))
        assert data.utts == ["s-a", "s-b"]
        assert data.words("s-a") == ["one", "two"]
        assert data.words("s-b") == []
        assert data.utt2dur == {"s-a": 1.5, "s-b": 0.25}
        assert data.spk2utt == {"s": ["s-a", "s-b"]}
        assert (folder / "spk2utt").read_text() == "s s-a s-b\n"

    @pytest.mark.parametrize("name", ["wav.scp", "text", "feats.scp"])
    def test_utterance_that_one_table_lacks_is_named_with_its_line(self, folder: Path, name: str) -> None:
        (folder / name).write_text("s-a x\n")
        with pytest.raises(DataError) as error:
            DataDir.read(folder)
        assert str(error.value) == (
            f"{folder / 'utt2spk'}:2: utterance 's-b' is not in {name}; run utils/fix_data_dir.sh {folder}"
        )

    @pytest.mark.parametrize("name", ["wav.scp", "text", "feats.scp"])
    def test_utterance_without_speaker_is_named_with_its_line(self, folder: Path, name: str) -> None:
        (folder / name).write_text("s-a x\ns-b x\ns-c x\n")
        with pytest.raises(DataError, match=rf"{name}:3: utterance 's-c' is not in utt2spk"):
            DataDir.read(folder)

    def test_message_does_not_depend_on_the_order_of_a_set(self, folder: Path) -> None:
        (folder / "text").write_text("".join(f"t-{n} x\n" for n in range(9)))
        with pytest.raises(DataError, match=r"text:1: utterance 't-0'"):
            DataDir.read(folder)

    @pytest.mark.parametrize("name", ["wav.scp", "utt2spk", "text", "feats.scp"])
    def test_missing_file_comes_with_its_remedy(self, folder: Path, name: str) -> None:
        (folder / name).unlink(missing_ok=True)
        with pytest.raises(DataError, match=rf"{name}: no such file; .+ makes it"):
            DataDir.read(folder, need=(name,))

    def test_missing_directory(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="no such data directory"):
            DataDir.read(tmp_path / "nowhere")

    def test_speaker_without_statistics(self, folder: Path) -> None:
        (folder / "cmvn.scp").write_text("t x.ark:2\n")
        with pytest.raises(DataError, match=r"cmvn\.scp: no statistics of speaker 's'"):
            DataDir.read(folder, need=("cmvn.scp",))
        assert DataDir.read(folder).cmvn_scp  # who does not need them does not care

    def test_duration_that_is_no_number(self, folder: Path) -> None:
        (folder / "utt2dur").write_text("s-a 1.5\ns-b long\n")
        with pytest.raises(DataError, match="utt2dur: a duration is not a number of seconds"):
            DataDir.read(folder)

    def test_tables_that_disagree_are_not_written(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="disagree about 'b'"):
            write_data_dir(tmp_path / "x", wav_scp={"a": "1"}, text={"a": "", "b": ""}, utt2spk={}, utt2dur={})
        with pytest.raises(ValueError, match="does not start with its speaker id"):
            write_data_dir(tmp_path / "x", wav_scp={"a": "1"}, text={"a": ""}, utt2spk={"a": "s"}, utt2dur={"a": 1.0})
        assert not (tmp_path / "x").exists()


class TestLang:
    def test_symbols_round_trip(self, tmp_path: Path) -> None:
        table = write_symbols(tmp_path / "words.txt", ["<eps>", "one", "#0"])
        assert table == {"<eps>": 0, "one": 1, "#0": 2}
        assert read_symbols(tmp_path / "words.txt") == table

    def test_line_that_is_no_symbol(self, tmp_path: Path) -> None:
        (tmp_path / "words.txt").write_text("<eps> 0\none 1.5\n")
        with pytest.raises(DataError, match=r"words\.txt: expected '<symbol> <integer>'"):
            read_symbols(tmp_path / "words.txt")

    @pytest.fixture
    def lang(self, tmp_path: Path) -> Lang:
        words = {word: i for i, word in enumerate(["<eps>", "<UNK>", "#hash", "one", "#0", "<s>", "</s>"])}
        return Lang(tmp_path, words=words, phones={}, disambig=(), oov="<UNK>")

    def test_words_become_their_numbers(self, lang: Lang) -> None:
        assert lang.word_ids(["one", "#hash", "<UNK>"], where="x") == [3, 2, 1]

    @pytest.mark.parametrize("word", ["three", "<eps>", "#0", "<s>", "</s>", ""])
    def test_what_no_lexicon_holds_is_refused_with_its_place(self, lang: Lang, word: str) -> None:
        with pytest.raises(DataError) as error:
            lang.word_ids(["one", word], where="data/text: utterance 'a'")
        assert str(error.value).startswith(f"data/text: utterance 'a': word {word!r} is not in {lang.path}/words.txt")

    def test_unknown_words_can_be_mapped(self, lang: Lang) -> None:
        assert lang.word_ids(["three", "one", "<s>"], where="x", map_oov=True) == [1, 3, 1]

    def said(self, folder: Path, *texts: str) -> DataDir:
        table = {f"s-{number}": text for number, text in enumerate(texts)}
        return DataDir(folder, wav_scp={}, utt2spk=dict.fromkeys(table, "s"), text=table)

    def test_words_that_are_mapped_are_said(self, lang: Lang, caplog: pytest.LogCaptureFixture) -> None:
        data = self.said(lang.path, "one three", "three <s> one", "<UNK>")
        assert lang.transcripts(data, map_oov=True) == {"s-0": [3, 1], "s-1": [1, 1, 3], "s-2": [1]}
        (message,) = caplog.messages
        assert "text: 3 of 6 words are not in " in message
        assert message.endswith("words.txt and read as <UNK>: three (2), <s> (1)")

    def test_nothing_is_said_where_nothing_is_mapped(self, lang: Lang, caplog: pytest.LogCaptureFixture) -> None:
        assert lang.transcripts(self.said(lang.path, "one", ""), map_oov=True) == {"s-0": [3], "s-1": []}
        assert not caplog.messages
        with pytest.raises(DataError, match="text: utterance 's-0': word 'three' is not in"):
            lang.transcripts(self.said(lang.path, "three"))
        with pytest.raises(DataError, match="word 'three' is not in"):  # no word that stands for it
            dataclasses.replace(lang, oov=None).transcripts(self.said(lang.path, "three"), map_oov=True)

    @pytest.mark.parametrize("name, content", [("oov.txt", "<unk>\n"), ("oov.txt", ""), ("oov.int", "7\n")])
    def test_oov_word_that_is_none(self, lang: Lang, name: str, content: str) -> None:
        problem = rf"expected .*of words\.txt, found '{content.strip()}'" if content else "empty"
        for each in ("topo", "L.fst", "phones/disambig.int"):
            (lang.path / each).parent.mkdir(exist_ok=True)
            (lang.path / each).write_text("1\n")
        write_symbols(lang.path / "words.txt", lang.words)
        write_symbols(lang.path / "phones.txt", ["<eps>", "sil"])
        (lang.path / name).write_text(content)
        with pytest.raises(DataError, match=f"{name}: {problem}"):
            Lang.read(lang.path)

    @pytest.mark.parametrize("name", ["words.txt", "phones.txt", "topo", "L.fst", "phones/disambig.int"])
    def test_missing_file_comes_with_its_remedy(self, tmp_path: Path, name: str) -> None:
        (tmp_path / "phones").mkdir()
        for each in ("words.txt", "phones.txt", "topo", "L.fst", "phones/disambig.int"):
            (tmp_path / each).write_text("1\n")
        (tmp_path / name).unlink()
        with pytest.raises(DataError, match=rf"{name}: no such file; utils/prepare_lang\.sh makes it"):
            Lang.read(tmp_path)
