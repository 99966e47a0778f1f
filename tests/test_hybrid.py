"""The hybrid model and its file: nothing is lost on the way through it, and nobody else's file runs code."""

from __future__ import annotations

import contextlib
import json
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from kaldi_uq.cli.main import main
from kaldi_uq.errors import ModelFileError
from kaldi_uq.feats.config import FrontEndConfig, MfccConfig
from kaldi_uq.feats.frontend import FrontEnd
from kaldi_uq.nnet.config import MODEL_KINDS, model_class
from kaldi_uq.nnet.kinds.dnn import DnnConfig
from kaldi_uq.recogniser.hybrid import FORMAT, MODEL_FILE, WEIGHTS_FORMAT, HybridModel, select_device, use_device
from tests.tiny import FRONT_END, make_waves

NUM_PDFS = 5


def make_model(kind: str = "dnn", seed: int = 0) -> HybridModel:
    own = {"num_members": 2} if kind == "ensemble" else {}
    sizes = {"input_dim": FrontEnd(FRONT_END).output_dim, "num_pdfs": NUM_PDFS, "hidden_dims": (8, 6)}
    network = model_class(kind).config_class(**sizes, **own)
    model = HybridModel(FRONT_END, network, seed=seed).eval()
    model.front_end.norm.set_stats(torch.linspace(-1, 1, model.front_end.feature_dim), torch.tensor(2.0).expand(14))
    model.set_prior(np.array([5, 0, 10, 100, 1]))
    return model


def log_post(model: HybridModel) -> tuple[torch.Tensor, torch.Tensor]:
    waves, _ = make_waves(2)
    wav = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(w) for w in waves.values()], batch_first=True)
    sizes = torch.tensor([len(w) for w in waves.values()])
    chunks, lengths = model.iter_log_post(wav, sizes, num_draws=None, generator=torch.Generator().manual_seed(1))
    return torch.cat(list(chunks)), lengths


class TestModel:
    def test_input_of_another_dimension_is_refused(self) -> None:
        with pytest.raises(ValueError, match="the network takes 9 inputs, the front end has 42"):
            HybridModel(FRONT_END, DnnConfig(input_dim=9))

    def test_prior_is_the_share_of_frames_and_never_zero(self) -> None:
        model = make_model()
        expected = np.log(np.array([5, 1, 10, 100, 1]) / 117)
        np.testing.assert_allclose(model.log_prior.numpy(), expected, rtol=1e-6)  # float32
        assert float(model.log_prior.exp().sum()) == pytest.approx(1)

    def test_prior_before_training_is_uniform(self) -> None:
        fresh = HybridModel(FRONT_END, DnnConfig(input_dim=42, num_pdfs=NUM_PDFS))
        assert fresh.log_prior.tolist() == pytest.approx([-math.log(NUM_PDFS)] * NUM_PDFS)

    def test_log_likelihood_is_posterior_over_prior_unscaled(self) -> None:
        model = make_model()
        post = torch.randn(3, NUM_PDFS).log_softmax(-1)
        assert torch.equal(model.loglikes(post), post - model.log_prior)

    def test_lengths_are_those_of_the_front_end(self) -> None:
        model = make_model()
        draws, lengths = log_post(model)
        waves, _ = make_waves(2)
        assert lengths.tolist() == [model.front_end.num_frames(len(w)) for w in waves.values()]
        assert draws.shape == (1, 2, max(lengths), NUM_PDFS)


@pytest.mark.parametrize("kind", MODEL_KINDS)
class TestFile:
    def test_round_trip_is_exact(self, tmp_path: Path, kind: str) -> None:
        model = make_model(kind)
        model.save(tmp_path / MODEL_FILE)
        for place in (tmp_path, tmp_path / MODEL_FILE):  # a directory will do
            again = HybridModel.load(place)
            assert again.front_end.config == FRONT_END
            assert again.network.config == model.network.config
            assert not again.training
            state, expected = again.state_dict(), model.state_dict()
            assert list(state) == list(expected)
            assert all(torch.equal(state[name], expected[name]) for name in state)
            assert torch.equal(log_post(again)[0], log_post(model)[0])

    def test_equal_models_are_equal_bytes(self, tmp_path: Path, kind: str) -> None:
        make_model(kind).save(tmp_path / "a")
        HybridModel.load(tmp_path / "a").save(tmp_path / "b")
        assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_names_of_the_formats_are_those_of_the_files_that_exist() -> None:
    assert (FORMAT, WEIGHTS_FORMAT) == ("kaldi_uq.hybrid.1", "kaldi_uq.hybrid-weights.1")


