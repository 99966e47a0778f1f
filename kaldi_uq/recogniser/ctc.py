"""A recogniser of one network, from the waveform to tokens, trained by connectionist temporal classification (CTC)."""

from __future__ import annotations

import copy
import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor, nn

from kaldi_uq.errors import AlignmentError, DataError
from kaldi_uq.io.files import digest
from kaldi_uq.io.waves import Waves, plan_waves
from kaldi_uq.language.targets import random_target
from kaldi_uq.nnet import deterministic
from kaldi_uq.nnet.base import AcousticModel
from kaldi_uq.nnet.sequence import SequenceModel, layers_set
from kaldi_uq.recogniser.base import BaseRecogniser
from kaldi_uq.recogniser.ctc_checks import SHOWN, blank_index, checked_tokens, outputs_of, probed, require_logits
from kaldi_uq.recogniser.ctc_search import beam_search, best_path, frames_needed, greedy

SEPARATORS = ("|", " ")  # between words, where tokens are characters
PROBE_S = 1.0  # length of the noise that the module hears once, to see what it gives
PADDING_LIMIT = 1e-3  # largest difference of a posterior that padding may make

FrameCount = Callable[[Any], Any]


class CtcRecogniser(BaseRecogniser):
    """A network that hears a waveform and says tokens, whatever it does inside.

    Without ``num_frames`` utterances are computed together only where they have the same length, so that nothing is
    ever padded.

    Args:
        module: torch module from waveforms (B, N) float32 in [-1, 1] to CTC log-posteriors or logits (B, T, C), on its
            device; or one that :mod:`kaldi_uq.nnet.wrappers` has made random or several.
        tokens: C names, index = class: characters and a separator of words, ``|`` or a blank; or whole words, if no
            token is a separator.  A name in angle brackets, such as ``<unk>``, is no text.
        sample_rate: sample rate of the audio, Hz.
        blank: index of the blank, or its name.
        num_frames: function from samples to frames (an int, or int64 (B,)), for a module whose posteriors do not depend
            on zeros behind the audio; utterances of different length are computed together then.
        words: words that random targets are made of; default: the tokens, if these are words.
        beam: beginnings of the text that the search keeps; 0: the tokens of the best path.
        num_draws: draws of a random module; ``None`` for its default.
        min_samples: samples of the shortest audio that the module takes; 0: tried out.

    The recogniser shares the weights of the module, so that it hears what further training makes of them, and nothing
    else: for each pass the module is in evaluation mode, whatever mode it is in, and it is put back afterwards.

    Attributes:
        model: the network with the members or draws on axis 0: the module itself, or ``model.module`` is it.

    Raises:
        TypeError: the module is a class, tokens are no names, or ``num_frames`` is no function.
        ValueError: tokens or module do not fit each other, the module fails or gives probabilities, or an option is out
            of range.

    >>> class Sign(nn.Module):
    ...     def forward(self, wav):  # (B, N) -> (B, N // 4, 3)
    ...         mean = wav.unfold(1, 4, 4).mean(2)
    ...         return 20 * torch.stack([0.5 - mean.abs(), mean, -mean], 2)
    >>> recogniser = CtcRecogniser(Sign(), ["<blank>", "yes", "no"], sample_rate=8000)
    >>> recogniser.hear({"a": np.repeat([0.9, 0.9, 0.0, 0.9, -0.9], 4)})["a"].words
    ('yes', 'yes', 'no')
    >>> recogniser.min_samples, recogniser.frame_shift_s
    (4, 0.0005)
    """

    def __init__(
        self,
        module: nn.Module,
        tokens: Sequence[str],
        sample_rate: int = 16000,
        *,
        blank: int | str = 0,
        num_frames: FrameCount | None = None,
        words: Sequence[str] = (),
        beam: int = 0,
        num_draws: int | None = None,
        min_samples: int = 0,
    ) -> None:
        self.tokens = checked_tokens(tokens)
        self.sample_rate, self.beam = sample_rate, beam
        self.ctc_blank = blank_index(blank, self.tokens)
        self.separator = next((mark for mark in SEPARATORS if mark in self.tokens), None)
        self._is_text = [
            index != self.ctc_blank and not (token.startswith("<") and token.endswith(">"))
            for index, token in enumerate(self.tokens)
        ]
        self._ids = {token: index for index, token in enumerate(self.tokens) if self._is_text[index]}
        if beam < 0 or sample_rate < 1:
            raise ValueError(f"beam must be >= 0 and sample_rate >= 1, got {beam} and {sample_rate}")
        self.model: AcousticModel = module if isinstance(module, AcousticModel) else deterministic(module)
        self.is_random = self.model.is_random
        if num_draws is not None and num_draws > 1 and not self.is_random:
            raise ValueError(f"{num_draws} draws: the module is not random, leave the number out")
        self.num_draws = num_draws
        first = next(itertools.chain(self.model.parameters(), self.model.buffers()), torch.zeros(()))
        self.device, self._dtype = first.device, torch.float32
        if num_frames is not None and not callable(num_frames):
            raise TypeError(f"num_frames must be a function from samples to frames, got {type(num_frames).__name__}")
        self._count, self._counted = num_frames, dict[int, int]()
        self._padding_checked = False
        self._digested: tuple[list[tuple[int, int]], str] | None = None
        self._check_output()
        self.min_samples = min_samples or self._shortest()
        self.frame_shift_s = self._shift() / sample_rate
        self.words = {word: self._room(word) for word in words or ([] if self.separator else self._ids)}

    def _parts(self) -> list[str]:
        shown = self.model.module if isinstance(self.model, SequenceModel) else self.model
        return [type(shown).__name__, f"{len(self.tokens)} tokens", *super()._parts()]

    @property
    def model_key(self) -> str:
        return digest(self._weights_digest(), self.tokens, self.ctc_blank)

    def _weights_digest(self) -> str:
        tensors = self.model.state_dict()
        state = [(tensor.data_ptr(), tensor._version) for tensor in tensors.values()]  # changed by training
        if self._digested is None or self._digested[0] != state:
            checksum = hashlib.sha256()
            for name, tensor in tensors.items():
                checksum.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
                checksum.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
            self._digested = state, checksum.hexdigest()
        return self._digested[1]

    @property
    def recommended_statistic(self) -> str:
        return self.model.recommended_statistic

    @property
    def files(self) -> list[Path]:
        return [self.code] if self.code else []

    @property
    def settings(self) -> dict[str, Any]:
        return {"model": self.model_key, "beam": self.beam, "num_draws": self.num_draws or 0}

    def in_double(self) -> CtcRecogniser:
        other = copy.copy(self)
        other.model, other._dtype = copy.deepcopy(self.model).double(), torch.float64
        return other

    # from audio to log-posteriors

    @overload
    def num_frames(self, num_samples: int) -> int: ...
    @overload
    def num_frames(self, num_samples: Tensor) -> Tensor: ...
    def num_frames(self, num_samples: int | Tensor) -> int | Tensor:
        if isinstance(num_samples, Tensor):
            if self._count is not None:
                return torch.as_tensor(self._count(num_samples), device=num_samples.device).long()
            return num_samples.new_tensor([self.num_frames(size) for size in num_samples.tolist()])
        if self._count is not None:
            return int(self._count(num_samples))
        if num_samples not in self._counted:
            self._counted[num_samples] = self._try(num_samples).shape[1]
        return self._counted[num_samples]

    def plan(self, waves: Mapping[str, np.ndarray]) -> list[list[str]]:
        if self._count is not None:
            return super().plan(waves)
        waves = Waves.of(waves)
        of_size: dict[int, list[str]] = {}
        for utt, size in waves.lengths.items():
            of_size.setdefault(size, []).append(utt)
        return [utts for size in sorted(of_size, reverse=True) for utts in plan_waves(waves.subset(of_size[size]))]

    def draws(
        self,
        wav: Tensor,
        num_samples: Tensor,
        utts: Sequence[str],
        *,
        num_draws: int | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Iterator[Tensor], Tensor]:
        wav = self._without_excess(wav, num_samples)
        chunks = self._passes(self.model.iter_log_post(wav, num_samples=num_draws, generator=generator))
        first = next(chunks)
        return itertools.chain([first], chunks), self._lengths(num_samples, first.shape[2])

    def mean_log_post(
        self, wav: Tensor, num_samples: Tensor, utts: Sequence[str], *, generator: torch.Generator | None = None
    ) -> Tensor:
        draws = self.num_draws if self.is_random else None
        mean = self._mean(self._without_excess(wav, num_samples), draws, generator)
        self._lengths(num_samples, mean.shape[1])
        return mean

    def _mean(self, wav: Tensor, num_draws: int | None, generator: torch.Generator | None) -> Tensor:
        with layers_set(self.model, evaluating=True):
            mean: Tensor = self.model(wav, num_samples=num_draws, generator=generator)
        return mean.to(self._dtype)

    def _passes(self, chunks: Iterator[Tensor]) -> Iterator[Tensor]:
        """Chunks of draws, each computed in evaluation mode; between them the module is as it was."""
        while True:
            with layers_set(self.model, evaluating=True):
                chunk = next(chunks, None)
            if chunk is None:
                return
            yield chunk.to(self._dtype)

    def _without_excess(self, wav: Tensor, num_samples: Tensor) -> Tensor:
        """The batch without padding that all have, as where an attack is done with the longest one; and checked."""
        shortest, longest = int(num_samples.min()), int(num_samples.max())
        if shortest < longest:
            if self._count is None:
                raise ValueError("utterances of different length in one batch: say num_frames, or take batches()")
            if not self._padding_checked:
                row = int(num_samples.argmin())
                self._check_padding(wav[row : row + 1, :shortest].detach())
                self._padding_checked = True
        return wav[:, :longest]

    def _lengths(self, num_samples: Tensor, num_frames: int) -> Tensor:
        """Frames of each utterance, checked against what the module gave for the longest."""
        longest = int(num_samples.max())
        if self._count is None:
            self._counted[longest] = num_frames
        lengths = self.num_frames(num_samples)
        if int(lengths.max()) != num_frames:
            raise ValueError(_wrong_count(int(lengths.max()), longest, num_frames))
        return lengths

    def _try(self, num_samples: int) -> Tensor:
        """Log-posteriors (1, T, C) of noise, of one draw."""
        noise = torch.randn(1, num_samples, generator=torch.Generator().manual_seed(0)) / 10
        return self._of_one_draw(noise.to(self.device, self._dtype))

    @torch.no_grad()
    def _of_one_draw(self, wav: Tensor) -> Tensor:
        draws = 1 if self.is_random else None
        generator = torch.Generator(self.device).manual_seed(0)
        return self._mean(wav, draws, generator)

    def _check_output(self) -> None:
        size = round(PROBE_S * self.sample_rate)
        with probed(f"(1, {size}) float32"), outputs_of(self.model) as given:
            found = self._try(size)
        require_logits(given)
        if found.shape[2] != len(self.tokens):
            raise ValueError(f"{len(self.tokens)} tokens, but the module gives {found.shape[2]} classes")
        if not bool(found.isfinite().any(2).all()):
            raise ValueError(f"the module gives numbers that are not finite for {size} samples of noise")
        self._lengths(torch.tensor([size]), found.shape[1])

    def _check_padding(self, alone: Tensor) -> None:
        """Refuse a module that hears what follows an utterance (1, N)."""
        size, frames = alone.shape[1], self.num_frames(alone.shape[1])
        heard, zeros = self._of_one_draw(alone), torch.zeros_like(alone)
        if heard.shape[1] != frames:
            raise ValueError(_wrong_count(frames, size, heard.shape[1]))
        padded = self._of_one_draw(torch.cat([alone, zeros, zeros], 1))
        if self.is_random:  # its draws depend on the size, so that something else is changed: what comes much later
            noise = torch.randn(alone.shape, generator=torch.Generator().manual_seed(0)) / 10
            heard = self._of_one_draw(torch.cat([alone, zeros, noise.to(alone)], 1))
        difference = float((heard[:, :frames].exp() - padded[:, :frames].exp()).abs().max())
        if not difference <= PADDING_LIMIT:
            raise ValueError(
                f"padding changes what the module hears: a posterior of an utterance of {size} samples differs by "
                f"{difference:.2g} if something follows it; leave num_frames out, then nothing is padded"
            )

    def _shortest(self) -> int:
        """The fewest samples that the module takes, by halving."""

        def is_taken(size: int) -> bool:
            try:
                return self.num_frames(size) > 0
            except (IndexError, RuntimeError, ValueError):  # what layers raise where their input is too short
                return False

        low, high = 0, round(PROBE_S * self.sample_rate)  # taken: high, as was tried
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if is_taken(middle) else (middle, high)
        return high

    def _shift(self) -> float:
        """Samples from one frame to the next, of five times the noise that was tried."""
        sizes = (round(PROBE_S * self.sample_rate), round(5 * PROBE_S * self.sample_rate))
        frames = [self.num_frames(size) for size in sizes]
        if frames[1] <= frames[0]:
            raise ValueError(
                f"{sizes[0]} and {sizes[1]} samples give {frames[0]} and {frames[1]} frames: CTC needs more"
            )
        return (sizes[1] - sizes[0]) / (frames[1] - frames[0])

    # from log-posteriors to words, and back

    def scores(self, log_mean_post: Tensor) -> Tensor:
        return log_mean_post

    def decode(self, scores: Iterable[tuple[str, np.ndarray]]) -> dict[str, tuple[str, ...]]:
        blank, beam = self.ctc_blank, self.beam
        return {
            utt: self._words_of(beam_search(log_post, blank, beam) if beam else greedy(log_post, blank))
            for utt, log_post in scores
        }

    def align(self, scores: Mapping[str, np.ndarray], targets: Mapping[str, Sequence[str]]) -> dict[str, np.ndarray]:
        paths = {
            utt: best_path(log_post, self.ctc_tokens(targets[utt]), self.ctc_blank) for utt, log_post in scores.items()
        }
        return {utt: path for utt, path in paths.items() if path is not None}

    def ctc_tokens(self, words: Sequence[str]) -> list[int]:
        if self.separator is None:
            return [self._ids[self._known(word)] for word in words]
        for word in words:
            for character in word:
                self._known(character, word)
            if self.separator in word:
                raise DataError(f"word {word!r} has a {self.separator!r} in it, which stands between words")
        return [self._ids[character] for character in self.separator.join(words)]

    def check_target(self, utt: str, words: Sequence[str], num_frames: int, where: str) -> None:
        if not words:
            raise DataError(f"{where}: the target of utterance {utt!r} is empty")
        try:
            needed = frames_needed(self.ctc_tokens(words))
        except DataError as error:
            raise DataError(f"{where}: utterance {utt!r}: {error}") from None
        if needed > num_frames:
            raise AlignmentError(
                f"{where}: target {' '.join(words)!r} of utterance {utt!r} needs at least {needed} frames, "
                f"the audio has {num_frames}; choose a shorter target"
            )

    def random_target(
        self, utt: str, original: Sequence[str], num_frames: int, *, seed: int, attempt: int = 0
    ) -> list[str]:
        if self.random_targets != "words":
            raise ValueError(f"random targets of a CTC recogniser are words strung together, not {self.random_targets}")
        if not self.words:
            raise ValueError("random targets need words, and the tokens are characters: say words=, or give targets")
        return random_target(utt, original, num_frames, self.words, seed=seed, attempt=attempt)

    def _known(self, token: str, word: str = "") -> str:
        if token not in self._ids:
            known = [other for other in self._ids if other != self.separator]
            more = f" and {len(known) - SHOWN} more" if len(known) > SHOWN else ""
            what = f"{token!r} in {word!r} is no character" if word else f"{token!r} is no word"
            raise DataError(f"{what} that the recogniser writes: {' '.join(known[:SHOWN])}{more}")
        return token

    def _room(self, word: str) -> int:
        """Frames for a word and what has to stand between it and the next."""
        return frames_needed(self.ctc_tokens([word])) + 1

    def _words_of(self, found: Sequence[int]) -> tuple[str, ...]:
        text = [self.tokens[index] for index in found if self._is_text[index]]
        return tuple(text if self.separator is None else filter(None, "".join(text).split(self.separator)))


def _wrong_count(expected: int, num_samples: int, found: int) -> str:
    return f"num_frames says {expected} frames for {num_samples} samples, the module gives {found}"
