"""The gradient of a model that only answers queries: natural evolution strategies with antithetic noise.

A model whose gradients are masked, by accident or as a defence, looks robust to every attack that needs them.  This one
needs the scores of each frame alone.  Where it comes out ahead of the exact gradient, the exact gradient is wrong.

Noise on all samples at once says little about any one of them.  But a sample acts only on the frames around it, so that
the scores of these alone are counted for it: each stretch of the audio becomes a small problem of its own, and a query
serves all of them.

Source: Ilyas, Engstrom, Athalye and Lin 2018, "Black-box adversarial attacks with limited queries and information",
section 2.1; Wierstra et al. 2014, "Natural evolution strategies".
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import avg_pool1d

from kaldi_uq.attacks.attack import ATTACKS, Attack
from kaldi_uq.attacks.batch import Batch
from kaldi_uq.attacks.config import AttackConfig, BlackBoxConfig
from kaldi_uq.attacks.loop import AttackResult, Gradient, Shares

_NOISE = 2 << 40  # added to the seed: the noise is neither the attack's draws nor the judge's


@ATTACKS.register("black_box")
class BlackBox(Attack):
    """The loop as it is configured, with a gradient estimated from queries.

    A random model answers each query with new draws, unless ``eot_draws`` is ``fixed``.

    Args:
        config, options: ``nes_pairs`` has to be 1 or more; the preset is that of the recipe's ``conf/nes.conf``.

    Raises:
        ValueError: also if ``nes_pairs`` is 0.
    """

    Config = BlackBoxConfig
    asked_by = "nes_pairs"

    def __init__(self, config: AttackConfig | None = None, **options: Any) -> None:
        super().__init__(config, **options)
        assert isinstance(self.config, BlackBoxConfig)
        if self.config.nes_pairs < 1:
            raise ValueError("an attack by queries alone needs nes_pairs >= 1, got 0")

    @classmethod
    def nes(cls, eps: float = 0.02, **options: Any) -> BlackBox:
        """A thousand queries an utterance."""
        own = {"num_steps": 100, "nes_pairs": 5, "step_rule": "cosine", "momentum": 0.9, "realign_every": 10}
        return cls(**{"eps": eps, **own, "eot_samples": 1, **options})

    def on_batch(self, batch: Batch) -> tuple[AttackResult, dict[str, list[int]]]:
        """Attack a batch; the record says how many ``queries`` it took, without those of realignment and judge."""
        config, who = self.config, batch.recogniser
        assert isinstance(config, BlackBoxConfig)
        estimate = nes_gradient(
            config.nes_pairs,
            config.nes_sigma,
            context=config.nes_context,
            frame_shift=who.frame_shift_s * who.sample_rate,
            generator=torch.Generator(batch.wav.device).manual_seed(batch.seed + _NOISE),
        )
        result = batch.run(gradient=estimate)
        draws = config.eot_samples if who.is_random else 1
        return result, {"queries": (result.steps * 2 * config.nes_pairs * draws).tolist()}


def nes_gradient(
    pairs: int, sigma: float, *, context: int = 0, frame_shift: float = 1.0, generator: torch.Generator
) -> Gradient:
    """Estimate the gradient of the loss, smoothed with Gaussian noise, from its values alone.

    Each pair of queries adds and subtracts the same noise, all utterances of the batch at once; no gradient is computed
    anywhere.  The noise of a sample is weighted with the change of the loss in the frames near it.

    Args:
        pairs: pairs of queries for one estimate, at least 1.
        sigma: deviation of the noise, full scale 1; queries may leave the constraint by that much.
        context: frames to each side of a sample that it may act on, at least those of the network's context, the deltas
            and the window; 0: all frames.  A penalty on the whole utterance counts less the smaller it is.
        frame_shift: samples from one frame to the next.
        generator: generator of the noise, on the device of the audio.

    Returns:
        a function for ``run_attack(gradient=...)``; the loss it gives is the mean over the queries.

    Raises:
        ValueError: a number out of range.
    """
    if pairs < 1 or not sigma > 0 or context < 0 or not frame_shift > 0:
        raise ValueError(
            "pairs must be >= 1, sigma > 0, context >= 0 and frame_shift > 0, "
            f"got {pairs}, {sigma}, {context} and {frame_shift}"
        )

    @torch.no_grad()
    def gradient(shares_of: Shares, delta: Tensor) -> tuple[Tensor, Tensor]:
        loss = torch.zeros_like(delta[:, 0])
        slope = torch.zeros_like(delta)
        for _ in range(pairs):
            noise = torch.randn(delta.shape, device=delta.device, dtype=delta.dtype, generator=generator)
            above, below = shares_of(delta + sigma * noise), shares_of(delta - sigma * noise)
            loss += (above + below).sum(1) / (2 * pairs)
            change = _near(above - below, context, frame_shift, delta.shape[1])
            slope += noise * change / (2 * sigma * pairs)
        return loss, slope

    return gradient


def _near(change: Tensor, context: int, frame_shift: float, num_samples: int) -> Tensor:
    """The sum of ``change`` (B, T) over the frames near each sample: (B, N), or (B, 1) if all frames count."""
    if not context:
        return change.sum(1, keepdim=True)
    width = 2 * context + 1
    sums = avg_pool1d(change[:, None], width, stride=1, padding=context)[:, 0] * width
    # the frame whose window begins at the sample or before it; the window's other frames are within the context
    frames = (torch.arange(num_samples, device=change.device) / frame_shift).long()
    return sums[:, frames.clamp(max=change.shape[1] - 1)]
