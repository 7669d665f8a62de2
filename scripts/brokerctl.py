"""The embedded Kafka broker as a background service: ./scripts/broker start|stop|status."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from background import NOT_RUNNING, as_json, directory_of, only_one_process, tell

from operators.broker import create_topics
from operators.configuration import state_folder
from operators.jars import JarError
from operators.java import JavaMissingError
from operators.kraft import (
    BrokerError,
    output_file,
    prepare,
    refuse_taken_port,
    wait_until_it_answers,
)
from operators.ports import HOST

STOP_SECONDS = 15.0


def default_directory() -> Path:
    """${XDG_STATE_HOME:-~/.local/state}/streamrec/broker"""
    return state_folder() / "broker"


def running(directory: Path) -> dict[str, Any] | None:
    """What was noted of the broker in this folder, None unless that very process still runs."""
    try:
        noted: dict[str, Any] = json.loads((directory / "broker.json").read_text())
        command = Path(f"/proc/{noted['pid']}/cmdline").read_text().split("\0")
    except (OSError, ValueError, KeyError):
        return None
    # A process id may have been given to another program since.
    return noted if str(directory / "server.properties") in command else None


def start(directory: Path, port: int) -> dict[str, Any]:
    """Start a broker that outlives this program, and wait until it answers."""
    refuse_taken_port(port)
    command = prepare(directory, port)
    with output_file(directory).open("ab") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    noted = {"pid": process.pid, "bootstrap": f"{HOST}:{port}", "directory": str(directory)}
    (directory / "broker.json").write_text(json.dumps(noted))
    try:
        wait_until_it_answers(f"{HOST}:{port}", directory, lambda: process.poll() is None)
    except BaseException:
        process.kill()
        process.wait()
        (directory / "broker.json").unlink()
        raise
    return noted


def stop(directory: Path) -> bool:
    """Stop in good order, then with SIGKILL; whether a broker was running."""
    noted = running(directory)
    if noted:
        with contextlib.suppress(ProcessLookupError):
            os.kill(noted["pid"], signal.SIGTERM)
            deadline = time.monotonic() + STOP_SECONDS
            while running(directory) and time.monotonic() < deadline:
                time.sleep(0.1)
            if running(directory):
                os.kill(noted["pid"], signal.SIGKILL)
    (directory / "broker.json").unlink(missing_ok=True)
    return noted is not None


_directory = directory_of("broker", "settings, data and logs", default_directory)


def _topic(context: click.Context, option: click.Parameter, values: tuple[str, ...]) -> Any:
    topics = {}
    for value in values:
        name, _, partitions = value.partition(":")
        if not name or (partitions and not (partitions.isdecimal() and int(partitions))):
            raise click.BadParameter(f"expected NAME or NAME:PARTITIONS; got {value}")
        topics[name] = int(partitions or 1)
    return topics


@click.group()
def cli() -> None:
    """A real Kafka broker on this machine's loopback address, in the background."""


@cli.command(name="start")
@click.option("--port", type=click.IntRange(1, 65535), default=9092, show_default=True)
@click.option(
    "--topic", "topics", multiple=True, metavar="NAME[:PARTITIONS]", callback=_topic,
    help="Create this topic too; may be repeated.",
)  # fmt: skip
@_directory
@as_json
def start_command(port: int, topics: dict[str, int], directory: Path, as_json: bool) -> None:
    """Start it and wait until it answers."""
    began = time.monotonic()
    with only_one_process(directory):
        noted = running(directory)
        if noted and noted["bootstrap"] != f"{HOST}:{port}":
            raise BrokerError(
                f"the broker of {directory} runs on {noted['bootstrap']} already. "
                "Stop it first, or give another folder with --dir."
            )
        sentence = "runs already" if noted else "started"
        noted = noted or start(directory, port)
    if topics:
        create_topics({"bootstrap.servers": noted["bootstrap"]}, topics)
    seconds = f"in {time.monotonic() - began:.1f} s, folder {directory}"
    tell(as_json, noted, f"The broker {sentence} on {noted['bootstrap']} ({seconds}).")


@cli.command(name="stop")
@_directory
@as_json
def stop_command(directory: Path, as_json: bool) -> None:
    """Stop it; its data stays in its folder."""
    was_running = stop(directory)
    tell(as_json, None, f"The broker {'stopped' if was_running else 'was not running'}.")


@cli.command()
@_directory
@as_json
def status(directory: Path, as_json: bool) -> None:
    """Say whether it runs; exit code 0 if so, else 3."""
    noted = running(directory)
    sentence = (
        f"runs on {noted['bootstrap']}, process {noted['pid']}" if noted else "is not running"
    )
    tell(as_json, noted, f"The broker of {directory} {sentence}.")
    sys.exit(0 if noted else NOT_RUNNING)


def main(command: Callable[..., None] = cli) -> None:
    """The command line, with expected errors as one sentence."""
    try:
        command(prog_name="./scripts/broker")
    except (BrokerError, JarError, JavaMissingError) as error:
        click.echo(f"streamrec: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