class Malicious:
    """What unpickling would run."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


def stranger(kind: str, marker: Path) -> bytes:
    """A file that is no model of ours."""
    good = torch.zeros(3)
    if kind == "pickle":
        return pickle.dumps(Malicious(marker))
    if kind == "torch":
        path = marker.with_suffix(".pt")
        torch.save({"state_dict": Malicious(marker)}, path)
        return path.read_bytes()
    if kind == "no header":
        return save({"a": good})
    if kind == "other format":
        return save({"a": good}, metadata={"format": "pt"})
    if kind == "no configuration":
        return save({"a": good}, metadata={"format": FORMAT})
    return {"empty": b"", "text": b"not a model\n", "html": b"<html>404</html>" * 99}[kind]


class TestForeignFile:
    @pytest.mark.parametrize(
        "kind", ["pickle", "torch", "no header", "other format", "no configuration", "empty", "text", "html"]
    )
    def test_is_refused_in_one_line_and_runs_no_code(self, tmp_path: Path, kind: str) -> None:
        marker = tmp_path / "marker"
        (tmp_path / MODEL_FILE).write_bytes(stranger(kind, marker))
        with pytest.raises(ModelFileError) as error:
            HybridModel.load(tmp_path)
        assert str(error.value).startswith(f"{tmp_path / MODEL_FILE}: ")
        assert "\n" not in str(error.value)
        assert not marker.exists()

    def test_command_says_it_in_one_line(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "model").mkdir()
        (tmp_path / "model" / MODEL_FILE).write_bytes(stranger("pickle", tmp_path / "marker"))
        words = ["nnet-forward", tmp_path, tmp_path / "model", tmp_path / "x.ark", tmp_path / "x.scp"]
        assert main([str(word) for word in words]) == 1
        assert capsys.readouterr().err.count("\n") == 1
        assert not (tmp_path / "marker").exists()

    def test_missing_model_comes_with_its_remedy(self, tmp_path: Path) -> None:
        with pytest.raises(ModelFileError, match=r"no such model; steps/uq/train\.sh makes it"):
            HybridModel.load(tmp_path)

    @pytest.mark.parametrize(
        "name, value, message",
        [
            ("network", "{", "do not fit"),
            ("network", "[]", "do not fit"),
            ("network", '["kind"]', "do not fit"),
            ("network", "null", "do not fit"),
            ("network", '{"kind": "transformer"}', "model must be one of"),
            ("network", '{"size": 3}', "DnnConfig has no field size"),
            ("network", '{"hidden_dims": ["a"]}', "do not fit"),
            ("network", '{"hidden_dims": [0]}', "hidden_dims"),
            ("network", '{"input_dim": 42, "num_pdfs": 6, "hidden_dims": [8, 6]}', "do not fit"),
            ("network", '{"input_dim": 43, "num_pdfs": 5, "hidden_dims": [8, 6]}', "do not fit"),
            ("frontend", '{"mfcc": 5}', "do not fit"),
            ("frontend", "3", "do not fit"),
            ("frontend", '{"mfcc": {"frame_shift": -1}}', "frame_shift must be between"),
        ],
    )
    def test_configuration_that_cannot_be_is_refused(self, tmp_path: Path, name: str, value: str, message: str) -> None:
        model = make_model()
        header = {
            "format": FORMAT,
            "frontend": json.dumps(FRONT_END.to_dict()),
            "network": json.dumps(model.network.config.to_dict()),
        }
        (tmp_path / MODEL_FILE).write_bytes(save(dict(model.state_dict()), metadata={**header, name: value}))
        with pytest.raises(ModelFileError, match=message) as error:
            HybridModel.load(tmp_path)
        assert "\n" not in str(error.value)

    def test_damage_is_refused_or_harmless(self, tmp_path: Path) -> None:
        make_model().save(tmp_path / MODEL_FILE)
        whole = (tmp_path / MODEL_FILE).read_bytes()
        header = 8 + int.from_bytes(whole[:8], "little")
        for size in (*range(0, header, 37), header, len(whole) - 1):
            (tmp_path / MODEL_FILE).write_bytes(whole[:size])
            with pytest.raises(ModelFileError):
                HybridModel.load(tmp_path)
        for place in range(0, header, 11):
            for bits in (0x01, 0x80):
                content = whole[:place] + bytes([whole[place] ^ bits]) + whole[place + 1 :]
                (tmp_path / MODEL_FILE).write_bytes(content)
                with contextlib.suppress(ModelFileError):
                    HybridModel.load(tmp_path)

    def test_numbers_that_are_none_are_refused(self, tmp_path: Path) -> None:
        make_model().save(tmp_path / MODEL_FILE)
        path = tmp_path / MODEL_FILE
        tensors = load(path.read_bytes())
        name = next(n for n in tensors if n.endswith("weight"))
        tensors[name][0, 0] = math.nan
        model = make_model()
        model.load_state_dict(tensors)
        model.save(path)
        with pytest.raises(ModelFileError, match=f"{name} has values that are NaN or infinite"):
            HybridModel.load(tmp_path)


def test_front_end_options_survive_the_file(tmp_path: Path) -> None:
    config = FrontEndConfig(
        cmvn="utterance",
        mfcc=MfccConfig(sample_frequency=8000, frame_shift=12.5, low_freq=77.7, high_freq=-200, num_ceps=9),
        delta_order=0,
        left_context=2,
        right_context=0,
    )
    network = DnnConfig(input_dim=FrontEnd(config).output_dim, num_pdfs=3, hidden_dims=(4,))
    HybridModel(config, network).save(tmp_path / MODEL_FILE)
    assert HybridModel.load(tmp_path).front_end.config == config


def test_device_is_the_requested_one_if_it_is_there() -> None:
    assert select_device("cpu") == torch.device("cpu")
    assert select_device().type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(ValueError, match="device must be cpu or cuda, got 'gpu'"):
        select_device("gpu")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="PyTorch sees 0 GPUs here"):
            select_device("cuda")


def test_gpu_with_a_number_becomes_the_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    current: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    assert [str(use_device(name)) for name in ("", "cuda", "cpu", "cuda:1", "cuda:0")] == [
        *("cuda", "cuda", "cpu", "cuda:1", "cuda:0")
    ]
    assert list(map(str, current)) == ["cuda:1", "cuda:0"]
