"""Lists a second from Kafka to Kafka, beside the same function in a plain loop.

The job reads its part of the preloaded events to the end on 2 slots (profile throughput). The loop
answers, ready-made, the windows that these events make, in two processes, in the same batches, and
writes the same JSON; decoding, windows and Kafka are none of its work. Both are timed on the events
after the first quarter, when the JVM is warm: windows grow with time, and with them the work. They
take turns; each figure is the median of the runs.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections import defaultdict, deque
from pathlib import Path

import click
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from traffic import SEED, count, event_json, events, job, machine, process, rate_when_warm, say

from models.bundle import Bundle
from models.loading import load_bundle
from models.recommender import Recommender, Settings
from models.synthetic import write_synthetic_bundle
from operators.broker import Broker
from udfs.events import decode, to_text
from udfs.recommend import Answering, Rules

BATCH = 1000  # rows of an Arrow batch in the throughput profile
WINDOW, GAP_MS, KEPT_MS, SPAN_MS = 20, 1_800_000, 86_400_000, 3_600_000
COLD = 0.25  # of the events, which the job's JVM takes to compile its code
LOOP_EVENTS = 100_000  # evenly spaced among the others: enough for a steady rate


@click.command()
@click.option("--events", "total", default=1_000_000, show_default=True, help="preloaded events")
@click.option("--items", default=50_000, show_default=True, help="items of the index")
@click.option("--runs", default=5, show_default=True, help="parts of the events; the median counts")
def throughput(total: int, items: int, runs: int) -> None:
    """Lists a second of the recommend job, beside a plain loop (ratio)."""
    os.environ["KAFKA_JVM_PERFORMANCE_OPTS"] = "-XX:+UseSerialGC"  # a broker that runs for long
    with tempfile.TemporaryDirectory(prefix="streamrec-bench-") as name, Broker() as broker:
        folder = Path(name)
        say(f"writing a bundle of {items:,} items")
        path = write_synthetic_bundle(folder / "bundle", items=items, seed=SEED)
        bundle = load_bundle(path)
        say(f"sending {total:,} events")
        part = total // runs
        topics = [f"events-{run}" for run in range(1, runs + 1)]
        sizes = [preload(broker, topic, bundle.catalogue.item_ids, part) for topic in topics]
        texts = _windows(bundle, part)
        jobs, loops = [], []
        for run, topic in enumerate(topics, 1):
            loops.append(_loop(path, texts))
            jobs.append(_job(broker, folder, path, topic, part))
            say(f"run {run}: job {jobs[-1]:,.0f} lists/s, loop {loops[-1]:,.0f}")
    lists_per_s, loop_lists_per_s = statistics.median(jobs), statistics.median(loops)
    figures = {
        "lists_per_s": round(lists_per_s),
        "loop_lists_per_s": round(loop_lists_per_s),
        "ratio": round(statistics.median(a / b for a, b in zip(jobs, loops, strict=True)), 3),
        "lists_lost": 0,  # a run that loses one ends the benchmark
        "runs": [[round(a), round(b)] for a, b in zip(jobs, loops, strict=True)],
        "events": total,
        "items": items,
        "bytes_an_event": sizes[0],
        "slots": 2,
        "machine": machine(),
    }
    click.echo(json.dumps(figures))


def preload(broker: Broker, topic: str, items: list[str], total: int) -> int:
    """Send the events to the topic; returns the bytes of one, on average."""
    broker.create_topics({topic: 4})
    producer = Producer(
        {
            "bootstrap.servers": broker.bootstrap,
            "linger.ms": 50,
            "compression.type": "lz4",
            "queue.buffering.max.messages": 200_000,
        }
    )
    start = int(time.time() * 1000) - SPAN_MS
    size = 0
    for number, (event_id, user, item) in enumerate(events(total, items)):
        value = event_json(event_id, user, item, _time_of(number, total, start))
        size += len(value)
        while True:
            try:
                producer.produce(topic, value, user.encode())
                break
            except BufferError:
                producer.poll(0.1)
        producer.poll(0)
    producer.flush()
    return size // total


def _windows(bundle: Bundle, total: int) -> tuple[list[str], list[str]]:
    """Users and windows of the preloaded events on which the job is timed, or of some of them."""
    last: dict[str, deque[str]] = defaultdict(lambda: deque(maxlen=WINDOW))
    users, texts = [], []
    cold = int(COLD * total)
    step = max((total - cold) // LOOP_EVENTS, 1)
    now = int(time.time() * 1000)
    for number, event in enumerate(events(total, bundle.catalogue.item_ids)):
        at = _time_of(number, total, now - SPAN_MS)
        user, decoded = decode(event_json(*event, at), now)
        last[user].append(to_text(decoded))
        if number >= cold and (number - cold) % step == 0:
            users.append(user)
            texts.append(",".join(last[user]))
    return users, texts


def _time_of(number: int, total: int, start_ms: int) -> int:
    """The events are evenly spread over an hour."""
    return start_ms + number * SPAN_MS // total


def _loop(path: Path, windows: tuple[list[str], list[str]]) -> float:
    """Lists a second of two processes; both are warm before the clock starts."""
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(2), context.Queue()
    half = len(windows[0]) // 2
    halves = [slice(0, half), slice(half, 2 * half)]
    workers = [
        context.Process(
            target=_answer, args=(path, windows[0][part], windows[1][part], barrier, results)
        )
        for part in halves
    ]
    for worker in workers:
        worker.start()
    spans = [results.get() for _ in workers]
    for worker in workers:
        worker.join()
    return 2 * half / (max(end for _, end in spans) - min(begin for begin, _ in spans))


def _answer(path, users, texts, barrier, results) -> None:  # type: ignore[no-untyped-def]
    recommender = Recommender(load_bundle(path), Settings())
    answering = Answering(lambda _: recommender, Rules(("view_item",), GAP_MS, KEPT_MS))
    answering.answer(users[:BATCH], texts[:BATCH])
    barrier.wait()
    begin, written = time.perf_counter(), 0
    for at in range(0, len(users), BATCH):
        answers, _ = answering.answer(users[at : at + BATCH], texts[at : at + BATCH])
        written += sum(len(answer.value) for answer in answers if answer is not None)
    results.put((begin, time.perf_counter()))


def _job(broker: Broker, folder: Path, bundle: Path, source: str, total: int) -> float:
    topic = f"lists-of-{source}"
    answer_all(broker, folder, bundle, source, topic)
    lists = count(broker.bootstrap, topic)
    if lists != total:
        raise click.ClickException(f"expected {total} lists; got {lists}")
    rate = rate_when_warm(broker.bootstrap, topic, COLD)
    delete(broker, topic)
    return rate


def answer_all(
    broker: Broker, folder: Path, bundle: Path, source: str, topic: str, *more: str
) -> None:
    """Run the recommend job over the events of `source` to their end; its lists go to `topic`."""
    settings = (
        f"kafka.bootstrap={broker.bootstrap}",
        f"kafka.group=bench-{topic}",
        "kafka.start=earliest",
        "kafka.bounded=true",
        "kafka.create_topics=true",
        "engine.profile=throughput",
        "engine.parallelism=2",
        f"bundle={bundle}",
        f"events_topic={source}",
        f"recommendations_topic={topic}",
        *more,
    )
    with process(folder, topic, *job("recommend", *settings)) as child:
        if child.wait(1800):
            raise click.ClickException((folder / f"{topic}.out").read_text("utf-8")[-3000:])


def delete(broker: Broker, topic: str) -> None:
    """Give back the space that a topic takes."""
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    admin.delete_topics([topic])[topic].result()
