"""``cmvn_opts``, ``delta_opts``, ``splice_opts``: what Kaldi's steps leave beside a model becomes the front end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kaldi_uq.errors import DataError
from kaldi_uq.feats.config import FrontEndConfig
from kaldi_uq.feats.recipe_opts import read_recipe_opts


def write(folder: Path, **files: str) -> Path:
    for name, content in files.items():
        (folder / name.replace("final_mat", "final.mat")).write_text(content + "\n")
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
            {"splice_opts": "--left-context=3 --right-context=2", "final_mat": "x", "cmvn_opts": ""},
            {"cmvn": "speaker", "norm_vars": False, "delta_order": 0, "left_context": 3, "right_context": 2},
        ),
        ({"splice_opts": "", "final_mat": "x"}, {"delta_order": 0}),
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
    ],
)
def test_what_is_not_supported_is_said_with_its_file(tmp_path: Path, files: dict[str, str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_recipe_opts(write(tmp_path, **files))


def test_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "cmvn_opts").write_bytes(b"\xff")
    with pytest.raises(DataError, match="cmvn_opts:1: not UTF-8"):
        read_recipe_opts(tmp_path)
