"""Where a scenario happens: a broker and a standalone cluster of its own."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

import psutil

from operators.broker import Broker
from operators.cluster import Cluster
from operators.environment import pipeline_name
from operators.remote import running
from operators.rest import Rest
from tests.canaries import screens_and_logs, shown, sung
from tests.faults.diagnosis import doing
from tests.faults.scenario import Ground
from tests.kafka import JVM, PATIENCE_S, completed, job, last_words, wait_for

# A loss is soon noticed: otherwise the scenarios would wait for hours.
CLUSTER = {
    "heartbeat.interval": "1 s",
    "heartbeat.timeout": "10 s",
    "web.exception-history-size": "1000",  # failures are counted by it; Flink keeps 16
    "env.java.opts.jobmanager": JVM,
    "env.java.opts.taskmanager": JVM,
}


@dataclass(frozen=True)
class Stage:
    """Where a scenario happens."""

    ground: Ground
    broker: Broker
    cluster: Cluster

    @property
    def rest(self) -> Rest:
        return self.cluster.rest

    def jobs(self, *words: str) -> str:
        """Run `python -m jobs …`; its standard output. AssertionError if it fails."""
        command = [sys.executable, "-m", "jobs", *words]
        done = completed(self.ground.folder, command, 2 * PATIENCE_S)
        assert done.returncode == 0, done.stderr[-4000:] + last_words(self.ground.folder)
        return done.stdout

    def submit(self, name: str, *settings: str) -> str:
        """Leave a job to the cluster and wait until it runs; returns its id."""
        words = job(name, f"engine.jobmanager={self.rest.address}", *settings)[3:]
        self.jobs(*words, "--target", "cluster")
        found = running(self.rest, pipeline_name(name))
        assert found is not None
        return found


@contextmanager
def stage(
    ground: Ground,
    taskmanagers: int = 2,
    slots: int = 1,
    options: Mapping[str, str] | None = None,
    broker_options: Mapping[str, str] | None = None,
    cluster: Any = None,
) -> Iterator[Stage]:
    """A broker and a cluster of their own; they end with the scenario, however that ends.

    Another `cluster` than an ordinary one is a Service with `rest` and `directory`.
    """
    ground.say("starting a broker and a cluster")
    cluster = cluster or Cluster(taskmanagers, slots, CLUSTER | dict(options or {}))
    with Broker(options=broker_options) as broker, cluster as ours:
        made = Stage(ground, broker, ours)
        try:
            yield made
        except Exception:
            no_logs = shutil.ignore_patterns("conf", "lib", "tmp")
            shutil.copytree(ours.directory, ground.folder / ours.directory.name, ignore=no_logs)
            for log in broker.directory.glob("*.log"):
                shutil.copy(log, ground.folder / f"broker-{log.name}")
            raise
        told = [*shown(str(made.rest)).values(), *screens_and_logs(ground.folder)]
        told += screens_and_logs(ours.directory)
        assert not sung(told), f"users or secrets are told: {sung(told)[:3]}"
    wait_for(lambda: not python_workers(ours.directory), 60, "the end of all Python workers")


@contextmanager
def explained(stage: Stage) -> Iterator[None]:
    """Should it fail, say what the cluster was doing; jobs must still be there then."""
    try:
        yield
    except AssertionError:
        with suppress(OSError, HTTPException):  # the fault may be that nobody answers
            stage.ground.say("\n".join(["it failed while", *doing(stage.rest)]))
        raise


def python_workers(folder: Path) -> list[psutil.Process]:
    """Python workers of the cluster in this folder, those without a parent among them."""
    found = []
    for process in psutil.process_iter():
        try:
            words, variables = process.cmdline(), process.environ()
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
        ours = variables.get("FLINK_CONF_DIR", "").startswith(str(folder))
        if ours and any("beam_boot" in word for word in words):
            found.append(process)
    return found
