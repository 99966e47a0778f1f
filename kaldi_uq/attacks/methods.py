"""Which constraint and which strategy a configuration stands for."""

from __future__ import annotations

from torch import Tensor

from kaldi_uq.attacks.adaptive import Adaptive, Sentries
from kaldi_uq.attacks.black_box import black_box
from kaldi_uq.attacks.config import AdaptiveConfig, AttackConfig
from kaldi_uq.attacks.constraints import L2, Constraint, LInf
from kaldi_uq.attacks.masking_constraint import Masking
from kaldi_uq.attacks.problem import Strategy, plain
from kaldi_uq.attacks.psychoacoustic import hide


def make_strategy(config: AttackConfig, adaptive: AdaptiveConfig, sentries: Sentries | None = None) -> Strategy:
    """The strategy of a configuration; without any of the options that ask for another one, the loop.

    Black box if the gradient is estimated (``nes_pairs``), psychoacoustic if the perturbation is hidden after the
    success (``hide_steps``), adaptive if there are detectors to pass.

    Args:
        config: the attack.
        adaptive: the search for lambda.
        sentries: the detectors; ``None``: the attacker knows of none.

    Raises:
        ValueError: two at once.

    >>> make_strategy(AttackConfig(), AdaptiveConfig()).__name__
    'plain'
    """
    wanted: dict[str, Strategy] = {}
    if config.nes_pairs:
        wanted["black box (nes_pairs)"] = black_box
    if config.hide_steps:
        wanted["psychoacoustic (hide_steps)"] = hide
    if sentries is not None:
        wanted["adaptive (statistics)"] = Adaptive(sentries, adaptive)
    if len(wanted) > 1:
        raise ValueError(f"an attack is either {' or '.join(wanted)}: leave one of them out")
    return next(iter(wanted.values()), plain)


def make_constraint(config: AttackConfig, wav: Tensor, num_samples: Tensor, sample_rate: float) -> Constraint:
    """The constraint of a configuration for a batch.

    Args:
        config: ``constraint`` and its numbers.
        wav: (B, N) float32 in [-1, 1] on the 16-bit grid.
        num_samples: (B,) int64.
        sample_rate: Hz.
    """
    sizes = num_samples.to(wav.dtype)
    if config.constraint == "l2":
        return L2(wav, num_samples, config.eps, config.rms * sizes.sqrt())
    if config.constraint == "snr":
        return L2(wav, num_samples, config.eps, wav.norm(dim=1) * 10.0 ** (-config.snr_db / 20.0))
    if config.constraint == "masking":
        return Masking(wav, num_samples, config.eps, masking_db=config.masking_db, sample_rate=sample_rate)
    return LInf(wav, num_samples, config.eps)
