"""A broker and a standalone cluster, a job on them that answers a flow, and the two oracles."""

from __future__ import annotations

import json
import random
import shutil
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

import psutil

from operators.broker import Broker
from operators.cluster import Cluster
from operators.environment import pipeline_name
from operators.remote import ENDED, cancel, failure, newest, running
from operators.rest import Rest
from operators.running import counters
from tests.canaries import reasons, screens_and_logs, shown, sung
from tests.faults.diagnosis import doing
from tests.faults.flow import Flow
from tests.faults.readers import Watch, committed, hanging
from tests.faults.scenario import Figures, Ground
from tests.kafka import JVM, PATIENCE_S, Record, completed, job, last_words, now_ms, wait_for
from tests.shopping import Swap, decision, expected, shopping, starter

RATE = 40  # events a second
EVENTS = 20_000  # at most, of one flow
RUNS = (("throughput", "exactly-once"), ("latency", "at-least-once"))
"""Profile and delivery: the two runs by which a fault is tried in both of each."""

# A loss is soon noticed, and a restart soon tried: otherwise the scenarios would wait for hours.
CLUSTER = {
    "heartbeat.interval": "1 s",
    "heartbeat.timeout": "10 s",
    "web.exception-history-size": "1000",  # failures are counted by it; Flink keeps 16
    "env.java.opts.jobmanager": JVM,
    "env.java.opts.taskmanager": JVM,
}
RESTARTS = {"restart-strategy.exponential-delay.max-backoff": "2 s"}


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


class Run:
    """A recommend job that answers a flow of events, and a reader of its lists."""

    def __init__(self, stage: Stage, name: str, delivery: str, records: list[Record]) -> None:
        self.stage, self.name, self.delivery = stage, name, delivery
        self.events, self.lists, self.dead = (f"{name}-{kind}" for kind in ("in", "lists", "dead"))
        stage.broker.create_topics(dict.fromkeys((self.events, self.lists, self.dead), 2))
        self.records, self.rate = records, float(RATE)
        self.watch = Watch(stage.broker.bootstrap, self.lists)
        self._flow: Flow | None = None

    def settings(self, profile: str, *more: str, parallelism: int = 2) -> tuple[str, ...]:
        """Settings of the job; of two that set the same the later one counts."""
        return (
            f"kafka.bootstrap={self.stage.broker.bootstrap}",
            f"kafka.group={self.name}",
            f"events_topic={self.events}",
            f"recommendations_topic={self.lists}",
            f"dead_letters_topic={self.dead}",
            f"engine.profile={profile}",
            f"engine.parallelism={parallelism}",
            "engine.checkpoint_interval_s=1",
            f"engine.options={json.dumps(RESTARTS)}",
            f"delivery={self.delivery}",
            *more,
        )

    @property
    def flow(self) -> Flow:
        """The flow of events, which begins when it is first asked for."""
        if self._flow is None:
            bootstrap = self.stage.broker.bootstrap
            self._flow = Flow(bootstrap, self.events, self.records, self.rate)
        return self._flow

    @property
    def job_id(self) -> str:
        found = running(self.stage.rest, pipeline_name("recommend"))
        assert found is not None, self.why_it_ended()
        return found

    def why_it_ended(self) -> str:
        """What Flink says of a job that is there no more."""
        found = newest(self.stage.rest, pipeline_name("recommend"))
        if found is None:
            return "there is no recommend job"
        why = failure(self.stage.rest, found["jid"])[1]
        return f"recommend is {found['state']}: {why[:3000]}"

    def failures(self) -> int:
        """How many times the job has failed, and so was started again."""
        told = self.stage.rest.get(f"/jobs/{self.job_id}/exceptions?maxExceptions=1000")
        return len(told["exceptionHistory"]["entries"])

    def counts(self) -> dict[str, int]:
        """The job's own counters, as Flink tells them: a second late."""
        return counters(self.stage.rest, self.job_id)

    def checkpoints(self) -> dict[str, Any]:
        """What Flink tells of the job's checkpoints: counts, latest, …"""
        told: dict[str, Any] = self.stage.rest.get(f"/jobs/{self.job_id}/checkpoints")
        return told

    def take_checkpoint(self) -> None:
        """Have a checkpoint begin, without waiting for its end."""
        self.stage.rest.send("POST", f"/jobs/{self.job_id}/checkpoints", {"checkpointType": "FULL"})

    def kill_taskmanager(self) -> None:
        """SIGKILL a TaskManager, the oldest that runs a task of the job."""
        rest, path = self.stage.rest, f"/jobs/{self.job_id}"
        vertices = [rest.get(f"{path}/vertices/{v['id']}") for v in rest.get(path)["vertices"]]
        busy = {task["taskmanager-id"] for vertex in vertices for task in vertex["subtasks"]}
        cluster = self.stage.cluster
        cluster.kill_taskmanager(next(name for name in cluster.taskmanagers if name in busy))

    def found(self) -> set[str]:
        """The recommendation_ids that the reader has got so far."""
        return {identity(record) for record in self.watch.records()}

    def wait_for_lists(self, due: Set[str]) -> None:
        """Wait until the reader has got all of these recommendation_ids."""
        try:
            wait_for(lambda: due <= self.found(), PATIENCE_S, "every list")
        except AssertionError as error:
            missing = len(due - self.found())
            raise AssertionError(f"{error}: {missing} of {len(due)} are missing") from None

    def survives(self, fault: Callable[[], object]) -> float:
        """Let a fault make the job fail; seconds until it has failed and its lists come again."""
        before, began = self.failures(), time.monotonic()
        fault()
        wait_for(lambda: self.failures() > before, PATIENCE_S, "the failure", 0.1)
        self.goes_on()
        return time.monotonic() - began

    def goes_on(self, count: int = 20) -> float:
        """Wait until so many more lists have come; returns the seconds that this took."""
        before, began = len(self.watch.records()), time.monotonic()
        self.flow  # noqa: B018 (it begins, if it has not)
        what = f"{count} lists more than the {before}"
        try:
            wait_for(lambda: len(self.watch.records()) >= before + count, PATIENCE_S, what, 0.1)
        except AssertionError as error:
            told = f"{self.flow.arrived} of {len(self.flow.sent)} events arrived at the broker"
            raise AssertionError(f"{error}; {told}; {self.why_it_ended()}") from None
        return time.monotonic() - began

    def verify(self, after: Swap | None = None) -> Figures:
        """End the flow, wait for every list that is due, and hold what came against that."""
        sent = self.flow.stop()
        due = expected(starter(), sent, now_ms(), after)

        self.wait_for_lists(due.keys())
        bootstrap = self.stage.broker.bootstrap
        told = sung(reasons(committed(bootstrap, self.dead)))
        assert not told, f"users are told in the reasons of dead letters: {told[:3]}"
        return verified(bootstrap, self.watch, due, self.delivery) | {"events": len(sent)}

    def stop(self) -> None:
        """Stop the job in good order, and see that no transaction was left open."""
        self.stage.jobs("cluster", "stop", "recommend", "--savepoint")
        held = sum(hanging(self.stage.broker.bootstrap, each) for each in (self.lists, self.dead))
        assert held == 0, f"{held} records are held back by transactions that did not end"

    def close(self) -> None:
        """Let the flow, the job and the reader end."""
        if self._flow is not None:
            self._flow.end()
        found = newest(self.stage.rest, pipeline_name("recommend"))
        if found and found["state"] not in ENDED:
            cancel(self.stage.rest, found["jid"])
        self.watch.close()


