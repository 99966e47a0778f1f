"""Adversarial training: every minibatch is attacked at the waveform, and the network learns to hold.

The attack goes through the model's own front end.  Half of the minibatches, by default, are attacked away from their
alignment and half towards the alignment of another utterance, which is what a targeted attack does.  Where several
processes share a minibatch, all choices are made for the whole of it, and each takes those of its utterances.

Source: Madry et al. 2018; Zhang et al. 2019 (TRADES), on the waveform, with the alignment of the clean speech.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kaldi_uq.feats.adaptation import BatchAdaptation
from kaldi_uq.feats.framing import valid_mask
from kaldi_uq.feats.packing import Packing
from kaldi_uq.feats.sizes import Sizes
from kaldi_uq.io.waves import Waves, pad
from kaldi_uq.nnet.base import AcousticModel
from kaldi_uq.nnet.precision import quick_products
from kaldi_uq.recogniser.hybrid import HybridModel
from kaldi_uq.training.config import RobustConfig, TrainConfig
from kaldi_uq.training.dataset import TrainingSet, spread
from kaldi_uq.training.minibatches import weighted
from kaldi_uq.training.parallel import ONE, Workers
from kaldi_uq.training.speed import Speed, stretch


@dataclass(frozen=True)
class Speech:
    """A minibatch of whole utterances, B of them, or what this process has of it.

    Attributes:
        wav: (B, N) float32.
        sizes: samples of each, on the CPU and on the device.
        pdfs: (B, T) int64, the alignment; 0 in padded frames.
        lengths: (B,) int64, frames of the alignment.
        mask: (B, T) bool, False in padded frames.
        packing: of a frame-wise network: where the frames are without padding.
        num_features: frames of the features of the longest utterance.
        adaptation: what the front end is told of the speakers.
        whole: the alignments of all utterances of the minibatch and their lengths.
        num_targets: frames of each of these, int64.
        size: how many utterances it has, and samples the longest of them.
        rows: which of them these are.
    """

    wav: Tensor
    sizes: Sizes
    pdfs: Tensor
    lengths: Tensor
    mask: Tensor
    packing: Packing | None
    num_features: int
    adaptation: BatchAdaptation
    whole: tuple[Tensor, Tensor]
    num_targets: np.ndarray
    size: tuple[int, int]
    rows: slice


class RobustLoss:
    """The losses of an adversarial training, minibatch by minibatch.

    Args:
        model: model in training.
        waves: utt -> (N,) float32 in [-1, 1].
        config: options of the adversarial training, with ``robust_eps`` above 0.
        train: options of the training.
        workers: the processes that share the minibatches.
    """

    def __init__(
        self,
        model: HybridModel,
        waves: Mapping[str, np.ndarray],
        config: RobustConfig,
        train: TrainConfig,
        workers: Workers = ONE,
    ) -> None:
        self.model, self.waves, self.config, self.train = model, Waves.of(waves), config, train
        self.workers = workers
        self.recurrent = any(isinstance(part, nn.RNNBase) for part in model.network.modules())

    def of_pass(
        self,
        data: TrainingSet,
        plan: Sequence[list[int]],
        *,
        seed: Sequence[int],
        generator: torch.Generator,
        share: tuple[float, float],
        draws: torch.Generator | None = None,
    ) -> Iterator[Tensor]:
        """The loss of each minibatch of a pass over the data, for the weights of the moment.

        Args:
            data: alignments.
            plan: numbers of the utterances of each minibatch.
            seed: seed of the choices that are the same on every device.
            generator: source of noise, on the model's device; the same in all processes.
            share: share of the training that is over when the pass begins, and when it ends.
            draws: source of the network's draws; default: ``generator``.

        Returns:
            An iterator over scalars, nats a frame; of an ensemble the sum over its members; times the share of the
            minibatch that this process has.
        """
        draws = draws or generator
        rng = np.random.default_rng(np.random.SeedSequence(seed))
        for step, indices in enumerate(plan):
            over = share[0] + (share[1] - share[0]) * step / len(plan)
            ramp = min(1.0, over / self.config.robust_ramp) if self.config.robust_ramp else 1.0
            speech = self._speech(data, indices, rng)
            with quick_products(data.device):
                delta = self._attack(speech, ramp, rng, generator, draws)
                loss = self._loss(speech, delta, data.num_frames, draws)
            yield weighted(loss, self.workers.weight(speech.num_targets))

    def _speech(self, data: TrainingSet, indices: list[int], rng: np.random.Generator) -> Speech:
        config, front_end = self.config, self.model.front_end
        utts, rows = [data.utts[i] for i in indices], self.workers.rows(len(indices))
        num_targets = data.num_targets[indices]
        audio = pad(self.waves, utts[rows])
        gain, factor = 10.0 ** (rng.uniform(-1.0, 1.0, len(indices)) * config.robust_gain_db / 20.0)[rows], 1.0
        if self.model.needs_speakers:  # what is known of them is of the audio as it is
            gain = np.ones_like(gain)
        elif config.robust_speed:
            factor += config.robust_speed * float(rng.uniform(-1.0, 1.0))
        wav = torch.from_numpy(audio.wav * gain[:, None].astype(np.float32)).to(data.device)
        num_samples = torch.tensor([self.waves.lengths[utt] for utt in utts])
        whole = data.targets(indices), torch.from_numpy(num_targets).to(data.device)
        if factor != 1.0:
            speed = Speed(factor, int(num_samples.max()))
            num_samples = speed.num_samples(num_samples).clamp(min=front_end.min_samples)
            wav = speed(wav, num_samples[rows])
            wanted = front_end.num_frames(num_samples)
            num_targets = wanted.numpy()
            whole = stretch(*whole, wanted.to(data.device), int(wanted.max())), wanted.to(data.device)
        pdfs, lengths = whole[0][rows, : num_targets[rows].max()], whole[1][rows]
        sizes = Sizes.of(num_samples[rows], data.device)
        return Speech(
            wav=wav,
            sizes=sizes,
            pdfs=pdfs,
            lengths=lengths,
            mask=valid_mask(lengths, pdfs.shape[1]),
            packing=front_end.packing(sizes) if self.model.network.frame_wise else None,
            num_features=front_end.num_feature_frames(sizes.longest),
            adaptation=self.model.adaptation_of(audio.utts),
            whole=whole,
            num_targets=num_targets,
            size=(len(indices), int(num_samples.max())),
            rows=rows,
        )

    def _attack(
        self,
        speech: Speech,
        ramp: float,
        rng: np.random.Generator,
        generator: torch.Generator,
        draws: torch.Generator,
    ) -> Tensor:
        """A perturbation (B, N): projected gradient descent in steps of one size from a random start."""
        config, wav, network = self.config, speech.wav, self.model.network
        (count, longest), rows = speech.size, speech.rows
        towards = count > 1 and rng.random() < config.robust_targeted
        shift = int(rng.integers(1, count)) if towards else 0
        targets = speech.pdfs
        if towards:
            targets = other_alignment(*speech.whole, shift)[rows, : targets.shape[1]]
        eps = torch.from_numpy(rng.uniform(0.0, ramp * config.robust_eps, (count, 1))[rows]).to(wav)
        if config.robust_level:
            level = (wav.square().sum(1, keepdim=True) / speech.sizes.num_samples.to(wav)[:, None]).sqrt()
            eps = eps * level / config.robust_level
        noise = wav.new_empty(count, longest).uniform_(-1.0, 1.0, generator=generator)
        delta = eps * noise[rows, : wav.shape[1]]
        num_samples = 1 if network.is_random else None
        wanted, mask = self._as_input(targets, speech), self._as_input(speech.mask, speech)
        network.eval()  # an attack trains nothing: no running statistics, no dropout of a network that has none at test
        for _ in range(config.robust_steps):
            delta.requires_grad_(True)
            with self._differentiable():
                x = self._input(speech, delta)
                log_post = network.log_post(x, num_samples=num_samples, generator=draws)
                chosen = log_post.mean(0).gather(2, wanted[..., None])[..., 0].masked_fill(~mask, 0.0)
                (slope,) = torch.autograd.grad(chosen.sum() if towards else -chosen.sum(), delta)
            with torch.no_grad():
                step = config.robust_step_size * eps
                delta = torch.clamp(delta + step * slope.sign(), -eps, eps)
        network.train()
        return delta.detach()

    def _loss(self, speech: Speech, delta: Tensor, num_frames: int, draws: torch.Generator) -> Tensor:
        config, network = self.config, self.model.network
        attacked = self._input(speech, delta)
        if config.robust_loss == "plain":
            return self._cross_entropy(attacked, speech, num_frames, draws)
        clean = self._input(speech, None)
        loss = self._cross_entropy(clean, speech, num_frames, draws)
        count = self.train.num_train_samples or network.default_num_train_samples
        state = draws.get_state()
        before = network.log_post(clean, num_samples=count, generator=draws)
        draws.set_state(state)  # the same draws: only what the attack changes is counted
        after = network.log_post(attacked, num_samples=count, generator=draws)
        return loss + config.robust_weight * max(network.num_members, 1) * divergence(
            before, after, self._as_input(speech.mask, speech)
        )

    def _cross_entropy(self, x: Tensor, speech: Speech, num_frames: int, draws: torch.Generator) -> Tensor:
        network: AcousticModel = self.model.network
        pdfs, mask = self._as_input(speech.pdfs, speech), self._as_input(speech.mask, speech)
        return network.training_loss(
            x[0] if network.frame_wise else x,
            pdfs[0] if network.frame_wise else pdfs,
            mask=None if network.frame_wise else mask,
            num_frames_total=num_frames,
            num_samples=self.train.num_train_samples or None,
            generator=draws,
        )

    def _input(self, speech: Speech, delta: Tensor | None) -> Tensor:
        """What the network reads: (B, T, D); of a frame-wise network the frames without padding, (1, F, D)."""
        wav = speech.wav if delta is None else speech.wav + delta
        front_end, adaptation = self.model.front_end, speech.adaptation
        if self.model.network.frame_wise:
            return front_end.packed(wav, speech.sizes, adaptation=adaptation, packing=speech.packing)[0].unsqueeze(0)
        return front_end(wav, speech.sizes, adaptation=adaptation)[0]  # type: ignore[no-any-return]

    def _as_input(self, values: Tensor, speech: Speech) -> Tensor:
        """A value of each target, (B, T), in the shape of the network's output: (1, F) of a frame-wise one."""
        if speech.packing is not None:
            return values.flatten()[speech.packing.index].unsqueeze(0)
        return spread(values, self.model.front_end.factor, speech.num_features)

    def _differentiable(self) -> contextlib.AbstractContextManager[None]:
        # cuDNN has no gradient of a recurrent network in evaluation mode; PyTorch's own implementation has
        return torch.backends.cudnn.flags(enabled=False) if self.recurrent else contextlib.nullcontext()


def divergence(before: Tensor, after: Tensor, mask: Tensor) -> Tensor:
    """Kullback-Leibler divergence of attacked posteriors from clean ones, mean over draws and frames, in nats.

    Args:
        before, after: log-posteriors (M, B, T, C).
        mask: (B, T) bool, the frames that count.
    """
    each = F.kl_div(after, before, log_target=True, reduction="none").sum(3).masked_fill(~mask, 0.0)
    return each.sum() / (len(before) * mask.sum())


def other_alignment(pdfs: Tensor, lengths: Tensor, shift: int) -> Tensor:
    """The alignment of another utterance of the minibatch for each, stretched to its length.

    Args:
        pdfs: (B, T) int64.
        lengths: (B,) int64, frames.
        shift: how many utterances further the other one is.

    Returns:
        (B, T) int64.

    >>> other_alignment(torch.tensor([[1, 2, 0, 0], [3, 4, 5, 6]]), torch.tensor([2, 4]), 1).tolist()
    [[3, 5, 0, 0], [1, 1, 2, 2]]
    """
    return stretch(pdfs.roll(-shift, 0), lengths.roll(-shift), lengths, pdfs.shape[1])
