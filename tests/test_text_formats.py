"""Text that looks like a file of each format, made by rule: read, or refused with one line that names the file."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from kaldi_uq.errors import DataError
from kaldi_uq.io.datadir import read_table, write_table
from tests.fuzz.readers import Reader, make_readers
from tests.fuzz.worker import problem_of

# names of readers of plain text, see tests/fuzz/readers.py
FORMATS = (
    "table", "read-wav.scp", "read-segments", "read-utt2spk", "read-text", "validate-spk2utt", "validate-utt2dur",
    "features-feats.scp", "features-cmvn.scp", "dict-lexicon.txt", "dict-silence_phones.txt", "dictp-lexiconp.txt",
    "dict-num_states.txt", "words.txt", "phones.txt", "lang-oov.txt", "lang-phones/disambig.int",
    "lang-phones/align_lexicon.int", "arpa", "roots", "sets", "topo", "tree-text", "mfcc-conf", "fbank-conf",
    "option-file", "cmvn_opts", "delta_opts", "digests",
)  # fmt: skip

NUM_EXAMPLES = int(os.environ.get("KALDI_UQ_TEXT_EXAMPLES", 12))  # of each format
QUICK = settings(
    max_examples=NUM_EXAMPLES, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip

NUMBERS = st.one_of(st.integers().map(str), st.floats().map(str), st.integers(-3, 9).map(str))
BLANKS = st.sampled_from([" ", " ", " ", "\t", "  ", "\n", "\r\n", "\u00a0", "", "\ufeff", "="])


def texts_like(sample: str) -> st.SearchStrategy[str]:
    """Words of a sample and others, in another order, with blanks of all kinds between them."""
    words = st.one_of(st.sampled_from(sample.split()), st.sampled_from(sample.split()), NUMBERS, st.text(max_size=8))
    parts = st.lists(st.tuples(words, BLANKS), max_size=30)
    mixed = parts.map(lambda pairs: "".join(word + blank for word, blank in pairs))
    lines = sample.splitlines(keepends=True)
    changed = st.tuples(st.integers(0, len(lines)), mixed).map(
        lambda pair: "".join([*lines[: pair[0]], pair[1], "\n", *lines[pair[0] + 1 :]])
    )
    return st.one_of(mixed, changed)


@pytest.fixture(scope="module")
def readers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Reader]:
    return {reader.name: reader for reader in make_readers(tmp_path_factory.mktemp("readers"))}


@pytest.mark.long
@pytest.mark.parametrize("name", FORMATS)
def test_text_of_a_format(name: str, readers: dict[str, Reader]) -> None:
    reader = readers[name]
    whole = reader.samples[0]

    @QUICK
    @given(texts_like(whole.decode()))
    def check(text: str) -> None:
        reader.path.write_bytes(text.encode("utf-8", "surrogatepass"))
        assert problem_of(reader) == ""

    run: Callable[[], None] = check
    try:
        run()
    finally:
        reader.path.write_bytes(whole)


KEYS = st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=5)


@settings(QUICK, max_examples=10 * NUM_EXAMPLES)
@given(st.dictionaries(KEYS, st.lists(KEYS, min_size=1, max_size=4).map(" ".join), min_size=1, max_size=5))
@example({"ü": "é e\u0301", "u": "b"})
def test_what_is_written_as_a_table_is_read_again(tmp_path: Path, table: dict[str, str]) -> None:
    write_table(tmp_path / "text", table)
    assert read_table(tmp_path / "text") == table


@settings(QUICK, max_examples=10 * NUM_EXAMPLES)
@given(st.text(max_size=40))
def test_what_is_read_as_a_table_can_be_written_and_is_the_same(tmp_path: Path, text: str) -> None:
    path = tmp_path / "text"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        table = read_table(path, check_sorted=False)
    except DataError:
        return
    write_table(path, table)
    assert read_table(path) == table
