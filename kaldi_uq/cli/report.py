"""Write the report of a recipe: RESULTS, all numbers (CSV, results.json.gz), figures (PNG, SVG) and one HTML page that
needs no other file.

Some attacked utterances are shown with their audio, spectrogram, entropy over time and word alignments.
"""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kaldi_uq.cli.options import add_engine, directory, engine_of
from kaldi_uq.errors import MissingDependencyError
from kaldi_uq.io.datadir import read_table
from kaldi_uq.results.names import model_key
from kaldi_uq.results.table import Results

if TYPE_CHECKING:  # --help needs neither torch nor matplotlib
    import numpy as np

    from kaldi_uq.report.example import Example, Perturbed
    from kaldi_uq.results.utterances import AttackRecord

STRONG, HIDDEN = "pgd", "psychoacoustic"  # the attack that examples are of; the one whose perturbations masking hides


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "exp_dir", type=directory, metavar="EXP-DIR", help="directory of results.json and of the models"
    )
    parser.add_argument("out_dir", type=Path, metavar="OUT-DIR", help="directory to write, such as exp/report")
    parser.add_argument(
        "--command",
        default="kaldi-uq report",
        help="the command that made the results, for the page to show [kaldi-uq report]",
    )
    parser.add_argument(
        "--data-dir",
        type=Path,
        default=Path("data"),
        metavar="DIR",
        help="the run's data, with attack/ and lang/ [data]",
    )
    parser.add_argument("--num-examples", type=int, default=3, help="attacked utterances to show [3]")
    add_engine(parser)


def run(args: argparse.Namespace) -> None:
    from kaldi_uq.results.utterances import attack_dirs

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
    from kaldi_uq.io.wav import read_wav
    from kaldi_uq.recogniser.hybrid import kind_of
    from kaldi_uq.report.example import Example
    from kaldi_uq.results.utterances import read_attacked

    records = _choose(read_attacked(path / "results.jsonl"), args.num_examples)
    before, after = read_table(args.data_dir / "attack/wav.scp"), read_table(path / "wav.scp")
    frames = _Frames(args, args.exp_dir / model) if kind_of(args.exp_dir / model) else None
    expected_rate = frames.recogniser.sample_rate if frames else None
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
    from kaldi_uq.io.wav import read_wav
    from kaldi_uq.report.example import Perturbed
    from kaldi_uq.results.utterances import read_attacked

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
        from kaldi_uq.recogniser.recogniser import Recogniser

        self.recogniser = Recogniser.load(model_dir, engine=engine_of(args), lang_dir=args.data_dir / "lang")

    def of(self, record: AttackRecord, original: np.ndarray, attacked: np.ndarray) -> dict[str, Any]:
        """The fields of :class:`Example` that need the model."""
        (_, clean), (_, heard) = (
            next(iter(self.recogniser.score({record.utt: samples}))) for samples in (original, attacked)
        )
        times = self.recogniser.word_times
        return {
            "attacked_entropy": heard.frames["predictive_entropy"],
            "original_entropy": clean.frames["predictive_entropy"],
            "frame_shift_s": self.recogniser.frame_shift_s,
            "original_words": times(record.original.split(), clean.scores),
            "target_words": times(record.target.split(), heard.scores),
            "hypothesis_words": times(record.hypothesis.split(), heard.scores),
        }
