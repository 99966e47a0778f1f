"""Write the report of a recipe: RESULTS, all numbers (CSV, results.json.gz), figures (PNG, SVG, PDF), tables (LaTeX,
CSV) and one HTML page that needs no other file.

Some attacked utterances are shown with their audio, spectrogram, entropy over time and word alignments.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from kaldi_uq.cli.options import add_engine, directory, engine_of
from kaldi_uq.errors import MissingDependencyError
from kaldi_uq.io.datadir import read_table
from kaldi_uq.results.names import model_key
from kaldi_uq.results.table import Results


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "exp_dir", type=directory, metavar="EXP-DIR", help="directory of results.json and of the models"
    )
    parser.add_argument("out_dir", type=Path, metavar="OUT-DIR", help="directory to write, such as exp/report")
    parser.add_argument(
        "--command",
        help="the command that made the results, for the page to show [that of the report in OUT-DIR, if there is one]",
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
    from kaldi_uq.recogniser.recogniser import Recogniser

    try:
        from kaldi_uq.report.build import build_report
        from kaldi_uq.report.examples import AttackedAudio
        from kaldi_uq.report.findings import summary
        from kaldi_uq.report.run import Run
        from kaldi_uq.report.tries import commands_to_try
    except ModuleNotFoundError as error:
        if error.name not in ("pandas", "jinja2"):
            raise
        message = f"the package {error.name} is not installed; run: python3 -m pip install 'kaldi-uq[report]'"
        raise MissingDependencyError(message) from None
    content = Results(args.exp_dir / "results.json").read()
    done = {(row["model"], row["attack"]) for row in content["attacks"]}
    models = sorted({model for model, _ in done}, key=model_key)

    def load(model_dir: Path) -> Recogniser:
        return Recogniser.load(model_dir, engine=engine_of(args), lang_dir=args.data_dir / "lang")

    audio = AttackedAudio(args.exp_dir, args.data_dir, models, load)
    examples = audio.examples(args.num_examples)
    places = (args.exp_dir, args.data_dir, args.out_dir)
    page = build_report(
        args.exp_dir,
        args.out_dir,
        command=args.command or _earlier_command(args.out_dir),
        counts=_counts(args.exp_dir, args.data_dir),
        tries=commands_to_try(*places, example=examples[0], attacked=done) if examples else [],
        examples=examples,
        perturbed=audio.perturbed() if args.num_examples > 0 else [],
    )
    print(summary(Run(content)), end="")
    print(f"The whole story, with audio: {os.path.abspath(page)}")


def _earlier_command(out_dir: Path) -> str:
    """The command that the report in a directory names, so that a new one of it names it too."""
    earlier = out_dir / "RESULTS"
    first = earlier.read_text(encoding="utf-8").partition("\n")[0] if earlier.is_file() else ""
    return first.removeprefix("# ") if first.startswith("# ") else "kaldi-uq report"


def _counts(exp_dir: Path, data_dir: Path) -> dict[str, int]:
    """Utterances of each data directory of the run; nothing if the results lie elsewhere than the data."""
    if exp_dir.resolve().parent != data_dir.resolve().parent:
        return {}
    found = {name: data_dir / name / "wav.scp" for name in ("train", "fit", "test", "attack")}
    return {name: len(read_table(scp)) for name, scp in found.items() if scp.is_file()}
