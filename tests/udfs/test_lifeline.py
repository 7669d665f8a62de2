"""A worker whose TaskManager is gone ends, though its threads wait for each other for ever."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.kafka import ROOT

DEADLOCKED = """
import threading
from udfs import lifeline

lifeline.GRACE_S = 0.1
lifeline.hold()
print("held", flush=True)
threading.Event().wait()
"""


@contextmanager
def worker(stdin: int) -> Iterator[subprocess.Popen[Any]]:
    command = [sys.executable, "-c", DEADLOCKED]
    started = subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE, cwd=ROOT)
    try:
        assert started.stdout is not None
        assert started.stdout.readline() == b"held\n"
        yield started
    finally:
        started.kill()
        started.wait()
        assert started.stdout is not None
        started.stdout.close()


def test_a_worker_ends_when_nobody_holds_its_standard_input() -> None:
    with worker(subprocess.PIPE) as deadlocked:
        assert deadlocked.stdin is not None
        deadlocked.stdin.close()
        assert deadlocked.wait(30) == 1


@pytest.mark.parametrize("stdin", [subprocess.PIPE, subprocess.DEVNULL])
def test_a_worker_goes_on_while_its_input_is_held_or_there_is_nobody_to_hold_it(stdin: int) -> None:
    with worker(stdin) as deadlocked, pytest.raises(subprocess.TimeoutExpired):
        deadlocked.wait(1)
