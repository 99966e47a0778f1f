"""Steps of an ordinary training on a GPU: the kernels of one are recorded, and replayed for each minibatch after it.

A small network's step is some hundred kernels of microseconds, which take ten times as long to start one by one.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

WARM_UP = 3  # steps before the recording: the optimiser's state and the workspaces are made in these


class RecordedStep:
    """A step that looks the same for every minibatch of one shape; the others are taken as they come.

    Args:
        step: from frames (F, D), or (M, F, D), and their pdfs to the loss before the step, a scalar without a gradient;
            takes the step, and waits for no kernel.
        generator: what it draws from.
    """

    def __init__(self, step: Callable[[Tensor, Tensor], Tensor], generator: torch.Generator) -> None:
        self._step, self._generator = step, generator
        self._shape: torch.Size | None = None
        self._taken = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._x = self._pdfs = self._loss = torch.empty(0)

    def __call__(self, x: Tensor, pdfs: Tensor) -> Tensor:
        if self._shape is None:
            self._shape = x.shape
        if x.shape != self._shape:
            return self._step(x, pdfs)
        self._taken += 1
        if self._taken <= WARM_UP:
            return self._step(x, pdfs)
        if self._graph is None:
            self._x, self._pdfs = x.clone(), pdfs.clone()
            self._graph = torch.cuda.CUDAGraph()
            self._graph.register_generator_state(self._generator)
            # PyTorch's own stream is on the GPU that was the first to record anything
            with torch.cuda.graph(self._graph, stream=torch.cuda.Stream(x.device)):
                self._loss = self._step(self._x, self._pdfs)
        self._x.copy_(x)
        self._pdfs.copy_(pdfs)
        self._graph.replay()
        return self._loss.clone()
