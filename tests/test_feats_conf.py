"""Kaldi's mfcc.conf: what is read, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from kaldi_uq.errors import DataError
from kaldi_uq.feats.conf import read_fbank_conf, read_mfcc_conf
from kaldi_uq.feats.config import FbankConfig, MfccConfig


def conf(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mfcc.conf"
    path.write_text(text, encoding="utf-8")
    return path


def test_comments_blank_lines_flags_and_underscores_are_read(tmp_path: Path) -> None:
    text = """
# config of a recipe
--sample-frequency=8000  # telephone
--use-energy=false
  --num_mel_bins = 15

--Snip-Edges=F
--htk-compat
--window-type=hamming # old
--high-freq=-400
--num-ceps=12
--num-ceps=14
"""
    assert read_mfcc_conf(conf(tmp_path, text)) == MfccConfig(
        sample_frequency=8000.0,
        use_energy=False,
        num_mel_bins=15,
        snip_edges=False,
        htk_compat=True,
        window_type="hamming",
        high_freq=-400.0,
        num_ceps=14,
    )


def test_empty_file_gives_the_defaults(tmp_path: Path) -> None:
    assert read_mfcc_conf(conf(tmp_path, "# nothing\n")) == MfccConfig()


def test_order_of_dependent_options_does_not_matter(tmp_path: Path) -> None:
    config = read_mfcc_conf(conf(tmp_path, "--num-ceps=40\n--num-mel-bins=40\n"))
    assert (config.num_ceps, config.num_mel_bins) == (40, 40)


def test_options_without_effect_are_accepted(tmp_path: Path) -> None:
    text = "--allow-downsample=false\n--vtln-low=60\n--subtract-mean=false\n--min-duration=0.0\n--debug-mel=F\n"
    assert read_mfcc_conf(conf(tmp_path, text)) == MfccConfig()


@pytest.mark.parametrize(
    "text, message",
    [
        ("--num-mel-bin=23", r"mfcc.conf:2: unknown option --num-mel-bin; known are .*--num-mel-bins"),
        ("--use-energy=maybe", r"mfcc.conf:2: --use-energy must be true or false, got 'maybe'"),
        ("--num-ceps=13.0", r"mfcc.conf:2: --num-ceps must be an integer, got '13.0'"),
        ("--frame-shift=ten", r"mfcc.conf:2: --frame-shift must be a number, got 'ten'"),
        ("--frame-shift", r"mfcc.conf:2: --frame-shift has no value"),
        ("--use-energy=  # true", r"mfcc.conf:2: --use-energy has no value"),
        ("use_energy=true", r"mfcc.conf:2: expected --option=value, found 'use_energy=true'"),
        ("--use-energy true", r"mfcc.conf:2: expected --option=value"),
        ("--=3", r"mfcc.conf:2: expected --option=value"),
        ("--dither=1.0", r"mfcc.conf:2: dither must be 0"),
        ("--window-type=kaiser", r"mfcc.conf:2: window_type must be one of .*'povey'"),
        ("--sample-frequency=-1", r"mfcc.conf:2: sample_frequency must be between"),
        ("--num-ceps=24", r"mfcc.conf:2: num_ceps must be between 1 and num_mel_bins \(23\), got 24"),
        ("--frame-shift=0", r"mfcc.conf:2: frame_shift must be between"),
        ("--allow-downsample=true", r"mfcc.conf:2: --allow-downsample=true is not supported"),
        ("--frame-length=nan", r"mfcc.conf:2: --frame-length must be a finite number"),
    ],
)
def test_bad_line_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_mfcc_conf(conf(tmp_path, f"# first\n{text}\n--raw-energy=true\n"))


def test_missing_or_binary_file_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none.conf: no such file"):
        read_mfcc_conf(tmp_path / "none.conf")
    (tmp_path / "mfcc.conf").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"mfcc\.conf:1: not UTF-8 .* iconv -f UTF-16 -t UTF-8"):
        read_mfcc_conf(tmp_path / "mfcc.conf")


class TestFbank:
    def test_options_of_compute_fbank_feats(self, tmp_path: Path) -> None:
        text = "--num-mel-bins=40\n--use-log-fbank=true\n--use-power=true\n--output-format=kaldi\n--use-energy=true\n"
        (tmp_path / "fbank.conf").write_text(text)
        assert read_fbank_conf(tmp_path / "fbank.conf") == FbankConfig(num_mel_bins=40, use_energy=True)

    @pytest.mark.parametrize(
        "line, message",
        [
            ("--num-ceps=13", r"fbank\.conf:2: unknown option --num-ceps; known are --sample-frequency, "),
            ("--use-power=false", r"fbank\.conf:2: --use-power=false is not supported; .* --use-power=true"),
            ("--num-mel-bins=2", r"fbank\.conf:2: num_mel_bins must be between 3"),
        ],
    )
    def test_mistake_is_said_with_its_line(self, tmp_path: Path, line: str, message: str) -> None:
        (tmp_path / "fbank.conf").write_text(f"# filter banks\n{line}\n")
        with pytest.raises(DataError, match=message):
            read_fbank_conf(tmp_path / "fbank.conf")

    def test_missing_file_names_the_program(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"options of compute-fbank-feats"):
            read_fbank_conf(tmp_path / "fbank.conf")
