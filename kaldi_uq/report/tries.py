"""What a reader of the page can try by hand: commands for the directory that the report is made in."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from kaldi_uq.recogniser.hybrid import kind_of
from kaldi_uq.report.examples import Example
from kaldi_uq.results.names import GATE, ROBUST, at_level, known_statistic, model_name, split_level


def commands_to_try(
    exp_dir: Path, data_dir: Path, out_dir: Path, *, example: Example, attacked: Collection[tuple[str, str]]
) -> list[tuple[str, list[str]]]:
    """Three things to try: what each is, and its commands.

    Args:
        exp_dir, data_dir, out_dir: models, data and report, as a reader can type them.
        example: the utterance to try them on.
        attacked: model and attack of all that was done.
    """
    if not (example.detector and example.target and kind_of(exp_dir / example.model)):
        return []  # the commands would not find what they need by themselves
    exp, data, steps = exp_dir, data_dir, Path("steps/uq")
    model, robust = exp / example.model, exp / f"{example.model}{ROBUST}"
    level = split_level(example.attack)[1]
    bound = ["--eps", f"{example.eps:g}", *(["--eps-level", f"{level:g}"] if level else [])]
    say = ["kaldi-uq", "attack", example.original_path, "--target-text", example.target, *bound, "--force"]
    tried = {name for name, attack in attacked if known_statistic(attack) == GATE}
    whom = next((of for of in (model, robust) if of.name not in tried and of.is_dir()), model)
    name = at_level(f"adaptive-{GATE}", level)
    made, scores = whom / f"attack_{name}_eps{example.eps:g}", [whom / "score_fit", whom / "score_test"]
    results = ["--results", exp / "results.json"]
    as_known = ["--preset", "adaptive", "--attack", name, "--attack-opts", f"--statistics {GATE}", "--num-utts", 20]
    knowing = [
        [steps / "attack.sh", *bound, *as_known, *results, data / "attack", data / "lang", whom, whom / "graph", made],
        [steps / "detect.sh", *results, whom, *scores, made],
        ["kaldi-uq", "report", exp, out_dir],
    ]
    if not (steps / "attack.sh").is_file():  # not in the directory of a recipe: one file alone
        knowing = [[*say, "--preset", "adaptive", "--statistics", GATE, "--model-dir", whom, "--out", "knowing.wav"]]
    begin = [[".", "./path.sh"]] if Path("path.sh").is_file() else []
    mine = "The attack by your own hand: choose another text, a smaller eps, the robust model"
    tries: list[tuple[str, list[list[Any]]]] = [
        (
            "A verdict on a recording and on its attack",
            [["kaldi-uq", "detect", model, example.original_path, example.attacked_path]],
        ),
        (mine, [[*say, "--model-dir", of, "--out", f"mine-{of.name}.wav"] for of in (model, robust) if of.is_dir()]),
        (f"An attacker who knows the detector, on {model_name(whom.name)}", knowing),
    ]
    return [(title, [_folded(words) for words in [*begin, *commands]]) for title, commands in tries]


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
