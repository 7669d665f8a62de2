"""Write records to the broker, read them back, run jobs as a user would: as processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, Message, Producer, TopicPartition

from operators.kafka import MAX_RECORD_BYTES

ROOT = Path(__file__).resolve().parent.parent
Headers = list[tuple[str, bytes | None]]


@dataclass(frozen=True)
class Record:
    """One Kafka record, as it is sent or was received."""

    value: bytes | None
    key: bytes | None = None
    headers: Headers = field(default_factory=list)
    partition: int = -1
    offset: int = -1


def send(bootstrap: str, topic: str, records: Iterable[Record]) -> list[Record]:
    """Send in order and wait; returns the records with their partitions and offsets."""
    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "enable.idempotence": True,
            "message.max.bytes": MAX_RECORD_BYTES,
            "compression.type": "lz4",
        }
    )
    sent: list[Record] = []

    def delivered(record: Record) -> Callable[[Any, Message], None]:
        def note(error: Any, message: Message) -> None:
            assert error is None, error
            place = (message.partition(), message.offset())
            sent.append(Record(record.value, record.key, record.headers, *place))  # type: ignore

        return note

    for record in records:
        producer.produce(
            topic, record.value, record.key, headers=record.headers, on_delivery=delivered(record)
        )
        producer.poll(0)
    producer.flush()
    return sent


def read(bootstrap: str, topic: str) -> list[Record]:
    """Every record of the topic up to its present end, partition by partition."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "tests",
            "enable.auto.commit": False,
            "fetch.message.max.bytes": MAX_RECORD_BYTES,
            "receive.message.max.bytes": 10 * MAX_RECORD_BYTES,
        }
    )
    records: list[Record] = []
    try:
        for number in sorted(consumer.list_topics(topic).topics[topic].partitions):
            _, end = consumer.get_watermark_offsets(TopicPartition(topic, number))
            consumer.assign([TopicPartition(topic, number, 0)])
            place = -1
            while place + 1 < end:
                message = consumer.poll(10)
                assert message is not None, f"{topic}:{number} ended at {place}, not {end - 1}"
                assert not message.error(), message.error()
                place = int(message.offset() or 0)
                records.append(
                    Record(
                        message.value(),  # type: ignore[arg-type]
                        message.key(),  # type: ignore[arg-type]
                        list(message.headers() or []),  # type: ignore[arg-type]
                        number,
                        place,
                    )
                )
    finally:
        consumer.close()
    return records


def job(name: str, *settings: str) -> list[str]:
    """The command line of a job with `key=value` settings."""
    sets = [word for setting in settings for word in ("--set", setting)]
    return [sys.executable, "-m", "jobs", name, *sets]


def environment(state: Path) -> dict[str, str]:
    """The environment of a job process that keeps its state and logs in `state`."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("STREAMREC_", "FLINK_"))}
    return kept | {"XDG_STATE_HOME": str(state)}


def run_to_end(state: Path, name: str, *settings: str) -> str:
    """Run a bounded job; returns what it wrote to the screen, fails with it otherwise."""
    done = subprocess.run(
        job(name, "kafka.bounded=true", "kafka.start=earliest", *settings),
        cwd=ROOT,
        env=environment(state),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stderr


@contextmanager
def running(state: Path, name: str, *settings: str) -> Iterator[subprocess.Popen[str]]:
    """A streaming job as a process; it is stopped with SIGTERM, as an operator would."""
    log = (state / f"{name}.out").open("w")
    process = subprocess.Popen(
        job(name, *settings), cwd=ROOT, env=environment(state), stderr=log, text=True
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(60)
        finally:
            log.close()


def wait_for(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait until the condition holds; fails saying what was waited for."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:g} s for {what}"
        time.sleep(0.5)
