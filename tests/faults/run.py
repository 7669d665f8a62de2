"""A job on the stage that answers a flow of events, and what it must have answered."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager
from typing import Any

from operators.environment import pipeline_name
from operators.remote import ENDED, cancel, failure, newest, running
from operators.running import counters
from tests.canaries import reasons, sung
from tests.faults.flow import Flow
from tests.faults.oracles import identity, verified
from tests.faults.readers import Watch, committed, hanging
from tests.faults.scenario import Figures
from tests.faults.stage import Stage, explained
from tests.kafka import PATIENCE_S, Record, now_ms, wait_for
from tests.shopping import Swap, expected, shopping, starter

RATE = 40  # events a second
EVENTS = 20_000  # at most, of one flow
RUNS = (("throughput", "exactly-once"), ("latency", "at-least-once"))
"""Profile and delivery: the two runs by which a fault is tried in both of each."""
# A restart is soon tried: otherwise the scenarios would wait for hours.
RESTARTS = {"restart-strategy.exponential-delay.max-backoff": "2 s"}


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


def moments(seed: int, count: int) -> list[float]:
    """Seconds to wait before each of some faults: seeded, half a second to three."""
    draw = random.Random(seed)
    return [draw.uniform(0.5, 3) for _ in range(count)]
