"""A Flink cluster of this machine's processes in the background: ./scripts/cluster VERB."""

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
from pydantic import ValidationError

from operators.java import JavaMissingError
from operators.ports import HOST, free_port, why_taken
from operators.standalone import (
    ClusterError,
    answering,
    default_directory,
    high_availability,
    launch,
    noted,
    prepare,
    rests,
    wait_for_slots,
)
from operators.tls import PLAIN, Tls

STOP_SECONDS = 20.0
NOT_WHOLE = 1


def alive(directory: Path, note: dict[str, Any] | None) -> dict[str, int]:
    """The noted processes, name → id, that are running: each is asked whether it is the one."""
    processes: dict[str, int] = note["processes"] if note else {}
    return {name: pid for name, pid in processes.items() if _is_ours(directory, pid)}


def _is_ours(directory: Path, pid: int) -> bool:
    # A process id may have been given to another program since.
    try:
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False
    return os.fsencode(f"FLINK_CONF_DIR={directory}/conf") in variables


def start(
    directory: Path, port: int, taskmanagers: int, slots: int, ha: bool, tls: Tls = PLAIN
) -> dict[str, Any]:
    """Start what is not running and wait until all slots are there; all outlives this program."""
    wanted: dict[str, Any] = {"port": port, "taskmanagers": taskmanagers, "slots": slots, "ha": ha}
    wanted["tls"] = tls.model_dump(mode="json")
    note = noted(directory)
    if not alive(directory, note):
        note = wanted | _configured(directory, port, slots, ha, tls) | {"processes": {}}
    assert note is not None
    if different := {key: note[key] for key in wanted if note[key] != wanted[key]}:
        told = ", ".join(f"{key} {value}" for key, value in different.items())
        raise ClusterError(
            f"the cluster of {directory} runs already, with {told}. "
            "Stop it first, or give another folder with --dir."
        )
    launched: list[subprocess.Popen[str]] = []
    try:
        for name, options in _wanted(note).items():
            if name not in alive(directory, note):
                launched.append(launch(directory, name, options, outlive=True))
                note["processes"][name] = launched[-1].pid
                (directory / "cluster.json").write_text(json.dumps(note))
        wait_for_slots(
            directory,
            rests(note),
            taskmanagers * slots,
            lambda: all(process.poll() is None for process in launched),
        )
    except BaseException:
        for process in launched:
            process.kill()
            process.wait()
        raise
    return note


def _configured(directory: Path, port: int, slots: int, ha: bool, tls: Tls) -> dict[str, Any]:
    """Write the configuration; returns where each JobManager's REST will answer."""
    if why := why_taken(port):
        raise ClusterError(
            f"port {port} of {HOST} cannot be used ({why}). "
            "Stop what listens there, or choose another with --port."
        )
    options = {"jobmanager.rpc.port": str(free_port()), "rest.port": str(port)}
    if ha:
        options |= high_availability(directory, free_port())
    prepare(directory, slots, options, tls)
    return {"rest": [f"{HOST}:{each}" for each in ([port, free_port()] if ha else [port])]}


def _wanted(note: dict[str, Any]) -> dict[str, dict[str, str]]:
    """Every process of the cluster, in the order they are started, with options of its own."""
    ports = [address.rpartition(":")[2] for address in note["rest"]]
    return {
        **({"zookeeper-0": {}} if note["ha"] else {}),
        **{f"jobmanager-{number}": {"rest.port": port} for number, port in enumerate(ports)},
        **{f"taskmanager-{number}": {} for number in range(note["taskmanagers"])},
    }


