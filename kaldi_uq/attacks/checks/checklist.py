"""The checklist of a model: what every attack on it reports, and how the attacks fit together.

Reads what ``EXP-DIR/MODEL/attack_*/``, ``transfer_*/`` and ``score_*/`` hold.  A check whose attacks are not there is
absent, with what it lacks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kaldi_uq.attacks.checks import series
from kaldi_uq.attacks.checks.series import Success
from kaldi_uq.attacks.config import AttackConfig
from kaldi_uq.detector import evaluate_detection, fit_detectors
from kaldi_uq.errors import DataError
from kaldi_uq.io.waves import waves_of_files
from kaldi_uq.recogniser.base import BaseRecogniser
from kaldi_uq.recogniser.heard import forget
from kaldi_uq.results.names import at_level, split_level
from kaldi_uq.results.table import Results
from kaldi_uq.results.utterances import AttackRecord, attack_dirs, read_attacked, read_benign

ONE_STEP, NOISE = "fgsm", "uniform noise"
MORE_STEPS, MORE_STARTS = "2x", "restarts"  # the attack's name with one of these: twice the steps, twice the starts
LARGE_EPS = 0.2  # full scale
RESCORE_SEED = 101  # seed of the first rescoring: far from those that attacks use

Check = dict[str, Any]
Runs = dict[str, dict[float, Success]]  # attack -> eps -> utt -> success
Records = Mapping[tuple[str, float], Sequence[AttackRecord]]  # (attack, eps) -> its examples


@dataclass(frozen=True)
class Checklist:
    """What is compared with what.

    Attributes:
        exp_dir: directory of the models and of ``results.json``.
        attack: name of the attack that the others are compared with, without the level.
        eps_level: the level that eps of the attacks is for; those of another are not looked at.
        black_box: name of the attack without gradients.
        noise: ``score_<noise><eps>`` is of the audio with uniform noise of the same eps.
        undefended: name of a model without any defence.
        num_rescores: how often examples of a random model are decoded again.
        rescore_utts: how many of them; 0: all.
        open_model: opens the recogniser of a model directory, or gives ``None`` where it cannot be opened.
    """

    exp_dir: Path
    attack: str = "pgd"
    eps_level: float = 0.0
    black_box: str = "nes"
    noise: str = "attack_uniform"
    undefended: str = "dnn"
    num_rescores: int = 3
    rescore_utts: int = 100
    open_model: Callable[[Path], BaseRecogniser | None] = lambda path: None

    def of_model(self, model: str) -> tuple[dict[str, Check], dict[str, str]]:
        """Every check of a model that its directories allow, and the name of each other with what it lacks."""
        model_dir = self.exp_dir / model
        attack = at_level(self.attack, self.eps_level)
        content = Results(self.exp_dir / "results.json").read()
        checks = of_runs([row for row in content["attacks"] if row["model"] == model])
        records = {(n, eps): read_attacked(path / "results.jsonl") for n, eps, path in self._attack_dirs(model_dir)}
        runs: Runs = {}
        for (name, eps), rows in records.items():
            runs.setdefault(name, {})[eps] = {row.utt: row.success for row in rows}
        main = runs.get(self.attack)
        if not main:
            raise DataError(
                f"{model_dir}: no attack_{attack}_eps<eps>/results.jsonl to compare the others with; "
                "steps/uq/attack.sh makes it, or name another with --attack"
            )
        blind = transfers(model_dir, attack)
        # noise of one eps for all utterances is no match for an attack at a level
        noisy = {} if self.eps_level else {eps: records[self.attack, eps] for eps in main}
        noise = noise_runs(model_dir, self.noise, noisy)
        black_box = {name: by_eps for name, by_eps in runs.items() if name == self.black_box}
        plain = {} if model == self.undefended else self._runs_of(self.exp_dir / self.undefended)
        detection = [row for row in content["detection"] if row["model"] == model]
        weak = "give the stronger attack more steps, another step size, realigned targets or more draws (--eot-samples)"
        masked = "suspect masked gradients; see gradient_correct, and attack with more draws (--eot-samples)"
        several: dict[str, tuple[Callable[[], Check | None], str]] = {
            "success_grows_with_eps": (lambda: series.grows_with_eps(main), f"a second eps of {self.attack}"),
            "large_eps_always_succeeds": (lambda: series.saturates(main), f"{self.attack} at eps {LARGE_EPS:g}"),
            "twice_the_steps_add_little": (
                lambda: series.adds_little(runs.get(f"{self.attack}-{MORE_STEPS}", {}), main, what="steps"),
                f"{self.attack}-{MORE_STEPS}",
            ),
            "restarts_saturate": (
                lambda: series.adds_little(runs.get(f"{self.attack}-{MORE_STARTS}", {}), main, what="starts"),
                f"{self.attack}-{MORE_STARTS}",
            ),
            "iterative_beats_one_step": (
                lambda: series.beats(main, {k: v for k, v in runs.items() if k == ONE_STEP}, remedy=weak),
                ONE_STEP,
            ),
            "white_box_beats_transfer": (lambda: series.beats(main, blind, remedy=masked), "examples of other models"),
            "white_box_beats_black_box": (lambda: series.beats(main, black_box, remedy=masked), self.black_box),
            "white_box_beats_noise": (lambda: series.beats(main, noise, remedy=masked), f"{NOISE} of the same eps"),
            "no_sign_of_masked_gradients": (
                lambda: series.shows_no_masking(main, {**black_box, **blind, **noise}),
                "an attack that does not use the gradient",
            ),
            "rescoring_agrees": (lambda: self._rescore(model_dir, records), "a random model, without CMVN by speaker"),
            "undefended_model_falls": (
                lambda: series.undefended_falls(plain or (main if model == self.undefended else {})),
                f"{self.attack} on {self.undefended}",
            ),
            "detectors_tell_attacks": (lambda: series.every_detector_tells(detection), "detection"),
            "broken_detector_is_caught": (
                lambda: _broken_detector(model_dir, records, self.attack),
                "scored benign sets",
            ),
        }
        absent = {}
        for name, (check, needs) in several.items():
            found = check()
            if found is None:
                absent[name] = needs
            else:
                checks[name] = found
        return checks, absent

    def _attack_dirs(self, model_dir: Path) -> list[tuple[str, float, Path]]:
        """The attack directories of the level, by their names without it."""
        found = [(*split_level(name), eps, path) for name, eps, path in attack_dirs(model_dir)]
        return [(name, eps, path) for name, level, eps, path in found if level == self.eps_level]

    def _runs_of(self, model_dir: Path) -> dict[float, Success]:
        return {
            eps: {record.utt: record.success for record in read_attacked(path / "results.jsonl")}
            for name, eps, path in self._attack_dirs(model_dir)
            if name == self.attack
        }

    def _rescore(self, model_dir: Path, records: Records) -> Check | None:
        """Decode examples again with other draws; ``None`` for a model without any, or without the files it takes."""
        recogniser = self.open_model(model_dir) if self.num_rescores else None
        if recogniser is None or not recogniser.is_random or recogniser.why_no_words:
            return None
        there = {
            eps: path
            for name, eps, path in self._attack_dirs(model_dir)
            if name == self.attack and all((path / "wav" / f"{r.utt}.wav").is_file() for r in records[name, eps])
        }
        if not there:
            return None
        # where about half the utterances fall there is most to disagree about
        eps = min(there, key=lambda e: abs(0.5 - float(np.mean([r.success for r in records[self.attack, e]]))))
        rows = list(records[self.attack, eps])
        count = min(self.rescore_utts or len(rows), len(rows))
        rows = [rows[int(i)] for i in np.linspace(0, len(rows) - 1, count).round()]
        files = {row.utt: there[eps] / "wav" / f"{row.utt}.wav" for row in rows}
        waves = waves_of_files(files, recogniser.sample_rate)
        again = []
        for number in range(self.num_rescores):
            seed, desc = RESCORE_SEED + number, f"rescoring {number + 1}"
            heard = recogniser.hear(waves, seed=seed, frames_to=forget, desc=desc)
            again.append({row.utt: reached(row, " ".join(heard[row.utt].words or ())) for row in rows})
        check = series.agrees_when_rescored({row.utt: row.success for row in rows}, again)
        return None if check is None else check | {"eps": eps}


def reached(row: AttackRecord, heard: str) -> bool:
    """Whether what is heard is what the attack wanted."""
    return heard == row.target if row.target else heard != row.original


def plan(attack: str, config: AttackConfig) -> list[tuple[str, float, str]]:
    """The attack with a large eps, and with twice the steps and the starts: what its configuration does not hold.

    Args:
        attack: its name.
        config: its options.

    Returns:
        (name, eps, options that differ) of each.
    """
    return [
        (attack, LARGE_EPS, ""),
        (f"{attack}-{MORE_STEPS}", config.eps, f"--num-steps {2 * config.num_steps}"),
        (f"{attack}-{MORE_STARTS}", config.eps, f"--num-starts {2 * config.num_starts}"),
    ]


def of_runs(rows: Sequence[Mapping[str, Any]]) -> dict[str, Check]:
    """The checks that attacks report of themselves, over all attacks of a model: the worst of each.

    Args:
        rows: rows of one model in section "attacks".

    Returns:
        name -> a failed one if there is one, with ``runs`` (how many have it), ``failed`` (which failed) and, if it
        passed, the value that is nearest to its limit.
    """
    found: dict[str, list[tuple[str, Check]]] = {}
    for row in rows:
        checks = row["checks"] if isinstance(row["checks"], dict) else {}
        for name, check in checks.items():
            found.setdefault(name, []).append((f"{row['attack']} eps {row['eps']:g}", check))
    merged = {}
    for name, several in found.items():
        failed = [where for where, check in several if not check["passed"]]
        _, worst = max(several, key=lambda pair: (not pair[1]["passed"], -abs(pair[1]["value"] - pair[1]["limit"])))
        merged[name] = {**worst, "runs": len(several), "failed": failed}
    return merged


def transfers(model_dir: Path, attack: str) -> Runs:
    """What the examples of other models do to this one, by name."""
    found: Runs = {}
    name = re.compile(rf"transfer_(?P<source>.+)_{re.escape(attack)}_eps(?P<eps>[0-9]+(\.[0-9]+)?(e-?[0-9]+)?)")
    for path in sorted(model_dir.glob("transfer_*")):
        match, file = name.fullmatch(path.name), path / "results.jsonl"
        if match and match["source"] != model_dir.name and file.is_file():
            by_eps = found.setdefault(f"transfer from {match['source']}", {})
            by_eps[float(match["eps"])] = {record.utt: record.success for record in read_attacked(file)}
    return found


def noise_runs(model_dir: Path, noisy_set: str, attacked: Mapping[float, Sequence[AttackRecord]]) -> Runs:
    """What uniform noise of the same eps does: the words heard against the targets of the attack."""
    found: dict[float, Success] = {}
    for eps, records in attacked.items():
        file = model_dir / f"score_{noisy_set}{eps:g}" / "results.jsonl"
        if file.is_file():
            heard = {record.utt: record.hypothesis for record in read_benign(file)}
            found[eps] = {r.utt: heard[r.utt] == r.target for r in records if r.utt in heard and r.target}
    return {NOISE: found} if found else {}


def _broken_detector(model_dir: Path, records: Records, attack: str) -> Check | None:
    """A detector with a constant score, on the sets that the others are measured on."""
    sizes = []
    for name in ("fit", "test"):
        file = model_dir / f"score_{name}" / "results.jsonl"
        if not file.is_file():
            return None
        sizes.append(len(read_benign(file)))
    sizes.append(next(len(rows) for (name, _), rows in records.items() if name == attack))
    fit, benign, attacked = ({"constant": np.ones(size)} for size in sizes)
    row = evaluate_detection(fit_detectors(fit, compare=False), benign, attacked, seed=0, num_bootstrap=1)[0]
    return series.broken_is_caught(row) | {"num_utts": sizes[2]}
