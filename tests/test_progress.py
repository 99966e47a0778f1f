"""How far a computation is: a bar on a terminal, plain lines now and then in a log."""

from __future__ import annotations

import io
import logging
import sys

import pytest

from kaldi_uq import progress
from kaldi_uq.progress import Progress, progressing


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_log_file_gets_no_bar(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    with caplog.at_level(logging.INFO), Progress("attack", "utterances", 30) as bar:
        for _ in range(30):
            bar.update()
    assert list(progressing("abc", "passes", "passes", 3)) == ["a", "b", "c"]
    assert log.getvalue() == ""
    assert caplog.messages == []


def test_long_computation_says_now_and_then_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with caplog.at_level(logging.INFO), Progress("attack", "utterances") as bar:
        for number in range(10):
            now[0] += progress.LOG_EVERY_S / 4
            bar.total = None if number < 5 else 20
            bar.update(2)
    assert caplog.messages == ["attack: 8 utterances", "attack: 16 of 20 utterances"]


def test_terminal_gets_a_bar_unless_there_is_little_to_say(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with Progress("attack", "utterances", 4) as bar:
        bar.update(4)
    assert "attack: 100%" in terminal.getvalue()
    quiet = Terminal()
    monkeypatch.setattr(sys, "stderr", quiet)
    with Progress("attack", "utterances", 4, quiet=True) as bar:
        bar.update(4)
    assert quiet.getvalue() == ""


def test_caller_without_standard_error_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    assert list(progressing([1], "x", "x")) == [1]
