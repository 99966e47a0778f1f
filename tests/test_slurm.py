"""Jobs on a real Slurm of three nodes, submitted by Kaldi's own slurm.pl: they work, fail, are killed, lose their node.

Needs the programs of Debian's package slurm-wlm and a KALDI_ROOT with the scripts of egs/wsj/s5.  The daemons run as
the user of the tests, all on this machine, on ports of their own, without munge.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np
import pytest

from kaldi_uq.io.datadir import write_data_dir
from kaldi_uq.io.wav import write_wav
from tests import sharded
from tests.conftest import KALDI_ROOT
from tests.recipe import LIMIT_S, REPO, Recipe, error_line, make_recipe, wait_for

pytestmark = pytest.mark.long

PROGRAMS = ("sbatch", "squeue", "scancel", "scontrol", "sinfo", "slurmctld", "slurmd")
NODES = ("n1", "n2", "n3")

# The partition "shared" is the one that slurm.pl asks for by default.
CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
CredType=cred/none
SlurmctldPort={ctld_port}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SchedulerType=sched/builtin
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MinJobAge=10
KillWait=2
PartitionName=shared Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
NODE = "NodeName={name} NodeHostname={name} NodeAddr=127.0.0.1 Port={port} CPUs=1 State=UNKNOWN\n"

# slurm.pl's own, but that a job whose node dies does not start again on another
ONCE = """
command sbatch --export=PATH --ntasks-per-node=1 --no-requeue
default gpu=0
option gpu=0 -p shared
"""


def kaldi_slurm_pl() -> Path:
    if not KALDI_ROOT:
        pytest.skip("KALDI_ROOT is not set (for Kaldi's slurm.pl)")
    script = Path(KALDI_ROOT) / "egs/wsj/s5/utils/parallel/slurm.pl"
    if not script.is_file():
        pytest.skip(f"{script}: no such file")
    return script


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Slurm:
    """A Slurm of this machine alone.

    Attributes:
        folder: of the configuration, ``log`` and what the daemons keep.
        env: environment of the commands.
        daemons: those that run: ``slurmctld``, and one for each node under the node's name.
    """

    folder: Path
    env: dict[str, str]
    log: IO[bytes]
    daemons: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str) -> None:
        """Start a daemon."""
        command = ["slurmctld", "-D"] if name == "slurmctld" else ["slurmd", "-D", "-N", name]
        self.daemons[name] = subprocess.Popen(
            command, env=self.env, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log
        )

    def ask(self, *command: str) -> str:
        """What a command of Slurm prints; nothing as long as it fails."""
        done = subprocess.run(command, env=self.env, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    def is_up(self) -> bool:
        """Whether all nodes wait for work; the test is skipped if a daemon has ended."""
        if any(daemon.poll() is not None for daemon in self.daemons.values()):
            pytest.skip(f"Slurm cannot run here: {(self.folder / 'log').read_text()[-500:]}")
        return self.ask("sinfo", "-hN", "-o", "%T").split() == ["idle"] * len(NODES)

    def kill_node(self, name: str, job: str) -> None:
        """Let a node die with the job that runs there, and Slurm know it."""
        self.daemons[name].kill()
        self.daemons[name].wait()
        table = [line.split(maxsplit=2) for line in self.ask("ps", "-eo", "pid=,ppid=,args=").splitlines()]
        doomed = {pid for pid, _, words in table if words.startswith(f"slurmstepd: [{job}.")}
        while more := {pid for pid, parent, _ in table if parent in doomed} - doomed:
            doomed |= more
        for pid in doomed:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        self.ask("scontrol", "update", f"nodename={name}", "state=down", "reason=test")

    def revive_node(self, name: str) -> None:
        """Start a node again, and wait until all are up."""
        self.start(name)
        self.ask("scontrol", "update", f"nodename={name}", "state=resume")
        wait_for(self.is_up)


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    """A Slurm whose nodes are up."""
    kaldi_slurm_pl()
    missing = [name for name in PROGRAMS if not shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin")]
    if missing:
        pytest.skip(f"no Slurm: {', '.join(missing)} not found (apt install slurm-wlm)")
    folder = tmp_path_factory.mktemp("slurm")
    (folder / "state").mkdir()
    host, user = socket.gethostname().partition(".")[0], pwd.getpwuid(os.getuid()).pw_name
    config = CONFIG.format(folder=folder, host=host, user=user, ctld_port=free_port())
    head, partition = config.split("PartitionName", 1)
    nodes = "".join(NODE.format(name=name, port=free_port()) for name in NODES)
    (folder / "slurm.conf").write_text(f"{head}{nodes}PartitionName{partition}")
    env = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf"), "PATH": os.environ["PATH"] + ":/usr/sbin:/usr/bin"}
    with (folder / "log").open("wb") as log:
        slurm = Slurm(folder, env, log)
        for name in ("slurmctld", *NODES):
            (folder / f"spool.{name}").mkdir()
            slurm.start(name)
        try:
            wait_for(slurm.is_up)
            yield slurm
        finally:
            for daemon in reversed(slurm.daemons.values()):
                daemon.terminate()
                daemon.wait(timeout=LIMIT_S)


@pytest.fixture(scope="module")
def recipe(slurm: Slurm, tmp_path_factory: pytest.TempPathFactory, script_env: dict[str, str]) -> Recipe:
    """A recipe directory with four utterances; slurm.pl exports nothing but PATH, path.sh has to do the rest."""
    ours = {"SLURM_CONF": slurm.env["SLURM_CONF"], "PATH": f"{script_env['PATH']}:{slurm.env['PATH']}"}
    env = {**script_env, **ours}
    recipe = make_recipe(tmp_path_factory.mktemp("jobs") / "recipe", env)
    path_sh = f'export PYTHONPATH="{REPO}" PATH="{Path(sys.executable).parent}:$PATH" OMP_NUM_THREADS=1\n'
    (recipe.path / "path.sh").write_text(path_sh + (REPO / "recipes/tidigits/path.sh").read_text())
    rng = np.random.default_rng(0)
    wavs = {f"s{n}-u": str(recipe.path / f"data/wav/s{n}-u.wav") for n in range(4)}
    for path in wavs.values():
        write_wav(path, rng.integers(-3000, 3000, 8000).astype(np.int16), 16000)
    tables = {
        "utt2spk": {u: u[:2] for u in wavs},
        "text": dict.fromkeys(wavs, "one"),
        "utt2dur": dict.fromkeys(wavs, 0.5),
    }
    write_data_dir(recipe.path / "data/good", wav_scp=wavs, **tables)
    write_data_dir(recipe.path / "data/bad", wav_scp={**wavs, "s0-u": "data/wav/none.wav"}, **tables)
    return recipe


def mfcc(recipe: Recipe, data: str, out: str, *options: str) -> subprocess.CompletedProcess[str]:
    script = ("steps/make_mfcc.sh", "--nj", "2", *options, "--mfcc-config", "conf/mfcc_16k.conf")
    return recipe.run(*script, f"data/{data}", f"exp/{out}", f"exp/{out}/mfcc")


def test_jobs_of_a_step_run_on_slurm_and_compute_the_same(recipe: Recipe) -> None:
    done = mfcc(recipe, "good", "slurm", "--cmd", str(kaldi_slurm_pl()))
    assert done.returncode == 0, done.stderr
    log = (recipe.path / "exp/slurm/make_mfcc_good.2.log").read_text()
    assert "# SLURM_ARRAY_TASK_ID=2\n" in log
    assert "with status 0" in log
    assert mfcc(recipe, "good", "here").returncode == 0
    for job in (1, 2):
        archives = [recipe.path / f"exp/{out}/mfcc/raw_mfcc_good.{job}.ark" for out in ("slurm", "here")]
        assert archives[0].read_bytes() == archives[1].read_bytes()


def test_failed_job_fails_the_step_which_says_why(recipe: Recipe) -> None:
    done = mfcc(recipe, "bad", "failed", "--cmd", str(kaldi_slurm_pl()))
    assert "slurm.pl: 1 / 2 failed, log is in exp/failed/make_mfcc_bad.*.log" in done.stderr
    line = error_line(done)
    assert line.startswith("steps/make_mfcc.sh: error: 1 of 2 jobs failed: exp/failed/make_mfcc_bad.1.log: kaldi-uq ")
    assert "data/wav/none.wav: no such file" in line
    assert not (recipe.path / "data/bad/feats.scp").exists()


def test_killed_job_fails_the_step(recipe: Recipe, slurm: Slurm) -> None:
    """slurm.pl waits a minute and a half for a job that is gone before it gives up."""
    command = (str(kaldi_slurm_pl()), "exp/killed/log/job.log", "sleep", "600")
    step = subprocess.Popen(command, cwd=recipe.path, env=recipe.env, stderr=subprocess.PIPE, text=True)
    queue = ("squeue", "-h", "-t", "running", "-o", "%A")
    wait_for(lambda: slurm.ask(*queue), step)
    slurm.ask("scancel", "--signal=KILL", "--full", slurm.ask(*queue))
    _, errors = step.communicate(timeout=LIMIT_S)
    assert step.returncode == 1
    assert "the job did not finish" in errors


@pytest.fixture(scope="module")
def attacked(recipe: Recipe) -> Recipe:
    """The recipe with a model and the attack of one job in ``exp/whole``."""
    sharded.prepare(recipe)
    done = sharded.attack(recipe, "whole")
    assert done.returncode == 0, done.stderr
    return recipe


def test_attack_of_many_jobs_is_that_of_one(attacked: Recipe) -> None:
    done = sharded.attack(attacked, "many", "--nj", "6", "--cmd", str(kaldi_slurm_pl()))
    assert done.returncode == 0, done.stderr
    logs = [(attacked.path / f"exp/many/log/attack.{job}.log").read_text() for job in range(1, 7)]
    assert {name for name in NODES for log in logs if f"# SLURMD_NODENAME={name}\n" in log} == set(NODES)
    assert sharded.differences(attacked, "whole", "many") == []


def test_node_that_dies_costs_the_batches_of_its_job(attacked: Recipe, slurm: Slurm) -> None:
    (attacked.path / "once.conf").write_text(ONCE)
    cmd = f"{kaldi_slurm_pl()} --config once.conf"
    words = sharded.command("dead", "--nj", sharded.NUM_BATCHES, "--cmd", cmd)
    step = subprocess.Popen(
        words, cwd=attacked.path, env=attacked.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    queue = ("squeue", "-h", "-t", "running", "-w", "n2", "-o", "%A %K")
    wait_for(lambda: slurm.ask(*queue), step)
    job, number = slurm.ask(*queue).split()
    slurm.kill_node("n2", job)
    try:
        said = step.communicate(timeout=LIMIT_S)
        line = error_line(subprocess.CompletedProcess(words, step.returncode, *said))
        log = re.escape(f"exp/dead/log/attack.{number}.log")
        assert re.match(f"steps/uq/attack.sh: error: 1 of 4 jobs failed: {log}: (no such log|it did not end)", line)
        assert sharded.batches(attacked, "dead") == [n for n in range(sharded.NUM_BATCHES) if n != int(number) - 1]
    finally:
        slurm.revive_node("n2")
    made = sharded.inodes(attacked, "dead")
    done = sharded.attack(attacked, "dead", "--nj", "2", "--cmd", str(kaldi_slurm_pl()))
    assert done.returncode == 0, done.stderr
    assert made.items() < sharded.inodes(attacked, "dead").items()
    assert sharded.differences(attacked, "whole", "dead") == []
