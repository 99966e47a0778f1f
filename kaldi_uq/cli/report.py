"""Write the report of a recipe: RESULTS, tables (Markdown, CSV), figures (PNG, SVG) and one HTML page that needs no
other file.

Some attacked utterances are shown with their audio, spectrogram, entropy over time and word alignments.
"""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kaldi_uq.cli.options import add_engine, directory, engine_of
from kaldi_uq.io.datadir import read_table
from kaldi_uq.io.wav import read_wav
from kaldi_uq.report.summary import summary
from kaldi_uq.results.table import Results
from kaldi_uq.results.utterances import AttackRecord, attack_dirs, read_attacked

if TYPE_CHECKING:  # --help needs neither torch nor matplotlib
    from kaldi_uq.report.example import Example
    from kaldi_uq.report.spectrogram import Perturbed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("exp_dir", type=directory, metavar="EXP-DIR")
    parser.add_argument("out_dir", type=Path, metavar="OUT-DIR")
    parser.add_argument("--command", default="kaldi-uq report", help="the command that made the results")
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="directory of attack/ and lang/ [data]")
    parser.add_argument("--num-examples", type=int, default=3, help="attacked utterances to show [3]")
    add_engine(parser)


def run(args: argparse.Namespace) -> None:
    from kaldi_uq.report.build import build_report

    examples: list[Example] = []
    found = [(model, *entry) for model in _models(args.exp_dir) for entry in attack_dirs(args.exp_dir / model)]
    if found and args.num_examples > 0:
        # the first model under its strongest listed attack: what a reader should see first
        model, attack, eps, path = next((f for f in found if f[1] == "pgd"), found[0])
        records = _choose(read_attacked(path / "results.jsonl"), args.num_examples)
        examples = _examples(args, model, attack, eps, path, records)
    perturbed = _perturbed(args, found) if args.num_examples > 0 else []
    page = build_report(args.exp_dir, args.out_dir, command=args.command, examples=examples, perturbed=perturbed)
    for sentence in summary(Results(args.exp_dir / "results.json").read()):
        print(textwrap.fill(sentence, 78, initial_indent="* ", subsequent_indent="  "))
    print(f"The whole story, with audio: {page}")


def _models(exp_dir: Path) -> list[str]:
    return [
        m for m in Results(exp_dir / "results.json").read()["clean"] if (exp_dir / m / "final.safetensors").is_file()
    ]


def _choose(records: Sequence[AttackRecord], count: int) -> list[AttackRecord]:
    """Utterances that the attack turned into its target, if there are any; the shorter ones are easier to look at."""
    won = [
        r for r in records if r.target_errors is not None and r.target_errors.errors == 0 and len(r.target.split()) > 1
    ]
    return sorted(won or records, key=lambda r: (abs(len(r.original.split()) - 4), r.utt))[:count]


def _examples(
    args: argparse.Namespace, kind: str, attack: str, eps: float, path: Path, records: Sequence[AttackRecord]
) -> list[Example]:
    from kaldi_uq.recogniser.recogniser import Recogniser
    from kaldi_uq.report.example import Example

    recogniser = Recogniser.load(args.exp_dir / kind, engine=engine_of(args), lang_dir=args.data_dir / "lang")
    original_scp, attacked_scp = read_table(args.data_dir / "attack/wav.scp"), read_table(path / "wav.scp")
    rate = recogniser.sample_rate
    waves = {
        "original": {r.utt: read_wav(original_scp[r.utt], expected_rate=rate)[0] for r in records},
        "attacked": {r.utt: read_wav(attacked_scp[r.utt], expected_rate=rate)[0] for r in records},
    }
    scores = {name: dict(recogniser.score(batch)) for name, batch in waves.items()}
    examples = []
    for r in records:
        clean, heard = scores["original"][r.utt], scores["attacked"][r.utt]
        examples.append(
            Example(
                utt=r.utt,
                model=kind,
                attack=attack,
                eps=eps,
                rate=rate,
                original_samples=waves["original"][r.utt],
                attacked_samples=waves["attacked"][r.utt],
                original=r.original,
                target=r.target,
                hypothesis=r.hypothesis,
                attacked_entropy=heard.frames["predictive_entropy"],
                original_entropy=clean.frames["predictive_entropy"],
                frame_shift_s=recogniser.frame_shift_s,
                original_words=recogniser.word_times(r.original.split(), clean.scores),
                target_words=recogniser.word_times(r.target.split(), heard.scores),
                hypothesis_words=recogniser.word_times(r.hypothesis.split(), heard.scores),
                snr_db=r.snr_db,
            )
        )
    return examples


def _perturbed(args: argparse.Namespace, found: Sequence[tuple[str, str, float, Path]]) -> list[Perturbed]:
    """One utterance of the first model that both the strong and the psychoacoustic attack turned into their target."""
    from kaldi_uq.recogniser.hybrid import HybridModel
    from kaldi_uq.report.spectrogram import Perturbed

    places = {(model, attack, eps): path for model, attack, eps, path in found}
    for (model, attack, eps), path in places.items():
        strong = places.get((model, "pgd", eps))
        if attack != "psychoacoustic" or strong is None:
            continue
        hidden = {r.utt for r in read_attacked(path / "results.jsonl") if r.success}
        both = [r for r in read_attacked(strong / "results.jsonl") if r.success and r.utt in hidden]
        for record in _choose(both, 1):
            rate = HybridModel.load(args.exp_dir / model).front_end.sample_rate
            places_of = {
                "original": args.data_dir / "attack/wav.scp",
                f"pgd, eps {eps:g}": strong / "wav.scp",
                f"psychoacoustic, eps {eps:g}": path / "wav.scp",
            }
            waves = {
                name: read_wav(read_table(scp)[record.utt], expected_rate=rate)[0] for name, scp in places_of.items()
            }
            return [Perturbed(record.utt, model, int(rate), waves.pop("original"), waves)]
    return []
