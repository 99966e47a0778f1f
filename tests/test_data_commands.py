"""validate-data, fix-data and split-data, and the scripts around them, on good and bad data directories."""

from __future__ import annotations

from pathlib import Path

import pytest

from kaldi_uq.cli.main import main
from kaldi_uq.io.datadir import read_table
from kaldi_uq.io.split import partition
from tests.conftest import REPO, RunScript

UTILS = REPO / "utils"
SPEAKERS = {"ann": 4, "bob": 3, "cy": 5}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data directory of 12 utterances and 3 speakers, with every kind of table."""
    path = tmp_path / "data"
    path.mkdir()
    utts = {f"{spk}-{n}": spk for spk, count in SPEAKERS.items() for n in range(count)}
    for name, value in {
        "utt2spk": "{spk}",
        "wav.scp": "/audio/{utt}.wav",
        "text": "one two",
        "feats.scp": "/mfcc/raw.ark:{n}",
        "utt2dur": "1.5",
        "utt2num_frames": "148",
    }.items():
        lines = [f"{utt} {value.format(utt=utt, spk=spk, n=n)}\n" for n, (utt, spk) in enumerate(utts.items())]
        (path / name).write_text("".join(lines))
    of = {spk: " ".join(utt for utt in utts if utts[utt] == spk) for spk in SPEAKERS}
    for name, value in {"spk2utt": "{of}", "cmvn.scp": "/mfcc/cmvn.ark:1", "spk2gender": "f"}.items():
        (path / name).write_text("".join(f"{spk} {value.format(of=of[spk])}\n" for spk in SPEAKERS))
    return path


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def add_segments(path: Path) -> None:
    """Turn the directory into one whose utterances are parts of one recording per speaker."""
    utt2spk = read_table(path / "utt2spk")
    (path / "segments").write_text("".join(f"{u} rec-{s} {u[-1]}.0 {u[-1]}.5\n" for u, s in utt2spk.items()))
    (path / "wav.scp").write_text("".join(f"rec-{spk} /audio/{spk}.wav\n" for spk in SPEAKERS))
    (path / "reco2file_and_channel").write_text("".join(f"rec-{spk} {spk} A\n" for spk in SPEAKERS))


def tree(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


# file, what stands there, what is put in its place, what the message says
BAD = [
    ("utt2spk", "ann-0 ann\nann-1", "ann-1 ann\nann-0", "utt2spk:2: 'ann-0' is not in C-locale order"),
    ("utt2spk", "bob-1 bob", "bob-1 cy", "utt2spk:7: 'bob-2' is in order but its speaker 'bob' is not"),
    ("utt2spk", "bob-1 bob", "bob-1 bob x", "utt2spk:6: 'bob-1': expected one field"),
    ("spk2utt", "ann-1 ", "", "spk2utt:1: the utterances of speaker 'ann'"),
    ("wav.scp", "bob-1", "bob-1x", "wav.scp:6: recording 'bob-1x' not in utt2spk"),
    ("wav.scp", "/audio/bob-1", "~/bob-1", "wav.scp:6: 'bob-1': a path that begins with ~"),
    ("text", "cy-4 one two\n", "", "text: utterance 'cy-4' of utt2spk not in it"),
    ("text", "cy-4 one two\n", "cy-3 one\n", "text:12: 'cy-3' stands twice"),
    ("text", "cy-4 one two", "cy-4 one </s>", "text:12: 'cy-4' has the word </s>"),
    ("text", "cy-4 one two", "cy-4 one\x07two", "text:12: 'cy-4' has a control character"),
    ("text", "cy-4 one two\n", "cy-4 one two", "text:12: the last line has no line end"),
    ("feats.scp", "ann-0 /mfcc/raw.ark:0\nann-1 /mfcc/raw.ark:1\n", "", "feats.scp: utterance 'ann-0' and 1 more of"),
    ("utt2dur", "ann-2 1.5", "ann-2 -1", "utt2dur:3: 'ann-2': expected a positive number"),
    ("utt2dur", "ann-2 1.5", "ann-2 long", "utt2dur:3: 'ann-2': could not convert"),
    ("utt2num_frames", "ann-2 148", "ann-2 1.5", "utt2num_frames:3: 'ann-2'"),
    ("cmvn.scp", "bob /mfcc/cmvn.ark:1\n", "", "cmvn.scp: speaker 'bob' of utt2spk not in it"),
    ("spk2gender", "bob f", "bob x", "spk2gender:2: 'bob': expected m or f"),
    ("text", "ann-0", "\ufeffann-0", "text:1: a byte order mark, which Kaldi takes for a part of the first key; run"),
    ("spk2utt", "ann", "\ufeffann", "spk2utt:1: a byte order mark"),
    ("text", "ann-1 one two\n", "ann-1 one two\r\n", "text:2: the line ends in CR LF"),
    ("wav.scp", "bob-2.wav\n", "bob-2.wav\r\n", "wav.scp:7: the line ends in CR LF"),
    ("text", "cy-4 one two", "cy-4 one\u00a0two", "text:12: U+00A0 (no-break space) after 'cy-4 one'"),
    ("utt2spk", "cy-4 cy", "cy-4\u3000cy", "utt2spk:12: U+3000 (ideographic space)"),
    ("text", "cy-4 one two", "cy-4 one\x9btwo", "text:12: 'cy-4' has a control character"),
    ("utt2dur", "ann-2 1.5", "ann-2 inf", "utt2dur:3: 'ann-2': expected a positive number"),
]


def test_good_directory_is_valid(data: Path, run_script: RunScript) -> None:
    done = run_script(UTILS / "validate_data_dir.sh", data)
    assert done.returncode == 0, done.stderr
    assert "12 utterances, 3 speakers" in done.stdout
    add_segments(data)
    assert main(["validate-data", str(data)]) == 0


@pytest.mark.parametrize(
    "word", ["می\u200cخواهم", "क्\u200dष", "a\u200eb", "\U0001f469\u200d\U0001f52c", "\ue001", "e\u0301"]
)
def test_characters_without_a_width_are_letters(data: Path, word: str) -> None:
    edit(data / "text", "bob-1 one two", f"bob-1 one\t{word}")
    assert main(["validate-data", str(data)]) == 0


def test_tabs_separate_the_fields_of_every_table(data: Path) -> None:
    add_segments(data)
    for path in data.iterdir():
        path.write_text(path.read_text().replace(" ", "\t"))
    assert main(["validate-data", str(data)]) == 0


def test_fix_removes_marks_and_carriage_returns_and_loses_nothing(data: Path) -> None:
    add_segments(data)
    before = tree(data)
    for path in data.iterdir():
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert main(["validate-data", str(data)]) == 1
    assert main(["fix-data", str(data)]) == 0
    assert {name: content for name, content in tree(data).items() if not name.startswith(".backup")} == before
    assert main(["validate-data", str(data)]) == 0


def test_fix_does_not_guess_what_a_foreign_blank_means(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(data / "text", "cy-4 one two", "cy-4 one\u00a0two")
    before = tree(data)
    assert main(["fix-data", str(data)]) == 1
    assert "text:12: U+00A0" in capsys.readouterr().err
    assert tree(data) == before


def test_split_names_the_line_of_a_malformed_segment(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add_segments(data)
    edit(data / "segments", "ann-3 rec-ann 3.0 3.5", "ann-3 rec-ann 3.0 x")
    assert main(["split-data", str(data), "2"]) == 1
    assert f"{data}/segments:4: 'ann-3': could not convert" in capsys.readouterr().err


@pytest.mark.parametrize("name, old, new, message", BAD)
def test_what_is_wrong_is_said_with_file_and_line(
    data: Path, capsys: pytest.CaptureFixture[str], name: str, old: str, new: str, message: str
) -> None:
    edit(data / name, old, new)
    assert main(["validate-data", str(data)]) == 1
    errors = capsys.readouterr().err
    assert f"{data}/{message}" in errors
    assert errors.count("\n") == 1


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("ann-3 rec-ann 3.0 3.5", "ann-3 rec-ann 3.5 3.0", "segments:4: 'ann-3': expected 0 <= start < end"),
        ("ann-3 rec-ann 3.0 3.5", "ann-3 rec-ann 3.0", "segments:4: 'ann-3': expected '<utt> <reco> <start> <end>'"),
        ("ann-3 rec-ann", "ann-3 rec-x", "wav.scp: recording 'rec-x' of segments not in it"),
    ],
)
def test_bad_segments_are_said_with_their_line(
    data: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, message: str
) -> None:
    add_segments(data)
    edit(data / "segments", old, new)
    assert main(["validate-data", str(data)]) == 1
    assert f"{data}/{message}" in capsys.readouterr().err


@pytest.mark.long
@pytest.mark.parametrize("name, option", [("feats.scp", "--no-feats"), ("text", "--no-text"), ("wav.scp", "--no-wav")])
def test_missing_file_needs_its_option(data: Path, run_script: RunScript, name: str, option: str) -> None:
    (data / name).unlink()
    done = run_script(UTILS / "validate_data_dir.sh", data)
    assert done.returncode == 1
    assert f"{data / name}: no such file; {option} if this is meant" in done.stderr
    assert run_script(UTILS / "validate_data_dir.sh", option, data).returncode == 0


def test_options_relax_the_checks_they_name(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(data / "text", "cy-4 one two", "cy-4 one\x07two")
    assert main(["validate-data", "--non-print", str(data)]) == 0
    for name in ("utt2spk", "spk2utt", "cmvn.scp", "spk2gender"):
        text = (data / name).read_text().replace("bob ", "zoe ").replace(" bob\n", " zoe\n").splitlines(keepends=True)
        (data / name).write_text("".join(sorted(text)))
    assert main(["validate-data", "--non-print", str(data)]) == 1
    assert "begin utterance ids with their speaker id" in capsys.readouterr().err
    assert main(["validate-data", "--non-print", "--no-spk-sort", str(data)]) == 0


# what sorting and dropping cannot mend: words of the text, foreign blanks, speakers out of order
FIXABLE = [
    bad for bad in BAD if not any(what in bad[3] for what in ("</s>", "control character", "'bob' is not", "U+"))
]


@pytest.mark.parametrize("name, old, new, message", FIXABLE)
def test_fix_makes_a_directory_valid_and_keeps_what_it_changed(
    data: Path, name: str, old: str, new: str, message: str
) -> None:
    edit(data / name, old, new)
    before = tree(data)
    assert main(["fix-data", str(data)]) == 0
    assert main(["validate-data", str(data)]) == 0
    after = tree(data)
    changed = {file for file in before if after[file] != before[file]}
    assert changed
    assert {file: after[f".backup/{file}"] for file in changed} == {file: before[file] for file in changed}
    assert main(["fix-data", str(data)]) == 0
    assert tree(data) == after  # the backup too: it is that of the first run


def test_fix_drops_names_and_counts(data: Path, run_script: RunScript) -> None:
    edit(data / "feats.scp", "cy-1 /mfcc/raw.ark:8\n", "")
    edit(data / "cmvn.scp", "bob /mfcc/cmvn.ark:1\n", "")
    done = run_script(UTILS / "fix_data_dir.sh", data)
    assert done.returncode == 0, done.stderr
    assert "kept 8 of 12 utterances" in done.stdout
    assert "dropped 'cy-1': missing or malformed in feats.scp" in done.stdout
    assert "dropped 'bob-0': missing or malformed in cmvn.scp" in done.stdout
    assert list(read_table(data / "spk2gender")) == ["ann", "cy"]
    assert read_table(data / "spk2utt")["cy"] == "cy-0 cy-2 cy-3 cy-4"


def test_fix_leaves_a_good_directory_alone(data: Path) -> None:
    before = tree(data)
    assert main(["fix-data", str(data)]) == 0
    assert tree(data) == before


def test_fix_with_segments_drops_the_utterances_of_a_lost_recording(data: Path) -> None:
    add_segments(data)
    edit(data / "wav.scp", "rec-bob /audio/bob.wav\n", "")
    assert main(["fix-data", str(data)]) == 0
    assert main(["validate-data", str(data)]) == 0
    assert list(read_table(data / "reco2file_and_channel")) == ["rec-ann", "rec-cy"]
    assert len(read_table(data / "utt2spk")) == 9


def test_fix_changes_nothing_when_nothing_would_be_left(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (data / "feats.scp").write_text("other-1 x.ark:0\n")
    before = tree(data)
    assert main(["fix-data", str(data)]) == 1
    assert "feats.scp lack them" in capsys.readouterr().err
    assert tree(data) == before


@pytest.mark.parametrize("num_split", [1, 2, 3])
def test_split_by_speaker_loses_nothing_and_cuts_no_speaker(data: Path, run_script: RunScript, num_split: int) -> None:
    done = run_script(UTILS / "split_data.sh", data, num_split)
    assert done.returncode == 0, done.stderr
    parts = [data / f"split{num_split}" / str(n) for n in range(1, num_split + 1)]
    assert sorted(p.name for p in parts[0].parent.iterdir() if not p.name.startswith(".")) == [p.name for p in parts]
    speakers = [spk for part in parts for spk in read_table(part / "spk2utt")]
    assert speakers == list(SPEAKERS)
    for name in ("utt2spk", "wav.scp", "text", "feats.scp", "utt2dur", "cmvn.scp", "spk2gender"):
        assert b"".join((part / name).read_bytes() for part in parts) == (data / name).read_bytes()
    for part in parts:
        assert main(["validate-data", str(part)]) == 0


def test_split_per_utt_makes_equal_parts(data: Path, run_script: RunScript) -> None:
    assert run_script(UTILS / "split_data.sh", "--per-utt", data, 5).returncode == 0
    sizes = [len(read_table(data / "split5utt" / str(n) / "utt2spk")) for n in range(1, 6)]
    assert sum(sizes) == 12
    assert max(sizes) - min(sizes) <= 1


def test_split_with_segments_keeps_recordings_with_their_utterances(data: Path) -> None:
    add_segments(data)
    assert main(["split-data", str(data), "3"]) == 0
    for n in (1, 2, 3):
        assert main(["validate-data", str(data / "split3" / str(n))]) == 0
        assert len(read_table(data / "split3" / str(n) / "wav.scp")) == 1


def test_split_is_repeated_only_when_the_data_change(data: Path) -> None:
    assert main(["split-data", str(data), "2"]) == 0
    utt2spk = data / "split2/1/utt2spk"
    first = utt2spk.stat().st_ino
    assert main(["split-data", str(data), "2"]) == 0
    assert utt2spk.stat().st_ino == first
    edit(data / "text", "ann-0 one two", "ann-0 three")
    assert main(["split-data", str(data), "2"]) == 0
    assert read_table(data / "split2/1/text")["ann-0"] == "three"
    (data / "split2/2/utt2spk").unlink()
    assert main(["split-data", str(data), "2"]) == 0
    assert (data / "split2/2/utt2spk").is_file()
    assert not list(data.glob(".split*"))


@pytest.mark.parametrize(
    "words, message",
    [
        (["4"], "has 3 speakers, not enough for 4 parts; take fewer, or split by utterance (--per-utt)"),
        (["--per-utt", "13"], "has 12 utterances, not enough for 13 parts"),
        (["0"], "at least 1, got 0"),
        (["many"], "invalid int value: 'many'"),
    ],
)
def test_impossible_split_is_one_line(data: Path, run_script: RunScript, words: list[str], message: str) -> None:
    done = run_script(UTILS / "split_data.sh", *words[:-1], data, words[-1])
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(data.glob("*split*"))


def test_split_refuses_tables_that_disagree(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(data / "feats.scp", "cy-1 /mfcc/raw.ark:8\n", "")
    assert main(["split-data", str(data), "2"]) == 1
    assert "run utils/fix_data_dir.sh" in capsys.readouterr().err


def test_partition_is_balanced_and_never_empty() -> None:
    assert partition([100, 1, 1, 1], 3) == [slice(0, 1), slice(1, 2), slice(2, 4)]
    assert partition([1, 1, 1, 100], 3) == [slice(0, 2), slice(2, 3), slice(3, 4)]
    assert partition([5] * 6, 3) == [slice(0, 2), slice(2, 4), slice(4, 6)]
    with pytest.raises(ValueError, match="from 1 to 2, got 3"):
        partition([1, 1], 3)
