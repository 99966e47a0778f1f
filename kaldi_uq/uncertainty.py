"""Uncertainty of each frame from several posteriors of the same frame, streaming over draws, in nats.

With p_m the posterior of draw or member m and p their mean, over M draws and C classes:

``predictive_entropy``   H[p]                                                         eq. 3
``expected_entropy``     (1/M) sum_m H[p_m]
``mutual_information``   H[p] - (1/M) sum_m H[p_m]                                    eq. 4
``variance``             max over classes of (1/M) sum_m p_m^2 - p^2                  eq. 5
``akld``                 (1/(M-1)) sum_m KL(p_m || p_(m+1)), in the order of the draws   eq. 6

Equation 5 is per class and the paper does not say how classes are reduced; its published code evaluates the maximum.
Nothing here grows with M: a hundred draws cost the memory of one chunk and of a few sums.

An aggregate makes one number an utterance of a measure: :class:`Statistic`.  Both can be added, see :func:`measure` and
:func:`aggregate`.

Source: section 3.2 of the paper.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

# Log-posteriors are floored here, just below the logarithm of the smallest positive float64, so that a floored
# probability is still 0.  A zero probability then costs finitely many nats in a KL divergence (exactly it is infinite),
# and neither values nor gradients become NaN.  What log_softmax gives for finite logits lies above and is not changed.
LOG_FLOOR = -746.0

MEASURES = ("predictive_entropy", "expected_entropy", "mutual_information", "variance", "akld")
NEED_DRAWS = {"mutual_information", "variance", "akld"}  # measures that one draw alone does not have

Measure: TypeAlias = Callable[[Mapping[str, Tensor]], Tensor]
Aggregate: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]
ADDED_MEASURES: dict[str, Measure] = {}


@dataclass(frozen=True)
class Statistic:
    """One number an utterance: a measure of its frames, and how the frames are summed up.

    Attributes:
        measure: name of a measure.
        aggregate: name of an aggregate.

    >>> Statistic.parse("max_predictive_entropy")
    Statistic(measure='predictive_entropy', aggregate='max')
    """

    measure: str
    aggregate: str

    @property
    def name(self) -> str:
        """The name in tables and files: ``<aggregate>_<measure>``."""
        return f"{self.aggregate}_{self.measure}"

    @classmethod
    def parse(cls, name: str) -> Statistic:
        """The statistic of a name.

        Raises:
            ValueError: its aggregate or its measure is not known.
        """
        aggregate, _, measure = name.partition("_")
        measures = (*MEASURES, *ADDED_MEASURES)
        if aggregate not in AGGREGATES or measure not in measures:
            raise ValueError(
                f"statistic {name!r:.60} is not known: expected <aggregate>_<measure>, with an aggregate of "
                f"{', '.join(AGGREGATES)} and a measure of {', '.join(measures)}"
            )
        return cls(measure, aggregate)


def measure(name: str, *, needs_draws: bool = False) -> Callable[[Measure], Measure]:
    """Decorator that adds a measure: :func:`measures_from_draws` computes it, and every statistic of it exists.

    Args:
        name: name of the measure.
        needs_draws: whether one draw alone does not have it.

    Returns:
        A decorator of a function from the measures of :meth:`UncertaintyAccumulator.result`, with ``log_mean_post
        (B, T, C)``, to ``(B, T)``: higher is less certain, and differentiable if attacks are to use it.

    Raises:
        ValueError: the name is one of this module's own.

    >>> @measure("low_confidence")
    ... def low_confidence(measures):
    ...     return 1 - measures["log_mean_post"].amax(-1).exp()
    >>> Statistic.parse("mean_low_confidence").measure
    'low_confidence'
    >>> _ = ADDED_MEASURES.pop("low_confidence")
    """
    if name in (*MEASURES, "log_mean_post"):
        raise ValueError(f"there is already a measure {name!r}: choose another name")

    def add(function: Measure) -> Measure:
        ADDED_MEASURES[name] = function
        (NEED_DRAWS.add if needs_draws else NEED_DRAWS.discard)(name)
        return function

    return add


def _max(values: Tensor, valid: Tensor, lengths: Tensor) -> Tensor:
    return values.masked_fill(~valid, -math.inf).amax(1)


def _mean(values: Tensor, valid: Tensor, lengths: Tensor) -> Tensor:
    return values.masked_fill(~valid, 0.0).sum(1) / lengths


def quantile(fraction: float) -> Aggregate:
    """The aggregate that takes a quantile of the frames; between two frames it interpolates linearly.

    Raises:
        ValueError: the fraction is not in [0, 1].
    """
    if not 0.0 <= fraction <= 1.0:
        raise ValueError(f"quantile must be in [0, 1], got {fraction}")

    def quantile_of(values: Tensor, valid: Tensor, lengths: Tensor) -> Tensor:
        ordered = values.masked_fill(~valid, math.inf).sort(1).values
        position = fraction * (lengths - 1).to(torch.float64)
        below = position.floor().long()
        above = torch.minimum(below + 1, lengths - 1)
        low, high = (ordered.gather(1, index.unsqueeze(1)).squeeze(1) for index in (below, above))
        return torch.lerp(low, high, (position - below).to(values.dtype))

    return quantile_of


AGGREGATES: dict[str, Aggregate] = {"max": _max, "mean": _mean, "q95": quantile(0.95)}
_OWN_AGGREGATES = tuple(AGGREGATES)


def aggregate(name: str) -> Callable[[Aggregate], Aggregate]:
    """Decorator that adds an aggregate: :func:`utterance_statistics` computes it of every measure.

    Args:
        name: name of the aggregate, without an underscore.

    Returns:
        A decorator of a function ``(values (B, T), valid (B, T) bool, lengths (B,) int64) -> (B,)``.  Frames that are
        not valid are padding, and may hold anything, NaN too.

    Raises:
        ValueError: an underscore in the name, or one of this module's own names.
    """
    if not name or "_" in name or name in _OWN_AGGREGATES:
        raise ValueError(f"aggregate {name!r}: expected a name without an underscore, other than {_OWN_AGGREGATES}")

    def add(function: Aggregate) -> Aggregate:
        AGGREGATES[name] = function
        return function

    return add


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

    Returns and Raises: as ``UncertaintyAccumulator.result``, with the measures that were added; with one draw only
    those that one draw has.
    """
    accumulator = UncertaintyAccumulator()
    for log_post in draws:
        accumulator.update(log_post)
    measures = accumulator.result()
    added = {
        name: function(measures)
        for name, function in ADDED_MEASURES.items()
        if accumulator.num_draws > 1 or name not in NEED_DRAWS
    }
    for name, values in added.items():
        expected = measures["predictive_entropy"].shape
        if values.shape != expected:
            raise ValueError(f"measure {name!r} must give (B, T) = {tuple(expected)}, it gives {tuple(values.shape)}")
    return measures | added


