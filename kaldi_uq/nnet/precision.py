"""How a GPU rounds the products of a gradient."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def quick_products(device: torch.device) -> Iterator[None]:
    """Let a GPU round the factors of matrix products to 10 bits (TF32), which neither a training nor an attack feels.

    What is scored, decoded and reported is computed in single precision, and so is everything on a CPU.
    """
    if device.type != "cuda":
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
