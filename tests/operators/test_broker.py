import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient

from operators.broker import Broker, BrokerError
from tests.kafka import wait_for

PARENT = """
import signal, sys
from operators.broker import Broker
signal.signal(signal.SIGINT, signal.default_int_handler)  # also below a shell that ignores it
broker = Broker().start()
print(broker.pid, broker.directory, flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    with Broker() as running:
        yield running


def send(broker: Broker, topic: str, value: bytes) -> None:
    producer = Producer({"bootstrap.servers": broker.bootstrap, "message.max.bytes": 16_000_000})
    refused: list[object] = []
    producer.produce(topic, value, on_delivery=lambda error, _: refused.append(error))
    assert producer.flush(30) == 0
    assert refused == [None]


def receive(broker: Broker, topic: str) -> bytes:
    settings = {"group.id": f"test-{topic}", "auto.offset.reset": "earliest", "log_level": 0}
    consumer = Consumer({"bootstrap.servers": broker.bootstrap, **settings})
    consumer.subscribe([topic])
    try:
        message = consumer.poll(30)
        assert message is not None
        assert message.error() is None
        return message.value()
    finally:
        consumer.close()


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def listening_addresses(pid: int) -> set[str]:
    """The addresses, as /proc writes them, on which a process accepts connections."""
    opened = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed since it was listed
            opened.add(str(link.readlink()))
    tables = [Path(f"/proc/{pid}/net/{name}") for name in ("tcp", "tcp6")]
    rows = [row.split() for table in tables if table.exists() for row in table.open()][1:]
    listening = [row for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in opened]
    return {row[1].split(":")[0] for row in listening}


def test_a_message_far_above_a_mebibyte_goes_through_unchanged(broker: Broker) -> None:
    broker.create_topics({"large": 1})
    value = os.urandom(8_000_000)
    send(broker, "large", value)
    assert receive(broker, "large") == value


def test_topics_are_created_once_with_their_partitions(broker: Broker) -> None:
    broker.create_topics({"user-events": 4, "feedback": 1})
    broker.create_topics({"user-events": 4})
    topics = AdminClient({"bootstrap.servers": broker.bootstrap}).list_topics(timeout=10).topics
    assert {name: len(topics[name].partitions) for name in ("user-events", "feedback")} == {
        "user-events": 4,
        "feedback": 1,
    }


def test_the_broker_listens_on_the_loopback_address_alone(broker: Broker) -> None:
    assert broker.pid is not None
    loopback = {"0100007F", "0000000000000000FFFF00000100007F"}
    addresses = listening_addresses(broker.pid)
    assert addresses
    assert addresses <= loopback


def test_what_was_acknowledged_survives_a_kill_and_a_restart(tmp_path: Path) -> None:
    with Broker(directory=tmp_path / "broker") as broker:
        broker.create_topics({"events": 1})
        send(broker, "events", b"before the kill")
        first, address = broker.pid, broker.bootstrap
        assert first is not None
        broker.kill()
        assert broker.pid is None
        assert not is_alive(first)
        broker.start()
        assert broker.bootstrap == address
        assert receive(broker, "events") == b"before the kill"
    assert (tmp_path / "broker" / "data").is_dir()


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_broker_and_its_folder_are_gone_when_its_parent_is(signum: signal.Signals) -> None:
    command = [sys.executable, "-c", PARENT]
    parent = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    with parent:
        assert parent.stdout is not None
        pid, directory = parent.stdout.readline().split()
        assert is_alive(int(pid))
        parent.send_signal(signum)
        parent.wait(60)
        wait_for(lambda: not is_alive(int(pid)), 60, "the broker's end")
        wait_for(lambda: not Path(directory).exists(), 60, "the folder to be removed")


def test_the_folder_of_a_closed_broker_is_removed() -> None:
    with Broker() as broker:
        directory, pid = broker.directory, broker.pid
    assert pid is not None
    assert not is_alive(pid)
    assert not directory.exists()


def test_a_taken_port_is_refused_with_what_to_do() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(BrokerError, match=rf"port {port} of 127.0.0.1 cannot be used"):
            Broker(port).__enter__()


def test_a_broker_that_ends_while_starting_says_why(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "meta.properties").write_text("version=1\ncluster.id=another\nnode.id=7\n")
    broker = Broker(directory=tmp_path)
    with pytest.raises(BrokerError, match=r"(?s)ended while starting.*node.id"):
        broker.start()
    assert broker.pid is None
