"""Deep ensemble: M networks that differ in their initial weights, computed with one batched product a layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kaldi_uq.nnet.base import FrameModel, choose_chunk, chunk_sizes, cross_entropy
from kaldi_uq.nnet.config import DnnConfig, EnsembleConfig, ModelConfig, register
from kaldi_uq.nnet.kinds.dnn import DnnModel


def member_seeds(seed: int, num_members: int) -> tuple[int, ...]:
    """Seeds of the members: independent of each other, of ``num_members``, and of ensembles with another seed.

    >>> member_seeds(0, 2) == member_seeds(0, 5)[:2]
    True
    >>> set(member_seeds(0, 5)) & set(member_seeds(1, 5))
    set()
    """
    states = (np.random.SeedSequence(seed, spawn_key=(m,)).generate_state(1, np.uint64) for m in range(num_members))
    return tuple(int(state[0] >> np.uint64(1)) for state in states)  # 63 bits: what every torch generator takes


@register
class EnsembleModel(FrameModel):
    """M feed-forward networks with the member axis in the weights.

    Member m is the ``DnnModel`` whose generator was seeded with ``seeds[m]``; trained on the same minibatches it stays
    that network, because the loss is the sum over members and nothing else couples them.

    Args:
        config: sizes and ``num_members``.
        seeds: one seed for each member, see ``member_seeds``.

    Source: section 2.2 of the paper; Lakshminarayanan et al. 2017.
    """

    config_class = EnsembleConfig
    config: EnsembleConfig
    recommended_statistic = "max_mutual_information"

    def __init__(self, config: EnsembleConfig, *, seeds: Sequence[int]) -> None:
        super().__init__(config)
        if len(seeds) != config.num_members:
            raise ValueError(f"an ensemble of {config.num_members} members needs as many seeds, got {len(seeds)}")
        self.num_members = self.default_num_samples = self.default_num_train_samples = config.num_members
        self._member_config = DnnConfig(config.input_dim, config.num_pdfs, config.hidden_dims)
        members = [DnnModel(self._member_config, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        layers = [[member.layers[k] for member in members] for k in range(len(members[0].layers))]
        self.weights = nn.ParameterList(torch.stack([m.weight.detach() for m in layer]) for layer in layers)
        self.biases = nn.ParameterList(torch.stack([m.bias.detach() for m in layer]) for layer in layers)

    @classmethod
    def build(cls, config: ModelConfig, seed: int) -> EnsembleModel:
        """An ensemble whose members have the seeds that ``member_seeds`` derives."""
        assert isinstance(config, EnsembleConfig)
        return cls(config, seeds=member_seeds(seed, config.num_members))

    def member(self, index: int) -> DnnModel:
        """A copy of one member as a network of its own."""
        model = DnnModel(self._member_config, generator=torch.Generator().manual_seed(0)).to(self.weights[0])
        with torch.no_grad():
            for layer, weight, bias in zip(model.layers, self.weights, self.biases, strict=True):
                layer.weight.copy_(weight[index])
                layer.bias.copy_(bias[index])
        return model

    def training_loss(
        self,
        x: Tensor,
        pdfs: Tensor,
        *,
        num_frames_total: int,
        mask: Tensor | None = None,
        num_samples: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Sum over members of the cross-entropy, each member on its own minibatch.

        The sum, not the mean: every member gets the gradient that it would get alone.

        Args:
            x: frames ``(M, F, D)``, a minibatch for each member, or ``(F, D)``, the same for all.
            pdfs: int64 ``(M, F)`` or ``(F,)``, as ``x``.
            num_frames_total: not used: no KL term.
            mask: not used for frames; must be None.
            num_samples: None or M.
            generator: not used: nothing is random.

        Returns:
            A scalar.
        """
        members = self._count_draws(num_samples, self.default_num_train_samples)
        if mask is not None:
            raise ValueError("an ensemble of frame-wise networks takes frames without padding: mask must be None")
        if x.dim() not in (2, 3) or (x.dim() == 3 and x.shape[0] != members) or x.shape[-1] != self.config.input_dim:
            expected = f"(F, {self.config.input_dim}) or ({members}, F, {self.config.input_dim})"
            raise ValueError(f"frames of an ensemble must be {expected}, got {tuple(x.shape)}")
        logits = self._member_logits(x, 0, members)
        if x.dim() == 2:
            return members * cross_entropy(logits, pdfs)
        return members * cross_entropy(logits.unsqueeze(0), pdfs)

    def clip_gradients(self, max_norm: float) -> Tensor:
        """Clip the gradients of each member by the norm of that member's gradients; returns the norms ``(M,)``."""
        gradients = [p.grad for p in self.parameters() if p.grad is not None]
        if not gradients:
            return torch.zeros(self.config.num_members)
        squares = torch.stack([gradient.flatten(1).square().sum(1) for gradient in gradients])
        norms = squares.sum(0).sqrt()
        scale = (max_norm / (norms + 1e-6)).clamp(max=1.0)
        for gradient in gradients:
            gradient.mul_(scale.reshape(-1, *[1] * (gradient.dim() - 1)))
        return norms

    def _iter_logits(
        self, x: Tensor, num_samples: int, chunk: int | None, generator: torch.Generator | None
    ) -> Iterator[Tensor]:
        frames = x.flatten(0, 1)
        width = max(*self.config.hidden_dims, self.num_pdfs)
        start = 0
        for m in chunk_sizes(num_samples, choose_chunk(num_samples, len(frames), width, x.device, chunk)):
            yield self._member_logits(frames, start, start + m).reshape(m, *x.shape[:2], self.num_pdfs)
            start += m

    def _member_logits(self, x: Tensor, start: int, stop: int) -> Tensor:
        """Logits ``(m, F, C)`` of members ``start`` to ``stop`` for ``(F, D)``, or ``(m, F, D)`` of their own."""
        weights = [w[start:stop] for w in self.weights]
        biases = [b[start:stop] for b in self.biases]
        if x.dim() == 2:  # one product for all members, as they read the same frames
            first = F.linear(x, weights[0].flatten(0, 1), biases[0].flatten())
            hidden = first.reshape(len(x), stop - start, -1).transpose(0, 1)
        else:
            hidden = torch.baddbmm(biases[0].unsqueeze(1), x, weights[0].transpose(1, 2))
        for weight, bias in zip(weights[1:], biases[1:], strict=True):
            hidden = torch.baddbmm(bias.unsqueeze(1), hidden.relu_(), weight.transpose(1, 2))
        return hidden
