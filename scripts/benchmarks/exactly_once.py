"""Lists a second with exactly-once delivery, beside those at least once.

The job reads the same preloaded events to the end on 2 slots (profile throughput), once with each
delivery in turn. Timed are the lists after the first quarter, when the JVM is warm, by when they
were written; a reader of what is committed must find each of them once.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np
from throughput import COLD, answer_all, delete, preload
from traffic import SEED, machine, say

from models.event_range import messages
from models.loading import load_bundle
from models.synthetic import write_synthetic_bundle
from operators.broker import Broker

DELIVERIES = ("exactly-once", "at-least-once")


@click.command()
@click.option("--events", "total", default=1_000_000, show_default=True, help="preloaded events")
@click.option("--items", default=50_000, show_default=True, help="items of the index")
@click.option("--runs", default=5, show_default=True, help="parts of the events; the median counts")
@click.option("--interval", default=10.0, show_default=True, help="seconds between checkpoints")
def exactly_once(total: int, items: int, runs: int, interval: float) -> None:
    """Lists a second exactly once, beside at least once (ratio)."""
    os.environ["KAFKA_JVM_PERFORMANCE_OPTS"] = "-XX:+UseSerialGC"  # a broker that runs for long
    rates: dict[str, list[float]] = {delivery: [] for delivery in DELIVERIES}
    with tempfile.TemporaryDirectory(prefix="streamrec-bench-") as name, Broker() as broker:
        folder, part = Path(name), total // runs
        path = write_synthetic_bundle(folder / "bundle", items=items, seed=SEED)
        catalogue = load_bundle(path).catalogue.item_ids
        for run in range(runs):
            source = f"events-{run}"
            preload(broker, source, catalogue, part)
            # Whichever comes second finds a warmer machine: they take turns at that too.
            for delivery in DELIVERIES[:: 1 if run % 2 else -1]:
                topic = f"{source}-{delivery}"
                how = (f"delivery={delivery}", f"engine.checkpoint_interval_s={interval}")
                answer_all(broker, folder, path, source, topic, *how)
                rates[delivery].append(_rate(broker, topic, part))
                say(f"run {run + 1}: {delivery} {rates[delivery][-1]:,.0f} lists/s")
                delete(broker, topic)
            delete(broker, source)
    exactly, least = (rates[delivery] for delivery in DELIVERIES)
    figures = {
        "eos_per_s": round(statistics.median(exactly)),
        "alo_per_s": round(statistics.median(least)),
        "ratio": round(statistics.median(a / b for a, b in zip(exactly, least, strict=True)), 3),
        "lists_lost": 0,  # a run that loses or doubles one ends the benchmark
        "runs": [[round(a), round(b)] for a, b in zip(exactly, least, strict=True)],
        "events": total,
        "items": items,
        "checkpoint_interval_s": interval,
        "slots": 2,
        "machine": machine(),
    }
    click.echo(json.dumps(figures))


def _rate(broker: Broker, topic: str, total: int) -> float:
    """Lists a second of a topic that was written in one go, when warm; each must be there once."""
    times, ids = _committed(broker.bootstrap, topic)
    if not len(times) == len(ids) == total:
        raise click.ClickException(
            f"expected {total} lists in {topic}; got {len(times)}, {len(ids)} of them different"
        )
    times.sort()
    warm = int(COLD * total)
    return float((total - warm) / ((times[-1] - times[warm]) / 1000))


def _committed(bootstrap: str, topic: str) -> tuple[np.ndarray, set[Any]]:
    """Broker's timestamps, ms, and identities of all that a read_committed reader finds."""
    times, ids = [], set()
    for message in messages({"bootstrap.servers": bootstrap}, topic, "earliest", "latest"):
        times.append(message.timestamp()[1])
        ids.add(dict(message.headers() or [])["ce_id"])
    return np.array(times, np.int64), ids
