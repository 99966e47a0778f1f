"""Bounds of differences of a network's logits over all changes of the waveform within eps.

The first layer's sums are linear in the cepstra, and these in unknowns within [-1, 1]: the change of each sample, and
what the cells' linear forms leave open.  The layers above are bounded by lines above and below each rectifier, followed
back to there (CROWN).  Differences of two classes are bounded as such: in them the softmax cancels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kaldi_uq.certificate.cells import CellBounds, Cells
from kaldi_uq.feats.frontend import FrontEnd
from kaldi_uq.nnet.base import AcousticModel
from kaldi_uq.nnet.kinds.dnn import DnnModel
from kaldi_uq.nnet.kinds.ensemble import EnsembleModel

MAX_ELEMENTS = 1 << 22  # of the largest tensor of a group of frames: 32 MB

Layer = tuple[Tensor, Tensor]  # weight (outputs, inputs), bias (outputs,)


def members_of(network: AcousticModel) -> list[list[Layer]]:
    """The layers of each member, the rectifier between them.

    Raises:
        ValueError: a network that has no certificate.
    """
    if isinstance(network, DnnModel):
        members = [network]
    elif isinstance(network, EnsembleModel):
        members = [network.member(index) for index in range(network.num_members)]
    else:
        why = "its draws are random" if network.is_random else "its layers are not known"
        raise ValueError(f"no certificate for a network of kind {network.kind!r}, {why}: certify a dnn or an ensemble")
    return [[(layer.weight.detach(), layer.bias.detach()) for layer in member.layers] for member in members]


class Windows:
    """How the network's input hangs on the cells: deltas, context, normalisation; linear, and different at the ends.

    Args:
        front_end: the front end, in float64.
        num_frames: frames of the utterance, T.

    Attributes:
        whole: whether an input looks at all frames.
        reach: frames before and after that it looks at; 0 if at all of them.
        width: number of these frames, W.
        weights: (T, K, W) float64, K contexts and derivatives of each cepstrum.
    """

    def __init__(self, front_end: FrontEnd, num_frames: int) -> None:
        config = front_end.config
        device = front_end.norm.mean.device
        each = torch.eye(num_frames, dtype=torch.float64, device=device).unsqueeze(0)
        lengths = torch.tensor([num_frames], device=device)
        if config.cmvn == "utterance":
            each = each - 1 / num_frames
        spliced = front_end.splice(front_end.deltas(each, lengths), lengths)
        weights = spliced.view(num_frames, -1, num_frames)
        self.reach = config.delta_order * config.delta_window + max(config.left_context, config.right_context)
        self.width = 2 * self.reach + 1
        self.whole = config.cmvn == "utterance" or self.width >= num_frames
        if self.whole:
            self.reach, self.width, self.weights = 0, num_frames, weights
            return
        padded = torch.nn.functional.pad(weights, (self.reach, self.reach))
        places = torch.arange(num_frames, device=device).unsqueeze(1) + torch.arange(self.width, device=device)
        self.weights = padded.gather(2, places.unsqueeze(1).expand(-1, weights.shape[1], -1))

    def of(self, values: Tensor, start: int, stop: int) -> Tensor:
        """The values that each of the frames looks at: of (T + n, ...) those of (F, W + n, ...)."""
        if self.whole:
            return values.unsqueeze(0).expand(stop - start, *values.shape)
        empty = values.new_zeros(self.reach, *values.shape[1:])
        more = len(values) - len(self.weights)
        padded = torch.cat([empty, values, empty])[start : stop + 2 * self.reach + more]
        return padded.unfold(0, self.width + more, 1).movedim(-1, 1)


@dataclass(frozen=True)
class FirstLayer:
    """The sums of the first layer of some frames, which look at W frames of D cepstra each.

    Attributes:
        centre: (F, H) float64.
        weights: of the cepstra, (F, H, W, D).
        samples: what a change of the samples by eps does: of each of W + n blocks of samples, that to the D cepstra of
            the n + 1 frames in which it lies, and to the power of the utterance, (F, W + n, (n + 1) * D + 1, S).
        radius: what the cells leave open, (F, W, D, M).
        shared: coefficients of the change of the power, and of what its logarithm leaves open, (F, W * D, 2).
        power: how far samples outside the W + n blocks, and what is open in it, change the power, (F,).
    """

    centre: Tensor
    weights: Tensor
    samples: Tensor
    radius: Tensor
    shared: Tensor
    power: Tensor

    def reach(self, weights: Tensor) -> Tensor:
        """The largest change of linear functions of the cepstra, (F, R, W * D) to (F, R)."""
        frames, width, dim = self.radius.shape[:3]
        shared = weights @ self.shared
        own = weights.view(frames, -1, width, dim).transpose(1, 2)  # (F, W, R, D)
        reach = (own @ self.radius).abs().sum((1, 3))
        reach = reach + shared[..., 0].abs() * self.power.unsqueeze(1) + shared[..., 1].abs()
        more = self.samples.shape[1] - width
        padded = torch.nn.functional.pad(own, (0, 0, 0, 0, more, more))
        parts = [padded[:, more - lag : more - lag + width + more] for lag in range(more + 1)]
        parts.append(shared[..., :1].unsqueeze(1).expand(-1, width + more, -1, -1))
        return reach + torch.linalg.vector_norm(torch.cat(parts, dim=-1) @ self.samples, ord=1, dim=(1, 3))


def first_layers(
    front_end: FrontEnd, cells: Cells, bounds: CellBounds, layer: Layer, eps: float
) -> Iterator[tuple[slice, FirstLayer]]:
    """The sums of the first layer, a group of frames at a time.

    Args:
        front_end: the front end, in float64.
        cells: its cells.
        bounds: their bounds for ``eps``.
        layer: the first layer.
        eps: largest change of a sample.

    Yields:
        frames, and their sums.
    """
    num_frames = len(bounds.centre)
    windows = Windows(front_end, num_frames)
    weight, bias = layer
    # The normalisation becomes a part of the layer.
    contexts = weight.shape[1] // front_end.feature_dim
    scale = front_end.norm.std.repeat(contexts)
    scaled = weight / scale
    offset = bias - scaled @ front_end.norm.mean.repeat(contexts)
    size, dim = len(weight), cells.compose.shape[1]
    by_cepstrum = scaled.view(size, -1, dim).transpose(1, 2).flatten(0, 1)  # (H * D, K)
    centre = bounds.centre @ cells.compose
    radius = cells.compose.t() * bounds.radius.unsqueeze(1)  # (T, D, M)
    shared = cells.compose.t() @ bounds.shared
    blocks, power = _blocks(cells, bounds, eps)
    total = power.abs().sum()
    step = max(1, MAX_ELEMENTS // (size * (windows.width + len(blocks) - num_frames) * cells.shift))
    for start in range(0, num_frames, step):
        stop = min(num_frames, start + step)
        weights = (by_cepstrum @ windows.weights[start:stop]).view(stop - start, size, dim, -1).transpose(2, 3)
        samples = windows.of(blocks, start, stop)
        outside = total - samples[:, :, -1].abs().sum((1, 2))
        yield (
            slice(start, stop),
            FirstLayer(
                centre=weights.flatten(2).matmul(windows.of(centre, start, stop).flatten(1).unsqueeze(-1)).squeeze(-1)
                + offset,
                weights=weights,
                samples=samples,
                radius=windows.of(radius, start, stop),
                shared=windows.of(shared, start, stop).flatten(1, 2),
                power=outside.clamp_min(0) + bounds.power_radius,
            ),
        )


def _blocks(cells: Cells, bounds: CellBounds, eps: float) -> tuple[Tensor, Tensor]:
    """Effects of blocks of as many samples as frames shift, S: one for each frame, and n more for the last one's end.

    Returns:
        to cepstra and power, (T + n, (n + 1) * D + 1, S), and to the power of all samples, (N,).
    """
    linear = eps * (cells.compose.t() @ bounds.linear)  # (T, D, L)
    more = (linear.shape[-1] - 1) // cells.shift
    linear = torch.nn.functional.pad(linear, (0, (more + 1) * cells.shift - linear.shape[-1]))
    lags = linear.unflatten(-1, (more + 1, cells.shift)).unbind(2)
    parts = [torch.nn.functional.pad(part, (0, 0, 0, 0, lag, more - lag)) for lag, part in enumerate(lags)]
    power = eps * bounds.power
    placed = cells.place(power)
    size = (len(linear) + more) * cells.shift
    placed = torch.nn.functional.pad(placed, (0, size - len(placed)))
    return torch.cat([*parts, placed.view(-1, 1, cells.shift)], dim=1), power


class Rectified:
    """The layers of one network above the first, with bounds of every sum for some frames.

    Units that are off in all these frames are left out.

    Args:
        first: sums of the first layer.
        layers: all layers of the network.

    Attributes:
        bounds: of the sums of each hidden layer, lowest and highest, (F, H) each.
    """

    def __init__(self, first: FirstLayer, layers: Sequence[Layer]) -> None:
        self._first, self._last = first, layers[-1]
        self._centre, self._weights = first.centre, first.weights.flatten(2)
        self._lines: list[tuple[Tensor, Tensor, Tensor]] = []
        self._layers: list[Layer] = []
        reach = first.reach(self._weights)
        self.bounds = [(self._centre - reach, self._centre + reach)]
        used = self._add_lines()
        self._centre, self._weights = self._centre[:, used], self._weights[:, used]
        for weight, bias in layers[1:-1]:
            weight = weight[:, used]
            self.bounds.append(self._range(weight.expand(len(first.centre), *weight.shape), bias))
            used = self._add_lines()
            self._layers.append((weight[used], bias[used]))
        self._last = self._last[0][:, used], self._last[1]

    def _add_lines(self) -> Tensor:
        low, high = self.bounds[-1]
        used = (high > 0).any(0)
        self._lines.append(_lines(low[:, used], high[:, used]))
        return used

    def _range(self, rows: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
        """Bounds of linear functions of the last hidden layer whose bounds are known, by lines of the same slope.

        Their one way back gives both bounds, in half the time of the two of :meth:`_upper`, which are tighter.

        Args:
            rows: coefficients, (F, R, H).
            offset: (R,).

        Returns:
            lowest and highest, (F, R) float64 each.

        Source: Weng et al. 2018, Towards fast computation of certified robustness for ReLU networks (Fast-Lin).
        """
        below: Tensor | float = 0.0
        above: Tensor | float = 0.0
        for depth in range(len(self._lines) - 1, -1, -1):
            _, upper, height = self._lines[depth]
            height = height.unsqueeze(-1)
            positive = (rows.clamp_min(0) @ height).squeeze(-1)
            below, above = below + (rows @ height).squeeze(-1) - positive, above + positive
            rows = rows * upper.unsqueeze(1)
            if depth:
                weight, bias = self._layers[depth - 1]
                offset = offset + rows @ bias
                rows = rows @ weight
        centre, reach = self._at_first(rows, offset)
        return centre - reach + below, centre + reach + above

    def _upper(self, rows: Tensor, offset: Tensor) -> Tensor:
        """Upper bounds of linear functions of the last hidden layer.

        Args:
            rows: coefficients, (F, R, H).
            offset: (F, R).

        Returns:
            (F, R) float64.

        Source: Zhang et al. 2018, Efficient neural network robustness certification with general activation functions.
        """
        for depth in range(len(self._lines) - 1, -1, -1):
            lower, upper, height = self._lines[depth]
            positive = rows.clamp_min(0)
            offset = offset + (positive @ height.unsqueeze(-1)).squeeze(-1)
            rows = positive * upper.unsqueeze(1) + rows.clamp_max(0) * lower.unsqueeze(1)
            if depth:
                weight, bias = self._layers[depth - 1]
                offset = offset + rows @ bias
                rows = rows @ weight
        centre, reach = self._at_first(rows, offset)
        return centre + reach

    def _at_first(self, rows: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
        """What linear functions of the first layer's sums are, and how far they can move."""
        centre = offset + (rows @ self._centre.unsqueeze(-1)).squeeze(-1)
        return centre, self._first.reach(rows @ self._weights)

    def leads(self, classes: Tensor) -> Tensor:
        """Upper bounds of every logit's lead over that of one class of each frame.

        Args:
            classes: (F,) int64.

        Returns:
            (F, C) float64; 0 for the class itself.
        """
        return self._upper(*self._leads(classes))

    def lowest_leads(self, classes: Tensor) -> Tensor:
        """Lower bounds of the same."""
        rows, offset = self._leads(classes)
        return -self._upper(-rows, -offset)

    def _leads(self, classes: Tensor) -> tuple[Tensor, Tensor]:
        weight, bias = self._last
        return weight - weight[classes].unsqueeze(1), bias - bias[classes].unsqueeze(1)


