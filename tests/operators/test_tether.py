"""A tether keeps a command as long as it is wanted: no longer and no shorter."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import psutil

from operators import tether
from tests.kafka import wait_for

FAILS = 'echo >>"$0"; exit 3'
LASTS = 'echo $$ >>"$0"; exec sleep 600'


def tied(
    script: str,
    file: Path,
    again: bool = False,
    outlive: bool = False,
    fatal: tuple[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    program = ["sh", "-c", script, str(file)]
    words = tether.command(program, again=again, outlive=outlive, fatal=fatal)
    stdin = subprocess.DEVNULL if outlive else subprocess.PIPE
    return subprocess.Popen(words, stdin=stdin, stdout=subprocess.DEVNULL)


def lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []


def test_a_command_that_fails_ends_its_tether_with_its_code(tmp_path: Path) -> None:
    process = tied(FAILS, tmp_path / "runs")
    assert process.wait(20) == 3
    assert len(lines(tmp_path / "runs")) == 1


def test_a_command_that_always_fails_is_not_started_for_ever(tmp_path: Path) -> None:
    process = tied(FAILS, tmp_path / "runs", again=True)
    assert process.wait(20) == 3
    assert len(lines(tmp_path / "runs")) == tether.STARTS


def test_a_command_that_ends_well_is_not_started_again(tmp_path: Path) -> None:
    process = tied('echo >>"$0"', tmp_path / "runs", again=True)
    assert process.wait(20) == 0
    assert len(lines(tmp_path / "runs")) == 1


def test_a_command_that_is_killed_is_started_again_until_its_parent_lets_go(tmp_path: Path) -> None:
    process = tied(LASTS, tmp_path / "pids", again=True)
    wait_for(lambda: len(lines(tmp_path / "pids")) == 1, 20, "the command", 0.05)
    os.kill(int(lines(tmp_path / "pids")[0]), signal.SIGKILL)
    wait_for(lambda: len(lines(tmp_path / "pids")) == 2, 20, "it to be started again", 0.05)
    assert process.stdin is not None
    process.stdin.close()
    process.wait(20)
    assert not any(psutil.pid_exists(int(pid)) for pid in lines(tmp_path / "pids"))


def test_a_command_that_outlives_its_parent_ends_when_its_tether_is_stopped(tmp_path: Path) -> None:
    process = tied(LASTS, tmp_path / "pids", outlive=True)
    wait_for(lambda: len(lines(tmp_path / "pids")) == 1, 20, "the command", 0.05)
    assert process.poll() is None
    process.terminate()
    process.wait(20)
    assert not psutil.pid_exists(int(lines(tmp_path / "pids")[0]))


def test_a_command_whose_tether_is_killed_is_killed(tmp_path: Path) -> None:
    process = tied(LASTS, tmp_path / "pids", again=True, outlive=True)
    wait_for(lambda: len(lines(tmp_path / "pids")) == 1, 20, "the command", 0.05)
    process.kill()
    process.wait(20)
    gone = int(lines(tmp_path / "pids")[0])
    wait_for(lambda: not psutil.pid_exists(gone), 20, "the end of the command", 0.05)


def test_a_command_whose_log_tells_what_is_fatal_is_started_again_once(tmp_path: Path) -> None:
    log = tmp_path / "its.log"
    log.write_text("of an earlier run: no Python\n\tat all\n")
    fatal = (str(tmp_path), "no Python\n\tat all")
    process = tied(LASTS, tmp_path / "pids", again=True, fatal=fatal)
    wait_for(lambda: len(lines(tmp_path / "pids")) == 1, 20, "the command", 0.05)
    with log.open("a") as file:
        file.write("no Python\n")
        file.flush()
        time.sleep(0.5)  # it is read twice meanwhile
        assert len(lines(tmp_path / "pids")) == 1
        file.write("\tat all\n")
    wait_for(lambda: len(lines(tmp_path / "pids")) == 2, 20, "it to be started again", 0.05)
    time.sleep(0.5)
    first, second = map(int, lines(tmp_path / "pids"))
    assert not psutil.pid_exists(first)
    assert psutil.pid_exists(second)
    log.write_text("no Python\n\tat all\n")  # shorter: another file by this name
    wait_for(lambda: len(lines(tmp_path / "pids")) == 3, 20, "it to be started again", 0.05)
    assert process.stdin is not None
    process.stdin.close()
    process.wait(20)
