"""Which strategy a configuration stands for."""

from __future__ import annotations

from kaldi_uq.attacks.adaptive import Adaptive, Sentries
from kaldi_uq.attacks.black_box import black_box
from kaldi_uq.attacks.problem import Strategy, plain
from kaldi_uq.attacks.psychoacoustic import hide
from kaldi_uq.types import AdaptiveConfig, AttackConfig


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
