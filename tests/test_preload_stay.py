"""A copy that has worked on a GPU stays for the next command; here all stay that could work there."""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kaldi_uq.cli import preloaded
from kaldi_uq.feats.frontend import FrontEnd
from kaldi_uq.nnet.kinds.dropout import DropoutConfig
from kaldi_uq.recogniser.hybrid import MODEL_FILE, HybridModel
from tests.recipe import LIMIT_S, is_alive, wait_for
from tests.test_preload import SPY, Run, start_server
from tests.tiny import FRONT_END, make_waves, write_set

pytestmark = pytest.mark.long


class Forward(Run):
    """Posteriors of a random model on the CPU, ``NAME.ark``."""

    def command(self, name: str) -> list[str]:
        place = self.place
        places = [place / "data", place / "model", place / f"{name}.ark", place / f"{name}.scp"]
        return ["kaldi-uq", "nnet-forward", "--device", "cpu", *map(str, places)]

    def copies(self) -> list[int]:
        """The processes that there are."""
        children = Path(f"/proc/{self.server.pid}/task/{self.server.pid}/children")
        return [pid for pid in map(int, children.read_text().split()) if is_alive(pid)] if children.exists() else []

    def ends_with(self, name: str, **options: Any) -> list[int]:
        """Run the command; the processes that there are then."""
        status, _, errors = self(*self.command(name), **options)
        assert status == 0, errors
        return self.copies()


@pytest.fixture(scope="module")
def forward(tmp_path_factory: pytest.TempPathFactory, script_env: dict[str, str]) -> Iterator[Forward]:
    place = tmp_path_factory.mktemp("stay")
    write_set(place / "data", *make_waves(3))
    config = DropoutConfig(FrontEnd(FRONT_END).output_dim, 5, hidden_dims=(16,))
    HybridModel(FRONT_END, config, seed=0).save(place / "model" / MODEL_FILE)
    (place / "spy.py").write_text(SPY)
    (place / "a.wav").touch()
    socket, server = start_server(script_env, "--stay", "always")
    yield Forward(place, script_env, socket, server)
    server.terminate()
    server.wait(LIMIT_S)
    wait_for(lambda: not Forward(place, script_env, socket, server).copies())


def test_next_command_is_run_by_the_same_process_with_the_same_result(forward: Forward) -> None:
    (copy,) = forward.ends_with("one")
    with open(forward.place / "held", "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert forward.ends_with("two", umask=0o027, env={"KALDI_UQ_MASTER": "1"}) == [copy]
    assert (forward.place / "two.ark").stat().st_mode & 0o777 == 0o640
    forward.ends_with("alone", env={preloaded.PLACE: ""})
    assert len({(forward.place / f"{name}.ark").read_bytes() for name in ("one", "two", "alone")}) == 1


def test_output_and_locks_are_let_go(forward: Forward) -> None:
    with open(forward.place / "held", "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert forward.ends_with("kept", pass_fds=[held.fileno()])  # its output has come to an end
    with open(forward.place / "held") as again:
        fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.parametrize("options", [{"env": {"WORD": "a"}}, {"cwd": "/"}, {"pass_fds": "one more"}])
def test_another_environment_directory_or_file_gets_a_new_one(forward: Forward, options: Any) -> None:
    (copy,) = forward.ends_with("before")
    with open(forward.place / "other", "w") as other:
        if "pass_fds" in options:
            options = {"pass_fds": [fcntl.fcntl(other, fcntl.F_DUPFD, 50)]}
        assert copy not in forward.ends_with("after", **options)


def test_those_on_other_gpus_stay(forward: Forward) -> None:
    here, there = ({"CUDA_VISIBLE_DEVICES": gpus} for gpus in ("0,1", "1,0"))
    before = set(forward.copies())
    first = set(forward.ends_with("one", env=here))
    both = set(forward.ends_with("two", env=there))
    assert before < first < both and len(both - before) == 2
    assert set(forward.ends_with("three", env=here)) == set(forward.ends_with("four", env=there)) == both
    last = set(forward.ends_with("five", env={**here, "WORD": "a"}))
    assert both - last == first - before
    for pid in last:
        os.kill(pid, signal.SIGKILL)


def test_failed_command_and_code_of_the_user_leave_none(forward: Forward) -> None:
    assert forward.ends_with("good")
    status, _, errors = forward(*forward.command("bad")[:-1])
    assert status == 1 and "SCP" in errors
    wait_for(lambda: not forward.copies())
    words = forward.command("own")
    _, output, _ = forward(words[0], words[1], "--network", "spy.py:make", *words[2:])
    assert "pid" in output  # the code has run
    wait_for(lambda: not forward.copies())


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_killed_one_is_replaced(forward: Forward, number: signal.Signals) -> None:
    (copy,) = forward.ends_with("first")
    os.kill(copy, number)
    wait_for(lambda: not is_alive(copy))
    assert copy not in forward.ends_with("second")


def test_commands_at_the_same_time_are_of_two_processes(forward: Forward) -> None:
    processes = [forward.start(*forward.command(name)) for name in ("left", "right")]
    assert [process.wait(LIMIT_S) for process in processes] == [0, 0]
    assert (forward.place / "left.ark").read_bytes() == (forward.place / "right.ark").read_bytes()


def test_none_stays_that_has_not_been_on_a_gpu(forward: Forward, script_env: dict[str, str]) -> None:
    socket, server = start_server(script_env)
    try:
        assert Forward(forward.place, script_env, socket, server).ends_with("cpu") == []
    finally:
        server.terminate()
        server.wait(LIMIT_S)