def stop(directory: Path) -> bool:
    """Stop in good order, then with SIGKILL; whether any of it was running."""
    note = noted(directory)
    before = alive(directory, note)
    # ZooKeeper last: the others take leave of it.
    for last in (False, True):
        leaving = [name for name in before if name.startswith("zookeeper") is last]
        _signal(directory, note, leaving, signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        while alive(directory, note).keys() & {*leaving} and time.monotonic() < deadline:
            time.sleep(0.1)
        _signal(directory, note, leaving, signal.SIGKILL)
    (directory / "cluster.json").unlink(missing_ok=True)
    return bool(before)


def _signal(directory: Path, note: dict[str, Any] | None, names: list[str], number: int) -> None:
    """Send a signal to those of the processes that still run, SIGKILL to their workers as well."""
    send = os.killpg if number == signal.SIGKILL else os.kill
    for name, pid in alive(directory, note).items():
        if name in names:
            with contextlib.suppress(ProcessLookupError):
                send(pid, number)


_directory = directory_of("cluster", "settings, logs, what it keeps", default_directory)
_COUNT = click.IntRange(1, 1024)
_PEM = click.Path(exists=True, dir_okay=False, resolve_path=True)


@click.group()
def cli() -> None:
    """Flink processes on this machine's loopback address, in the background."""


@cli.command(name="start")
@click.option(
    "--taskmanagers", type=_COUNT, default=2, show_default=True, help="Processes that run jobs."
)
@click.option("--slots", type=_COUNT, default=1, show_default=True, help="Slots of each of them.")
@click.option(
    "--ha", is_flag=True, help="With a ZooKeeper and a second JobManager that takes over."
)
@click.option("--port", type=click.IntRange(1, 65535), default=8081, show_default=True)
@click.option("--ca", type=_PEM, help="TLS: PEM file that says whose certificates are let in.")
@click.option("--certificate", type=_PEM, help="With --ca: PEM file with its key and certificates.")
@_directory
@as_json
def start_command(
    taskmanagers: int,
    slots: int,
    ha: bool,
    port: int,
    ca: str | None,
    certificate: str | None,
    directory: Path,
    as_json: bool,
) -> None:
    """Start it, or what of it has ended, and wait until every slot is there."""
    began = time.monotonic()
    tls = _tls(ca, certificate)
    with only_one_process(directory):
        before = alive(directory, noted(directory))
        note = start(directory, port, taskmanagers, slots, ha, tls)
    count = len(note["processes"]) - len(before)
    seconds = f"{count} processes started in {time.monotonic() - began:.1f} s"
    place = f"{taskmanagers * slots} slots on {note['rest'][0]}"
    tell(as_json, note, f"The cluster has {place} ({seconds}, folder {directory}).")


def _tls(ca: str | None, certificate: str | None) -> Tls:
    if (ca is None) is not (certificate is None):
        raise click.UsageError("give both --ca and --certificate, or neither")
    try:
        return Tls(ca=ca and Path(ca), certificate=certificate and Path(certificate))
    except ValidationError as error:
        raise click.UsageError(error.errors()[0]["msg"]) from None


@cli.command(name="stop")
@_directory
@as_json
def stop_command(directory: Path, as_json: bool) -> None:
    """Stop it. With --ha its jobs go on when it is started again."""
    was_running = stop(directory)
    tell(as_json, None, f"The cluster {'stopped' if was_running else 'was not running'}.")


@cli.command()
@_directory
@as_json
def status(directory: Path, as_json: bool) -> None:
    """Say which processes run; exit code 0 if all do, 1 if some have ended, else 3."""
    note = noted(directory)
    found = alive(directory, note)
    if note is None or not found:
        tell(as_json, None, f"The cluster of {directory} is not running.")
        sys.exit(NOT_RUNNING)
    rest = answering(rests(note))
    address = rest.address if rest else None
    lines = [f"The cluster of {directory} answers on {rest or 'no port'}."]
    for name, pid in note["processes"].items():
        lines.append(f"  {name}: {f'process {pid}' if name in found else 'has ended'}")
    tell(as_json, note | {"processes": found, "answers": address}, "\n".join(lines))
    sys.exit(0 if len(found) == len(note["processes"]) and address else NOT_WHOLE)


def main(command: Callable[..., None] = cli) -> None:
    """The command line, with expected errors as one sentence."""
    try:
        command(prog_name="./scripts/cluster")
    except (ClusterError, JavaMissingError) as error:
        click.echo(f"streamrec: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
