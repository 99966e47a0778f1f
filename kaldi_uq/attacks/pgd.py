"""Projected gradient descent, in its presets."""

from __future__ import annotations

from typing import Any

from kaldi_uq.attacks.attack import ATTACKS, Attack
from kaldi_uq.attacks.named import PAPER, preset_options


@ATTACKS.register("pgd")
class PGD(Attack):
    """Projected gradient descent; the defaults of :class:`kaldi_uq.attacks.config.AttackConfig` are the strong choice.

    >>> PGD(eps=0.01).config.num_steps, PGD.paper(eps=0.05).config.step_size
    (200, 0.01)
    """

    @classmethod
    def paper(cls, eps: float = 0.02, **options: Any) -> PGD:
        """The paper's attack exactly: cleverhans 2.1.0's ``MadryEtAl`` with its defaults, whatever eps is.

        Source: section 4.2 of the paper and its published code.
        """
        return cls(**{"eps": eps, **preset_options(PAPER), **options})

    @classmethod
    def fgsm(cls, eps: float = 0.02, **options: Any) -> PGD:
        """One step to the edge of the ball.  Source: Goodfellow et al. 2015."""
        return cls(**{"eps": eps, **preset_options("fgsm"), **options})
