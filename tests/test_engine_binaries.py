"""The kaldi engine where no Kaldi is: how its programs are found and run, on programs that stand in for them.

One file: all tests use the same stand-ins of Kaldi's programs.
"""

from __future__ import annotations

import ast
import gzip
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from kaldi_uq.engine.base import DecodeConfig, EngineOptions
from kaldi_uq.engine.binaries.data import write_parts
from kaldi_uq.engine.binaries.engine import KaldiEngine
from kaldi_uq.engine.binaries.jobs import PROGRAMS, Jobs, KaldiRoot, default_cmd
from kaldi_uq.engine.select import select_engine
from kaldi_uq.errors import EngineError, ModelFileError
from kaldi_uq.io.datadir import read_table
from kaldi_uq.io.lattice import Lattice, read_lattices, write_lattices
from kaldi_uq.recogniser.hybrid import HybridModel
from kaldi_uq.recogniser.recogniser import Recogniser
from tests import tiny
from tests.kaldi import fake_kaldi
from tests.lattices import all_paths, random_lattice
from tests.recipe import LIMIT_S, REPO, heed_interrupts, is_alive, wait_for
from tests.tiny import TinySystem

# As Kaldi's run.pl, it puts words with a blank into quotes, and the name of the log as it is.
UNQUOTING = r"""#!/usr/bin/env bash
range=${1#JOB=} log=$2 words=
shift 2
for word; do
  [[ $word != *[[:blank:]]* ]] || word="\"$word\""
  words+="$word "
done
failed=0
for job in $(seq "${range%:*}" "${range#*:}"); do
  logfile=${log//JOB/$job}
  echo "# $words" >"$logfile"
  bash -c "( ${words//JOB/$job}) 2>>$logfile >> $logfile"
  status=$?
  ((status == 0)) || failed=1
  echo "# Ended (code $status) at noon" >>"$logfile"
done
exit $failed
"""


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> TinySystem:
    return tiny.make_system(tmp_path_factory.mktemp("system"))


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Kaldi of stand-ins, in a directory with a blank in its name."""
    fake_kaldi(tmp_path / "my kaldi")
    monkeypatch.setenv("KALDI_ROOT", str(tmp_path / "my kaldi"))
    return tmp_path / "my kaldi"


def jobs(tmp_path: Path, **options: object) -> Jobs:
    (tmp_path / "work dir").mkdir(exist_ok=True)
    return Jobs(KaldiRoot.find(), EngineOptions(**options))  # type: ignore[arg-type]


def run(tmp_path: Path, line: str, *, name: str = "step", num: int = 1, **options: object) -> list[Path]:
    """Run a line of shell as jobs; JOB stands for the number."""
    place = tmp_path / "work dir"
    return jobs(tmp_path, **options).run(
        name,
        lambda job: [[["bash", "-c", line.replace("JOB", str(job))]]],
        scripts=place,
        logs=place / "log",
        numbers=list(range(1, num + 1)),
    )


class TestRoot:
    def test_broken_root_is_an_error_that_says_how_to_go_on(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for place, why in ((tmp_path / "nowhere", "no such directory"), (tmp_path, "no built Kaldi there")):
            monkeypatch.setenv("KALDI_ROOT", str(place))
            with pytest.raises(EngineError, match=rf"KALDI_ROOT={place}: {why}.*--engine embedded"):
                select_engine()
        monkeypatch.delenv("KALDI_ROOT")
        with pytest.raises(EngineError, match=r"needs KALDI_ROOT.*export KALDI_ROOT="):
            select_engine("kaldi")

    def test_root_is_chosen_and_its_version_told(self, root: Path) -> None:
        engine = select_engine()
        assert isinstance(engine, KaldiEngine)
        assert engine.versions() == {"kaldi": "5.5.99"}
        (root / "src/base").mkdir()
        (root / "src/base/version.h").write_text('// made\n#define KALDI_VERSION "5.5.1~1-abc"\n')
        assert engine.versions() == {"kaldi": "5.5.1~1-abc"}

    def test_missing_program_comes_with_its_path_and_the_command_that_builds_it(
        self, root: Path, tmp_path: Path
    ) -> None:
        for name, make in (("gmm-est", "src gmmbin"), ("fstcompile", "tools openfst")):
            (root / PROGRAMS[name] / name).unlink()
            build = f"make -C {root / make.split()[0]} {make.split()[1]}"
            with pytest.raises(EngineError) as error:
                KaldiRoot.find().program(name)
            assert str(error.value) == f"{root / PROGRAMS[name] / name}: no such program; build it with: {build}"
        with pytest.raises(EngineError, match="fstcompile: no such program"):
            KaldiEngine().compile_fst("0\n", tmp_path / "x.fst", sort="ilabel")


def test_programs_that_are_looked_for_are_those_that_are_called() -> None:
    """``kaldi-uq doctor`` looks for ``PROGRAMS``: one that no module calls, or that is not there, would mislead."""
    called = set()
    for path in sorted((REPO / "kaldi_uq/engine/binaries").glob("*.py")):
        if path.name != "jobs.py":
            nodes = ast.walk(ast.parse(path.read_text()))
            called |= {node.value for node in nodes if isinstance(node, ast.Constant) and node.value in PROGRAMS}
    assert called == set(PROGRAMS)


class TestDecoderAndAligner:
    """Stand-ins that answer with the alignments of the training, whatever they are given."""

    @pytest.fixture
    def scores(self, system: TinySystem) -> dict[str, np.ndarray]:
        utts = sorted(system.text)[:3]
        return {utt: np.zeros((len(system.alignments[utt]), system.table.num_pdfs), np.float32) for utt in utts}

    @pytest.fixture
    def engine(self, system: TinySystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> KaldiEngine:
        seen, ali = tmp_path / "seen", tmp_path / "ali"
        ali.write_bytes(gzip.decompress((system.mono / "ali.1.gz").read_bytes()))
        copy = f'echo "$(basename "$0") $*" >>"{seen}"; last="${{@: -1}}"; cp "{ali}" "${{last#ark:}}"'
        words = """words="${@: -2:1}"; printf 'utt00 1 2\nutt01 3\nutt02\n' >"${words#ark,t:}";"""
        decode = f"{copy}; {words} echo 'Outputting partial output for utterance utt01 (x)' >&2"
        costs = """for table in "${@: -2}"; do printf 'utt00 2.5\nutt01 4\n' >"${table#ark,t:}"; done"""
        programs = {"align-compiled-mapped": copy, "gmm-align-compiled": copy, "latgen-faster-mapped": decode}
        fake_kaldi(tmp_path / "kaldi", {**programs, "gmm-latgen-faster": decode, "nbest-to-linear": costs})
        monkeypatch.setenv("KALDI_ROOT", str(tmp_path / "kaldi"))
        return KaldiEngine()

    def test_hypotheses_are_put_together_from_what_the_programs_write(
        self, engine: KaldiEngine, system: TinySystem, scores: dict[str, np.ndarray], tmp_path: Path
    ) -> None:
        found = engine.decoder(system.mono, system.graph, DecodeConfig(acwt=0.2)).decode(scores.items())
        names = system.lang.id_to_word
        assert [h.words for h in found.values()] == [(names[1], names[2]), (names[3],), ()]
        assert [h.score for h in found.values()][:2] == pytest.approx([-3.0, -4.8])
        assert np.isnan(found["utt02"].score)
        assert [h.reached_final for h in found.values()] == [True, False, True]
        for utt, hypothesis in found.items():
            assert np.array_equal(hypothesis.alignment, system.alignments[utt])
        assert "--acoustic-scale=0.2 --allow-partial=true" in (tmp_path / "seen").read_text()

    def test_lattices_are_handed_over_and_searched_widely_for_that(
        self, engine: KaldiEngine, system: TinySystem, scores: dict[str, np.ndarray], tmp_path: Path
    ) -> None:
        lattices = {utt: random_lattice(np.random.default_rng(n)) for n, utt in enumerate(scores)}
        write_lattices(tmp_path / "lat.gz", lattices.items())
        root = Path(os.environ["KALDI_ROOT"])
        program = root / PROGRAMS["latgen-faster-mapped"] / "latgen-faster-mapped"
        whole = f'spec="${{@: -3:1}}"; gunzip -c "{tmp_path}/lat.gz" | bash -c "${{spec#ark:|}}"\n'
        program.write_text(program.read_text() + whole)
        found: dict[str, Lattice] = {}
        decoder = engine.decoder(system.mono, system.graph, DecodeConfig(lattice_beam=7.5))
        assert list(decoder.decode(scores.items(), lattices=found.__setitem__)) == list(scores)
        assert {utt: all_paths(one) for utt, one in found.items()} == {
            utt: all_paths(one) for utt, one in read_lattices(tmp_path / "lat.gz")
        }
        assert "--lattice-beam=7.5 " in (tmp_path / "seen").read_text()

    def test_gmms_are_given_to_their_own_programs(
        self, engine: KaldiEngine, system: TinySystem, scores: dict[str, np.ndarray], tmp_path: Path
    ) -> None:
        feats = {utt: matrix[:, :2] for utt, matrix in scores.items()}  # fewer columns than pdfs
        texts = {utt: system.word_ids(*system.text[utt]) for utt in scores}
        config = DecodeConfig(align_beam=20.0, retry_beam=40.0)
        decoded = engine.decode_gmm(system.mono, system.graph, feats.items(), config)
        aligned = engine.align_gmm(system.mono, system.lang, feats.items(), texts, config)
        assert list(decoded) == list(aligned) == list(scores)
        seen = (tmp_path / "seen").read_text().splitlines()
        assert [line.split()[0] for line in seen] == ["gmm-latgen-faster", "gmm-align-compiled"]
        assert "--beam=20 --retry-beam=40" in seen[1]

    def test_alignments_come_in_the_order_of_the_scores(
        self, engine: KaldiEngine, system: TinySystem, scores: dict[str, np.ndarray]
    ) -> None:
        texts = {utt: system.word_ids(*system.text[utt]) for utt in scores}
        aligner = engine.aligner(system.mono, system.lang, DecodeConfig())
        for pairs in (list(scores.items()), list(scores.items())[::-1]):
            found = aligner.align(pairs, texts)
            assert list(found) == [utt for utt, _ in pairs]
            for utt, alignment in found.items():
                assert np.array_equal(alignment, system.alignments[utt])
        with pytest.raises(EngineError, match="the pdfs of"):
            aligner.align([(utt, matrix[:, 1:]) for utt, matrix in scores.items()], texts)

    def test_recogniser_asks_for_the_times_of_words_under_a_name_that_kaldi_takes(
        self, engine: KaldiEngine, system: TinySystem, scores: dict[str, np.ndarray], tmp_path: Path
    ) -> None:
        model = HybridModel(tiny.FRONT_END, system.network())
        who = Recogniser(model, engine, system.mono, graph_dir=system.graph, lang_dir=system.lang.path)
        assert who.word_times(["one"], scores["utt00"]) == []  # the stand-in knows others alone
        assert "align-compiled-mapped" in (tmp_path / "seen").read_text()

    def test_missing_files_are_named_before_anything_runs(
        self, engine: KaldiEngine, system: TinySystem, tmp_path: Path
    ) -> None:
        with pytest.raises(EngineError, match=r"HCLG\.fst: no such file; utils/mkgraph\.sh makes it"):
            engine.decoder(system.mono, tmp_path, DecodeConfig())
        with pytest.raises(ModelFileError, match=r"final\.mdl: no such file; steps/train_mono\.sh"):
            engine.aligner(tmp_path, system.lang, DecodeConfig())


@pytest.mark.usefixtures("root")
class TestJobs:
    def test_jobs_run_by_the_repositorys_run_pl_from_any_directory(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        assert shlex.split(default_cmd()) == [str(REPO / "utils/run.pl")]

    def test_each_job_has_a_log_with_what_ran_and_what_it_said(self, tmp_path: Path) -> None:
        logs = run(tmp_path, "echo 'job JOB' >&2; echo out", num=3)
        assert [path.name for path in logs] == ["step.1.log", "step.2.log", "step.3.log"]
        for number, path in enumerate(logs, 1):
            text = path.read_text()
            assert f"\njob {number}\nout\n" in text
            assert f"bash -c 'echo '\"'\"'job {number}" in text
            assert "Ended (code 0)" in text

    def test_failure_has_the_error_of_the_first_failed_log(self, tmp_path: Path) -> None:
        line = """echo LOG >&2; [ JOB = 1 ] || { echo 'ERROR (gmm-est[5.5]:main():x.cc:1) JOB is bad' >&2; exit 3; }"""
        with pytest.raises(EngineError) as error:
            run(tmp_path, line, num=4)
        log = tmp_path / "work dir/log/step.2.log"
        assert str(error.value) == (
            f"{log}: the job ended with status 3 (3 jobs failed): ERROR (gmm-est[5.5]:main():x.cc:1) 2 is bad"
        )

    def test_failure_without_an_error_line_has_the_end_of_the_log(self, tmp_path: Path) -> None:
        with pytest.raises(EngineError, match=r"step\.1\.log: the job ended with status 1: line 13 line 14 "):
            run(tmp_path, "for n in $(seq 20); do echo line $n; done; false")

    def test_failure_within_a_pipeline_counts(self, tmp_path: Path) -> None:
        place = tmp_path / "work dir"
        with pytest.raises(EngineError, match=r"step\.1\.log"):
            jobs(tmp_path).run("step", lambda _: [[["false"], ["cat"]]], scripts=place, logs=place / "log")

    def test_job_that_is_killed_is_a_failure(self, tmp_path: Path) -> None:
        with pytest.raises(EngineError, match=r"step\.1\.log: the job ended with status"):
            run(tmp_path, "echo begun; kill -9 $$")

    @pytest.mark.parametrize(
        ("good", "bad", "state"),
        [
            ("# Ended (code 0) at noon", "# Ended (code 3) at noon", "ended with status 3"),
            ("# Ended (code 0) at noon", "# Ended (code 0; signal 9) at noon", "ended with status 0; signal 9"),
            ("# Finished at noon with status 0", "# Finished at noon with status 3", "ended with status 3"),
            ("# Finished at noon with status 0", "", "did not end: killed?"),
        ],
    )
    def test_log_of_any_grid_tells_which_job_failed(self, tmp_path: Path, good: str, bad: str, state: str) -> None:
        grid = tmp_path / "grid.sh"
        write = "".join(
            f"echo 'Done 0, errors\n{end}' >\"${{2%JOB.log}}{job}.log\"\n"
            for job, end in ((1, good), (2, bad), (3, good))
        )
        grid.write_text(f"#!/bin/sh\n{write}exit 1\n")
        grid.chmod(0o755)
        with pytest.raises(EngineError, match=rf"step\.2\.log: the job {re.escape(state)}: Done 0"):
            run(tmp_path, "true", num=3, cmd=str(grid))

    @pytest.mark.parametrize(
        ("text", "fine"),
        [
            ("LOG (x) Done 0, errors on 3", True),
            ("LOG (x) Done 0, errors on 3\nERROR (x) cannot write", False),
            ("LOG (x) Done 2, errors on 3", False),
        ],
    )
    def test_job_without_a_result_is_not_a_failed_one(self, tmp_path: Path, text: str, fine: bool) -> None:
        place = tmp_path / "work dir"

        def go() -> None:
            script = tmp_path / "said"
            script.write_text(text + "\n")
            line = f"cat '{script}'; exit 1"
            jobs(tmp_path).run(
                "step",
                lambda _: [[["bash", "-c", line]]],
                scripts=place,
                logs=place / "log",
                nothing_done="Done 0, errors",
            )

        if fine:
            go()
        else:
            with pytest.raises(EngineError):
                go()

    def test_command_of_the_user_gets_the_array_the_log_and_the_script(self, tmp_path: Path) -> None:
        spy = tmp_path / "spy.sh"
        spy.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >{tmp_path}/seen\nshift 2\nexec "{REPO}/utils/run.pl" "$@"\n')
        spy.chmod(0o755)
        run(tmp_path, "echo JOB", num=2, cmd=f"{spy} --mem 4G", nj=2)
        place = tmp_path / "work dir"
        seen = (tmp_path / "seen").read_text().splitlines()
        assert seen == ["--mem", "4G", "JOB=1:2", f"{place}/log/step.JOB.log", "bash", f"{place}/step.JOB.sh"]

    @pytest.mark.parametrize(
        ("cmd", "why"),
        [
            ("no-such-command", "--cmd no-such-command: cannot be run"),
            ("false", "false failed and wrote no log"),
            ("'run.pl", "--cmd .*No closing quotation"),
            (" ", "--cmd is blank"),
        ],
    )
    def test_command_that_cannot_run_is_named(self, tmp_path: Path, cmd: str, why: str) -> None:
        with pytest.raises(EngineError, match=why):
            run(tmp_path, "true", cmd=cmd)

    def unquoting(self, tmp_path: Path, text: str = UNQUOTING) -> str:
        (tmp_path / "unquoting.sh").write_text(text)
        (tmp_path / "unquoting.sh").chmod(0o755)
        return str(tmp_path / "unquoting.sh")

    @pytest.mark.parametrize("linked", [False, True], ids=["here", "through a link"])
    def test_log_below_a_directory_with_a_blank_is_written_by_a_command_that_quotes_none(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, linked: bool
    ) -> None:
        recipe = tmp_path / "my recipe"
        (recipe / "exp").mkdir(parents=True)
        (tmp_path / "a link").symlink_to(recipe)
        monkeypatch.chdir(recipe)
        runner = jobs(
            tmp_path, cmd=self.unquoting(tmp_path), nj=2, work_dir=(tmp_path / "a link/exp") if linked else Path("exp")
        )
        with runner.workspace() as (work, logs):
            ran = runner.run(
                "x", lambda job: [[["echo", f"two  blanks {job}"]]], scripts=work, logs=logs, numbers=[1, 2]
            )
        assert ["two  blanks 1\n" in ran[0].read_text(), "two  blanks 2\n" in ran[1].read_text()] == [True, True]
        assert sorted(path.name for path in (recipe / "exp/log").iterdir()) == ["x.1.log", "x.2.log"]
        assert [path.name for path in recipe.iterdir()] == ["exp"]

    def test_log_that_a_command_would_not_quote_is_refused_before_it_starts(self, tmp_path: Path) -> None:
        cmd = self.unquoting(tmp_path)
        with pytest.raises(EngineError) as error:
            run(tmp_path, "true", cmd=cmd)
        log = tmp_path / "work dir/log/step.JOB.log"
        assert str(error.value).startswith(f"{log}: {cmd} does not quote the name of a log, which has a blank")
        assert "\n" not in str(error.value)
        assert not log.parent.exists()

    def test_empty_log_has_what_the_command_said(self, tmp_path: Path) -> None:
        cmd = self.unquoting(
            tmp_path, UNQUOTING.replace("$logfile", "${logfile}")
        )  # nobody sees that it does not quote
        with pytest.raises(
            EngineError, match=r"step\.1\.log: the job ended with status \d+: its log is empty; .*: .*line 1"
        ):
            run(tmp_path, "true", cmd=cmd)

    def test_earlier_log_is_not_taken_for_that_of_this_job(self, tmp_path: Path) -> None:
        run(tmp_path, "true")
        with pytest.raises(EngineError, match="wrote no log"):
            run(tmp_path, "true", cmd="false")

    def test_temporary_archives_go_and_logs_stay(self, tmp_path: Path) -> None:
        with jobs(tmp_path, work_dir=tmp_path / "exp").workspace() as (work, logs):
            assert work.parent == tmp_path / "exp"
            (work / "big.ark").touch()
        assert not work.exists()
        assert logs == tmp_path / "exp/log"


def test_end_of_the_command_ends_its_jobs(root: Path, tmp_path: Path) -> None:
    code = (
        "from kaldi_uq.engine.binaries.jobs import *\nfrom pathlib import Path\n"
        f"p = Path({str(tmp_path)!r})\n"
        "Jobs(KaldiRoot.find(), EngineOptions()).run("
        "'x', lambda _: [[['bash', '-c', f'echo $$ >{p}/pid; sleep 999']]], scripts=p, logs=p)"
    )
    env = {**os.environ, "PYTHONPATH": str(REPO)}
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=env, cwd=REPO, stderr=subprocess.DEVNULL, preexec_fn=heed_interrupts
    )
    wait_for(lambda: (tmp_path / "pid").is_file() and (tmp_path / "pid").read_text().strip(), process)
    pid = int((tmp_path / "pid").read_text())
    process.send_signal(signal.SIGINT)
    process.wait(timeout=LIMIT_S)
    wait_for(lambda: not is_alive(pid))  # the job does not live on


class TestParts:
    def test_parts_are_consecutive_and_in_order_whatever_order_came(self, tmp_path: Path) -> None:
        items = [(f"u{n}", np.full((2, 1), n, np.float32)) for n in (3, 1, 9, 5, 7)]
        parts = write_parts(tmp_path, items, EngineOptions(nj=2, first_job=4))
        assert parts.utts == ("u3", "u1", "u9", "u5", "u7")
        assert parts.of_job == {4: ("u1", "u3", "u5"), 5: ("u7", "u9")}
        for job, utts in parts.of_job.items():
            assert tuple(read_table(tmp_path / f"feats.{job}.scp")) == utts

    @pytest.mark.parametrize("utt", ["", "a b", "a\t"])
    def test_name_that_no_table_of_kaldi_can_hold_is_refused(self, tmp_path: Path, utt: str) -> None:
        with pytest.raises(EngineError, match=re.escape(f"utterance {utt!r}: Kaldi's programs take no name")):
            write_parts(tmp_path, [(utt, np.zeros((1, 2), np.float32))], EngineOptions())
        assert list(tmp_path.iterdir()) == []

    def test_no_more_jobs_than_utterances_and_none_for_those_without_frames(self, tmp_path: Path) -> None:
        items = [("a", np.zeros((0, 2), np.float32)), ("b", np.zeros((1, 2), np.float32))]
        parts = write_parts(tmp_path, items, EngineOptions(nj=8))
        assert parts.of_job == {1: ("b",)}
        assert write_parts(tmp_path, items[:1], EngineOptions()).numbers == []
