"""Jobs on a real Slurm of one node, submitted by Kaldi's own slurm.pl: one works, one fails, one is killed.

Needs the programs of Debian's package slurm-wlm and a KALDI_ROOT with the scripts of egs/wsj/s5.  The daemons run as
the user of the tests, on ports of their own, without munge.
"""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from kaldi_uq.io.datadir import write_data_dir
from kaldi_uq.io.wav import write_wav
from tests.conftest import KALDI_ROOT
from tests.recipe import LIMIT_S, REPO, Recipe, make_recipe

pytestmark = pytest.mark.long

PROGRAMS = ("sbatch", "squeue", "scancel", "sinfo", "slurmctld", "slurmd")

# The partition "shared" is the one that slurm.pl asks for by default.
CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
CredType=cred/none
SlurmctldPort={ctld_port}
SlurmdPort={slurmd_port}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
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
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=shared Nodes={host} Default=YES MaxTime=INFINITE State=UP
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


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Environment in which sbatch reaches a Slurm of this machine alone."""
    kaldi_slurm_pl()
    missing = [name for name in PROGRAMS if not shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin")]
    if missing:
        pytest.skip(f"no Slurm: {', '.join(missing)} not found (apt install slurm-wlm)")
    folder = tmp_path_factory.mktemp("slurm")
    for name in ("state", "spool"):
        (folder / name).mkdir()
    host, user = socket.gethostname().partition(".")[0], pwd.getpwuid(os.getuid()).pw_name
    cpus = max(2, len(os.sched_getaffinity(0)))
    ports = {"ctld_port": free_port(), "slurmd_port": free_port()}
    (folder / "slurm.conf").write_text(CONFIG.format(folder=folder, host=host, user=user, cpus=cpus, **ports))
    env = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf"), "PATH": os.environ["PATH"] + ":/usr/sbin:/usr/bin"}
    daemons = []
    with (folder / "log").open("wb") as log:
        for name in ("slurmctld", "slurmd"):
            daemons.append(subprocess.Popen([name, "-D"], env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log))
        try:
            for _ in range(600):
                state = subprocess.run(
                    ["sinfo", "-h", "-o", "%T"], env=env, capture_output=True, text=True, check=False
                )
                if state.stdout.strip() == "idle":
                    break
                if any(daemon.poll() is not None for daemon in daemons):
                    pytest.skip(f"Slurm cannot run here: {(folder / 'log').read_text()[-500:]}")
                time.sleep(0.5)
            else:
                pytest.skip(f"Slurm's node does not come up: {state.stdout}{state.stderr}")
            yield {"SLURM_CONF": env["SLURM_CONF"], "PATH": env["PATH"]}
        finally:
            for daemon in reversed(daemons):
                daemon.terminate()
                daemon.wait(timeout=LIMIT_S)


@pytest.fixture(scope="module")
def recipe(slurm: dict[str, str], tmp_path_factory: pytest.TempPathFactory, script_env: dict[str, str]) -> Recipe:
    """A recipe directory with four utterances; slurm.pl exports nothing but PATH, path.sh has to do the rest."""
    env = {**script_env, **slurm, "PATH": f"{script_env['PATH']}:{slurm['PATH']}"}
    recipe = make_recipe(tmp_path_factory.mktemp("jobs") / "recipe", env)
    path_sh = f'export PYTHONPATH="{REPO}" PATH="{Path(sys.executable).parent}:$PATH"\n'
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


def test_failed_job_fails_the_step_and_its_log_says_why(recipe: Recipe) -> None:
    done = mfcc(recipe, "bad", "failed", "--cmd", str(kaldi_slurm_pl()))
    assert done.returncode == 1
    assert "slurm.pl: 1 / 2 failed, log is in exp/failed/make_mfcc_bad.*.log" in done.stderr
    assert "data/wav/none.wav: no such file" in (recipe.path / "exp/failed/make_mfcc_bad.1.log").read_text()
    assert not (recipe.path / "data/bad/feats.scp").exists()


def test_killed_job_fails_the_step(recipe: Recipe, slurm: dict[str, str]) -> None:
    """slurm.pl waits a minute and a half for a job that is gone before it gives up."""
    env = {**recipe.env, **slurm}
    command = (str(kaldi_slurm_pl()), "exp/killed/log/job.log", "sleep", "600")
    step = subprocess.Popen(command, cwd=recipe.path, env=env, stderr=subprocess.PIPE, text=True)
    queue = ["squeue", "-h", "-t", "running", "-o", "%A"]
    for _ in range(1200):
        job = subprocess.run(queue, env=env, capture_output=True, text=True, check=True).stdout.strip()
        if job:
            break
        time.sleep(0.5)
    subprocess.run(["scancel", "--signal=KILL", "--full", job], env=env, check=True)
    _, errors = step.communicate(timeout=LIMIT_S)
    assert step.returncode == 1
    assert "the job did not finish" in errors
