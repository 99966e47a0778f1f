"""From a configuration to a model."""

from __future__ import annotations

import torch

from kaldi_uq.nnet.base import FrameModel
from kaldi_uq.nnet.config import ModelConfig
from kaldi_uq.nnet.dnn import DnnModel
from kaldi_uq.nnet.ensemble import EnsembleModel, member_seeds
from kaldi_uq.nnet.mc_dropout import McDropoutModel
from kaldi_uq.nnet.vmg import BnnModel


def build_model(config: ModelConfig, *, seed: int = 0) -> FrameModel:
    """A model with initial weights that are a pure function of ``config`` and ``seed``.

    The weights are drawn on the CPU, whatever device the model moves to; global generators are not touched.

    Args:
        config: kind and sizes.
        seed: of the initial weights; an ensemble derives one for each member.
    """
    if config.kind == "ensemble":
        return EnsembleModel(config, seeds=member_seeds(seed, config.num_members))
    generator = torch.Generator().manual_seed(seed)
    if config.kind == "dnn":
        return DnnModel(config, generator=generator)
    if config.kind == "dropout":
        return McDropoutModel(config, generator=generator)
    return BnnModel(config, generator=generator)
