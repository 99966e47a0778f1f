"""What Kaldi's steps leave beside a model (``cmvn_opts``, ``final.mat``, ``trans.*``, ...) becomes the front end."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import pytest

from kaldi_uq.errors import DataError
from kaldi_uq.feats.config import FrontEndConfig
from kaldi_uq.feats.recipe_opts import read_recipe_opts, read_subsampling

LDA = {"delta_order": 0, "lda_dim": 2}
MATRIX = " [\n 1 0 0\n 0 1 0.5 ]\n"


def write(folder: Path, **files: str) -> Path:
    for name, content in files.items():
        (folder / re.sub("_(mat|fmpe|1)$", r".\1", name)).write_text(content + "\n")
    return folder


@pytest.mark.parametrize(
    "files, expected",
    [
        ({}, {}),
        ({"cmvn_opts": ""}, {"cmvn": "speaker", "norm_vars": False}),
        ({"cmvn_opts": "--norm-vars=true"}, {"cmvn": "speaker", "norm_vars": True}),
        ({"cmvn_opts": "--norm-means=true --norm_vars=false"}, {"cmvn": "speaker", "norm_vars": False}),
        ({"cmvn_opts": "--norm-means=false --norm-vars=false"}, {"cmvn": "none", "norm_vars": False}),
        ({"delta_opts": "--delta-window=3 --delta-order=1"}, {"delta_order": 1, "delta_window": 3}),
        ({"delta_opts": ""}, {}),
        ({"splice_opts": "--left-context=3 --right-context=3"}, {}),  # of a system without final.mat: not used by it
        (
            {"splice_opts": "--left-context=3 --right-context=2", "final_mat": MATRIX, "cmvn_opts": ""},
            {
                "cmvn": "speaker",
                "norm_vars": False,
                "delta_order": 0,
                "splice_left": 3,
                "splice_right": 2,
                "lda_dim": 2,
            },
        ),
        ({"splice_opts": "", "final_mat": MATRIX}, LDA | {"splice_left": 4, "splice_right": 4}),  # as splice-feats has
        ({"final_mat": MATRIX, "full_mat": "x"}, LDA | {"splice_left": 4, "splice_right": 4}),
        ({"delta_order": "1"}, {"delta_order": 1}),
        ({"trans_1": "x", "delta_opts": "--delta-order=1"}, {"delta_order": 1, "fmllr": True}),
        ({"trans_1": "x", "final_mat": MATRIX}, LDA | {"splice_left": 4, "splice_right": 4, "fmllr": True}),
    ],
)
def test_files_become_fields_of_the_front_end(tmp_path: Path, files: dict[str, str], expected: dict[str, Any]) -> None:
    found = read_recipe_opts(write(tmp_path, **files))
    assert found == expected
    FrontEndConfig(**found)


@pytest.mark.parametrize(
    "files, message",
    [
        ({"cmvn_opts": "--norm-means=false --norm-vars=true"}, r"cmvn_opts: --norm-vars without --norm-means"),
        ({"cmvn_opts": "--skip-dims=0:1"}, r"cmvn_opts: --skip-dims=0:1 is not supported here; .* --opts-dir none"),
        ({"cmvn_opts": "--reverse=true"}, r"cmvn_opts: --reverse=true is not supported"),
        ({"cmvn_opts": "--norm-vars=maybe"}, r"cmvn_opts: --norm-vars must be true or false, got 'maybe'"),
        ({"cmvn_opts": "norm-vars=true"}, r"cmvn_opts: expected --option=value, of --norm-means, .*'norm-vars=true'"),
        ({"delta_opts": "--delta-order=two"}, r"delta_opts: --delta-order must be an integer, got 'two'"),
        ({"delta_opts": "--truncate=13"}, r"delta_opts: --truncate=13 is not supported"),
        ({"delta_opts": "--window=3"}, r"delta_opts: expected --option=value, of --delta-window"),
        (
            {"raw_trans_1": "x", "final_mat": MATRIX},
            r"raw_trans\.1: raw fMLLR .*is not supported here; .*--opts-dir none",
        ),
        ({"final_fmpe": "x"}, r"final\.fmpe: fMPE .*is not supported"),
        ({"online_cmvn": ""}, r"online_cmvn: online CMVN .*is not supported"),
        ({"delta_order": "1 2"}, r"delta_order: expected one integer, found 2"),
        ({"delta_order": "two"}, r"delta_order:1: expected an integer, found 'two'"),
        ({"final_mat": "no matrix"}, r"final\.mat: damaged archive, or no matrix"),
    ],
)
def test_what_is_not_supported_is_said_with_its_file(tmp_path: Path, files: dict[str, str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_recipe_opts(write(tmp_path, **files))


def test_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "cmvn_opts").write_bytes(b"\xff")
    with pytest.raises(DataError, match="cmvn_opts:1: not UTF-8"):
        read_recipe_opts(tmp_path)


def test_what_has_no_effect_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        read_recipe_opts(write(tmp_path, full_mat="x", final_mat=MATRIX))
    assert "full.mat: has no effect here" in caplog.text


@pytest.mark.parametrize("content, factor", [(None, 1), ("3", 3), ("1", 1)])
def test_frame_subsampling_factor(tmp_path: Path, content: str | None, factor: int) -> None:
    if content is not None:
        (tmp_path / "frame_subsampling_factor").write_text(content + "\n")
    assert read_subsampling(tmp_path) == factor


@pytest.mark.parametrize("content", ["0", "-3", "", "3 3", "three", "1.5"])
def test_frame_subsampling_factor_that_is_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "frame_subsampling_factor").write_text(content + "\n")
    with pytest.raises(DataError, match=r"frame_subsampling_factor:?.* expected"):
        read_subsampling(tmp_path)
