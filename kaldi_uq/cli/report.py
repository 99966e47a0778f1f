"""Write the report of a recipe: RESULTS, all numbers (CSV, results.json.gz), figures (PNG, SVG, PDF), tables (LaTeX,
CSV) and one HTML page that needs no other file.

Some attacked utterances are shown with their audio, spectrogram, entropy over time and word alignments.
"""

from __future__ import annotations

import argparse
import shlex
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kaldi_uq.cli.options import add_engine, directory, engine_of
from kaldi_uq.errors import MissingDependencyError
from kaldi_uq.io.datadir import read_table
from kaldi_uq.results.names import GATE, ROBUST, at_level, known_statistic, model_key, model_name, split_level
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
    examples = _examples(args, wanted)
    page = build_report(
        args.exp_dir,
        args.out_dir,
        command=args.command or _earlier_command(args.out_dir),
        counts=_counts(args.exp_dir, args.data_dir),
        tries=_tries(args, examples[0], content) if examples else [],
        examples=examples,
        perturbed=_perturbed(args, wanted),
    )
    for line in findings(Run(content)):
        print(bullet(line))
    print(f"The whole story, with audio: {page}")


def bullet(text: str) -> str:
    """A point of a list in 80 columns; no line begins with a percent sign."""
    whole = text.replace(" %", "\N{NO-BREAK SPACE}%")
    folded = textwrap.fill(whole, 80, initial_indent="* ", subsequent_indent="  ", break_on_hyphens=False)
    return folded.replace("\N{NO-BREAK SPACE}%", " %")


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


