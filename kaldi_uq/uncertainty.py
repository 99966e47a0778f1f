"""Uncertainty of each frame from several posteriors of the same frame, streaming over draws, in nats.

With p_m the posterior of draw or member m and p their mean, over M draws and C classes:

``predictive_entropy``   H[p]                                                         eq. 3
``expected_entropy``     (1/M) sum_m H[p_m]
``mutual_information``   H[p] - (1/M) sum_m H[p_m]                                    eq. 4
``variance``             max over classes of (1/M) sum_m p_m^2 - p^2                  eq. 5
``akld``                 (1/(M-1)) sum_m KL(p_m || p_(m+1)), in the order of the draws   eq. 6

Equation 5 is per class and the paper does not say how classes are reduced; its published code evaluates the maximum.
Nothing here grows with M: a hundred draws cost the memory of one chunk and of a few sums.

Source: section 3.2 of the paper.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

# Log-posteriors are floored here, just below the logarithm of the smallest positive float64, so that a floored
# probability is still 0.  A zero probability then costs finitely many nats in a KL divergence (exactly it is infinite),
# and neither values nor gradients become NaN.  What log_softmax gives for finite logits lies above and is not changed.
LOG_FLOOR = -746.0

MEASURES = ("predictive_entropy", "expected_entropy", "mutual_information", "variance", "akld")


@dataclass
class _Sums:
    """State of an accumulator: ``(B, T, C)``, but ``(B, T)`` for the divergences; sums over draws are float64.

    Everything is kept relative to the first draw, because differences of nearly equal draws are exact where the
    differences of their sums would be rounding.
    """

    first_p: Tensor
    first_log_p: Tensor
    last_p: Tensor
    last_log_p: Tensor
    peak: Tensor  # largest log p of each class
    shift: Tensor  # sum of p - first_p
    squares: Tensor  # sum of (p - first_p)^2
    kl_first: Tensor  # sum of KL(p || first_p)
    kl_next: Tensor  # sum of the KL divergences between consecutive draws


class UncertaintyAccumulator:
    """Running sums over draws, from which the measures of every frame follow.

    Elements are computed in the type of the draws, sums over draws are kept in float64.  Every operation is
    differentiable when the draws require gradients, and works in place when they do not.

    >>> draws = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).log().reshape(2, 1, 1, 2)  # certain, and contradictory
    >>> accumulator = UncertaintyAccumulator()
    >>> accumulator.update(draws)
    >>> {name: round(accumulator.result()[name].item(), 3) for name in MEASURES[:4]}
    {'predictive_entropy': 0.693, 'expected_entropy': 0.0, 'mutual_information': 0.693, 'variance': 0.25}
    """

    def __init__(self) -> None:
        self.num_draws = 0
        self._sums: _Sums | None = None

    def update(self, log_post: Tensor) -> None:
        """Add draws, in their order.

        Args:
            log_post: natural log-posteriors ``(m, B, T, C)``, m >= 1, float32 or float64.

        Raises:
            ValueError: a wrong shape, or values whose exponentials do not sum to 1.
        """
        _check_log_post(log_post, None if self._sums is None else self._sums.last_log_p)
        log_p = log_post.clamp(min=LOG_FLOOR)
        p = log_p.exp()
        peak = log_p.amax(0) if len(log_p) > 1 else log_p[0]
        if self._sums is None:
            # Copies of single draws here and below, where a view would keep the whole chunk alive.
            first_p, first_log_p = (t[0].clone() if len(t) > 1 else t[0] for t in (p, log_p))
            sums = _Sums(first_p, first_log_p, first_p, first_log_p, peak, *_zeros(first_p))
            self._sums = sums
        else:
            sums = self._sums
            sums.peak = torch.maximum(sums.peak, peak)
            sums.kl_next = _add(sums.kl_next, _kl(sums.last_p, sums.last_log_p, log_p[0]))
        if len(log_p) > 1:
            sums.kl_next = _add(sums.kl_next, _kl(p[:-1], log_p[:-1], log_p[1:]).sum(0, dtype=torch.float64))
        sums.kl_first = _add(sums.kl_first, _kl(p, log_p, sums.first_log_p).sum(0, dtype=torch.float64))
        shift = p - sums.first_p
        sums.shift = _add(sums.shift, _sum_draws(shift))
        sums.squares = _add(sums.squares, _sum_draws(shift.square()))
        sums.last_p, sums.last_log_p = (t[-1].clone() if len(t) > 1 else t[0] for t in (p, log_p))
        self.num_draws += len(log_p)

    def result(self) -> dict[str, Tensor]:
        """The measures of the draws so far.

        Returns:
            The measures by name, each ``(B, T)`` in nats (variance: in squared probability), and ``log_mean_post
            (B, T, C)``, the logarithm of the predictive mean; all in the type of the draws.  With one draw only
            ``predictive_entropy``, ``expected_entropy`` (equal) and ``log_mean_post``: the others are not defined.

        Raises:
            ValueError: there has been no draw.
        """
        if self._sums is None:
            raise ValueError("no draws: update() must be called before result()")
        sums, count = self._sums, self.num_draws
        dtype = sums.last_p.dtype
        if count == 1:
            entropy = 0.0 - (sums.last_p * sums.last_log_p).sum(-1)  # 0 without a sign
            return {**{name: entropy.clone() for name in MEASURES[:2]}, "log_mean_post": sums.last_log_p}
        mean_shift = sums.shift / count
        mean = sums.first_p + mean_shift
        # Where the probabilities of all draws underflow, the largest of them stands for their sum.
        tiny = torch.finfo(dtype).tiny
        log_mean = torch.where(mean > tiny, mean.clamp(min=tiny).log(), sums.peak.double() - math.log(count))
        predictive = 0.0 - (mean * log_mean).sum(-1)
        # sum_m KL(p_m || p_1) = sum_m KL(p_m || p) + M KL(p || p_1), and eq. 4 is the first term on the right over M.
        # Unlike a difference of entropies it stays accurate when the draws differ by less than their rounding.
        usable = sums.first_p > tiny
        growth = (mean_shift / sums.first_p.clamp(min=tiny)).log1p()
        log_ratio = torch.where(usable, growth, log_mean - sums.first_log_p)
        mutual = _without_rounding(sums.kl_first / count - (mean * log_ratio).sum(-1), dtype)
        variance = sums.squares / count - mean_shift.square()
        measures = {
            "predictive_entropy": predictive,
            "expected_entropy": _without_rounding(predictive - mutual, dtype),
            "mutual_information": mutual,
            "variance": _without_rounding(variance, dtype).amax(-1),
            "akld": _without_rounding(sums.kl_next / (count - 1), dtype),
            "log_mean_post": log_mean,
        }
        return {name: value.to(dtype) for name, value in measures.items()}


def measures_from_draws(draws: Iterable[Tensor]) -> dict[str, Tensor]:
    """The measures of all draws of an iterator, such as ``AcousticModel.iter_log_post`` gives.

    Args:
        draws: chunks ``(m, B, T, C)`` of log-posteriors, in their order.

    Returns and Raises: as ``UncertaintyAccumulator.result``.
    """
    accumulator = UncertaintyAccumulator()
    for log_post in draws:
        accumulator.update(log_post)
    return accumulator.result()


def utterance_statistics(
    measures: Mapping[str, Tensor], lengths: Tensor, *, quantile: float = 0.95
) -> dict[str, Tensor]:
    """One number an utterance from the measures of its frames; padded frames have no part in it.

    Args:
        measures: ``(B, T)`` by name; ``log_mean_post`` is left out.
        lengths: frames of each utterance, int64 ``(B,)``, at least 1 and at most T.
        quantile: in [0, 1]; between two frames it interpolates linearly.

    Returns:
        ``max_<measure>``, ``mean_<measure>`` and ``q95_<measure>`` (the number is the quantile in per cent), ``(B,)``.

    Raises:
        ValueError: lengths that do not fit, or a quantile outside [0, 1].

    >>> utterance_statistics({"akld": torch.tensor([[1.0, 3.0, 99.0]])}, torch.tensor([2]), quantile=0.5)
    {'max_akld': tensor([3.]), 'mean_akld': tensor([2.]), 'q50_akld': tensor([2.])}
    """
    if not 0.0 <= quantile <= 1.0:
        raise ValueError(f"quantile must be in [0, 1], got {quantile}")
    statistics: dict[str, Tensor] = {}
    for name, values in measures.items():
        if name == "log_mean_post":
            continue
        valid = _valid_frames(name, values, lengths)
        counts = lengths.to(values.device)
        # Padding may hold anything, NaN too, so that it is replaced and not multiplied by 0.
        statistics[f"max_{name}"] = values.masked_fill(~valid, -math.inf).amax(1)
        statistics[f"mean_{name}"] = values.masked_fill(~valid, 0.0).sum(1) / counts
        ordered = values.masked_fill(~valid, math.inf).sort(1).values
        position = quantile * (counts - 1).to(torch.float64)
        below = position.floor().long()
        above = torch.minimum(below + 1, counts - 1)
        low, high = (ordered.gather(1, index.unsqueeze(1)).squeeze(1) for index in (below, above))
        statistics[f"q{100 * quantile:g}_{name}"] = torch.lerp(low, high, (position - below).to(values.dtype))
    return statistics


def _valid_frames(name: str, values: Tensor, lengths: Tensor) -> Tensor:
    if values.dim() != 2 or lengths.shape != values.shape[:1]:
        raise ValueError(f"{name} must be (B, T) and lengths (B,), got {tuple(values.shape)}, {tuple(lengths.shape)}")
    if lengths.numel() and (int(lengths.min()) < 1 or int(lengths.max()) > values.shape[1]):
        raise ValueError(f"lengths must be in 1..{values.shape[1]}, got {int(lengths.min())}..{int(lengths.max())}")
    return torch.arange(values.shape[1], device=values.device) < lengths.to(values.device).unsqueeze(1)


def _check_log_post(log_post: Tensor, last: Tensor | None) -> None:
    if log_post.dim() != 4 or len(log_post) == 0:
        raise ValueError(f"log_post must be (M, B, T, C) with M >= 1, got {tuple(log_post.shape)}")
    if last is not None:
        if log_post.shape[1:] != last.shape:
            raise ValueError(f"log_post must be (M, *{tuple(last.shape)}) as before, got {tuple(log_post.shape)}")
    elif log_post.numel():  # logits by mistake would give numbers that look right: one frame tells
        total = float(log_post.detach()[0, 0, 0].exp().sum())
        if abs(total - 1.0) > 1e-2:
            raise ValueError(
                f"log_post must be normalised: the first frame sums to {total:.4g}, not 1; pass log_softmax(logits, -1)"
            )


def _kl(p: Tensor, log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL divergence over the last axis; p log p is 0 at p = 0 because log p is finite."""
    return (p * (log_p - log_q)).sum(-1)


def _zeros(p: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    frames, classes = (torch.zeros(shape, dtype=torch.float64, device=p.device) for shape in (p.shape[:-1], p.shape))
    return classes, classes.clone(), frames, frames.clone()


def _sum_draws(values: Tensor) -> Tensor:
    return values.sum(0) if len(values) > 1 else values[0]


def _add(total: Tensor, value: Tensor) -> Tensor:
    return total + value if total.requires_grad or value.requires_grad else total.add_(value)


def _without_rounding(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Replace negative values within rounding of 0 by 0: a larger negative value would be an error to show."""
    tolerance = 100 * torch.finfo(dtype).eps
    return torch.where((values < 0) & (values > -tolerance), torch.zeros_like(values), values)
