"""Workers and TaskManagers are killed while events flow: no list is missing afterwards."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psutil
import pytest

from operators.broker import Broker, free_port
from operators.cluster import Cluster
from tests.kafka import Reader, Record, read, running, screen, send, wait_for
from tests.shopping import decision, expected, shopping, starter

EVENTS, WARM_UP, FLOWING = 500, 20, 400  # all; those before the kills; the end of the flow
RATE = 40  # events a second
CHECKPOINT_S = 3
PATIENCE_S = 120  # a busy machine takes a minute to start a job
HEARTBEAT = {"heartbeat.interval": "1 s", "heartbeat.timeout": "8 s"}  # a loss is soon noticed


class Trial:
    """A run with topics of its own: what is sent, what must come, and what came."""

    def __init__(
        self, broker: Broker, name: str, rest: str, reader: Reader, process: subprocess.Popen[str]
    ) -> None:
        bundle = starter()
        self.process = process
        self.bootstrap, self.name, self.rest, self.reader = broker.bootstrap, name, rest, reader
        items = bundle.catalogue.item_ids[:200]
        self.records = shopping(seed=5, users=10, events=EVENTS, items=items)
        self.decisions = expected(bundle, self.records, int(time.time() * 1000))

    def send(self, start: int, stop: int | None, rate: float = 0) -> threading.Thread:
        """Send a part of the records, in a thread of its own, `rate` a second."""

        def paced() -> Iterator[Record]:
            for record in self.records[start:stop]:
                yield record
                time.sleep(1 / rate if rate else 0)

        arguments = (self.bootstrap, f"{self.name}-events", paced())
        sender = threading.Thread(target=send, args=arguments, daemon=True)
        sender.start()
        return sender

    def lists(self) -> list[dict]:
        assert self.process.poll() is None, "the job ended"
        return [decision(record.value or b"") for record in self.reader.read()]

    def wait_for_lists(self, count: int, what: str) -> None:
        wait_for(lambda: len(self.lists()) >= count, PATIENCE_S, what)

    def wait_for_all(self, stop: int | None) -> None:
        """Wait until every list that the records up to `stop` must be answered with is there."""
        ids = {event["event_id"] for event in map(json.loads, self._values(stop))}
        due = {name for name, d in self.decisions.items() if d["trigger_event_id"] in ids}
        wait_for(
            lambda: {d["recommendation_id"] for d in self.lists()} >= due, PATIENCE_S, "every list"
        )

    def wait_until_lists_would_repeat(self) -> None:
        """Wait for a checkpoint and some lists after it: a kill now must bring them again."""
        checkpoints = self._checkpoints()
        wait_for(lambda: self._checkpoints() > checkpoints, PATIENCE_S, "a checkpoint", pause=0.1)
        self.wait_for_lists(len(self.lists()) + 10, "lists after the checkpoint")

    def check(self) -> None:
        """None is missing; what came twice has the same id and is the same list."""
        found = self.lists()
        assert {d["recommendation_id"] for d in found} == self.decisions.keys()
        for made in found:
            assert made == self.decisions[made["recommendation_id"]]
        times = Counter(d["recommendation_id"] for d in found)
        assert max(times.values()) > 1, "the kill came at a moment when it had no consequence"
        assert read(self.bootstrap, f"{self.name}-dead_letters") == []

    def _values(self, stop: int | None) -> Iterator[bytes]:
        return (record.value or b"" for record in self.records[:stop])

    def _checkpoints(self) -> int:
        (job,) = self._get("/jobs")["jobs"]
        return int(self._get(f"/jobs/{job['id']}/checkpoints")["counts"]["completed"])

    def _get(self, path: str) -> dict:
        with urllib.request.urlopen(f"http://{self.rest}{path}", timeout=10) as answer:
            return json.load(answer)


@contextmanager
def trial(broker: Broker, state: Path, name: str, rest: str, *more: str) -> Iterator[Trial]:
    """The job runs and has answered the first events; more of them are flowing in."""
    topics = {kind: f"{name}-{kind}" for kind in ("events", "recommendations", "dead_letters")}
    broker.create_topics(dict.fromkeys(topics.values(), 2))
    settings = [
        f"kafka.bootstrap={broker.bootstrap}",
        f"kafka.group={name}",
        f"engine.checkpoint_dir={(state / 'checkpoints').as_uri()}",
        f"engine.checkpoint_interval_s={CHECKPOINT_S}",
        *(f"{kind}_topic={topic}" for kind, topic in topics.items()),
    ]
    with (
        closing(Reader(broker.bootstrap, topics["recommendations"])) as reader,
        running(state, "recommend", *settings, *more) as job,
    ):
        run = Trial(broker, name, rest, reader, job)
        run.send(0, WARM_UP)
        run.wait_for_lists(1, "the first list")
        yield run


def python_workers(pid: int) -> list[int]:
    """The process ids of the Python workers that Flink started below process `pid`."""
    return [
        child.pid
        for child in psutil.Process(pid).children(recursive=True)
        if "python" in child.name() and any("beam_boot" in word for word in child.cmdline())
    ]


@pytest.mark.timeout(600)
def test_killed_python_workers_lose_no_list(broker: Broker, tmp_path: Path) -> None:
    port = free_port()
    options = ["engine.profile=throughput", f"engine.rest_port={port}"]
    with trial(broker, tmp_path, "worker-kill", f"127.0.0.1:{port}", *options) as run:
        sender = run.send(WARM_UP, FLOWING, RATE)
        run.wait_until_lists_would_repeat()
        (first,) = python_workers(run.process.pid)
        os.kill(first, signal.SIGKILL)
        assert sender.is_alive()
        run.wait_for_all(FLOWING)
        (second,) = python_workers(run.process.pid)
        os.kill(second, signal.SIGKILL)  # now one that has nothing to do
        run.send(FLOWING, None)
        run.wait_for_all(None)
        (third,) = python_workers(run.process.pid)
        run.check()
    assert len({first, second, third}) == 3
    assert screen(tmp_path, "recommend").read_text().count("restarts:") == 2


@pytest.mark.timeout(600)
def test_a_killed_taskmanager_loses_no_list(broker: Broker, tmp_path: Path) -> None:
    with Cluster(taskmanagers=1, options=HEARTBEAT) as cluster:
        address = f"engine.jobmanager={cluster.rest}"
        with trial(broker, tmp_path, "taskmanager-kill", cluster.rest, address) as run:
            sender = run.send(WARM_UP, None, RATE)
            cluster.start_taskmanager()  # the one that takes over
            run.wait_until_lists_would_repeat()
            killed = cluster.kill_taskmanager()
            assert sender.is_alive()
            run.wait_for_all(None)
            run.check()
        assert killed not in cluster.taskmanager_pids
        assert not psutil.pid_exists(killed)
    assert "restarts:" in screen(tmp_path, "recommend").read_text()
