"""Write the report of a recipe: RESULTS, all numbers (CSV, results.json.gz), figures (PNG, SVG) and one HTML page that
needs no other file.

Some attacked utterances are shown with their audio, spectrogram, entropy over time and word alignments.
"""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kaldi_uq.attacks.targets import read_pronunciations
from kaldi_uq.cli.options import add_engine, directory, engine_of
from kaldi_uq.engine.base import DecodeConfig, Engine
from kaldi_uq.errors import MissingDependencyError
from kaldi_uq.io.datadir import read_table
from kaldi_uq.io.kaldi_model import read_transitions
from kaldi_uq.io.lang import Lang
from kaldi_uq.io.wav import read_wav
from kaldi_uq.io.word_times import word_times
from kaldi_uq.recogniser.hybrid import MODEL_FILE, HybridModel
from kaldi_uq.recogniser.scores import score_waves
from kaldi_uq.report.example import Example, Perturbed
from kaldi_uq.results.names import model_key
from kaldi_uq.results.table import Results
from kaldi_uq.results.utterances import AttackRecord, attack_dirs, read_attacked

STRONG, HIDDEN = "pgd", "psychoacoustic"  # the attack that examples are of; the one whose perturbations masking hides


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("exp_dir", type=directory, metavar="EXP-DIR")
    parser.add_argument("out_dir", type=Path, metavar="OUT-DIR")
    parser.add_argument("--command", default="kaldi-uq report", help="the command that made the results")
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="directory of attack/ and lang/ [data]")
    parser.add_argument("--num-examples", type=int, default=3, help="attacked utterances to show [3]")
    add_engine(parser)


def run(args: argparse.Namespace) -> None:
    try:
        from kaldi_uq.report.build import build_report
        from kaldi_uq.report.findings import findings
        from kaldi_uq.report.frames import Run
    except ModuleNotFoundError as error:
        if error.name not in ("pandas", "jinja2"):
            raise
        message = f"the package {error.name} is not installed; run: python3 -m pip install 'kaldi-uq[report]'"
        raise MissingDependencyError(message) from None
    content = Results(args.exp_dir / "results.json").read()
    models = {row["model"] for row in content["attacks"]}
    places = {
        (model, attack, eps): path
        for model in sorted(models, key=model_key)
        for attack, eps, path in attack_dirs(args.exp_dir / model)
    }
    wanted = places if args.num_examples > 0 else {}
    # the first model under the strong attack: what a reader should see first
    shown = next((key for key in wanted if key[1] == STRONG), next(iter(wanted), None))
    page = build_report(
        args.exp_dir,
        args.out_dir,
        command=args.command,
        examples=_examples(args, *shown, places[shown]) if shown else [],
        perturbed=_perturbed(args, wanted),
    )
    for line in findings(Run(content)):
        print(textwrap.fill(line, 78, initial_indent="* ", subsequent_indent="  "))
    print(f"The whole story, with audio: {page}")


def _choose(records: Sequence[AttackRecord], count: int) -> list[AttackRecord]:
    """Utterances that the attack turned into its target, if there are any; the shorter ones are easier to look at."""
    won = [r for r in records if r.target and r.success and len(r.target.split()) > 1]
    return sorted(won or records, key=lambda r: (abs(len(r.original.split()) - 4), r.utt))[:count]


def _examples(args: argparse.Namespace, model: str, attack: str, eps: float, path: Path) -> list[Example]:
    """Audio and texts; of a hybrid model also the entropy of each frame and the times of the words."""
    records = _choose(read_attacked(path / "results.jsonl"), args.num_examples)
    before, after = read_table(args.data_dir / "attack/wav.scp"), read_table(path / "wav.scp")
    frames = _Frames(args, args.exp_dir / model) if (args.exp_dir / model / MODEL_FILE).is_file() else None
    expected_rate = frames.model.front_end.sample_rate if frames else None
    examples = []
    for r in records:
        original, rate = read_wav(before[r.utt], expected_rate=expected_rate)
        attacked, _ = read_wav(after[r.utt], expected_rate=rate)
        examples.append(
            Example(
                utt=r.utt,
                model=model,
                attack=attack,
                eps=eps,
                rate=int(rate),
                original_samples=original,
                attacked_samples=attacked,
                original=r.original,
                target=r.target,
                hypothesis=r.hypothesis,
                snr_db=r.snr_db,
                **(frames.of(r, original, attacked) if frames else {}),
            )
        )
    return examples


def _perturbed(args: argparse.Namespace, places: dict[tuple[str, str, float], Path]) -> list[Perturbed]:
    """One utterance of the first model that both the strong and the psychoacoustic attack turned into their target."""
    for (model, attack, eps), path in places.items():
        strong = places.get((model, STRONG, eps))
        if attack != HIDDEN or strong is None:
            continue
        hidden = {r.utt for r in read_attacked(path / "results.jsonl") if r.success}
        for record in _choose([r for r in read_attacked(strong / "results.jsonl") if r.success and r.utt in hidden], 1):
            original, rate = read_wav(read_table(args.data_dir / "attack/wav.scp")[record.utt])
            attacked = {
                f"{name}, eps {eps:g}": read_wav(read_table(place / "wav.scp")[record.utt])[0]
                for name, place in ((STRONG, strong), (HIDDEN, path))
            }
            return [Perturbed(record.utt, model, int(rate), original, attacked)]
    return []


class _Frames:
    """What a hybrid model makes of an example frame by frame; word times are by forced alignment."""

    def __init__(self, args: argparse.Namespace, model_dir: Path) -> None:
        self.model_dir, self.model = model_dir, HybridModel.load(model_dir)
        self.engine: Engine = engine_of(args)
        self.lang = Lang.read(args.data_dir / "lang")
        self.table = read_transitions(model_dir / "final.mdl")
        self.pronunciations = read_pronunciations(self.lang)
        self.silence = frozenset(int(i) for i in (self.lang.path / "phones/silence.int").read_text().split())

    def of(self, record: AttackRecord, original: np.ndarray, attacked: np.ndarray) -> dict[str, Any]:
        """The fields of :class:`Example` that need the model."""
        clean = dict(score_waves(self.model, {record.utt: original}))[record.utt]
        heard = dict(score_waves(self.model, {record.utt: attacked}))[record.utt]
        return {
            "attacked_entropy": heard.frames["predictive_entropy"],
            "original_entropy": clean.frames["predictive_entropy"],
            "frame_shift_s": self.model.front_end.frame_shift_s,
            "original_words": self._times(record.utt, record.original.split(), clean.loglikes),
            "target_words": self._times(record.utt, record.target.split(), heard.loglikes),
            "hypothesis_words": self._times(record.utt, record.hypothesis.split(), heard.loglikes),
        }

    def _times(self, utt: str, words: Sequence[str], loglikes: np.ndarray) -> list[tuple[str, float, float]]:
        if not words:
            return []
        ids = {utt: self.lang.word_ids(words, where=utt)}
        found = self.engine.align(self.model_dir, self.lang, [(utt, loglikes)], ids, DecodeConfig())
        if utt not in found:
            return []
        shift = self.model.front_end.frame_shift_s
        return word_times(found[utt], words, self.table, self.pronunciations, self.silence, shift)
