"""Bounds of what files and options may ask for: every number of a configuration has one, and it is cheap to refuse."""

from __future__ import annotations

import json
import struct
import tracemalloc
import typing
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch

from kaldi_uq.config import Config
from kaldi_uq.errors import DataError, ModelFileError
from kaldi_uq.feats.conf import read_fbank_conf, read_mfcc_conf
from kaldi_uq.feats.config import MAX_FRAME_SAMPLES, MAX_INPUT_DIM, FbankConfig, FrontEndConfig, MfccConfig
from kaldi_uq.feats.frontend import FrontEnd
from kaldi_uq.feats.mfcc import Fbank, Mfcc
from kaldi_uq.nnet.base import build_model
from kaldi_uq.nnet.config import (
    MAX_LAYERS,
    MAX_WEIGHTS,
    MODEL_KINDS,
    BnnConfig,
    DnnConfig,
    DropoutConfig,
    EnsembleConfig,
    ModelConfig,
    config_class,
)
from kaldi_uq.recogniser.hybrid import HybridModel

CONFIGS: list[type[Config]] = [MfccConfig, FbankConfig, FrontEndConfig, *map(config_class, MODEL_KINDS)]


def numbers_of(config: type[Config]) -> list[tuple[str, Any]]:
    types = typing.get_type_hints(config)
    return [(f.name, types[f.name]) for f in fields(config) if types[f.name] in (int, float, tuple[int, ...])]


@pytest.mark.parametrize("config", CONFIGS)
def test_every_number_has_a_bound(config: type[Config]) -> None:
    assert {name for name, _ in numbers_of(config)} == set(config.LIMITS)
    for name, kind in numbers_of(config):
        for value in (10**400, -(10**400), float("nan"), float("inf"), 2**63, 1e300):
            wrong = (value,) if kind not in (int, float) else value
            with pytest.raises(ValueError, match=name):
                config(**{name: wrong})


@pytest.mark.parametrize("config", CONFIGS)
def test_values_of_files_have_the_type_of_their_field(config: type[Config]) -> None:
    named = {"kind": config.kind} if issubclass(config, ModelConfig) else {}
    for name, kind in numbers_of(config):
        wrong: list[Any] = ["7", None, True, {}, [[1]], ["a"], [True], [1.5]]
        for value in [*wrong, *([2.5] if kind is int else [])]:
            with pytest.raises(ValueError, match=f"^{name} must be of type"):
                config.from_dict({**named, name: value})
    with pytest.raises(ValueError, match=r"has no field"):
        config.from_dict({**named, "x" * 10**6: 1})


@pytest.mark.parametrize(
    "line",
    [
        "--frame-length=20000000",
        "--frame-length=9000",
        "--frame-length=1e300",
        "--sample-frequency=268435454",
        "--num-mel-bins=2000000000",
        "--num-mel-bins=501",
        "--low-freq=-1e30",
        "--high-freq=1e9",
        "--energy-floor=-1",
        "--blackman-coeff=7",
        "--frame-shift=1e9",
    ],
)
def test_conf_that_asks_for_too_much_is_refused_by_its_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "x.conf"
    path.write_text(f"--use-energy=false\n{line}\n")
    for read in (read_mfcc_conf, read_fbank_conf):
        with pytest.raises(DataError, match=rf"x\.conf:2: {line[2:5]}"):
            read(path)


@pytest.mark.parametrize("line", ["--num-ceps=20000000", "--cepstral-lifter=1e20", "--num-ceps=-1"])
def test_mfcc_conf_too(tmp_path: Path, line: str) -> None:
    (tmp_path / "x.conf").write_text(f"{line}\n")
    with pytest.raises(DataError, match=rf"x\.conf:1: {line[2:5]}"):
        read_mfcc_conf(tmp_path / "x.conf")


def test_the_largest_front_end_is_built_in_bounded_memory() -> None:
    length = 1000 * MAX_FRAME_SAMPLES / 48000
    tracemalloc.start()
    Fbank(FbankConfig(sample_frequency=48000, frame_length=length, num_mel_bins=100), noise_floor=0)
    assert tracemalloc.get_traced_memory()[1] < 100e6
    tracemalloc.stop()


def test_noise_is_the_same_whatever_is_computed_together(monkeypatch: pytest.MonkeyPatch) -> None:
    config = MfccConfig(frame_length=100, use_energy=True)  # 1600 samples
    one = Mfcc(config, noise_floor=0.01)
    monkeypatch.setattr("kaldi_uq.feats.mfcc.IMPULSES_AT_ONCE", 10_000)
    other = Mfcc(config, noise_floor=0.01)
    torch.testing.assert_close(one.mel_noise, other.mel_noise, rtol=1e-6, atol=0)
    torch.testing.assert_close(one.energy_noise, other.energy_noise, rtol=1e-6, atol=0)


