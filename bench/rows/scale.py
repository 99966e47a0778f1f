"""Commands over many utterances: the CPU time of one, and whether time or memory grow with their number.

A recipe that has run gives its words, its graph and its network; its utterances of one word are repeated, a little
louder or quieter and in noise, until there are as many as wanted.  Each command is run once on what those before it
made, which a run of one row alone makes first.
"""

from __future__ import annotations

import functools
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.measure import Case, Facts, Row, Setting

REPO = Path(__file__).resolve().parents[2]
TIMES = (1, 4, 16)
ATTACK, ATTACK_BY_JOBS, TRANSFER = "attack_pgd_eps0.02", "attack_jobs_eps0.02", "transfer_dnn_pgd_eps0.02"
ENGINE = "--engine embedded"
ON_CPU = "--device cpu"

Work = Callable[[], Facts]


@dataclass(frozen=True)
class Step:
    """A command of a recipe.

    Attributes:
        line: the command, words with blanks in quotes; ``{wavs}`` stands for the files of the data.
        after: names of the steps whose results it reads.
        makes: patterns of what it writes, removed before it runs.
        shown: what the table says of it; by default its first words.
        statuses: exit statuses that are no failure.
    """

    line: str
    after: tuple[str, ...] = ()
    makes: tuple[str, ...] = ()
    shown: str = ""
    statuses: tuple[int, ...] = (0,)

    @property
    def what(self) -> str:
        """What the table says."""
        words = self.line.split()
        return self.shown or " ".join(words[: 2 if words[0] == "kaldi-uq" else 1])


STEPS = {
    "validate": Step("kaldi-uq validate-data --no-feats data/many"),
    "fix": Step("kaldi-uq fix-data data/many"),
    "split": Step("kaldi-uq split-data data/many 4", makes=("data/many/split4",)),
    "mfcc": Step(
        f"steps/make_mfcc.sh {ENGINE} --nj 1 --mfcc-config conf/mfcc.conf data/many", makes=("data/many/feats.scp",)
    ),
    "cmvn": Step(f"steps/compute_cmvn_stats.sh {ENGINE} data/many", ("mfcc",), ("data/many/cmvn.scp",)),
    "mono": Step(
        f"steps/train_mono.sh {ENGINE} --nj 1 data/many data/lang exp/mono_many", ("mfcc", "cmvn"), ("exp/mono_many",)
    ),
    "align": Step(
        f"steps/align_si.sh {ENGINE} --nj 1 data/many data/lang exp/mono exp/ali", ("mfcc", "cmvn"), ("exp/ali",)
    ),
    "decode-gmm": Step(
        f"steps/decode.sh {ENGINE} --nj 1 --lattices false exp/mono/graph data/many exp/mono/decode_many",
        ("mfcc", "cmvn"),
        ("exp/mono/decode_many",),
    ),
    "train": Step(
        f"steps/uq/train.sh {ENGINE} {ON_CPU} --mfcc-config conf/mfcc.conf"
        " --train-opts '--num-epochs 1 --num-viterbi-epochs 1' data/many data/lang exp/ali exp/trained",
        ("align",),
        ("exp/trained",),
        "steps/uq/train.sh, one epoch on the alignment and a Viterbi epoch",
    ),
    "forward": Step(f"steps/uq/forward.sh {ON_CPU} data/many exp/dnn exp/dnn/forward", (), ("exp/dnn/forward",)),
    "decode": Step(
        f"steps/uq/decode.sh {ENGINE} {ON_CPU} exp/dnn/graph data/many exp/dnn exp/dnn/score_many",
        (),
        ("exp/dnn/score_many",),
    ),
    "lattices": Step(
        f"steps/uq/decode.sh {ENGINE} {ON_CPU} --score-lattices true"
        " exp/dnn/graph data/many exp/dnn exp/dnn/score_lattices",
        (),
        ("exp/dnn/score_lattices",),
        "steps/uq/decode.sh --score-lattices true",
    ),
    "fit-detector": Step(
        "steps/uq/fit_detector.sh exp/dnn exp/dnn/score_many", ("decode",), ("exp/dnn/detector/*.json",)
    ),
    "attack": Step(
        f"steps/uq/attack.sh {ENGINE} {ON_CPU} --eps 0.02 --attack-opts '--num-steps 2'"
        f" data/many data/lang exp/dnn exp/dnn/graph exp/dnn/{ATTACK}",
        (),
        (f"exp/dnn/{ATTACK}",),
        "steps/uq/attack.sh, two steps",
    ),
    "attack-jobs": Step(
        f"steps/uq/attack.sh {ENGINE} {ON_CPU} --nj 2 --eps 0.02 --attack-opts '--num-steps 2'"
        f" data/many data/lang exp/dnn exp/dnn/graph exp/dnn/{ATTACK_BY_JOBS}",
        (),
        (f"exp/dnn/{ATTACK_BY_JOBS}",),
        "steps/uq/attack.sh --nj 2, two steps",
    ),
    "detect": Step(
        f"steps/uq/detect.sh exp/dnn exp/dnn/score_many exp/dnn/score_many exp/dnn/{ATTACK}",
        ("decode", "fit-detector", "attack"),
        ("exp/results.json",),
    ),
    "judge": Step(f"kaldi-uq detect {ON_CPU} exp/dnn {{wavs}}", ("fit-detector",), statuses=(0, 1, 2)),
    "transfer": Step(
        f"kaldi-uq nnet-transfer {ENGINE} {ON_CPU} exp/dnn/{ATTACK} data/many exp/dnn exp/dnn/graph exp/dnn/{TRANSFER}",
        ("attack",),
        (f"exp/dnn/{TRANSFER}",),
    ),
    "disturb": Step(
        "kaldi-uq disturb-data --kind babble --snr-db 10 data/many data/many_babble10",
        (),
        ("data/many_babble10",),
        "kaldi-uq disturb-data --kind babble",
    ),
    "decode-disturbed": Step(
        f"steps/uq/decode.sh {ENGINE} {ON_CPU} exp/dnn/graph data/many_babble10 exp/dnn exp/dnn/score_many_babble10",
        ("disturb",),
        ("exp/dnn/score_many_babble10",),
        "steps/uq/decode.sh, with babble",
    ),
    "negatives": Step(
        "kaldi-uq nnet-negatives --model dnn --kind babble --level 10 --fit-data data/many --fit exp/dnn/score_many"
        " --data data/many_babble10 --scored exp/dnn/score_many_babble10 --results exp/negatives.json"
        f" exp/dnn/{ATTACK}",
        ("decode", "fit-detector", "decode-disturbed", "attack"),
        ("exp/negatives.json",),
    ),
    "checks": Step(f"kaldi-uq check-attacks {ENGINE} {ON_CPU} --model dnn exp", ("attack", "transfer")),
    "worst-case": Step(f"kaldi-uq worst-case exp/dnn/{ATTACK} exp/dnn/{ATTACK_BY_JOBS}", ("attack", "attack-jobs")),
}