def _lines(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Lines around max(0, s) for s in [low, high]: the slope of the lower and of the upper one, its height at 0."""
    crossing = (low < 0) & (high > 0)
    on = (low >= 0).to(low)
    upper = torch.where(crossing, high / torch.where(crossing, high - low, 1), on)
    lower = torch.where(crossing, (high > -low).to(high), on)  # of all lines through 0 the one of the smallest area
    return lower, upper, torch.where(crossing, -upper * low, 0)


@dataclass(frozen=True)
class Certifiable:
    """A front end and a network whose scores can be bounded.

    Attributes:
        front_end: in float64.
        cells: its cells.
        members: the layers of each member of the network.
    """

    front_end: FrontEnd
    cells: Cells
    members: Sequence[Sequence[Layer]]

    def lead_bounds(self, wav: Tensor, classes: Tensor, eps: float) -> Tensor:
        """Upper bounds of every class's log-posterior minus that of one class of each frame.

        Args:
            wav: one utterance, (N,) float64 in [-1, 1].
            classes: (T,) int64.
            eps: largest change of a sample, full scale 1.

        Returns:
            (T, C) float64.
        """
        bounds = self.cells.bounds(wav, eps)
        leads, lowest = [], []
        for layers in self.members:
            above, below = [], []
            for rows, first in first_layers(self.front_end, self.cells, bounds, layers[0], eps):
                network = Rectified(first, layers)
                above.append(network.leads(classes[rows]))
                if len(self.members) > 1:
                    below.append(network.lowest_leads(classes[rows]))
            leads.append(torch.cat(above))
            lowest += [torch.cat(below)] if below else []
        return leads[0] if not lowest else mean_lead(torch.stack(leads), torch.stack(lowest), classes)


def mean_lead(high: Tensor, low: Tensor, classes: Tensor) -> Tensor:
    """Upper bounds of the leads of a mean of posteriors, from bounds of each member's leads.

    The ratio of two mean posteriors is a weighted mean of the members' ratios, so it is at most the largest of them; it
    is also at most the mean of the largest posteriors over the mean of the smallest.

    Args:
        high: upper bounds, (M, T, C).
        low: lower bounds, (M, T, C).
        classes: the class that leads are over, (T,) int64.

    Returns:
        (T, C).
    """
    own = torch.nn.functional.one_hot(classes, high.shape[-1]).bool()
    # Of each class c: the others at their lowest, c at its highest.
    rest = low.unsqueeze(-2).expand(*low.shape, low.shape[-1])
    each = torch.diag_embed(high - low) + rest
    largest = (high - each.logsumexp(-1)).logsumexp(0)
    smallest = (-high.logsumexp(-1)).logsumexp(0)
    return torch.minimum(high.amax(0), largest - smallest.unsqueeze(-1)).masked_fill(own, 0)