def test_context_and_features_have_a_bound_together() -> None:
    config = FrontEndConfig(mfcc=MfccConfig(num_mel_bins=80, num_ceps=40), left_context=1000, right_context=1000)
    with pytest.raises(ValueError, match=f"left_context 1000 and .* inputs of the network, more than {MAX_INPUT_DIM}"):
        FrontEnd(config)


@pytest.mark.parametrize(
    "kind, sizes",
    [
        (DnnConfig, {"hidden_dims": (1,) * (MAX_LAYERS + 1)}),
        (DnnConfig, {"hidden_dims": (100_000, 100_000)}),
        (DropoutConfig, {"hidden_dims": (50_000,), "num_pdfs": 100_000}),
        (BnnConfig, {"input_dim": 100_000, "hidden_dims": (99_999,)}),
        (EnsembleConfig, {"hidden_dims": (2000, 2000), "num_members": 1000}),
    ],
)
def test_networks_have_a_bound_altogether(kind: type[ModelConfig], sizes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"hidden_dims (make \d+ weights, more than {MAX_WEIGHTS}|must be the sizes)"):
        kind(**sizes)


@pytest.mark.parametrize("kind", MODEL_KINDS)
def test_no_model_has_fewer_values_than_its_configuration_says(kind: str) -> None:
    config = config_class(kind)(input_dim=7, num_pdfs=3, hidden_dims=(5, 4))
    values = sum(value.numel() for value in build_model(config).state_dict().values())
    assert config.num_weights <= values < 3 * config.num_weights


def header_of(path: Path) -> tuple[dict[str, Any], bytes]:
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def write_header(path: Path, header: dict[str, Any], arrays: bytes) -> None:
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + arrays)


class TestModelFiles:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        frontend = FrontEndConfig(left_context=0, right_context=0, delta_order=0)
        network = EnsembleConfig(input_dim=13, num_pdfs=4, hidden_dims=(6,), num_members=2)
        path = tmp_path / "final.safetensors"
        HybridModel(frontend, network).save(path)
        (tmp_path / ".sha256").unlink()
        return path

    @pytest.mark.parametrize(
        "part, change, message",
        [
            (
                "network",
                {"hidden_dims": [30_000]},
                r"1020000 weights by the configuration, 224 values in the file",
            ),
            ("network", {"hidden_dims": [6] * 190}, r"13812 weights by the configuration"),
            ("network", {"num_members": 1000}, r"102000 weights by the configuration"),
            ("network", {"num_pdfs": 100_000}, r"1200156 weights by the configuration"),
            ("network", {"kind": "dnn"}, r"Missing key.*network\.layers\.0\.weight"),
            ("network", {"hidden_dims": [2**40]}, "hidden_dims must be between"),
            ("network", {"hidden_dims": [1] * 70_000}, "hidden_dims must be the sizes of 1 to"),
            ("network", {"num_pdfs": "4"}, "num_pdfs must be of type int"),
            ("frontend", {"left_context": 10**9}, "left_context must be between"),
            ("frontend", {"left_context": 1000, "right_context": 1000}, "front end has 26013"),
            ("frontend", {"delta_window": 10**7}, "delta_window must be between"),
            ("frontend", {"mfcc": {"num_mel_bins": 10**8}}, "num_mel_bins must be between"),
            ("frontend", {"mfcc": {"frame_length": 1e7}}, "frame_length must be between"),
            ("frontend", {"mfcc": {"sample_frequency": 1e6, "frame_length": 9000}}, "more than 32768"),
        ],
    )
    def test_configuration_beyond_the_file_takes_no_memory(
        self, path: Path, part: str, change: dict[str, Any], message: str
    ) -> None:
        header, arrays = header_of(path)
        meta = header["__metadata__"]
        meta[part] = json.dumps({**json.loads(meta[part]), **change})
        write_header(path, header, arrays)
        with pytest.raises(ModelFileError, match=rf"final\.safetensors: .*{message}") as raised:
            HybridModel.load(path)
        assert len(str(raised.value)) < 600

    def test_nested_header_is_refused(self, path: Path) -> None:
        header, arrays = header_of(path)
        header["__metadata__"]["network"] = "[" * 100_000
        write_header(path, header, arrays)
        with pytest.raises(ModelFileError, match=r"final\.safetensors: "):
            HybridModel.load(path)
