"""What the benchmarks share: the machine, the events, the jobs they measure."""

from __future__ import annotations

import os
import platform
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import click
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

ROOT = Path(__file__).resolve().parent.parent.parent
USERS = 20_000
SEED = 20260101


def say(sentence: str) -> None:
    """Progress, on stderr."""
    click.echo(f"bench: {sentence}", err=True)


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    model = next((line.split(":", 1)[1].strip() for line in lines if "model name" in line), "")
    return {"cpu": model, "cores": os.cpu_count(), "python": platform.python_version()}


def events(count: int, items: list[str], seed: int = SEED) -> Iterator[tuple[str, str, str]]:
    """(event id, user, item) of random shoppers; ids are unique for a seed."""
    draw = random.Random(seed)
    for number in range(count):
        yield f"e{seed}-{number:09d}", f"user-{draw.randrange(USERS)}", draw.choice(items)


def event_json(event_id: str, user: str, item: str, time_ms: int) -> bytes:
    """One event of about 150 bytes, as a shop would send it."""
    return (
        f'{{"event_id":"{event_id}","event_type":"view_item","event_time":{time_ms},'
        f'"user_id":"{user}","items":[{{"item_id":"{item}","price":9.99}}]}}'
    ).encode()


def send_on_time(
    bootstrap: str, topic: str, items: list[str], rate: int, total: int, seed: int
) -> list[float]:
    """Send each event when it is due; returns those times, seconds of the machine's clock."""
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 0, "acks": 1})
    traffic = list(events(total, items, seed))
    begin = time.time() + 0.2
    due = [begin + number / rate for number in range(total)]
    for moment, (event_id, user, item) in zip(due, traffic, strict=True):
        producer.poll(0)
        time.sleep(max(moment - time.time(), 0))  # no spinning: the cores are the jobs' too
        producer.produce(topic, event_json(event_id, user, item, int(moment * 1000)), user.encode())
    producer.flush()
    return due


def reader_from_now(bootstrap: str, topic: str) -> Consumer:
    """A consumer of what is written to the topic from now on; it is ready when this returns."""
    consumer = Consumer(
        {"bootstrap.servers": bootstrap, "group.id": "bench", "fetch.wait.max.ms": 10}
    )
    places = [
        TopicPartition(topic, number)
        for number in consumer.list_topics(topic, 10).topics[topic].partitions
    ]
    for place in places:
        place.offset = _offsets(consumer, place)[1]
    consumer.assign(places)
    consumer.poll(0.5)
    return consumer


@contextmanager
def process(folder: Path, name: str, *command: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a Python command of the project beside the benchmark; SIGTERM at the end."""
    environment = os.environ | {"XDG_STATE_HOME": str(folder / name), "PYTHONPATH": str(ROOT)}
    with (folder / f"{name}.out").open("wb") as output:
        child = subprocess.Popen(
            [sys.executable, *command], cwd=ROOT, env=environment, stdout=output, stderr=output
        )
        try:
            yield child
        finally:
            child.terminate()
            child.wait(60)


def job(name: str, *settings: str) -> list[str]:
    """The arguments that run a job with `key=value` settings."""
    return ["-m", "jobs", name, *(word for text in settings for word in ("--set", text))]


def count(bootstrap: str, topic: str) -> int:
    """How many records the topic holds."""
    return sum(high - low for low, high in _ends(bootstrap, topic))


def rate_when_warm(bootstrap: str, topic: str, cold: float) -> float:
    """Records a second of a topic that was written in one go, without the first, `cold`, share."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "bench"})
    ends = {number: end for number, end in enumerate(_ends(bootstrap, topic)) if end[1] > end[0]}
    last = max(_written_at(consumer, topic, n, high - 1) for n, (_, high) in ends.items())
    warm = max(
        _written_at(consumer, topic, n, low + int(cold * (high - low)))
        for n, (low, high) in ends.items()
    )
    since = consumer.offsets_for_times([TopicPartition(topic, n, warm) for n in ends], 10)
    consumer.close()
    written = sum(ends[p.partition][1] - p.offset for p in since if p.offset >= 0)
    return written / ((last - warm) / 1000)


def _written_at(consumer: Consumer, topic: str, partition: int, offset: int) -> int:
    """The broker's timestamp of a record, ms."""
    consumer.assign([TopicPartition(topic, partition, offset)])
    message = consumer.poll(10)
    if message is None or message.error():
        raise click.ClickException(f"{topic}:{partition}:{offset} could not be read")
    return message.timestamp()[1]


def _ends(bootstrap: str, topic: str) -> list[tuple[int, int]]:
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "bench"})
    try:
        partitions = sorted(consumer.list_topics(topic, 10).topics[topic].partitions)
        return [_offsets(consumer, TopicPartition(topic, number)) for number in partitions]
    finally:
        consumer.close()


def _offsets(consumer: Consumer, partition: TopicPartition) -> tuple[int, int]:
    for _ in range(20):  # a new partition may have no leader yet
        with suppress(KafkaException):
            low, high = consumer.get_watermark_offsets(partition, 10)
            return low, high
        time.sleep(0.5)
    raise click.ClickException(f"expected the offsets of {partition}; the broker gives none")


def wait_until(condition: Any, seconds: float, what: str) -> None:
    """Wait for the condition; ends the benchmark with `what` when it does not come."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise click.ClickException(f"waited {seconds:g} s for {what}")
        time.sleep(0.5)
