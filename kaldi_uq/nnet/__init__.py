"""Acoustic models that know their uncertainty, one file each, behind the interface of ``base.AcousticModel``."""

from kaldi_uq.nnet.base import AcousticModel
from kaldi_uq.nnet.factory import build_model
from kaldi_uq.nnet.wrappers import deterministic, ensemble, mc_dropout, vmg

__all__ = ["AcousticModel", "build_model", "deterministic", "ensemble", "mc_dropout", "vmg"]
