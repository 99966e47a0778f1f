"""Does the attack do what it claims?  Each check says what it saw and, if it fails, what to do.

These look at one run of an attack and at the gradient it follows; :mod:`kaldi_uq.attacks.series` looks at several runs
of one model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kaldi_uq.attacks.attack import Adversarial
from kaldi_uq.attacks.config import AttackConfig
from kaldi_uq.attacks.constraints import level_scale, whole_steps
from kaldi_uq.attacks.goal import LOSSES
from kaldi_uq.audio.quality import snr_db
from kaldi_uq.io.wav import INT16_SCALE
from kaldi_uq.io.waves import Waves
from kaldi_uq.recogniser.base import BaseRecogniser
from kaldi_uq.uncertainty import valid_frames

ROUNDING = 1e-7  # float32 differences of numbers on the 16-bit grid
# Full scale.  With larger differences some unit of a network crosses its kink between the two points; with smaller
# ones rounding counts.  Here the four models of the recipe are right to 1e-8, and a kink that is hit costs below 1e-2.
DIFFERENCE = 1e-9
GRADIENT_LIMIT = 1e-2  # a masked gradient is wrong by about its own size
DITHER = 1e-3  # full scale: digital silence lies on a corner of the logarithm's floor, where no gradient is defined
NUM_DIRECTIONS = 4
NUM_UTTS = 2

Check = dict[str, Any]


def check(recogniser: BaseRecogniser, adversarial: Adversarial) -> dict[str, Check]:
    """Is this attack meaningful?  Every check of one run: what was written, and the gradient that was followed.

    Args:
        recogniser: the recogniser that was attacked.
        adversarial: what the attack made, best as it was read back from 16-bit files.

    Returns:
        name -> ``{"passed": bool, "value": number, "limit": number, "remedy": text}``.
    """
    found = check_attack(adversarial)
    return found | check_gradient(recogniser, adversarial.originals, seed=adversarial.config.seed)


def check_attack(adversarial: Adversarial) -> dict[str, Check]:
    """Check what an attack wrote, without asking the recogniser; arguments and result as of :func:`check`."""
    originals, attacked, config = adversarial.originals, adversarial.waves, adversarial.config
    records = adversarial.records
    allowed = {utt: _allowed(config, wave) for utt, wave in originals.items()}
    change = {u: _distance(originals[u], attacked[u]) for u in originals}
    furthest = max(originals, key=lambda u: change[u] - allowed[u])
    before, after = (Waves.of(waves).lengths for waves in (originals, attacked))
    same_length = all(after[u] == before[u] for u in originals)
    checks = {
        "eps_respected": outcome(
            change[furthest] <= allowed[furthest] + ROUNDING,
            change[furthest],
            allowed[furthest],
            "samples moved further than eps: mend the projection, or the rounding to 16 bit after it",
        ),
        "length_kept": outcome(
            same_length, int(same_length), 1, "the attack changed the length of the audio: it must add, not insert"
        ),
    }
    if config.constraint == "l2":
        loudness = {u: _rms(originals[u], attacked[u]) for u in originals}
        bounds = {u: config.rms * _scale(config, wave) for u, wave in originals.items()}
        loudest = max(originals, key=lambda u: loudness[u] - bounds[u])
        checks["rms_respected"] = outcome(
            loudness[loudest] <= bounds[loudest] * (1 + 1e-6),
            loudness[loudest],
            bounds[loudest],
            "the perturbation is louder than rms: mend the projection, or the rounding to 16 bit after it",
        )
    elif config.constraint == "snr":
        lowest = min((s for u in originals if (s := snr_db(originals[u], attacked[u])) is not None), default=math.inf)
        if math.isfinite(lowest):
            checks["snr_respected"] = outcome(
                lowest >= config.snr_db - 1e-5,
                lowest,
                config.snr_db,
                "the perturbation is louder than snr_db allows: mend the projection, or the rounding after it",
            )
    movable = [u for u in originals if whole_steps(allowed[u])]
    if config.eps > 0 and len(movable) < len(originals):
        of = f" for {len(originals) - len(movable)} of {len(originals)} utterances" if config.eps_level else ""
        checks["eps_reaches_16_bit"] = outcome(
            False,
            min(allowed.values()) * INT16_SCALE,
            1,
            f"eps is less than 1/32768, one step of 16-bit audio{of}: choose a larger one",
        )
    if movable:
        found = _check_gradients_of_run([records[u] for u in movable], iterates=config.num_steps > 1)
        of_all = LOSSES.get(config.loss).of_all_frames  # or else frames without a gradient are as they should be
        checks |= {name: value for name, value in found.items() if of_all or not name.startswith("gradient_")}
    return checks


def _check_gradients_of_run(records: list[Mapping[str, Any]], *, iterates: bool) -> dict[str, Check]:
    live = min(float(record["live_samples"]) for record in records)
    checks = {
        "gradient_reaches_audio": outcome(
            live >= 0.5, live, 0.5, "samples without a gradient: is the front end or the model masking it?"
        )
    }
    dead = [int(record["dead_frames"]) for record in records if record.get("dead_frames") is not None]
    if dead:
        checks["gradient_on_every_frame"] = outcome(
            not any(dead),
            sum(dead),
            0,
            "frames whose samples never had a gradient: look for detach, rounding or clamping before the network, and "
            "for digital silence without a random start",
        )
    # A penalty that came in later is part of the last loss alone, so that the two say nothing of the target.
    losses = [(record["first_loss"], record["last_loss"]) for record in records if not record.get("lambda")]
    if iterates and losses:  # the loss is known before each step, so that one step alone has a single one
        fell = float(np.mean([last < first for first, last in losses]))
        checks["loss_falls"] = outcome(
            fell >= 0.9, fell, 0.9, "the loss of the target does not fall: more steps, another step size, or realign"
        )
    return checks


def check_gradient(recogniser: BaseRecogniser, waves: Mapping[str, np.ndarray], *, seed: int = 0) -> dict[str, Check]:
    """Compare the gradient that an attack follows with differences of the loss, in float64, on the shortest utterances.

    The loss is the cross-entropy of random classes; all draws of a random recogniser are the same in every evaluation.

    Args:
        recogniser: the recogniser under attack; a copy of it in float64 is looked at.
        waves: utt -> (N,) float32 in [-1, 1].
        seed: seed of classes, directions and draws.

    Returns:
        ``{"gradient_correct": {"passed", "value", "limit", "remedy"}}``, the value as of :func:`slope_errors`.
    """
    exact, device = recogniser.in_double(), recogniser.device
    samples_of = Waves.of(waves).lengths
    shortest = sorted(waves, key=lambda utt: (samples_of[utt], utt))[:NUM_UTTS]
    batch = next(exact.batches({utt: waves[utt] for utt in shortest}))
    num_samples = torch.from_numpy(batch.num_samples).to(device)
    generator = torch.Generator(device).manual_seed(seed)
    wav = torch.from_numpy(batch.wav).to(device).double()
    inside = valid_frames(num_samples, wav.shape[1])
    noise = torch.rand(wav.shape, generator=generator, device=device, dtype=wav.dtype) * 2 - 1
    wav = torch.where(inside, wav + DITHER * noise, 0.0)
    num_draws = 2 if exact.is_random else None

    def draws_of(x: Tensor) -> Tensor:
        fixed = torch.Generator(device).manual_seed(seed + 1)
        chunks, _ = exact.draws(x, num_samples, batch.utts, num_draws=num_draws, generator=fixed)
        return torch.cat(list(chunks))

    lengths = exact.num_frames(num_samples)
    with torch.no_grad():
        num_classes = draws_of(wav).shape[3]
    size = (len(wav), int(lengths.max()))
    targets = torch.randint(num_classes, size, generator=generator, device=device)
    valid = valid_frames(lengths, size[1])

    def loss_of(x: Tensor) -> Tensor:
        draws = draws_of(x)
        chosen = draws.gather(3, targets[None, ..., None].expand(len(draws), -1, -1, 1))[..., 0]
        return -(chosen.mean(0) * valid).sum(1) / lengths

    error = float(slope_errors(loss_of, wav, generator=generator).max())
    return {
        "gradient_correct": outcome(
            error <= GRADIENT_LIMIT,
            error,
            GRADIENT_LIMIT,
            "the gradient is not the slope of the loss: look for detach, rounding, a straight-through estimate or "
            "in-place changes between waveform and posteriors, or attack with one that needs no gradient (nes)",
        )
    }


def slope_errors(
    loss_of: Callable[[Tensor], Tensor],
    wav: Tensor,
    *,
    generator: torch.Generator,
    num_directions: int = NUM_DIRECTIONS,
) -> Tensor:
    """How wrong the gradient is, by central differences along random directions and along its own sign.

    Args:
        loss_of: (B, N) float64 -> (B,), the same for the same input.
        wav: (B, N) float64.
        generator: generator of the directions, on the device of ``wav``.
        num_directions: how many of them.

    Returns:
        (B,) the largest difference between slope and gradient, as a share of the larger of what either expects along
        a random direction; 1 where one of them is zero and the other is not, 1 as well where one is not finite.
    """
    point = wav.detach().requires_grad_(True)
    losses = loss_of(point)
    if losses.requires_grad:
        (gradient,) = torch.autograd.grad(losses.sum(), point, allow_unused=True)
    else:
        gradient = None
    gradient = torch.zeros_like(wav) if gradient is None else gradient
    norm = gradient.norm(dim=1)
    worst = torch.zeros_like(norm)
    for number in range(num_directions):
        signs = torch.rand(wav.shape, generator=generator, device=wav.device, dtype=wav.dtype).sub(0.5).sign()
        direction = gradient.sign() if number == 0 and bool(gradient.any()) else signs
        with torch.no_grad():
            slope = (loss_of(wav + DIFFERENCE * direction) - loss_of(wav - DIFFERENCE * direction)) / (2 * DIFFERENCE)
        expected = (gradient * direction).sum(1)
        scale = torch.maximum(norm, torch.maximum(slope.abs(), expected.abs()))
        error = (slope - expected).abs() / torch.where(scale > 0, scale, 1.0)
        worst = torch.maximum(worst, torch.where(error.isfinite(), error, 1.0))
    return worst


def outcome(passed: bool, value: float, limit: float, remedy: str) -> Check:
    """A check as it stands in ``results.json``; the remedy is there if it failed.

    >>> outcome(True, 0.02, 0.02, "mend the projection")
    {'passed': True, 'value': 0.02, 'limit': 0.02, 'remedy': ''}
    """
    return {"passed": bool(passed), "value": value, "limit": limit, "remedy": "" if passed else remedy}


def _scale(config: AttackConfig, wave: np.ndarray) -> float:
    """By how much the budget of an utterance is scaled."""
    return float(level_scale(config, torch.from_numpy(wave)[None], torch.tensor([len(wave)])))


def _allowed(config: AttackConfig, wave: np.ndarray) -> float:
    """The largest change of a sample of an utterance."""
    return min(1.0, config.eps * _scale(config, wave))


def _distance(original: np.ndarray, attacked: np.ndarray) -> float:
    """The largest difference of two samples, as far as both waveforms go."""
    size = min(len(original), len(attacked))
    return float(np.max(np.abs(attacked[:size].astype(np.float64) - original[:size]), initial=0.0))


def _rms(original: np.ndarray, attacked: np.ndarray) -> float:
    """Root mean square of the difference, as far as both waveforms go."""
    size = min(len(original), len(attacked))
    return float(np.sqrt(np.mean((attacked[:size].astype(np.float64) - original[:size]) ** 2))) if size else 0.0