@contextmanager
def run(
    stage: Stage,
    name: str,
    profile: str = "throughput",
    delivery: str = "exactly-once",
    *more: str,
    parallelism: int = 2,
    records: list[Record] | None = None,
    rate: float = RATE,
) -> Iterator[Run]:
    """A recommend job with topics of its own, which has answered the first events."""
    stage.ground.say(f"starting recommend: {profile}, {delivery}")
    started = Run(stage, name, delivery, shoppers() if records is None else records)
    started.rate = rate
    try:
        stage.submit("recommend", *started.settings(profile, *more, parallelism=parallelism))
        with explained(stage):
            started.goes_on()
            yield started
    finally:
        started.close()


def shoppers(seed: int = 5, events: int = EVENTS) -> list[Record]:
    """Events of forty shoppers, more than a scenario sends."""
    return shopping(seed, 40, events, starter().catalogue.item_ids[:200])


def verified(
    bootstrap: str,
    watch: Watch,
    due: Mapping[str, dict[str, Any]],
    delivery: str,
    behind: Set[str] = frozenset(),
) -> Figures:
    """Hold what both readers got against what is due; AssertionError says where they differ.

    `due` has the decisions by recommendation_id, for each user in the order of the events. Those
    in `behind` may have come later.
    """
    fresh = committed(bootstrap, watch.topic)
    wait_for(
        lambda: len(watch.records()) >= len(fresh), PATIENCE_S, "the reader that ran meanwhile"
    )
    assert [places(each) for each in (watch.records()[: len(fresh)],)] == [places(fresh)], (
        "the reader that ran meanwhile got other records than the one that began afterwards"
    )
    found = [decision(record.value or b"") for record in fresh]
    times = Counter(made["recommendation_id"] for made in found)
    lost, unknown = due.keys() - times.keys(), times.keys() - due.keys()
    assert not lost, f"{len(lost)} of {len(due)} lists are lost: {sorted(lost)[:3]}"
    assert not unknown, f"{len(unknown)} lists that nobody asked for: {sorted(unknown)[:3]}"
    for made in found:
        wanted = due[made["recommendation_id"]]
        assert made == wanted, f"expected {wanted}; got {made}"
    again = sum(count - 1 for count in times.values())
    assert delivery == "at-least-once" or again == 0, f"{again} lists came twice"
    orders = [
        by_user(made for made in side if made["recommendation_id"] not in behind)
        for side in (found, due.values())
    ]
    assert orders[0] == orders[1], "the lists of a user are out of order"
    return {"lists": len(due), "lost": 0, "again": again}


def identity(record: Record) -> str:
    """The recommendation_id of a record."""
    return str(json.loads(record.value or b"")["recommendation_id"])


def places(records: list[Record]) -> list[tuple[int, int]]:
    return [(record.partition, record.offset) for record in records]


def by_user(decisions: Iterable[dict[str, Any]]) -> dict[str, list[str]]:
    """The ids of each user's lists in the order in which they came first."""
    order: dict[str, dict[str, None]] = defaultdict(dict)
    for made in decisions:
        order[made["user_id"]][made["recommendation_id"]] = None
    return {user: list(ids) for user, ids in order.items()}


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


def moments(seed: int, count: int) -> list[float]:
    """Seconds to wait before each of some faults: seeded, half a second to three."""
    draw = random.Random(seed)
    return [draw.uniform(0.5, 3) for _ in range(count)]
