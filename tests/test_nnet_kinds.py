"""The registry of kinds: one class is enough for a new kind, and files of former versions are still read."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import save
from torch import Tensor, nn

from kaldi_uq.errors import ModelFileError
from kaldi_uq.nnet import build_model, config
from kaldi_uq.nnet.base import FrameModel
from kaldi_uq.nnet.config import MODEL_KINDS, ModelConfig, kind_names, model_class, register
from kaldi_uq.recogniser.hybrid import FORMAT, MODEL_FILE, HybridModel
from tests import tiny
from tests.recipe import LIMIT_S
from tests.test_train import make_trainer
from tests.tiny import FRONT_END

SIZES: dict[str, Any] = {"input_dim": 42, "num_pdfs": 5, "hidden_dims": (8, 6)}
# what a model file of an earlier version says of its network, whatever the kind
FORMER = {**SIZES, "num_members": 2, "num_samples": 3, "dropout": 0.25, "init_log_var": -4.0}


@dataclass(frozen=True)
class LinearConfig(ModelConfig):
    """One layer."""

    kind: ClassVar[str] = "linear"

    scale: float = 2.0


class LinearModel(FrameModel):
    """A kind from outside the package, random as dropout is: noise on the input."""

    config_class = LinearConfig
    config: LinearConfig
    is_random = True
    default_num_samples = 3
    default_num_train_samples = 2

    def __init__(self, config: LinearConfig, *, generator: torch.Generator) -> None:
        super().__init__(config)
        self.weight = nn.Parameter(torch.randn(config.num_pdfs, config.input_dim, generator=generator) / 10)

    def _iter_logits(
        self, x: Tensor, num_samples: int, chunk: int | None, generator: torch.Generator | None
    ) -> Iterator[Tensor]:
        for _ in range(num_samples):
            noise = torch.empty_like(x).normal_(generator=generator)
            yield ((x + 0.1 * noise) @ (self.config.scale * self.weight).t()).unsqueeze(0)


@pytest.fixture
def linear(monkeypatch: pytest.MonkeyPatch) -> type[LinearModel]:
    monkeypatch.setattr(config, "_classes", dict(config._classes))
    return register(LinearModel)


class TestNewKind:
    def test_is_trained_saved_and_loaded_like_the_others(self, linear: type[LinearModel], tmp_path: Path) -> None:
        system = tiny.make_system(tmp_path / "system", num_utts=8)
        trained = make_trainer(system, tmp_path / "exp", "linear").run()
        assert isinstance(trained.network, LinearModel)
        assert trained.kind == "linear"
        before = build_model(trained.network.config).state_dict()["weight"]
        assert not torch.equal(trained.network.weight, before)
        loaded = HybridModel.load(tmp_path / "exp")
        assert loaded.network.config == system.network("linear")
        assert torch.equal(loaded.network.weight, trained.network.weight)

    def test_is_known_by_its_name(self, linear: type[LinearModel]) -> None:
        assert kind_names() == (*MODEL_KINDS, "linear")
        assert model_class("linear") is LinearModel
        assert register(LinearModel) is LinearModel  # a second time is no mistake
        found = ModelConfig.from_dict(json.loads(json.dumps(LinearConfig(**SIZES, scale=3.0).to_dict())))
        assert found == LinearConfig(**SIZES, scale=3.0)

    @pytest.mark.parametrize("name", ["linear", "dnn"])
    def test_cannot_take_the_name_of_another(self, linear: type[LinearModel], name: str) -> None:
        @dataclass(frozen=True)
        class OtherConfig(ModelConfig):
            kind: ClassVar[str] = name

        class Other(LinearModel):
            config_class = OtherConfig  # type: ignore[assignment]

        with pytest.raises(ValueError, match=f"there is another kind '{name}' already"):
            register(Other)
        assert model_class("linear") is LinearModel

    def test_is_unknown_where_nobody_registered_it(self, tmp_path: Path) -> None:
        header = {"format": FORMAT, "frontend": json.dumps(FRONT_END.to_dict())}
        header["network"] = json.dumps(LinearConfig(**SIZES).to_dict())
        (tmp_path / MODEL_FILE).write_bytes(save({"log_prior": torch.zeros(5)}, metadata=header))
        with pytest.raises(ModelFileError, match="model must be one of dnn, ensemble, dropout, bnn, got 'linear'"):
            HybridModel.load(tmp_path)


@pytest.mark.parametrize("kind", MODEL_KINDS)
class TestKindOfThePackage:
    def test_is_the_file_of_its_name(self, kind: str) -> None:
        found = model_class(kind)
        assert found.config_class.kind == kind
        assert found.__module__ == f"kaldi_uq.nnet.kinds.{kind}"
        assert sys.modules[found.__module__] is importlib.import_module(found.__module__)

    def test_file_of_a_former_version_is_read(self, kind: str, tmp_path: Path) -> None:
        own = {"ensemble": {"num_members": 2}, "dropout": {"dropout": 0.25}, "bnn": {"init_log_var": -4.0}}
        expected = model_class(kind).config_class(**SIZES, num_samples=3, **own.get(kind, {}))
        model = HybridModel(FRONT_END, expected, seed=1)
        header = {"format": FORMAT, "frontend": json.dumps(FRONT_END.to_dict())}
        header["network"] = json.dumps({"kind": kind, **FORMER})
        (tmp_path / MODEL_FILE).write_bytes(save(dict(model.state_dict()), metadata=header))
        loaded = HybridModel.load(tmp_path)
        assert loaded.network.config == expected
        assert all(torch.equal(value, model.state_dict()[name]) for name, value in loaded.state_dict().items())

    def test_field_that_no_kind_had_is_refused(self, kind: str) -> None:
        with pytest.raises(ValueError, match=r"has no field num_layers"):
            ModelConfig.from_dict({"kind": kind, **FORMER, "num_layers": 3})


def test_names_of_the_kinds_need_no_torch() -> None:
    code = (
        "import sys, kaldi_uq.results.names; from kaldi_uq.nnet.config import kind_names; "
        "print(*kind_names(), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=LIMIT_S, check=True)
    assert done.stdout.split() == [*MODEL_KINDS, "False"]


def test_member_of_an_ensemble_is_a_network_of_its_own() -> None:
    ensemble = build_model(model_class("ensemble").config_class(**SIZES, num_members=2))
    member = ensemble.member(1)  # type: ignore[attr-defined]
    assert member.kind == "dnn"
    assert build_model(member.config).load_state_dict(member.state_dict())
