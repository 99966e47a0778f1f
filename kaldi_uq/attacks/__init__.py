"""Attacks at the waveform: goals, constraints, step rules, the loop, and checks that show an attack is meaningful.

The loop attacks anything that maps waveforms to log-posteriors of frames, such as a module of your own; it needs no
recogniser:

>>> import torch
>>> from kaldi_uq.attacks.config import AttackConfig
>>> from kaldi_uq.attacks.constraints import LInf
>>> from kaldi_uq.attacks.goal import CrossEntropy
>>> from kaldi_uq.attacks.loop import run_attack
>>> weights = torch.linspace(-9, 9, 80).reshape(40, 2)
>>> def log_post(wav, num_samples, rows=None):  # (B, N) -> (M, B, T, C): 1 draw, frames of 40 samples, 2 classes
...     return torch.log_softmax(wav.unfold(1, 40, 40) @ weights, -1)[None]
>>> wav = torch.ones(1, 120) / 256  # one utterance of three frames, in which class 1 is heard
>>> sizes, lengths = torch.tensor([120]), torch.tensor([3])
>>> goal = CrossEntropy(torch.zeros(1, 3, dtype=torch.long), lengths)
>>> result = run_attack(log_post, wav, goal, LInf(wav, sizes, 0.05), AttackConfig(eps=0.05))
>>> log_post(wav, sizes).argmax(-1).tolist(), log_post(result.wav, sizes).argmax(-1).tolist()
([[[1, 1, 1]]], [[[0, 0, 0]]])

With a recogniser an attack does the rest: it aligns target texts, follows the posteriors and asks the decoder.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kaldi_uq.attacks.adaptive import Adaptive as Adaptive
    from kaldi_uq.attacks.attack import ATTACKS as ATTACKS
    from kaldi_uq.attacks.attack import Attack as Attack
    from kaldi_uq.attacks.black_box import BlackBox as BlackBox
    from kaldi_uq.attacks.config import AdaptiveConfig as AdaptiveConfig
    from kaldi_uq.attacks.config import AttackConfig as AttackConfig
    from kaldi_uq.attacks.config import SearchConfig as SearchConfig
    from kaldi_uq.attacks.consistent import Consistent as Consistent
    from kaldi_uq.attacks.donors import Donors as Donors
    from kaldi_uq.attacks.hiding import Psychoacoustic as Psychoacoustic
    from kaldi_uq.attacks.named import preset as preset
    from kaldi_uq.attacks.named import presets as presets
    from kaldi_uq.attacks.pgd import PGD as PGD

# name -> module; imported when a name is first used, so that importing the package needs no torch
_PLACES = {
    "ATTACKS": "attack",
    "Adaptive": "adaptive",
    "AdaptiveConfig": "config",
    "Attack": "attack",
    "AttackConfig": "config",
    "BlackBox": "black_box",
    "Consistent": "consistent",
    "Donors": "donors",
    "PGD": "pgd",
    "Psychoacoustic": "hiding",
    "SearchConfig": "config",
    "preset": "named",
    "presets": "named",
}

__all__ = sorted(_PLACES)


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