def utterance_statistics(measures: Mapping[str, Tensor], lengths: Tensor) -> dict[str, Tensor]:
    """One number an utterance from the measures of its frames; padded frames have no part in it.

    Args:
        measures: ``(B, T)`` by name; ``log_mean_post`` is left out.
        lengths: frames of each utterance, int64 ``(B,)``, at least 1 and at most T.

    Returns:
        ``max_<measure>``, ``mean_<measure>``, ``q95_<measure>`` (the 95 % quantile), and the aggregates that were
        added, ``(B,)``.

    Raises:
        ValueError: lengths that do not fit.

    >>> utterance_statistics({"akld": torch.tensor([[1.0, 3.0, 99.0]])}, torch.tensor([2]))
    {'max_akld': tensor([3.]), 'mean_akld': tensor([2.]), 'q95_akld': tensor([2.9000])}
    """
    statistics: dict[str, Tensor] = {}
    for name, values in measures.items():
        if name == "log_mean_post":
            continue
        if values.dim() != 2 or lengths.shape != values.shape[:1]:
            raise ValueError(
                f"{name} must be (B, T) and lengths (B,), got {tuple(values.shape)}, {tuple(lengths.shape)}"
            )
        if lengths.numel() and (int(lengths.min()) < 1 or int(lengths.max()) > values.shape[1]):
            least, most = int(lengths.min()), int(lengths.max())
            raise ValueError(f"lengths must be in 1..{values.shape[1]}, got {least}..{most}")
        counts = lengths.to(values.device)
        valid = valid_frames(counts, values.shape[1])
        # Padding may hold anything, NaN too, so that it is replaced and not multiplied by 0.
        for kind, function in AGGREGATES.items():
            statistics[Statistic(name, kind).name] = function(values, valid, counts)
    return statistics


def valid_frames(lengths: Tensor, num_frames: int) -> Tensor:
    """Which frames of a padded batch are no padding.

    Args:
        lengths: frames of each utterance, int64 ``(B,)``.
        num_frames: T.

    Returns:
        ``(B, T)`` bool.

    >>> valid_frames(torch.tensor([1, 2]), 2).tolist()
    [[True, False], [True, True]]
    """
    return torch.arange(num_frames, device=lengths.device) < lengths.unsqueeze(1)


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
