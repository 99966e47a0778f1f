"""Monte Carlo dropout: hidden units are dropped in training and at test, each draw is a sub-network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kaldi_uq.nnet.base import FrameModel, choose_chunk, chunk_sizes, layer_sizes
from kaldi_uq.nnet.config import DropoutConfig, register
from kaldi_uq.nnet.kinds.dnn import make_linear


@register
class McDropoutModel(FrameModel):
    """A feed-forward network with dropout after the ReLU of every hidden layer.

    The masks of a draw are independent from frame to frame, as in the paper's code: a frame's posteriors have the same
    distribution as with one mask for the utterance, and given x the frames are independent.

    Args:
        config: sizes and ``dropout``, the probability of dropping a unit.
        generator: CPU generator of the initial weights.

    Source: section 2.2 of the paper; Gal and Ghahramani 2016.
    """

    config_class = DropoutConfig
    config: DropoutConfig
    is_random = True
    default_num_samples = 100
    default_num_train_samples = 10
    recommended_statistic = "mean_akld"

    def __init__(self, config: DropoutConfig, *, generator: torch.Generator) -> None:
        super().__init__(config)
        self.layers: Sequence[nn.Linear] = nn.ModuleList(  # type: ignore[assignment]
            make_linear(i, o, generator) for i, o in layer_sizes(config)
        )

    def _iter_logits(
        self, x: Tensor, num_samples: int, chunk: int | None, generator: torch.Generator | None
    ) -> Iterator[Tensor]:
        keep = 1.0 - self.config.dropout
        frames = x.flatten(0, 1)
        widths = self.config.hidden_dims
        # Dropout leaves the input alone, so the first layer is the same for all draws.  The 1/keep of inverted dropout
        # goes into the weights that follow, where it costs nothing.
        first = self.layers[0](frames).relu_()
        rest = [(layer.weight / keep, layer.bias) for layer in self.layers[1:]]
        size = choose_chunk(num_samples, len(frames), max(*widths, self.num_pdfs), x.device, chunk)
        for m in chunk_sizes(num_samples, size):
            masks = draw_masks(m, len(frames), widths, keep=keep, like=first, generator=generator)
            hidden = first * masks[0]
            for (weight, bias), mask in zip(rest[:-1], masks[1:], strict=True):
                # relu(mask * a) = mask * relu(a), and in this order both can work in place under autograd.
                hidden = F.linear(hidden, weight, bias).mul_(mask).relu_()
            yield F.linear(hidden, *rest[-1]).reshape(m, *x.shape[:2], self.num_pdfs)


def draw_masks(
    num_draws: int,
    num_frames: int,
    widths: tuple[int, ...],
    *,
    keep: float,
    like: Tensor,
    generator: torch.Generator | None,
) -> list[Tensor]:
    """Masks of 0 and 1, one for each layer, every element kept with probability ``keep``.

    Cuts 64 random bits into eight masks, or into four when ``keep`` is no multiple of 1/256; it is then rounded to a
    multiple of 2**-16.  PyTorch's own Bernoulli sampler takes most of the time of a forward pass on a CPU: this one is
    about twenty times faster.  All the bits of a draw come from one call, so that they do not depend on how draws are
    grouped.

    Returns:
        Tensors ``(num_draws, num_frames, width)`` with the type and device of ``like``.
    """
    integer, levels = (torch.int8, 256) if (keep * 256).is_integer() else (torch.int16, 65536)
    per_word = 8 if levels == 256 else 4
    words = torch.empty((num_draws, -(-num_frames * sum(widths) // per_word)), dtype=torch.int64, device=like.device)
    for draw in words:
        draw.random_(-(2**63), None, generator=generator)
    numbers = words.view(integer)
    threshold = round(keep * levels) - levels // 2  # the integers are signed
    masks, start = [], 0
    for width in widths:
        part = numbers[:, start : start + num_frames * width].reshape(num_draws, num_frames, width)
        if threshold >= levels // 2:  # nothing is dropped, and the bound itself is no integer of this type
            masks.append(like.new_ones(part.shape))
        else:
            masks.append(torch.lt(part, threshold, out=torch.empty(part.shape, dtype=like.dtype, device=like.device)))
        start += num_frames * width
    return masks
