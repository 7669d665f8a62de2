import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient

from operators.ports import free_port
from tests.kafka import wait_for

PROGRAM = Path(__file__).resolve().parents[2] / "scripts" / "brokerctl.py"


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text() != ""  # it is empty for a zombie
    except FileNotFoundError:
        return False


class Service:
    """The program, told to use one folder."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def __call__(self, verb: str, *options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, PROGRAM, verb, "--dir", self.directory, *options]
        return subprocess.run(command, capture_output=True, text=True, timeout=120)

    def ask(self, verb: str, *options: str) -> tuple[int, dict[str, Any]]:
        done = self(verb, "--json", *options)
        return done.returncode, json.loads(done.stdout)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    broker = Service(tmp_path / "broker")
    yield broker
    broker("stop")


def test_the_broker_outlives_its_starter_and_ends_when_told(service: Service) -> None:
    port = str(free_port())
    code, started = service.ask("start", "--port", port, "--topic", "user-events:4")
    assert (code, started["running"]) == (0, True)
    assert started["bootstrap"] == f"127.0.0.1:{port}"
    assert service.ask("status") == (0, started)
    topics = AdminClient({"bootstrap.servers": started["bootstrap"]}).list_topics(timeout=10).topics
    assert len(topics["user-events"].partitions) == 4

    assert service.ask("start", "--port", port) == (0, started)
    other = service("start", "--port", str(free_port()))
    assert other.returncode == 1
    assert "already" in other.stderr
    elsewhere = Service(service.directory.with_name("other"))("start", "--port", port)
    assert elsewhere.returncode == 1
    assert f"port {port} of 127.0.0.1 cannot be used" in elsewhere.stderr

    assert service.ask("stop") == (0, {"running": False})
    assert service.ask("status") == (3, {"running": False})
    assert not is_alive(started["pid"])


def test_a_broker_that_was_killed_is_not_said_to_run(service: Service) -> None:
    _, started = service.ask("start", "--port", str(free_port()))
    os.kill(started["pid"], signal.SIGKILL)
    wait_for(lambda: not is_alive(started["pid"]), 60, "the broker's end")
    assert service.ask("status") == (3, {"running": False})


def test_a_wrong_topic_is_refused_before_anything_starts(service: Service) -> None:
    done = service("start", "--topic", "user-events:four")
    assert done.returncode == 2
    assert "expected NAME or NAME:PARTITIONS; got user-events:four" in done.stderr
    assert service.ask("status") == (3, {"running": False})
