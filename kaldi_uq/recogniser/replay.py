"""A model on a GPU as one recorded list of kernels, for whoever passes batches of the same sizes many times.

A step of an attack is some hundred kernels of microseconds; starting them one by one takes longer than they do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

WARM_UP = 2  # passes before the recording: plans of transforms and workspaces are made in these


class Replay:
    """A function of a waveform (B, N), with its gradient: recorded in its third pass, replayed from then on.

    Passes without a gradient are computed as they are.  The numbers are those of the function itself, draws of random
    models included.

    Args:
        function: gives a tensor; launches the same kernels on the GPU at every call, and waits for none of them.
        generator: what it draws from.
    """

    def __init__(self, function: Callable[[Tensor], Tensor], generator: torch.Generator | None = None) -> None:
        self._function, self._generator = function, generator
        self._passes = 0
        self._recorded: _Recorded | None = None

    def __call__(self, wav: Tensor) -> Tensor:
        if not (torch.is_grad_enabled() and wav.requires_grad):
            return self._function(wav)
        self._passes += 1
        if self._passes <= WARM_UP:
            return self._function(wav)
        if self._recorded is None:
            self._recorded = _Recorded(self._function, wav, self._generator)
        return _Replayed.apply(wav, self._recorded)  # type: ignore[no-untyped-call, no-any-return]


class _Recorded:
    """The two graphs, forward and backward, and the tensors that they read and write."""

    def __init__(self, function: Callable[[Tensor], Tensor], wav: Tensor, generator: torch.Generator | None) -> None:
        self.wav = wav.detach().clone().requires_grad_(True)
        self.forward, self.backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        if generator is not None:
            self.forward.register_generator_state(generator)
        stream = torch.cuda.Stream(wav.device)  # PyTorch's own is on the GPU that was the first to record anything
        with torch.cuda.graph(self.forward, stream=stream):
            self.output = function(self.wav)
        self.slope = torch.zeros_like(self.output)
        with torch.cuda.graph(self.backward, pool=self.forward.pool(), stream=stream):
            # what the forward pass has kept stays, for there may be two gradients of one pass
            (self.gradient,) = torch.autograd.grad(self.output, self.wav, self.slope, retain_graph=True)
        self.passes = 0


class _Replayed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, wav: Tensor, recorded: _Recorded) -> Tensor:
        recorded.passes += 1
        ctx.recorded, ctx.number = recorded, recorded.passes
        recorded.wav.detach().copy_(wav)
        recorded.forward.replay()
        return recorded.output.detach().clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        recorded = ctx.recorded
        if recorded.passes != ctx.number:
            raise RuntimeError("the gradient of a pass must be taken before the next pass")
        recorded.slope.copy_(grad)
        recorded.backward.replay()
        return recorded.gradient.clone(), None
