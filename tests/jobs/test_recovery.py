"""A TaskManager is killed while events flow and bundles change: no list is missing afterwards.

The test takes the one checkpoint that its run has and kills when there are lists after it: what
came since then is read and answered a second time, however fast or slow the machine is. More
is killed in tests/faults/.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import psutil
import pytest

from models.bundle import Bundle
from models.loading import load_bundle
from models.registry import Registry
from operators.broker import Broker
from operators.cluster import Cluster
from operators.rest import Rest
from tests.bundles import versioned
from tests.kafka import Reader, Record, read, running, screen, send, wait_for
from tests.shopping import START_MS, STARTER, Swap, decision, expected, shopping, starter

# Of the records: those before the checkpoint, before the end of the flow, and all of them.
WARM_UP, CHECKPOINTED, FLOWING, ALL = 20, 150, 400, 500
RATE = 40  # events a second of the flow
LATER_MS = START_MS + 7 * 86_400_000  # when the events after the flow begin
SWAP_MS = LATER_MS - 3_600_000  # from when a second bundle answers, if there is one
PATIENCE_S = 120  # a busy machine takes a minute to start a job
HEARTBEAT = {"heartbeat.interval": "1 s"}  # a loss is soon noticed
HOUR_S = 3600
# Without the pause, the first periodic checkpoint comes at a random moment of the interval.
NO_OTHER_CHECKPOINT = (
    f"engine.checkpoint_interval_s={HOUR_S}",
    f"engine.options={{execution.checkpointing.min-pause: {HOUR_S} s}}",
)


class Trial:
    """A run with topics of its own: what is sent, what must come, and what came."""

    def __init__(
        self,
        broker: Broker,
        name: str,
        rest: Rest,
        reader: Reader,
        process: subprocess.Popen[str],
        second: Bundle | None = None,
    ) -> None:
        self.process = process
        self.bootstrap, self.name, self.rest, self.reader = broker.bootstrap, name, rest, reader
        items = starter().catalogue.item_ids[:200]
        flow = shopping(seed=5, users=10, events=FLOWING, items=items)[:FLOWING]
        later = shopping(6, 10, ALL - FLOWING, items, LATER_MS)[: ALL - FLOWING]
        self.records = flow + later
        self._sender = ThreadPoolExecutor(1)
        swap = second and Swap(second, SWAP_MS)
        self.decisions = expected(starter(), self.records, int(time.time() * 1000), swap)

    def send(self, start: int, stop: int, rate: float = 0) -> None:
        """Have a part of the records sent, after all parts before it, `rate` a second."""

        def paced() -> Iterator[Record]:
            for record in self.records[start:stop]:
                yield record
                time.sleep(1 / rate if rate else 0)

        self._sender.submit(send, self.bootstrap, f"{self.name}-events", paced())

    def lists(self) -> list[dict]:
        assert self.process.poll() is None, "the job ended"
        return [decision(record.value or b"") for record in self.reader.read()]

    def wait_for_lists(self, count: int, what: str) -> None:
        wait_for(lambda: len(self.lists()) >= count, PATIENCE_S, what)

    def wait_for_all(self, stop: int) -> None:
        """Wait until every list that the records up to `stop` must be answered with is there."""
        ids = {event["event_id"] for event in self._events(stop)}
        due = {name for name, d in self.decisions.items() if d["trigger_event_id"] in ids}
        wait_for(
            lambda: {d["recommendation_id"] for d in self.lists()} >= due, PATIENCE_S, "every list"
        )

    def flow_until_lists_would_repeat(self) -> None:
        """Take the checkpoint and send on until there are lists that it does not cover."""
        self.send(WARM_UP, CHECKPOINTED)
        self._take_checkpoint()
        covered = len(self.lists())  # or more: what came before the checkpoint is in the topic
        self.send(CHECKPOINTED, FLOWING, RATE)
        self.wait_for_lists(covered + 10, "lists after the checkpoint")

    def check(self) -> None:
        """None is missing; what came twice has the same id and is the same list."""
        found = self.lists()
        assert {d["recommendation_id"] for d in found} == self.decisions.keys()
        for made in found:
            assert made == self.decisions[made["recommendation_id"]]
        times = Counter(d["recommendation_id"] for d in found)
        assert max(times.values()) > 1, "the kill had no consequence"
        assert read(self.bootstrap, f"{self.name}-dead_letters") == []

    def _events(self, stop: int) -> Iterator[dict]:
        return (json.loads(record.value or b"") for record in self.records[:stop])

    def _take_checkpoint(self) -> None:
        (job,) = self.rest.get("/jobs")["jobs"]
        path = f"/jobs/{job['id']}/checkpoints"
        asked = self.rest.send("POST", path, {"checkpointType": "FULL"})
        taken = f"{path}/{asked['request-id']}"

        def is_over() -> bool:
            return self.rest.get(taken)["status"]["id"] == "COMPLETED"

        wait_for(is_over, PATIENCE_S, "the checkpoint")
        assert "failure-cause" not in self.rest.get(taken)["operation"], self.rest.get(taken)
        assert self.rest.get(path)["counts"]["completed"] == 1


@contextmanager
def trial(
    broker: Broker, state: Path, name: str, rest: Rest, *more: str, second: Bundle | None = None
) -> Iterator[Trial]:
    """The job runs and has answered the first events.

    If there is a second bundle, it must answer what is later than all that is sent until then.
    """
    topics = {kind: f"{name}-{kind}" for kind in ("events", "recommendations", "dead_letters")}
    broker.create_topics(dict.fromkeys(topics.values(), 2))
    settings = [
        f"kafka.bootstrap={broker.bootstrap}",
        f"kafka.group={name}",
        f"engine.checkpoint_dir={(state / 'checkpoints').as_uri()}",
        *NO_OTHER_CHECKPOINT,
        *(f"{kind}_topic={topic}" for kind, topic in topics.items()),
    ]
    with (
        closing(Reader(broker.bootstrap, topics["recommendations"])) as reader,
        running(state, "recommend", *settings, *more) as job,
    ):
        run = Trial(broker, name, rest, reader, job, second)
        run.send(0, WARM_UP)
        run.wait_for_lists(1, "the first list")
        yield run


def restarts(state: Path) -> int:
    """How many restarts the job has told on the screen."""
    return screen(state, "recommend").read_text().count("restarts:")


@pytest.mark.timeout(600)
def test_a_taskmanager_killed_during_a_swap_loses_no_list(broker: Broker, tmp_path: Path) -> None:
    registry = Registry(tmp_path / "registry")
    second = versioned(STARTER, tmp_path, "v2")
    registry.publish(second)
    with Cluster(taskmanagers=1, options=HEARTBEAT) as cluster:
        options = [
            f"engine.jobmanager={cluster.rest.address}",
            f"registry={registry.root.path}",
            "poll_s=0.05",
        ]
        name, bundle = "taskmanager-kill", load_bundle(second)
        with trial(broker, tmp_path, name, cluster.rest, *options, second=bundle) as run:
            cluster.start_taskmanager()  # the one that takes over
            run.flow_until_lists_would_repeat()
            registry.promote("v2", SWAP_MS)
            time.sleep(0.1)  # now it is being loaded
            killed = cluster.kill_taskmanager()
            run.send(FLOWING, ALL)
            run.wait_for_all(ALL)
            run.check()
            wait_for(lambda: restarts(tmp_path) > 0, PATIENCE_S, "the restart to be told")
        assert not psutil.pid_exists(killed)
    made = Counter(each["bundle_version"] for each in run.decisions.values())
    assert min(made["v2"], made[starter().version]) > 10
