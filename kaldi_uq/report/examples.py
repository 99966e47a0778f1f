"""Attacked utterances to look at and to listen to: which to show, and all that the page needs of them."""

from __future__ import annotations

import io
import wave
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kaldi_uq.detector.store import default_detector, load_detector
from kaldi_uq.io.datadir import read_table
from kaldi_uq.io.wav import read_wav
from kaldi_uq.recogniser.hybrid import kind_of
from kaldi_uq.recogniser.recogniser import Recogniser
from kaldi_uq.results.names import ROBUST
from kaldi_uq.results.utterances import AttackRecord, attack_dirs, read_attacked

STRONG, HIDDEN = "pgd", "psychoacoustic"  # the attack that examples are of; the one whose perturbations masking hides
Words = Sequence[tuple[str, float, float]]


@dataclass(frozen=True, eq=False)
class Example:
    """An utterance before and after an attack.

    Args:
        utt, model, attack, eps: what was attacked, and how.
        rate: samples per second.
        original_samples, attacked_samples: ``(N,)`` float in [-1, 1].
        original, target, hypothesis: what was said, what the attacker wants, what was recognised in the attacked audio.
        attacked_entropy, original_entropy: ``(T,)`` predictive entropy of each frame, nats; empty if not measured.
        frame_shift_s: seconds from frame to frame.
        original_words, target_words, hypothesis_words: (word, start, end) in seconds; the original's on the original
            audio, the target's and the hypothesis's on the attacked.
        snr_db: signal to perturbation ratio, or None.
        original_path, attacked_path: the files, as a reader can type them.
        original_verdict, attacked_verdict: score and threshold of the detector, or None if it was not asked.
        detector: its name.
        compare: draw the original beside the attacked audio; for an utterance that is shown for the first time.
    """

    utt: str
    model: str
    attack: str
    eps: float
    rate: int
    original_samples: npt.ArrayLike
    attacked_samples: npt.ArrayLike
    original: str
    target: str
    hypothesis: str
    attacked_entropy: npt.ArrayLike = ()
    original_entropy: npt.ArrayLike = ()
    frame_shift_s: float = 0.01
    original_words: Words = ()
    target_words: Words = ()
    hypothesis_words: Words = ()
    snr_db: float | None = None
    original_path: str = ""
    attacked_path: str = ""
    original_verdict: tuple[float, float] | None = None
    attacked_verdict: tuple[float, float] | None = None
    detector: str = ""
    compare: bool = True

    def audio(self) -> list[tuple[str, npt.ArrayLike, str, str]]:
        """What can be played: what it is, samples ``(N,)``, its file, and the verdict on it, or nothing."""
        return [
            ("original", self.original_samples, self.original_path, verdict(self.original_verdict)),
            ("attacked", self.attacked_samples, self.attacked_path, verdict(self.attacked_verdict)),
        ]


def verdict(judged: tuple[float, float] | None) -> str:
    """What a detector says of a score and its threshold, as ``kaldi-uq detect`` does.

    >>> verdict((4.19, 2.34)), verdict((1.5, 2.34))
    ('ATTACK, score 4.19 > threshold 2.34', 'benign, score 1.5 ≤ threshold 2.34')
    """
    if judged is None:
        return ""
    score, threshold = judged
    word, relation = ("ATTACK", ">") if score > threshold else ("benign", "≤")
    return f"{word}, score {score:.3g} {relation} threshold {threshold:.3g}"


@dataclass(frozen=True, eq=False)
class Perturbed:
    """An utterance under several attacks: ``attacked`` has the samples ``(N,)`` in [-1, 1] by name of the attack."""

    utt: str
    model: str
    rate: int
    original: npt.ArrayLike
    attacked: Mapping[str, npt.ArrayLike]


