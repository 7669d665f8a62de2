"""Workers and TaskManagers are killed while events flow: no list is missing afterwards."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import psutil
import pytest

from operators.broker import Broker
from operators.cluster import Cluster
from tests.kafka import Record, read, running, send, wait_for
from tests.shopping import decision, expected, shopping, starter


HEARTBEAT = {"heartbeat.interval": "1 s", "heartbeat.timeout": "8 s"}  # a loss is soon noticed


class Sender(threading.Thread):
    """Sends records one after another, `rate` a second, while the test does harm."""

    def __init__(self, broker: Broker, topic: str, records: list[Record], rate: float) -> None:
        super().__init__(daemon=True)
        self.broker, self.topic, self.records, self.rate = broker, topic, records, rate

    def run(self) -> None:
        for at in range(0, len(self.records), 20):
            send(self.broker.bootstrap, self.topic, self.records[at : at + 20])
            time.sleep(20 / self.rate)


def settings(broker: Broker, name: str, *more: str) -> list[str]:
    """The settings of a run with topics of its own, which are made here."""
    topics = {kind: f"{name}-{kind}" for kind in ("events", "recommendations", "dead_letters")}
    broker.create_topics(dict.fromkeys(topics.values(), 2))
    return [
        f"kafka.bootstrap={broker.bootstrap}",
        f"kafka.group={name}",
        "engine.checkpoint_interval_s=2",
        *(f"{kind}_topic={topic}" for kind, topic in topics.items()),
        *more,
    ]


def lists(broker: Broker, name: str) -> list[dict]:
    return [decision(r.value or b"") for r in read(broker.bootstrap, f"{name}-recommendations")]


def python_workers(pid: int) -> list[int]:
    """The process ids of the Python workers that Flink started below process `pid`."""
    return [
        child.pid
        for child in psutil.Process(pid).children(recursive=True)
        if any("beam_boot" in word for word in child.cmdline())
    ]


@pytest.mark.timeout(400)
def test_killed_python_workers_lose_no_list(broker: Broker, tmp_path: Path) -> None:
    bundle = starter()
    records = shopping(5, users=10, events=600, items=bundle.catalogue.item_ids[:200])
    decisions = expected(bundle, records, int(time.time() * 1000))
    options = settings(broker, "worker-kill", "engine.profile=throughput")
    with running(tmp_path, "recommend", *options) as job:
        sender = Sender(broker, "worker-kill-events", records, rate=40)
        sender.start()
        for round_ in range(2):
            seen = len(lists(broker, "worker-kill"))
            wait_for(lambda: len(lists(broker, "worker-kill")) > seen + 20, 120, "lists")  # noqa: B023
            workers = python_workers(job.pid)
            assert workers, f"no Python worker is running in round {round_}"
            os.kill(workers[-1], signal.SIGKILL)
        sender.join()
        wait_for(lambda: _all_there(broker, "worker-kill", decisions), 120, "the last list")
    _check(broker, "worker-kill", decisions)


@pytest.mark.timeout(500)
def test_a_killed_taskmanager_loses_no_list(broker: Broker, tmp_path: Path) -> None:
    bundle = starter()
    records = shopping(6, users=10, events=600, items=bundle.catalogue.item_ids[:200])
    decisions = expected(bundle, records, int(time.time() * 1000))
    with Cluster(taskmanagers=1, options=HEARTBEAT) as cluster:
        options = settings(
            broker,
            "taskmanager-kill",
            f"engine.jobmanager={cluster.rest}",
            f"engine.checkpoint_dir={(tmp_path / 'checkpoints').as_uri()}",
        )
        with running(tmp_path, "recommend", *options):
            sender = Sender(broker, "taskmanager-kill-events", records, rate=40)
            sender.start()
            name = "taskmanager-kill"
            wait_for(lambda: len(lists(broker, name)) > 50, 120, "lists")
            cluster.start_taskmanager()
            cluster.kill_taskmanager()
            sender.join()
            wait_for(lambda: _all_there(broker, name, decisions), 150, "the last list")
    _check(broker, "taskmanager-kill", decisions)


def _all_there(broker: Broker, name: str, decisions: dict[str, dict]) -> bool:
    return {d["recommendation_id"] for d in lists(broker, name)} >= decisions.keys()


def _check(broker: Broker, name: str, decisions: dict[str, dict]) -> None:
    """None is missing; what came twice has the same id and is the same list."""
    for found in lists(broker, name):
        assert found == decisions[found["recommendation_id"]]
    assert read(broker.bootstrap, f"{name}-dead_letters") == []