class Crowd:
    """A recipe directory with many utterances in ``data/many``.

    Args:
        setting: as always; ``recipe_dir`` is a recipe that has run up to its network.
        times: so many times the utterances of the setting.
    """

    def __init__(self, setting: Setting, times: int) -> None:
        self.num_utts = setting.num_utts * times
        self.path = Path(setting.work) / f"scale{self.num_utts}"
        if not (self.path / "ready").exists():
            shutil.rmtree(self.path, ignore_errors=True)
            self.path.mkdir(parents=True)
            self._make(Path(setting.recipe_dir).resolve())
            (self.path / "ready").touch()

    @property
    def env(self) -> dict[str, str]:
        """The environment of the commands: this code, this Python, no Kaldi."""
        python = Path(sys.executable)
        path = os.pathsep.join([str(REPO / "utils/bin"), str(python.parent), os.environ["PATH"]])
        mine = {
            "PATH": path,
            "PYTHONPATH": str(REPO),
            "KALDI_ROOT": "",
            "KALDI_UQ_ENV": f"{REPO}:{python.parent}/python3",
        }
        return {**os.environ, **mine}

    def _make(self, recipe: Path) -> None:
        for name in ("steps", "utils", "local"):
            (self.path / name).symlink_to(REPO / name)
        shutil.copy(recipe / "path.sh", self.path)
        for name in ("data/lang", "exp/mono", "exp/dnn"):
            not_needed = shutil.ignore_patterns("attack_*", "score_*", "decode*", "detector", "log", "transfer_*")
            shutil.copytree(recipe / name, self.path / name, ignore=not_needed)
        # a process's peak begins with that of the one that starts it, so that this one has to stay small
        words = [
            sys.executable,
            "-m",
            "bench.many",
            str(recipe),
            str(self.path / "data/many"),
            str(self.num_utts),
        ]
        made = subprocess.run(words, cwd=REPO, env=self.env, stdout=subprocess.PIPE, text=True, check=True)
        rate = int(made.stdout)
        (self.path / "conf").mkdir()
        shutil.copy(recipe / f"conf/mfcc_{rate // 1000}k.conf", self.path / "conf/mfcc.conf")

    def need(self, name: str) -> None:
        """Have what a step makes, and all before it."""
        step = STEPS[name]
        for other in step.after:
            self.need(other)
        if step.makes and not (self.path / f"done.{name}").exists():
            self.run(name)

    def run(self, name: str) -> Facts:
        """Run a step, whose own results are taken away before; its CPU seconds an utterance and its peak memory."""
        step = STEPS[name]
        for pattern in step.makes:
            for old in self.path.glob(pattern):
                shutil.rmtree(old) if old.is_dir() else old.unlink()
        wavs = [line.split()[1] for line in (self.path / "data/many/wav.scp").read_text().splitlines()]
        words = [word for part in shlex.split(step.line) for word in (wavs if part == "{wavs}" else [part])]
        log = self.path / f"{name}.log"
        with log.open("w") as out:
            process = subprocess.Popen(words, cwd=self.path, env=self.env, stdout=out, stderr=subprocess.STDOUT)
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode not in step.statuses:
            said = (log.read_text(errors="replace").strip().splitlines() or [f"status {process.returncode}"])[-1]
            raise RuntimeError(f"{step.what}: {said}")
        (self.path / f"done.{name}").touch()
        cpu = used.ru_utime + used.ru_stime
        return {"seconds": [cpu / self.num_utts], "peak_mb": used.ru_maxrss / 1024, "utterances": self.num_utts}


def measured(setting: Setting, *, name: str, times: int) -> Work:
    """A step on so many times the utterances."""
    crowd = Crowd(setting, times)
    for other in STEPS[name].after:
        crowd.need(other)
    return functools.partial(crowd.run, name)


def _row(name: str) -> Row:
    def case(times: int) -> Case:
        make = functools.partial(measured, name=name, times=times)
        return Case(f"{times}x the utterances", make, needs=("recipe",), aim="<= 1.2" if times > 1 else "")

    what = f"{STEPS[name].what}, CPU seconds an utterance"
    return Row(f"scale-{name}", what, tuple(map(case, TIMES)), optional=True)


ROWS = tuple(map(_row, STEPS))