def wav_bytes(samples: npt.ArrayLike, rate: int) -> bytes:
    """A 16-bit mono WAV file of samples ``(N,)`` in [-1, 1]; what is beyond is clipped."""
    pcm = np.clip(np.rint(np.asarray(samples, dtype=np.float64) * 32768), -32768, 32767).astype("<i2")
    stream = io.BytesIO()
    with wave.open(stream, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(pcm.tobytes())
    return stream.getvalue()


class AttackedAudio:
    """The attacks of a recipe directory, of which some utterances are to be shown.

    Args:
        exp_dir: has a directory a model.
        data_dir: has ``attack/wav.scp``, what was attacked.
        models: names of models, the one that a reader should see first at the head.
        load: opens the recogniser of a hybrid model by its directory.
    """

    def __init__(
        self, exp_dir: Path, data_dir: Path, models: Sequence[str], load: Callable[[Path], Recogniser]
    ) -> None:
        self._exp_dir, self._load, self._scp = exp_dir, load, data_dir / "attack/wav.scp"
        self._places = {
            (model, attack, eps): path for model in models for attack, eps, path in attack_dirs(exp_dir / model)
        }

    def examples(self, count: int) -> list[Example]:
        """The first model under the strong attack, and the robust one beside it (:func:`choose_examples`)."""
        shown = next((key for key in self._places if key[1] == STRONG), next(iter(self._places), None))
        if shown is None:
            return []
        model, attack, eps = shown
        beside = self._places.get((f"{model}{ROBUST}", attack, eps))
        records, hardened = (
            read_attacked(path / "results.jsonl") if path else [] for path in (self._places[shown], beside)
        )
        chosen = choose_examples(records, hardened, count)
        wanted = [(f"{model}{ROBUST}" if is_robust else model, utt) for is_robust, utt in chosen]
        attacks = {name: self._open(name, attack, eps) for name, _ in wanted}
        found, seen = [], set[str]()
        for name, utt in wanted:
            if utt in attacks[name].records:
                found.append(attacks[name].example(utt, compare=utt not in seen))
                seen.add(utt)
        return found

    def perturbed(self) -> list[Perturbed]:
        """One utterance of the first model that the strong and the psychoacoustic attack turned into their target."""
        for (model, attack, eps), path in self._places.items():
            strong = self._places.get((model, STRONG, eps))
            if attack != HIDDEN or strong is None:
                continue
            hidden = {r.utt for r in read_attacked(path / "results.jsonl") if r.success}
            both = [r for r in read_attacked(strong / "results.jsonl") if r.success and r.utt in hidden]
            for record in _choose(both, 1):
                original, rate = read_wav(read_table(self._scp)[record.utt])
                attacked = {
                    f"{name}, eps {eps:g}": read_wav(read_table(place / "wav.scp")[record.utt])[0]
                    for name, place in ((STRONG, strong), (HIDDEN, path))
                }
                return [Perturbed(record.utt, model, int(rate), original, attacked)]
        return []

    def _open(self, model: str, attack: str, eps: float) -> _Attack:
        model_dir, path = self._exp_dir / model, self._places[model, attack, eps]
        recogniser = self._load(model_dir) if kind_of(model_dir) else None
        about: dict[str, Any] = {"model": model, "attack": attack, "eps": eps}
        return _Attack(about, path, self._scp, default_detector(model_dir), recogniser)


def choose_examples(
    records: Sequence[AttackRecord], hardened: Sequence[AttackRecord], count: int
) -> list[tuple[bool, str]]:
    """Which utterances to show, the robust model's beside those of the ordinary one.

    First one that the attack turned into its target on the ordinary model, and that the robust one hears as it was
    spoken, if there is any: on both.  Then where the robust one fails too.

    Args:
        records, hardened: the attack on the ordinary and on the robust model; no records: there is none.
        count: the most to show.

    Returns:
        Whether it is of the robust model, and the utterance.
    """
    if not hardened:
        return [(False, record.utt) for record in _choose(records, count)]
    held = {record.utt for record in hardened if record.original_errors.errors == 0}
    first = _choose([r for r in records if r.success and r.utt in held] or records, 1)
    failed = [(True, record.utt) for record in _choose(hardened, 1) if record.success]
    both = [(is_robust, record.utt) for record in first for is_robust in (False, True)]
    others = [(False, record.utt) for record in _choose(records, count)]
    return list(dict.fromkeys([*both, *failed, *others]))[:count]


def _choose(records: Sequence[AttackRecord], count: int) -> list[AttackRecord]:
    """Utterances that the attack turned into its target, if there are any; the shorter ones are easier to look at."""
    won = [r for r in records if r.target and r.success and len(r.target.split()) > 1]
    return sorted(won or records, key=lambda r: (abs(len(r.original.split()) - 4), r.utt))[:count]


class _Attack:
    """One attack on one model: audio, texts, verdicts; of a hybrid model entropy and times of words too."""

    def __init__(
        self, about: Mapping[str, Any], path: Path, scp: Path, detector: Path, recogniser: Recogniser | None
    ) -> None:
        self.records = {record.utt: record for record in read_attacked(path / "results.jsonl")}
        self._about, self._recogniser = about, recogniser
        self._paths = (read_table(scp), read_table(path / "wav.scp"))
        self._detector = load_detector(detector) if detector.is_file() else None
        self._detector_name = detector.stem if self._detector else ""

    def example(self, utt: str, *, compare: bool) -> Example:
        """One utterance."""
        record = self.records[utt]
        paths = [table[utt] for table in self._paths]
        expected = self._recogniser.sample_rate if self._recogniser else None
        original, rate = read_wav(paths[0], expected_rate=expected)
        attacked, _ = read_wav(paths[1], expected_rate=rate)
        return Example(
            utt=utt,
            rate=int(rate),
            original_samples=original,
            attacked_samples=attacked,
            original=record.original,
            target=record.target,
            hypothesis=record.hypothesis,
            snr_db=record.snr_db,
            compare=compare,
            original_path=paths[0],
            attacked_path=paths[1],
            attacked_verdict=self._verdict(record.statistics),
            detector=self._detector_name,
            **(self._frames(self._recogniser, record, original, attacked) if self._recogniser else {}),
            **self._about,
        )

    def _verdict(self, statistics: Mapping[str, float]) -> tuple[float, float] | None:
        """Score and threshold; ``None`` without a detector, or if it looks at what was not measured."""
        detector = self._detector
        if detector is None or detector.threshold is None or not set(detector.statistics) <= set(statistics):
            return None
        table = {name: [statistics[name]] for name in detector.statistics}
        return float(detector.score(table)[0]), detector.threshold

    def _frames(
        self, recogniser: Recogniser, record: AttackRecord, original: np.ndarray, attacked: np.ndarray
    ) -> dict[str, Any]:
        """The fields of :class:`Example` that need the model; word times are by forced alignment."""
        (_, clean), (_, heard) = (
            next(iter(recogniser.score({record.utt: samples}))) for samples in (original, attacked)
        )
        times = recogniser.word_times
        return {
            "attacked_entropy": heard.frames["predictive_entropy"],
            "original_entropy": clean.frames["predictive_entropy"],
            "frame_shift_s": recogniser.frame_shift_s,
            "original_words": times(record.original.split(), clean.scores),
            "target_words": times(record.target.split(), heard.scores),
            "hypothesis_words": times(record.hypothesis.split(), heard.scores),
            "original_verdict": self._verdict(clean.statistics),
        }
