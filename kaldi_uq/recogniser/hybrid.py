"""The hybrid acoustic model: front end, network and pdf priors together, and its file.

The file is ``final.safetensors``: arrays plus a JSON header with the configurations.  Reading it runs no code.  Of a
network of the user's own it therefore holds the weights alone, and the caller gives the code that builds the network.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from kaldi_uq.errors import ModelFileError, UsageError
from kaldi_uq.feats.adaptation import NOTHING, Adaptation, BatchAdaptation
from kaldi_uq.feats.config import FrontEndConfig
from kaldi_uq.feats.frontend import FrontEnd
from kaldi_uq.feats.packing import Packing
from kaldi_uq.feats.sizes import Sizes
from kaldi_uq.io.digests import check_digest, recorded
from kaldi_uq.io.files import atomic_write
from kaldi_uq.nnet.base import AcousticModel, FrameModel, build_model
from kaldi_uq.nnet.config import MODEL_KINDS, ModelConfig
from kaldi_uq.nnet.sequence import seeded
from kaldi_uq.nnet.wrappers import deterministic
from kaldi_uq.recogniser.speakers import batch_adaptation
from kaldi_uq.user_code import mistakes_named

FORMAT = "kaldi_uq.hybrid.1"
WEIGHTS_FORMAT = "kaldi_uq.hybrid-weights.1"  # of a network that no configuration describes
MODEL_FILE = "final.safetensors"
TRIAL_FRAMES = 32  # that a user's network is tried on

# Code that builds a network: (input_dim, num_pdfs) -> an acoustic model, or a module from (B, T, input_dim) to logits
# (B, T, num_pdfs)
NetworkFactory = Callable[[int, int], nn.Module]


class HybridModel(nn.Module):
    """From waveforms to log-posteriors of the pdfs.

    :meth:`from_factory` makes one with the code of a network, :meth:`from_modules` around a network.

    Args:
        frontend: configuration of the front end.
        network: configuration of the network; its input dimension must be the front end's output.
        seed: seed of the network's initial weights.

    Attributes:
        front_end: module from waveforms to the input of the network.
        network: module from there to log-posteriors.
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
        self._known: Mapping[str, Adaptation] = {}
        self.register_buffer("log_prior", torch.full((network.num_pdfs,), -float(np.log(network.num_pdfs))))

    @classmethod
    def from_modules(cls, front_end: FrontEnd, network: AcousticModel) -> HybridModel:
        """A hybrid model around any acoustic model, such as a user's module in a wrapper of ``kaldi_uq.nnet``.

        All that decodes, measures and attacks works with it.  Its file holds weights only: :meth:`load_weights`.

        Args:
            front_end: its context is 0 for a network that reads whole utterances.
            network: network from ``front_end.output_dim`` features to ``num_pdfs`` classes.

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

    @classmethod
    def from_factory(
        cls, frontend: FrontEndConfig, network: NetworkFactory, num_pdfs: int, *, seed: int = 0
    ) -> HybridModel:
        """A hybrid model around a network that code of the user's own builds.

        Args:
            frontend: configuration of the front end.
            network: called as ``network(input_dim, num_pdfs)``; returns an acoustic model, or a plain module from
                features (B, T, D) to logits (B, T, C), which becomes a deterministic model.
            num_pdfs: C.
            seed: seed of PyTorch's global generator while the network is built; it is restored afterwards.

        Raises:
            UsageError: the code fails, returns no module, or its network gives something else than C classes a frame.
        """
        front_end = FrontEnd(frontend)
        name = f"{getattr(network, '__name__', network)}({front_end.output_dim}, {num_pdfs})"
        with seeded(torch.Generator().manual_seed(seed), torch.device("cpu")):
            with mistakes_named(name):
                module = network(front_end.output_dim, num_pdfs)
            if not isinstance(module, nn.Module):
                raise UsageError(f"{name} must return an nn.Module, got {type(module).__name__}")
            wrapped = module if isinstance(module, AcousticModel) else deterministic(module)
            if wrapped.num_pdfs not in (0, num_pdfs):
                raise UsageError(
                    f"{name} must return a network for {num_pdfs} pdfs, its num_pdfs is {wrapped.num_pdfs}"
                )
            wrapped.num_pdfs = num_pdfs
            with mistakes_named(f"the network of {name}, tried on {TRIAL_FRAMES} frames of zeros,"), torch.no_grad():
                trial = wrapped.eval().log_post(torch.zeros(1, TRIAL_FRAMES, front_end.output_dim))
            if trial.shape[1:] != (1, TRIAL_FRAMES, num_pdfs):
                expected = f"(M, 1, {TRIAL_FRAMES}, {num_pdfs})"
                raise UsageError(f"the network of {name} must give log-posteriors {expected}, got {tuple(trial.shape)}")
        return cls.from_modules(front_end, wrapped)

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
        """Whether the front end must know something of each utterance's speaker: see :meth:`set_speakers`."""
        return self.front_end.config.takes_adaptation

    def set_speakers(self, known: Mapping[str, Adaptation]) -> None:
        """Say what the front end is told of each utterance.  It is no part of the model file.

        Args:
            known: utt -> what is known of its speaker; see :mod:`kaldi_uq.recogniser.speakers`.
        """
        self._known = dict(known)

    def adaptation_of(self, utts: Sequence[str]) -> BatchAdaptation:
        """What the front end is told of a batch of utterances.

        Raises:
            DataError: an utterance of which nothing was said.
        """
        return batch_adaptation(self.front_end, self._known, utts)

    def iter_log_post(
        self,
        wav: Tensor,
        num_samples: Tensor | Sizes,
        *,
        num_draws: int | None = None,
        generator: torch.Generator | None = None,
        adaptation: BatchAdaptation = NOTHING,
        packing: Packing | None = None,
    ) -> tuple[Iterator[Tensor], Tensor]:
        """Log-posteriors in chunks of draws.

        Args:
            wav: (B, N) float32 in [-1, 1].
            num_samples: (B,) int64, or these as they are known on the CPU too.
            num_draws: draws of a random network; ``None`` for its default.
            generator: source of the draws.
            adaptation: what is known of the speakers, see :meth:`adaptation_of`.
            packing: that of the front end for these sizes, where it is known.

        Returns:
            an iterator of (m, B, T, C) chunks, and the lengths (B,) int64 in frames; padded frames have no meaning.
        """
        if not self.network.frame_wise:
            x, lengths = self.front_end(wav, num_samples, adaptation=adaptation)
            whole = self.network.iter_log_post(x, num_samples=num_draws, generator=generator)
            return (chunk[:, :, :: self.front_end.factor] for chunk in whole), self.front_end.thinned(lengths)
        frames, packing, lengths = self.front_end.packed(wav, num_samples, adaptation=adaptation, packing=packing)
        chunks = self.network.iter_log_post(frames.unsqueeze(0), num_samples=num_draws, generator=generator)
        return (packing.unpack(chunk.squeeze(1)) for chunk in chunks), lengths

    def mean_log_post(
        self,
        wav: Tensor,
        num_samples: Tensor,
        *,
        generator: torch.Generator | None = None,
        adaptation: BatchAdaptation = NOTHING,
    ) -> Tensor:
        """Logarithm of the predictive mean, (B, T, C); it takes the arguments of :meth:`iter_log_post`."""
        feats, lengths = self.front_end.features(wav, num_samples, adaptation=adaptation)
        return self.mean_of_features(feats, lengths, generator=generator)

    def mean_of_features(
        self, feats: Tensor, lengths: Tensor, *, num_draws: int | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Logarithm of the predictive mean, (B, T, C), of features (B, T', D) without context."""
        network = self.network
        if not network.frame_wise:
            x = self.front_end.splice(feats, lengths)
            return network(x, num_samples=num_draws, generator=generator)[:, :: self.front_end.factor]  # type: ignore[no-any-return]
        frames, packing = self.front_end.splice_packed(feats, lengths)
        mean: Tensor = network(frames.unsqueeze(0), num_samples=num_draws, generator=generator)
        return packing.unpack(mean[0])

    def loglikes(self, log_post: Tensor) -> Tensor:
        """Unscaled log-likelihoods, up to a constant of the frame: ``log_post - log_prior``."""
        return log_post - self.log_prior

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model file atomically; of a network that no configuration describes it holds the weights alone.

        The digest of the file is recorded beside it.
        """
        path = Path(path)
        header = {"format": WEIGHTS_FORMAT, "frontend": json.dumps(self.front_end.config.to_dict())}
        if isinstance(self.network, FrameModel):
            header |= {"format": FORMAT, "network": json.dumps(self.network.config.to_dict())}
        # copies, because two names may stand for the same memory in somebody else's module
        tensors = {name: value.detach().cpu().contiguous().clone() for name, value in self.state_dict().items()}
        with recorded(path.parent, path.name), atomic_write(path, "wb") as stream:
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
        with _fitting(path, "not of a model that was built in the same way"):
            if FrontEndConfig.from_dict(json.loads(header["frontend"])) != self.front_end.config:
                raise ValueError("the front end has other options")
            self.load_state_dict(tensors)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        device: str | torch.device = "cpu",
        *,
        network: NetworkFactory | None = None,
    ) -> HybridModel:
        """Read a model file (or ``final.safetensors`` of a directory), in evaluation mode.

        Args:
            path: file or directory.
            device: device of the model.
            network: code that builds the network, as of :meth:`from_factory`, for a file that holds weights alone.

        Raises:
            ModelFileError: missing, damaged, of another format, or arrays that do not fit the configuration or the
                network.
            UsageError: the code of the network fails.
        """
        path = Path(path)
        path = path / MODEL_FILE if path.is_dir() else path
        header, tensors = _read(path, remedy="steps/uq/train.sh makes it")
        if header.get("format") == WEIGHTS_FORMAT and network is None:
            raise ModelFileError(
                f"{path}: weights of a network that is no part of kaldi_uq; name its code with --network FILE.py:NAME "
                "(in Python: HybridModel.load with network=)"
            )
        if header.get("format") not in (FORMAT, WEIGHTS_FORMAT):
            raise _wrong_format(path, header, FORMAT)
        _check_finite(path, tensors)
        with _fitting(path, "arrays and configuration do not fit" if network is None else "not of this network"):
            frontend = FrontEndConfig.from_dict(json.loads(header["frontend"]))
            if network is None:
                config = ModelConfig.from_dict(json.loads(header["network"]))
                _check_size(config, tensors)
                model = cls(frontend, config)
            else:
                model = cls.from_factory(frontend, network, len(tensors["log_prior"]))
            model.load_state_dict(tensors)
        return model.to(device).eval()


def kind_of(model_dir: str | os.PathLike[str]) -> str:
    """The kind of model in a directory, from its file's header; empty if there is none or it is from elsewhere."""
    path = Path(model_dir) / MODEL_FILE
    header = _read(path, remedy="")[0] if path.is_file() else {}
    with _fitting(path, "damaged header"):
        return str(json.loads(header["network"])["kind"]) if header.get("format") == FORMAT else ""


def _read(path: Path, *, remedy: str) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Header and arrays of a model file."""
    if not path.is_file():
        raise ModelFileError(f"{path}: no such model; {remedy}")
    check_digest(path)
    try:
        with safe_open(path, framework="pt") as stream:
            return stream.metadata() or {}, {name: stream.get_tensor(name) for name in stream.keys()}
    except (SafetensorError, OSError) as error:
        raise ModelFileError(f"{path}: not a model file, or a damaged one ({error})") from None


@contextlib.contextmanager
def _fitting(path: str | os.PathLike[str], problem: str) -> Iterator[None]:
    """Name the file and the problem where its header or its arrays are not what they should be."""
    try:
        yield
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ModelFileError(f"{path}: {problem} ({' '.join(str(error).split())})") from None


def _wrong_format(path: str | os.PathLike[str], header: dict[str, str], expected: str) -> ModelFileError:
    return ModelFileError(f"{path}: format {header.get('format')!r}, expected {expected!r}")


def _check_finite(path: str | os.PathLike[str], tensors: dict[str, Tensor]) -> None:
    for name, values in tensors.items():
        if values.is_floating_point() and not bool(torch.isfinite(values).all()):
            raise ModelFileError(f"{path}: {name} has values that are NaN or infinite; train the model again")


def _check_size(config: ModelConfig, tensors: Mapping[str, Tensor]) -> None:
    """Compare the configuration with what the file holds before memory is taken for what it asks for.

    Raises:
        ValueError: the file has fewer weights.
    """
    if config.kind not in MODEL_KINDS:  # a class from elsewhere makes what it likes of the sizes
        return
    stored = sum(values.numel() for name, values in tensors.items() if name.startswith("network."))
    if config.num_weights > stored:
        raise ValueError(f"{config.num_weights} weights by the configuration, {stored} values in the file")


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


def use_device(requested: str = "") -> torch.device:
    """The same; a GPU that is named by its number becomes PyTorch's current one, where kernels are recorded."""
    device = select_device(requested)
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
    return device
