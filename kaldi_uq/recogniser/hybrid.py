"""The hybrid acoustic model: front end, network and pdf priors together, and its file.

The file is ``final.safetensors``: arrays plus a JSON header with the configurations.  Reading it runs no code, so that
of a network that is no part of the package it holds the weights alone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from kaldi_uq.errors import DataError, ModelFileError
from kaldi_uq.feats.config import FrontEndConfig
from kaldi_uq.feats.frontend import FrontEnd
from kaldi_uq.io.files import atomic_write
from kaldi_uq.nnet import AcousticModel, build_model
from kaldi_uq.nnet.base import FrameModel
from kaldi_uq.nnet.config import ModelConfig

FORMAT = "kaldi_uq.hybrid.1"
WEIGHTS_FORMAT = "kaldi_uq.hybrid-weights.1"  # of a network that no configuration describes
MODEL_FILE = "final.safetensors"


class HybridModel(nn.Module):
    """From waveforms to log-posteriors of the pdfs.

    Around a network that no ``ModelConfig`` describes :meth:`from_modules` makes one.

    Args:
        frontend: configuration of the front end.
        network: configuration of the network; its input dimension must be the front end's output.
        seed: of the network's initial weights.

    Attributes:
        front_end: from waveforms to the input of the network.
        network: from there to log-posteriors.
        log_prior: (C,) float32, log P(pdf) over the training frames.
    """

    log_prior: Tensor

    def __init__(self, frontend: FrontEndConfig, network: ModelConfig, *, seed: int = 0) -> None:
        front_end = FrontEnd(frontend)
        if network.input_dim != front_end.output_dim:
            raise ValueError(f"the network takes {network.input_dim} inputs, the front end has {front_end.output_dim}")
        self._assemble(front_end, build_model(network, seed=seed))

    def _assemble(self, front_end: FrontEnd, network: AcousticModel) -> None:
        super().__init__()
        self.front_end = front_end
        self.network = network
        self._speakers: dict[str, Tensor] = {}
        self.register_buffer("log_prior", torch.full((network.num_pdfs,), -float(np.log(network.num_pdfs))))

    @classmethod
    def from_modules(cls, front_end: FrontEnd, network: AcousticModel) -> HybridModel:
        """A hybrid model around any acoustic model, such as a user's module in a wrapper of ``kaldi_uq.nnet``.

        All that decodes, measures and attacks works with it.  Its file holds weights only: :meth:`load_weights`.

        Args:
            front_end: its context is 0 for a network that reads whole utterances.
            network: from ``front_end.output_dim`` features to ``num_pdfs`` classes.

        Raises:
            ValueError: the network does not say how many pdfs it has.
        """
        if network.num_pdfs < 1:
            raise ValueError(
                f"{type(network).__name__} does not say how many pdfs it has: wrap the module with num_pdfs=C, the "
                "number of pdfs of the alignment's final.mdl"
            )
        model = cls.__new__(cls)
        model._assemble(front_end, network)
        return model

    @property
    def kind(self) -> str:
        """Name of the kind of the network; of a network that no configuration describes, the name of its class."""
        return self.network.kind

    def set_prior(self, counts: np.ndarray) -> None:
        """Set the priors from frame counts (C,); an unseen pdf counts as one frame, so that no prior is zero."""
        floored = np.maximum(np.asarray(counts, dtype=np.float64), 1.0)
        self.log_prior.copy_(torch.from_numpy(np.log(floored / floored.sum())).to(self.log_prior))

    @property
    def needs_speakers(self) -> bool:
        """Whether the front end normalises with statistics of the speaker: see :meth:`set_speakers`."""
        return self.front_end.config.cmvn == "speaker"

    def set_speakers(self, stats: Mapping[str, np.ndarray]) -> None:
        """Say which statistics each utterance is normalised with.  They are no part of the model file.

        Args:
            stats: utt -> (2, D + 1) float64 CMVN statistics of its speaker; see :mod:`kaldi_uq.recogniser.speakers`.
        """
        self._speakers = {utt: torch.from_numpy(np.array(values, np.float64)) for utt, values in stats.items()}

    def cmvn_stats_of(self, utts: Sequence[str]) -> Tensor | None:
        """Statistics for a batch of utterances, (B, 2, D + 1) float64; ``None`` if the front end takes none.

        Raises:
            DataError: an utterance of which no statistics were given.
        """
        if not self.needs_speakers:
            return None
        missing = [utt for utt in utts if utt not in self._speakers]
        if missing:
            raise DataError(
                f"utterance {missing[0]!r}: no CMVN statistics of its speaker, which this model's front end needs "
                "(--cmvn speaker)"
            )
        return torch.stack([self._speakers[utt] for utt in utts]).to(self.log_prior.device)

    def iter_log_post(
        self,
        wav: Tensor,
        num_samples: Tensor,
        *,
        num_draws: int | None = None,
        generator: torch.Generator | None = None,
        cmvn_stats: Tensor | None = None,
    ) -> tuple[Iterator[Tensor], Tensor]:
        """Log-posteriors in chunks of draws.

        Args:
            wav: (B, N) float32 in [-1, 1].
            num_samples: (B,) int64.
            num_draws: draws of a random network; ``None`` for its default.
            generator: of the draws.
            cmvn_stats: of the speakers, see :meth:`cmvn_stats_of`.

        Returns:
            an iterator of (m, B, T, C) chunks, and the lengths (B,) int64 in frames.
        """
        x, lengths = self.front_end(wav, num_samples, cmvn_stats=cmvn_stats)
        return self.network.iter_log_post(x, num_samples=num_draws, generator=generator), lengths

    def loglikes(self, log_post: Tensor) -> Tensor:
        """Unscaled log-likelihoods, up to a constant of the frame: ``log_post - log_prior``."""
        return log_post - self.log_prior

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model file atomically; of a network from elsewhere it holds the weights, not what they mean."""
        header = {"format": WEIGHTS_FORMAT, "frontend": json.dumps(self.front_end.config.to_dict())}
        if isinstance(self.network, FrameModel):
            header |= {"format": FORMAT, "network": json.dumps(self.network.config.to_dict())}
        # copies, because two names may stand for the same memory in somebody else's module
        tensors = {name: value.detach().cpu().contiguous().clone() for name, value in self.state_dict().items()}
        with atomic_write(path, "wb") as stream:
            stream.write(_in_order(save(tensors, metadata=header)))

    def load_weights(self, path: str | os.PathLike[str]) -> None:
        """Take front end, weights and priors from a file that :meth:`save` wrote for a model built in the same way.

        Raises:
            ModelFileError: missing, damaged, of another format, or of a model that was built in another way.
        """
        header, tensors = _read(Path(path), remedy="save() of a model that was built in the same way makes it")
        if header.get("format") not in (FORMAT, WEIGHTS_FORMAT):
            raise _wrong_format(path, header, WEIGHTS_FORMAT)
        _check_finite(path, tensors)
        try:
            if FrontEndConfig.from_dict(json.loads(header["frontend"])) != self.front_end.config:
                raise ValueError("the front end has other options")
            self.load_state_dict(tensors)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise ModelFileError(
                f"{path}: not of a model that was built in the same way ({' '.join(str(error).split())})"
            ) from None

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: str | torch.device = "cpu") -> HybridModel:
        """Read a model file (or ``final.safetensors`` of a directory), in evaluation mode.

        Raises:
            ModelFileError: missing, damaged, of another format, or arrays that do not fit the configuration.
        """
        path = Path(path)
        path = path / MODEL_FILE if path.is_dir() else path
        header, tensors = _read(path, remedy="steps/uq/train.sh makes it")
        if header.get("format") == WEIGHTS_FORMAT:
            raise ModelFileError(
                f"{path}: the weights of a network that is no part of kaldi_uq: the code that wrote them can read "
                "them, with HybridModel.from_modules and load_weights"
            )
        if header.get("format") != FORMAT:
            raise _wrong_format(path, header, FORMAT)
        _check_finite(path, tensors)
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


def _read(path: Path, *, remedy: str) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Header and arrays of a model file."""
    if not path.is_file():
        raise ModelFileError(f"{path}: no such model; {remedy}")
    try:
        with safe_open(path, framework="pt") as stream:
            return stream.metadata() or {}, {name: stream.get_tensor(name) for name in stream.keys()}
    except (SafetensorError, OSError) as error:
        raise ModelFileError(f"{path}: not a model file, or a damaged one ({error})") from None


def _wrong_format(path: str | os.PathLike[str], header: dict[str, str], expected: str) -> ModelFileError:
    return ModelFileError(f"{path}: format {header.get('format')!r}, expected {expected!r}")


def _check_finite(path: str | os.PathLike[str], tensors: dict[str, Tensor]) -> None:
    for name, values in tensors.items():
        if values.is_floating_point() and not bool(torch.isfinite(values).all()):
            raise ModelFileError(f"{path}: {name} has values that are NaN or infinite; train the model again")


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
