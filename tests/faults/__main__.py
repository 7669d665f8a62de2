"""The command line of the faults: ./scripts/faults [NAME…]."""

from __future__ import annotations

import importlib
import json
import pkgutil
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import click

import tests.faults
from tests.faults.scenario import SCENARIOS, Ground, Scenario
from tests.kafka import last_words

for module in pkgutil.iter_modules(tests.faults.__path__):
    if module.name != "__main__":
        importlib.import_module(f"tests.faults.{module.name}")


def tried(scenario: Scenario, logs: Path | None) -> dict[str, object]:
    """Run a scenario in a folder of its own; what it found, and whether it passed.

    If it failed, what it and its cluster logged is left in `logs`.
    """

    def say(text: str) -> None:
        click.echo(f"{scenario.name}: {text}", err=True)

    folder, began = Path(tempfile.mkdtemp(prefix="streamrec-faults-")), time.monotonic()
    say(scenario.purpose)
    try:
        figures = scenario.run(Ground(folder, say))
        told: dict[str, object] = {"passed": True, **figures}
    except Exception as error:
        click.echo(traceback.format_exc() + last_words(folder), err=True)
        told = {"passed": False, "error": f"{type(error).__name__}: {error}"[:2000]}
        if logs is not None:
            shutil.copytree(folder, logs / scenario.name, ignore=_no_logs, dirs_exist_ok=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    seconds = round(time.monotonic() - began, 1)
    say(f"{'passed' if told['passed'] else 'FAILED'} after {seconds} s")
    return told | {"seconds": seconds}


def _no_logs(folder: str, names: list[str]) -> list[str]:
    paths = [Path(folder, name) for name in names]
    return [each.name for each in paths if each.is_file() and each.suffix not in (".log", ".out")]


def side_by_side(
    names: Sequence[str], at_once: int, options: Sequence[str]
) -> dict[str, dict[str, object]]:
    """What the scenarios found, each in a process of its own, so many of them at the same time."""
    left, told = deque(names), dict[str, dict[str, object]]()
    begun: dict[str, subprocess.Popen[str]] = {}
    try:
        while left or begun:
            while left and len(begun) < at_once:
                command = [sys.executable, "-m", "tests.faults", left[0], *options]
                # Of a session of its own: Ctrl-C reaches it once, through this process.
                begun[left.popleft()] = subprocess.Popen(
                    command, stdout=subprocess.PIPE, text=True, start_new_session=True
                )
            for name in [name for name, process in begun.items() if process.poll() is not None]:
                output = begun.pop(name).communicate()[0].splitlines()
                told |= json.loads(output[-1]) if output else {name: {"passed": False}}
            time.sleep(0.2)
    finally:
        for process in begun.values():
            process.terminate()
        for process in begun.values():
            process.wait()
    return {name: told[name] for name in names}


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(sorted(SCENARIOS)), metavar="[NAME]...")
@click.option("--list", "show", is_flag=True, help="Say what there is, and run nothing.")
@click.option("--long", is_flag=True, help="With the long ones too.")
@click.option("--at-once", type=click.IntRange(1), default=2, show_default=True, metavar="N")
@click.option(
    "--logs", type=click.Path(path_type=Path), help="A folder for the logs of those that fail."
)
def faults(names: tuple[str, ...], show: bool, long: bool, at_once: int, logs: Path | None) -> None:
    """Break things on a real broker and cluster, and see what holds.

    Without a NAME all scenarios run, but the long ones; each takes about 6 GB of memory. The last
    line on stdout is one JSON object {scenario: {passed, figures…}}; the exit code is 1 if one of
    them failed.
    """
    if show:
        for each in SCENARIOS.values():
            note = "  (quick)" if each.quick else "  (long)" if each.long else ""
            click.echo(f"{each.name:40}{each.purpose}{note}")
        return
    # The long ones first, so that the others run beside them.
    by_length = sorted(SCENARIOS.values(), key=lambda each: not each.long)
    chosen = names or [each.name for each in by_length if long or not each.long]
    if len(chosen) == 1:
        told = {name: tried(SCENARIOS[name], logs) for name in chosen}
    else:
        told = side_by_side(chosen, at_once, ["--logs", str(logs.absolute())] if logs else [])
    click.echo(json.dumps(told))
    sys.exit(0 if all(each["passed"] for each in told.values()) else 1)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that children are ended too
    faults(prog_name="./scripts/faults")
