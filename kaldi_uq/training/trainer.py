"""Train a hybrid model on an alignment, then by Viterbi training (section 4.1 of the paper).

A checkpoint is written after every epoch and every random choice is a function of the seed and the epoch, so that a
killed training resumes to the same weights.  Where several processes share the work, all take the same steps.

One file: one class, whose epochs, realignments and checkpoints change one state, that of a training.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from kaldi_uq.engine.base import DecodeConfig, Engine, builder_of
from kaldi_uq.errors import UsageError
from kaldi_uq.feats.adaptation import Adaptation
from kaldi_uq.io.digests import copy_recorded
from kaldi_uq.io.files import digest, write_json, write_text
from kaldi_uq.io.lang import Lang
from kaldi_uq.io.waves import Waves
from kaldi_uq.nnet.base import FrameModel
from kaldi_uq.nnet.precision import quick_products
from kaldi_uq.recogniser.hybrid import MODEL_FILE, HybridModel
from kaldi_uq.training.checkpoint import CHECKPOINT, Checkpoint
from kaldi_uq.training.config import RobustConfig, TrainConfig
from kaldi_uq.training.dataset import MEMORY_BYTES, TrainingSet, make_training_set
from kaldi_uq.training.minibatches import Minibatch, minibatches, weighted
from kaldi_uq.training.parallel import ONE, Workers
from kaldi_uq.training.recorded import RecordedStep
from kaldi_uq.training.robust import RobustLoss

log = logging.getLogger(__name__)

REALIGN_FRAMES = 1 << 14  # frames in a batch
ENOUGH_REALIGNED = 0.95  # share of the utterances; with fewer, something is wrong with the graph or the search


@dataclass(frozen=True)
class TrainingInputs:
    """What training needs besides its configurations.

    Attributes:
        waves: utt -> (N,) float32 in [-1, 1].
        text: utt -> words.
        alis: utt -> (T,) transition-ids.
        ali_shift_s: frame shift of the alignments, seconds.
        tid_to_pdf: (num_transition_ids + 1,) pdf-ids.
        ali_dir: alignment directory; its ``final.mdl`` and ``tree`` are the HMM.
        lang: lexicon and grammar, for the graphs of the Viterbi epochs.
        speakers: utt -> what the front end is told of its speaker.
        memory_bytes: the most that features, and the audio of adversarial training, may take of the memory each.
    """

    waves: Mapping[str, np.ndarray]
    text: dict[str, list[str]]
    alis: dict[str, np.ndarray]
    ali_shift_s: float
    tid_to_pdf: np.ndarray
    ali_dir: Path
    lang: Lang
    speakers: dict[str, Adaptation] = field(default_factory=dict)
    memory_bytes: int = MEMORY_BYTES


class Trainer:
    """One training run in one directory.

    Args:
        out_dir: where checkpoints, the model and the HMM are written.
        model: model with its initial weights, on the device to train on.
        inputs: data and alignments.
        engine: engine of the Viterbi epochs.
        config: options of the training.
        decode: beams and scales of the Viterbi epochs.
        robust: options of adversarial training; default: ordinary training.
        key: whatever else the training depends on; a checkpoint of another key is not resumed.
        workers: the processes that train together; their number may be another one when a training is resumed.
    """

    def __init__(
        self,
        out_dir: Path,
        model: HybridModel,
        inputs: TrainingInputs,
        engine: Engine,
        *,
        config: TrainConfig,
        decode: DecodeConfig,
        robust: RobustConfig | None = None,
        key: str = "",
        workers: Workers = ONE,
    ) -> None:
        self.workers = workers
        self.out_dir, self.model, self.inputs, self.engine = out_dir, model, inputs, engine
        self.config, self.decode, self.robust = config, decode, robust or RobustConfig()
        epochs = config.num_epochs + config.num_viterbi_epochs
        if self.robust.robust_eps and self.robust.robust_after >= epochs:
            raise UsageError(
                f"--robust-after {self.robust.robust_after} leaves none of the {epochs} epochs for adversarial "
                "training: choose a smaller one, or a larger --num-epochs"
            )
        self.device = model.log_prior.device
        network = model.network.config.to_dict() if isinstance(model.network, FrameModel) else model.kind
        options = (model.front_end.config.to_dict(), network, config.to_dict(), self.robust.to_dict())
        self.key = digest(key, *options, sorted(inputs.waves))
        model.set_speakers(inputs.speakers)
        average = get_ema_multi_avg_fn(config.average)
        self.average = AveragedModel(model.network, multi_avg_fn=average) if config.average else None
        self.history: list[dict[str, float]] = []
        self._recorded: RecordedStep | None = None

    def run(self) -> HybridModel:
        """Train, resuming from the last checkpoint if there is one of the same configuration."""
        inputs, config = self.inputs, self.config
        if config.num_viterbi_epochs:
            builder_of(self.engine)  # refuses an engine that composes no graph before the first epoch
        data = self._training_set()
        optimizer = torch.optim.Adam(
            self.model.network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
        )
        self._make_recordable(optimizer)
        num_epochs = config.num_epochs + config.num_viterbi_epochs
        first = self._resume(optimizer, data)
        self.workers.same(first, f"checkpoints in {self.out_dir}")
        hmm_dir = inputs.ali_dir if first <= config.num_epochs else self._hmm_dir(first - 1)
        for epoch in range(first, num_epochs):
            if epoch >= config.num_epochs:
                hmm_dir = self._realign(data, epoch, hmm_dir)
            loss = self._epoch(optimizer, data, epoch, num_epochs)
            self._check_loss(loss, data.num_frames, epoch, is_last=epoch == num_epochs - 1)
            self.history.append({"epoch": epoch, "loss": loss})
            log.info("epoch %d of %d: loss %.4f nats a frame", epoch + 1, num_epochs, loss)
            self._checkpoint(optimizer, data, epoch + 1)
        if self.average is not None:
            self.model.network.load_state_dict(self.average.module.state_dict())
        self.model.set_prior(data.counts(self.model.network.num_pdfs))
        self.model.eval()
        self.workers.of_first(lambda: self._write(data, hmm_dir))
        return self.model

    def _write(self, data: TrainingSet, hmm_dir: Path) -> None:
        """What a training leaves behind."""
        copy_recorded(hmm_dir, self.out_dir, "final.mdl", "tree")
        write_text(self.out_dir / "phones.txt", (self.inputs.lang.path / "phones.txt").read_text())
        write_json(self.out_dir / "history.json", self.history)
        if data.factor > 1:  # for Kaldi's scripts; the model file says it too
            write_text(self.out_dir / "frame_subsampling_factor", f"{data.factor}\n")
        self.model.save(self.out_dir / MODEL_FILE)
        (self.out_dir / CHECKPOINT).unlink(missing_ok=True)
        shutil.rmtree(self.out_dir / "viterbi", ignore_errors=True)

    def _training_set(self) -> TrainingSet:
        inputs = self.inputs
        data = make_training_set(
            *(self.model, inputs.waves),
            {utt: inputs.tid_to_pdf[ali] for utt, ali in inputs.alis.items()},
            inputs.ali_shift_s,
            memory_bytes=inputs.memory_bytes,
            directory=self.out_dir,
            workers=self.workers,
        )
        data.normalise(self.model.front_end.norm, self.workers)
        return data

    @functools.cached_property
    def _speech(self) -> Mapping[str, np.ndarray]:
        """The audio, for adversarial training: in memory if it may be, or read for each minibatch."""
        waves = Waves.of(self.inputs.waves)
        return dict(waves) if 4 * sum(waves.lengths.values()) <= self.inputs.memory_bytes else waves

    def _check_loss(self, loss: float, num_frames: int, epoch: int, *, is_last: bool) -> None:
        """Raise UsageError if the training has diverged: a loss far above that of a guess among the pdfs.

        What the weights cost a Bayesian network is left out.  Before the last epoch a loss may be a thousand times
        larger, as the learning rate decays.
        """
        of_data = loss - float(self.model.network.kl().detach()) / num_frames
        guess = math.log(max(2, len(self.model.log_prior)))
        limit = (
            guess * (10.0 if is_last else 1e4) * (1.0 + self.robust.robust_weight if self.robust.robust_eps else 1.0)
        )
        if not of_data <= limit:  # nor is NaN
            raise UsageError(
                f"epoch {epoch + 1}: the loss is {loss:.4g} nats a frame, that of a guess among the pdfs {guess:.3g}: "
                "the training has diverged; choose a smaller --learning-rate"
            )

    def _epoch(self, optimizer: torch.optim.Optimizer, data: TrainingSet, epoch: int, num_epochs: int) -> float:
        """One pass over the data; returns the mean loss of a frame, for an ensemble the mean over its members."""
        config, network = self.config, self.model.network.train()
        passes = self._passes(data, num_epochs)
        decay = math.log(config.final_learning_rate / config.learning_rate)
        total, count = torch.zeros((), device=self.device), 0
        with self.workers.progress(f"epoch {epoch + 1}/{num_epochs}", "steps") as bar:
            for number in range(epoch * passes, (epoch + 1) * passes):
                num_steps, steps = self._steps(optimizer, data, number, passes, num_epochs)
                bar.total = passes * num_steps
                for step, take in enumerate(steps):
                    progress = (number * num_steps + step) / (num_epochs * passes * num_steps)
                    rate = config.learning_rate * math.exp(decay * progress)
                    for group in optimizer.param_groups:
                        if isinstance(group["lr"], Tensor):
                            group["lr"].fill_(rate)
                        else:
                            group["lr"] = rate
                    loss = take()
                    if self.average is not None:
                        self.average.update_parameters(network)
                    total += loss / max(network.num_members, 1)
                    count += 1
                    bar.update()
        network.eval()
        self.workers.add_up(total)
        for module in (network, self.average):
            if module is not None:
                self.workers.settle(module)
        return float(total) / count

    def _learn(self, optimizer: torch.optim.Optimizer, loss: Tensor) -> Tensor:
        """Take the step that makes the loss smaller; returns the loss before it, without its gradient."""
        network = self.model.network
        optimizer.zero_grad(set_to_none=True)
        with quick_products(self.device) if self.robust.robust_eps else contextlib.nullcontext():
            loss.backward()  # type: ignore[no-untyped-call]
        self.workers.add_gradients(network.parameters())
        network.clip_gradients(self.config.max_grad_norm)
        optimizer.step()
        return loss.detach()

    @functools.cached_property
    def _records(self) -> bool:
        """Whether the steps of an ordinary training are recorded: on a GPU, of networks that are known."""
        return self.device.type == "cuda" and self.workers is ONE and isinstance(self.model.network, FrameModel)

    def _make_recordable(self, optimizer: torch.optim.Optimizer) -> None:
        """Put the learning rate where a recorded step reads it, whatever a checkpoint says."""
        for group in optimizer.param_groups:
            group["capturable"] = self._records
            group["lr"] = torch.tensor(float(group["lr"]), device=self.device) if self._records else float(group["lr"])

    @functools.cached_property
    def _generator(self) -> torch.Generator:
        """Source of noise and draws; seeded anew for each pass."""
        return torch.Generator(self.device)

    def _passes(self, data: TrainingSet, num_epochs: int) -> int:
        """How many passes over the data an epoch is."""
        if not self.config.min_steps:
            return 1
        last = num_epochs - 1  # an adversarial one, if there are any
        num_steps = len(self._plan(data, last)) if self._is_attacked(last) else self._minibatches(data, last)[0]
        return max(1, math.ceil(self.config.min_steps / (num_epochs * num_steps)))

    def _is_attacked(self, number: int, passes: int = 1) -> bool:
        """Whether a pass of this number is one of adversarial training."""
        return self.robust.robust_eps > 0 and number >= self.robust.robust_after * passes

    def _plan(self, data: TrainingSet, number: int) -> list[list[int]]:
        """The minibatches of a pass of adversarial training."""
        return data.plan(self.config.batch_size, generator=np.random.default_rng([self.config.seed, number]))

    def _minibatches(self, data: TrainingSet, number: int) -> tuple[int, Iterator[Minibatch]]:
        """Those of a pass of ordinary training, and how many they are."""
        return minibatches(
            *(self.model.network, self.model.front_end, data),
            batch_size=self.config.batch_size,
            seed=self.config.seed,
            epoch=number,
            workers=self.workers,
        )

    def _steps(
        self, optimizer: torch.optim.Optimizer, data: TrainingSet, number: int, passes: int, num_epochs: int
    ) -> tuple[int, Iterator[Callable[[], Tensor]]]:
        """How many steps a pass has, and functions that take them and return the loss before each.

        Args:
            optimizer: changes the weights.
            data: features and alignments.
            number: number of the pass.
            passes: passes in an epoch.
            num_epochs: epochs of the training.
        """
        config, network = self.config, self.model.network
        generator = self._generator.manual_seed(config.seed * 1_000_003 + number)
        draws = self.workers.draws(generator, network, (config.seed, number))
        if self._is_attacked(number, passes):
            plan, first = self._plan(data, number), self.robust.robust_after * passes
            attacked = num_epochs * passes - first
            share = ((number - first) / attacked, (number - first + 1) / attacked)
            self.workers.check_minibatches(max(map(len, plan)), "utterances")
            losses = RobustLoss(self.model, self._speech, self.robust, config, self.workers).of_pass(
                data, plan, seed=(config.seed, number, 1), generator=generator, share=share, draws=draws
            )
            return len(plan), (functools.partial(self._learn, optimizer, loss) for loss in losses)

        def learn(minibatch: Minibatch) -> Tensor:
            loss = network.training_loss(
                minibatch.x,
                minibatch.pdfs,
                mask=minibatch.mask,
                num_frames_total=data.num_frames,
                num_samples=config.num_train_samples or None,
                generator=draws,
            )
            return self._learn(optimizer, weighted(loss, minibatch.weight))

        num_steps, steps = self._minibatches(data, number)
        if not self._records:
            return num_steps, (functools.partial(learn, minibatch) for minibatch in steps)
        if self._recorded is None:
            self._recorded = RecordedStep(lambda x, pdfs: learn(Minibatch(x, pdfs)), generator)
        return num_steps, (functools.partial(self._recorded, minibatch.x, minibatch.pdfs) for minibatch in steps)

    def _realign(self, data: TrainingSet, epoch: int, hmm_dir: Path) -> Path:
        """Decode the training data; where the words are right, the decoder's path is the new alignment."""
        inputs, out = self.inputs, self._hmm_dir(epoch)
        self.model.set_prior(data.counts(self.model.network.num_pdfs))
        self.workers.of_first(lambda: self._make_graph(hmm_dir, out))
        found = self.engine.decoder(hmm_dir, out / "graph", self.decode).decode(self._loglikes(data, epoch))
        right = {u: h for u, h in found.items() if h.reached_final and list(h.words) == inputs.text[u]}
        offsets = data.target_offsets
        spans = {utt: slice(start, end) for utt, start, end in zip(data.utts, offsets, offsets[1:], strict=False)}
        tids = np.zeros(data.num_frames, np.int32)  # 0 where there is no new alignment
        for utt, hypothesis in right.items():
            tids[spans[utt]] = hypothesis.alignment
        self.workers.add_up(torch.from_numpy(tids))
        ordered = [tids[span] for span in spans.values() if tids[span].any()]
        self._tell_realigned(epoch, [utt for utt, span in spans.items() if not tids[span].any()], len(spans))
        pdfs = np.where(tids, inputs.tid_to_pdf[tids], data.pdfs.cpu().numpy())
        data.pdfs = torch.from_numpy(pdfs).to(data.pdfs)

        def write() -> None:
            copy_recorded(hmm_dir, out, "tree")
            self.engine.update_transitions(hmm_dir, ordered, out / "final.mdl")

        self.workers.of_first(write)
        return out

    def _tell_realigned(self, epoch: int, left: Sequence[str], num_utts: int) -> None:
        """Log how many utterances have a new alignment: all but those that are left."""
        lang, realigned = self.inputs.lang, num_utts - len(left)
        if realigned >= ENOUGH_REALIGNED * num_utts:
            log.info("epoch %d: %d of %d utterances realigned", epoch + 1, realigned, num_utts)
            return
        log.warning(
            "epoch %d: %d of %d utterances realigned, fewer than %.0f %%: of the others the decoder found no path to "
            "the end, or other words than their text, and they keep their alignment; %d have words that are not in %s; "
            "does the grammar have the words of the rest, and is --beam %g wide enough?",
            *(epoch + 1, realigned, num_utts, 100 * ENOUGH_REALIGNED),
            sum(not lang.words.keys() >= set(self.inputs.text[utt]) for utt in left),
            *(lang.path / "words.txt", self.decode.beam),
        )

    def _make_graph(self, hmm_dir: Path, out: Path) -> None:
        out.mkdir(parents=True, exist_ok=True)
        builder_of(self.engine).make_graph(
            self.inputs.lang,
            hmm_dir,
            out / "graph",
            transition_scale=self.decode.transition_scale,
            self_loop_scale=self.decode.self_loop_scale,
        )

    def _loglikes(self, data: TrainingSet, epoch: int) -> Iterator[tuple[str, np.ndarray]]:
        """(utt, (T, C)) of what this process decodes; a random network is averaged over at most 10 draws."""
        network = self.model.network
        num_draws = min(10, network.default_num_samples) if network.is_random else None
        plan = self.workers.portion(list(enumerate(data.plan(REALIGN_FRAMES))))
        total = sum(len(indices) for _, indices in plan)
        with self.workers.progress(f"realigning {epoch + 1}", "utterances", total) as progress:
            for number, indices in plan:
                batch = data.batch(indices)
                seed = self.config.seed * 1_000_003 + (epoch << 20) + number
                generator = torch.Generator(self.device).manual_seed(seed)
                with torch.no_grad():
                    log_post = self.model.mean_of_features(
                        batch.feats, batch.lengths, num_draws=num_draws, generator=generator
                    )
                    loglikes = self.model.loglikes(log_post).cpu().numpy()
                for utt, length, values in zip(batch.utts, batch.num_targets.tolist(), loglikes, strict=True):
                    yield utt, np.ascontiguousarray(values[:length])
                progress.update(len(batch.utts))

    def _hmm_dir(self, epoch: int) -> Path:
        return self.out_dir / "viterbi" / str(epoch)

    def _checkpoint(self, optimizer: torch.optim.Optimizer, data: TrainingSet, next_epoch: int) -> None:
        state = self._state(optimizer)
        self.workers.of_first(lambda: state.save(next_epoch, data.pdfs, self.history))

    def _resume(self, optimizer: torch.optim.Optimizer, data: TrainingSet) -> int:
        found = self._state(optimizer).load(data.pdfs)
        if found is None:
            return 0
        self._make_recordable(optimizer)
        epoch, data.pdfs, self.history = found
        log.info("resuming after epoch %d", epoch)
        return epoch

    def _state(self, optimizer: torch.optim.Optimizer) -> Checkpoint:
        return Checkpoint(self.out_dir / CHECKPOINT, self.key, self.model.network, self.average, optimizer)