def _tries(args: argparse.Namespace, example: Example, content: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """Three things to try: what each is, and its commands, for the directory that the report is made in."""
    from kaldi_uq.recogniser.hybrid import kind_of

    if not (example.detector and example.target and kind_of(args.exp_dir / example.model)):
        return []  # the commands would not find what they need by themselves
    exp, data, steps = args.exp_dir, args.data_dir, Path("steps/uq")
    model, robust = exp / example.model, exp / f"{example.model}{ROBUST}"
    level = split_level(example.attack)[1]
    bound = ["--eps", f"{example.eps:g}", *(["--eps-level", f"{level:g}"] if level else [])]
    say = ["kaldi-uq", "attack", example.original_path, "--target-text", example.target, *bound, "--force"]
    tried = {row["model"] for row in content["attacks"] if known_statistic(row["attack"]) == GATE}
    whom = next((of for of in (model, robust) if of.name not in tried and of.is_dir()), model)
    name = at_level(f"adaptive-{GATE}", level)
    made, scores = whom / f"attack_{name}_eps{example.eps:g}", [whom / "score_fit", whom / "score_test"]
    results = ["--results", exp / "results.json"]
    as_known = ["--preset", "adaptive", "--attack", name, "--attack-opts", f"--statistics {GATE}", "--num-utts", 20]
    knowing = [
        [steps / "attack.sh", *bound, *as_known, *results, data / "attack", data / "lang", whom, whom / "graph", made],
        [steps / "detect.sh", *results, whom, *scores, made],
        ["kaldi-uq", "report", exp, args.out_dir],
    ]
    if not (steps / "attack.sh").is_file():  # not in the directory of a recipe: one file alone
        knowing = [[*say, "--preset", "adaptive", "--statistics", GATE, "--model-dir", whom, "--out", "knowing.wav"]]
    begin = [[".", "./path.sh"]] if Path("path.sh").is_file() else []
    mine = "The attack by your own hand: choose another text, a smaller eps, the robust model"
    tries = [
        (
            "A verdict on a recording and on its attack",
            [["kaldi-uq", "detect", model, example.original_path, example.attacked_path]],
        ),
        (mine, [[*say, "--model-dir", of, "--out", f"mine-{of.name}.wav"] for of in (model, robust) if of.is_dir()]),
        (f"An attacker who knows the detector, on {model_name(whom.name)}", knowing),
    ]
    return [(title, list(map(_folded, [*begin, *commands]))) for title, commands in tries]


def _folded(command: Sequence[object], width: int = 88) -> str:
    """The words of a command as a shell reads them, on lines that are not too long.

    >>> print(_folded(["attack", "--target-text", "one two", "a.wav"], width=24))
    attack \\
      --target-text 'one two' \\
      a.wav
    """
    words: list[str] = []
    for word in map(shlex.quote, map(str, command)):
        if words and words[-1].startswith("--") and " " not in words[-1]:
            words[-1] += f" {word}"  # an option and its value
        else:
            words.append(word)
    lines = [words[0]]
    for word in words[1:]:
        lines += [" "] if len(lines[-1]) + 1 + len(word) > width else []
        lines[-1] += f" {word}"
    return " \\\n".join(lines)


def _choose(records: Sequence[AttackRecord], count: int) -> list[AttackRecord]:
    """Utterances that the attack turned into its target, if there are any; the shorter ones are easier to look at."""
    won = [r for r in records if r.target and r.success and len(r.target.split()) > 1]
    return sorted(won or records, key=lambda r: (abs(len(r.original.split()) - 4), r.utt))[:count]


def _examples(args: argparse.Namespace, places: Mapping[tuple[str, str, float], Path]) -> list[Example]:
    """The first model under the strong attack, which a reader should see first, and the robust one beside it."""
    from kaldi_uq.results.utterances import read_attacked

    shown = next((key for key in places if key[1] == STRONG), next(iter(places), None))
    if shown is None:
        return []
    model, attack, eps = shown
    records = _choose(read_attacked(places[shown] / "results.jsonl"), args.num_examples)
    wanted = [(model, record.utt) for record in records]
    if (f"{model}{ROBUST}", attack, eps) in places:  # the same utterance, in place of the last
        wanted = [wanted[0], (f"{model}{ROBUST}", wanted[0][1]), *wanted[1:]][: args.num_examples]
    speakers = {name: _Examples(args, name, attack, eps, places[name, attack, eps]) for name, _ in wanted}
    found, seen = [], set[str]()
    for name, utt in wanted:
        if utt in speakers[name].records:
            found.append(speakers[name].of(utt, compare=utt not in seen))
            seen.add(utt)
    return found


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


class _Examples:
    """Examples of one attack on one model: audio, texts, verdicts; of a hybrid model entropy and times of words too."""

    def __init__(self, args: argparse.Namespace, model: str, attack: str, eps: float, path: Path) -> None:
        from kaldi_uq.detector.store import default_detector, load_detector
        from kaldi_uq.recogniser.hybrid import kind_of
        from kaldi_uq.recogniser.recogniser import Recogniser
        from kaldi_uq.results.utterances import read_attacked

        self.about: dict[str, Any] = {"model": model, "attack": attack, "eps": eps}
        self.records = {record.utt: record for record in read_attacked(path / "results.jsonl")}
        self.paths = (read_table(args.data_dir / "attack/wav.scp"), read_table(path / "wav.scp"))
        self.recogniser = None
        if kind_of(args.exp_dir / model):
            lang = args.data_dir / "lang"
            self.recogniser = Recogniser.load(args.exp_dir / model, engine=engine_of(args), lang_dir=lang)
        self.detector_path = default_detector(args.exp_dir / model)
        self.detector = load_detector(self.detector_path) if self.detector_path.is_file() else None

    def of(self, utt: str, *, compare: bool) -> Example:
        from kaldi_uq.io.wav import read_wav
        from kaldi_uq.report.example import Example

        record = self.records[utt]
        paths = [table[utt] for table in self.paths]
        expected = self.recogniser.sample_rate if self.recogniser else None
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
            detector=self.detector_path.stem if self.detector else "",
            **(self._frames(record, original, attacked) if self.recogniser else {}),
            **self.about,
        )

    def _verdict(self, statistics: Mapping[str, float]) -> tuple[float, float] | None:
        """Score and threshold; ``None`` without a detector, or if it looks at what was not measured."""
        detector = self.detector
        if detector is None or detector.threshold is None or not set(detector.statistics) <= set(statistics):
            return None
        table = {name: [statistics[name]] for name in detector.statistics}
        return float(detector.score(table)[0]), detector.threshold

    def _frames(self, record: AttackRecord, original: np.ndarray, attacked: np.ndarray) -> dict[str, Any]:
        """The fields of :class:`Example` that need the model; word times are by forced alignment."""
        assert self.recogniser is not None
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
            "original_verdict": self._verdict(clean.statistics),
        }
