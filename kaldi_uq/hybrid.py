"""The hybrid acoustic model: front end, network and pdf priors together, and its file.

The file is ``final.safetensors``: arrays plus a JSON header with the configurations.  Reading it runs no code.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from kaldi_uq.errors import ModelFileError
from kaldi_uq.feats.frontend import FrontEnd
from kaldi_uq.io.files import atomic_write
from kaldi_uq.nnet import build_model
from kaldi_uq.types import FrontEndConfig, ModelConfig

FORMAT = "kaldi_uq.hybrid.1"
MODEL_FILE = "final.safetensors"


class HybridModel(nn.Module):
    """From waveforms to log-posteriors of the pdfs.

    Args:
        frontend: configuration of the front end.
        network: configuration of the network; its input dimension must be the front end's output.
        seed: of the network's initial weights.

    Attributes:
        log_prior: (C,) float32, log P(pdf) over the training frames.
    """

    log_prior: Tensor

    def __init__(self, frontend: FrontEndConfig, network: ModelConfig, *, seed: int = 0) -> None:
        super().__init__()
        self.front_end = FrontEnd(frontend)
        if network.input_dim != self.front_end.output_dim:
            raise ValueError(
                f"the network takes {network.input_dim} inputs, the front end has {self.front_end.output_dim}"
            )
        self.network = build_model(network, seed=seed)
        self.register_buffer("log_prior", torch.full((network.num_pdfs,), -float(np.log(network.num_pdfs))))

    def set_prior(self, counts: np.ndarray) -> None:
        """Set the priors from frame counts (C,); an unseen pdf counts as one frame, so that no prior is zero."""
        floored = np.maximum(np.asarray(counts, dtype=np.float64), 1.0)
        self.log_prior.copy_(torch.from_numpy(np.log(floored / floored.sum())).to(self.log_prior))

    def iter_log_post(
        self,
        wav: Tensor,
        num_samples: Tensor,
        *,
        num_draws: int | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Iterator[Tensor], Tensor]:
        """Log-posteriors in chunks of draws.

        Args:
            wav: (B, N) float32 in [-1, 1].
            num_samples: (B,) int64.
            num_draws: draws of a random network; ``None`` for its default.
            generator: of the draws.

        Returns:
            an iterator of (m, B, T, C) chunks, and the lengths (B,) int64 in frames.
        """
        x, lengths = self.front_end(wav, num_samples)
        return self.network.iter_log_post(x, num_samples=num_draws, generator=generator), lengths

    def loglikes(self, log_post: Tensor) -> Tensor:
        """Unscaled log-likelihoods, up to a constant of the frame: ``log_post - log_prior``."""
        return log_post - self.log_prior

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model file atomically."""
        header = {
            "format": FORMAT,
            "frontend": json.dumps(self.front_end.config.to_dict()),
            "network": json.dumps(self.network.config.to_dict()),
        }
        tensors = {name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}
        with atomic_write(path, "wb") as stream:
            stream.write(_in_order(save(tensors, metadata=header)))

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: str | torch.device = "cpu") -> HybridModel:
        """Read a model file (or ``final.safetensors`` of a directory), in evaluation mode.

        Raises:
            ModelFileError: missing, damaged, of another format, or arrays that do not fit the configuration.
        """
        path = Path(path)
        path = path / MODEL_FILE if path.is_dir() else path
        if not path.is_file():
            raise ModelFileError(f"{path}: no such model; steps/uq/train.sh makes it (stage 4 of the recipe)")
        try:
            with safe_open(path, framework="pt") as stream:
                header = stream.metadata() or {}
                tensors = {name: stream.get_tensor(name) for name in stream.keys()}
        except (SafetensorError, OSError) as error:
            raise ModelFileError(f"{path}: not a model file, or a damaged one ({error})") from None
        if header.get("format") != FORMAT:
            raise ModelFileError(f"{path}: format {header.get('format')!r}, expected {FORMAT!r}")
        for name, values in tensors.items():
            if values.is_floating_point() and not bool(torch.isfinite(values).all()):
                raise ModelFileError(f"{path}: {name} has values that are NaN or infinite; train the model again")
        try:
            frontend = FrontEndConfig.from_dict(json.loads(header["frontend"]))
            network = ModelConfig.from_dict(json.loads(header["network"]))
            model = cls(frontend, network)
            model.load_state_dict(tensors)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise ModelFileError(
                f"{path}: arrays and configuration do not fit ({' '.join(str(error).split())})"
            ) from None
        return model.to(device).eval()


def _in_order(data: bytes) -> bytes:
    """A safetensors file with its metadata sorted, so that equal models are equal files: it comes in random order."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the arrays begin at a multiple of 8 bytes
    return len(text).to_bytes(8, "little") + text + data[8 + size :]


def select_device(requested: str = "") -> torch.device:
    """The device to compute on: ``requested``, else CUDA if there is one, else the CPU.

    Raises:
        ValueError: a device that is not there.
    """
    if not requested:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(requested)
    except RuntimeError:
        raise ValueError(f"device must be cpu or cuda, got {requested!r}") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise ValueError(
            f"device {requested}: PyTorch sees {count} GPUs here; leave the option out to use what there is"
        )
    return device
