"""From event to list in milliseconds at a steady rate, beside the identity job in plain SQL.

Open loop: events are due at fixed times whatever comes back, and an event's latency is counted
from when it was due to when its list was read, by native clients in processes of their own. Both
jobs are warm and take turns, a dozen seconds each; each figure is the median of the rounds.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
from traffic import (
    SEED,
    count,
    job,
    machine,
    process,
    reader_from_now,
    say,
    send_on_time,
    wait_until,
)

from models.loading import load_bundle
from models.synthetic import write_synthetic_bundle
from operators.broker import Broker

JOBS = ("recommend", "identity")
SEED_OF_ROUND = 1_000
SETTLE_SECONDS = 3  # of each turn; not counted: the other job had the caches in between


@click.command()
@click.option("--rate", default=1_000, show_default=True, help="events a second")
@click.option("--seconds", default=60, show_default=True, help="measured seconds of each job")
@click.option("--warm-up", default=30, show_default=True, help="seconds of traffic before")
@click.option("--rounds", default=5, show_default=True, help="turns of each; the median counts")
@click.option("--items", default=50_000, show_default=True, help="items of the index")
@click.option("--profile", default="latency", show_default=True, help="of the recommend job")
def latency(rate: int, seconds: int, warm_up: int, rounds: int, items: int, profile: str) -> None:
    """Milliseconds from event to list at 1,000 events/s, beside an identity job (ratio_p99)."""
    os.environ["KAFKA_JVM_PERFORMANCE_OPTS"] = "-XX:+UseSerialGC"  # a broker that runs for long
    with tempfile.TemporaryDirectory(prefix="streamrec-bench-") as name, Broker() as broker:
        folder = Path(name)
        say(f"writing a bundle of {items:,} items")
        bundle = write_synthetic_bundle(folder / "bundle", items=items, seed=SEED)
        ids = load_bundle(bundle).catalogue.item_ids
        for kind in JOBS:
            topics = (f"{kind}-in", f"{kind}-out", f"{kind}-dead")
            broker.create_topics(dict.fromkeys(topics, 4))
        with (
            process(folder, "recommend", *_recommend(broker, bundle, profile)),
            process(
                folder,
                "identity",
                str(Path(__file__).parent / "identity.py"),
                broker.bootstrap,
                "identity-in",
                "identity-out",
                str(folder / "state"),
            ),
        ):
            for kind in JOBS:
                _warm(broker, kind, ids, rate, warm_up)
            turns: dict[str, list[np.ndarray]] = {kind: [] for kind in JOBS}
            for turn in range(rounds):
                for kind in JOBS:
                    seed = SEED_OF_ROUND + turn
                    measured = _measure(broker, kind, ids, rate, seconds // rounds, seed)
                    turns[kind].append(measured)
                    p50, p99 = np.percentile(measured, [50, 99])
                    say(f"round {turn + 1}: {kind} p50 {p50:.1f} ms, p99 {p99:.1f} ms")
    click.echo(json.dumps(_figures(turns, rate, seconds, items, profile)))


def _recommend(broker: Broker, bundle: Path, profile: str) -> list[str]:
    return job(
        "recommend",
        f"kafka.bootstrap={broker.bootstrap}",
        "kafka.group=bench",
        f"engine.profile={profile}",
        f"bundle={bundle}",
        "events_topic=recommend-in",
        "recommendations_topic=recommend-out",
        "dead_letters_topic=recommend-dead",
    )


def _warm(broker: Broker, kind: str, items: list[str], rate: int, seconds: int) -> None:
    """Wait for the job's first answer, then drive it at the rate until its code is compiled."""
    say(f"warming {kind}")
    before = count(broker.bootstrap, f"{kind}-out")
    send_on_time(broker.bootstrap, f"{kind}-in", items, 10, 10, 1)
    wait_until(lambda: count(broker.bootstrap, f"{kind}-out") == before + 10, 120, f"{kind}")
    _measure(broker, kind, items, rate, seconds, 2)


def _measure(
    broker: Broker, kind: str, items: list[str], rate: int, seconds: int, seed: int
) -> np.ndarray:
    """Latencies in ms, [rate * seconds], after the turn settled.

    Ends the benchmark when a list does not come.
    """
    context = multiprocessing.get_context("fork")
    results: Any = context.Queue()
    ready = context.Event()
    settle = SETTLE_SECONDS * rate
    total = rate * seconds + settle
    reader = context.Process(
        target=_read, args=(broker.bootstrap, f"{kind}-out", f"e{seed}-", total, ready, results)
    )
    reader.start()
    ready.wait(30)
    due = send_on_time(broker.bootstrap, f"{kind}-in", items, rate, total, seed)
    seen: dict[int, float] = results.get(timeout=120)
    reader.join()
    if len(seen) != total:
        raise click.ClickException(f"{kind}: expected {total} answers; got {len(seen)}")
    return np.array([(seen[number] - due[number]) * 1000 for number in range(settle, total)])


def _read(bootstrap: str, topic: str, prefix: str, total: int, ready: Any, results: Any) -> None:
    """Note when the answer to each event is read: event number → seconds."""
    consumer = reader_from_now(bootstrap, topic)
    ready.set()
    mark = prefix.encode()
    seen: dict[int, float] = {}
    quiet = time.time()
    while len(seen) < total and time.time() - quiet < 30:
        for message in consumer.consume(500, 0.005):
            quiet = time.time()
            value = message.value() or b""
            at = value.find(mark)
            if at >= 0:
                seen[int(value[at + len(mark) : at + len(mark) + 9])] = quiet
    consumer.close()
    results.put(seen)


def _figures(
    turns: dict[str, list[np.ndarray]], rate: int, seconds: int, items: int, profile: str
) -> dict[str, Any]:
    quantiles = {
        kind: np.array([np.percentile(turn, [50, 95, 99]) for turn in measured])
        for kind, measured in turns.items()
    }
    own, identity = (np.median(quantiles[kind], axis=0).round(2).tolist() for kind in JOBS)
    ratios = (quantiles["recommend"][:, 2] / quantiles["identity"][:, 2]).tolist()
    return {
        "p50_ms": own[0],
        "p95_ms": own[1],
        "p99_ms": own[2],
        "identity_p50_ms": identity[0],
        "identity_p95_ms": identity[1],
        "identity_p99_ms": identity[2],
        "ratio_p99": round(statistics.median(ratios), 2),
        "max_ms": round(max(float(turn.max()) for turn in turns["recommend"]), 1),
        "lists_lost": 0,  # a lost one ends the benchmark
        "rounds": {kind: table.round(2).tolist() for kind, table in quantiles.items()},
        "rate": rate,
        "seconds": seconds,
        "items": items,
        "profile": profile,
        "machine": machine(),
    }
