"""Latency at a steady rate while bundles are swapped under the running job: three, and one back.

Open loop as in `latency`. Before each decision there are some seconds of steady traffic; as many,
counted from the moment the publisher begins, are what a swap costs: copying, verifying, loading
beside the answers, switching. The publisher, which is not what is measured, takes only the time of
the cores that nobody else wants.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import tempfile
import time
from collections import Counter
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

from models.history import Decision
from models.loading import load_bundle
from models.registry import Registry
from models.synthetic import write_synthetic_bundle
from operators.broker import Broker

SWAPS = 3  # and one rollback
POLL_S = 1.0
LEAD_MS = 3_000  # from a decision until it acts: a look at the registry, and loading
_ID, _VERSION = b'"trigger_event_id":"', b'"bundle_version":"'
_TRAFFIC = 7  # seed


@click.command()
@click.option("--rate", default=1_000, show_default=True, help="events a second")
@click.option("--seconds", default=10, show_default=True, help="steady, and as many of each swap")
@click.option("--warm-up", default=30, show_default=True, help="seconds of traffic before")
@click.option("--items", default=50_000, show_default=True, help="items of the index")
@click.option("--profile", default="latency", show_default=True, help="of the recommend job")
def swap(rate: int, seconds: int, warm_up: int, items: int, profile: str) -> None:
    """p99 while bundles are swapped under load against steady traffic (ratio); lists lost."""
    os.environ["KAFKA_JVM_PERFORMANCE_OPTS"] = "-XX:+UseSerialGC"  # a broker that runs for long
    with tempfile.TemporaryDirectory(prefix="streamrec-bench-") as name, Broker() as broker:
        folder = Path(name)
        say(f"writing {SWAPS + 1} bundles of {items:,} items")
        bundles = [
            write_synthetic_bundle(folder / f"bundle-{n}", items=items, seed=SEED + n)
            for n in range(SWAPS + 1)
        ]
        ids = load_bundle(bundles[0]).catalogue.item_ids
        broker.create_topics(dict.fromkeys(("in", "out", "dead"), 4))
        with process(folder, "recommend", *_recommend(broker, bundles[0], folder, profile)):
            say("warming")
            send_on_time(broker.bootstrap, "in", ids, 10, 10, 1)
            wait_until(lambda: count(broker.bootstrap, "out") == 10, 120, "the first lists")
            send_on_time(broker.bootstrap, "in", ids, rate, rate * warm_up, 2)
            say("measuring")
            due, lists, swaps = _measure(broker, folder, bundles, ids, rate, seconds)
    told = {"rate": rate, "seconds": seconds, "items": items, "profile": profile}
    click.echo(json.dumps({**_figures(due, lists, swaps, seconds), **told, "machine": machine()}))


def _recommend(broker: Broker, bundle: Path, folder: Path, profile: str) -> list[str]:
    return job(
        "recommend",
        f"kafka.bootstrap={broker.bootstrap}",
        "kafka.group=bench",
        f"engine.profile={profile}",
        f"bundle={bundle}",
        f"registry={folder / 'registry'}",
        f"poll_s={POLL_S}",
        "events_topic=in",
        "recommendations_topic=out",
        "dead_letters_topic=dead",
    )


def _measure(
    broker: Broker, folder: Path, bundles: list[Path], ids: list[str], rate: int, seconds: int
) -> tuple[list[float], list[tuple[int, str, float]], list[tuple[float, Decision]]]:
    """When events were due; (event, version, when read) of lists; (begun, decision) of swaps."""
    context = multiprocessing.get_context("fork")
    lists, swaps = context.Queue(), context.Queue()
    ready = context.Event()
    total = rate * seconds * 2 * (SWAPS + 1)
    reader = context.Process(target=_read, args=(broker.bootstrap, total, ready, lists))
    publisher = context.Process(target=_publish, args=(folder, bundles[1:], seconds, ready, swaps))
    reader.start()
    publisher.start()
    ready.wait(30)
    due = send_on_time(broker.bootstrap, "in", ids, rate, total, _TRAFFIC)
    answers = (lists.get(timeout=120), swaps.get(timeout=120))
    reader.join()
    publisher.join()
    return due, *answers


def _publish(folder: Path, bundles: list[Path], seconds: int, ready: Any, swaps: Any) -> None:
    """Publish and promote each bundle in its turn, and take the last one back."""
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))  # as if on another machine
    registry, done = Registry(folder / "registry"), []
    ready.wait(30)
    begin = time.time()
    for turn, bundle in enumerate([*bundles, None]):
        time.sleep(max(begin + (2 * turn + 1) * seconds - time.time(), 0))
        started = time.time()
        version = registry.publish(bundle).bundle_version if bundle else None
        active_from = int(time.time() * 1000) + LEAD_MS
        decision = (
            registry.promote(version, active_from) if version else registry.rollback(active_from)
        )
        done.append((started, decision))
    swaps.put(done)


def _read(bootstrap: str, total: int, ready: Any, results: Any) -> None:
    """Note of each list the number of its event, its bundle, and when it was read."""
    consumer = reader_from_now(bootstrap, "out")
    ready.set()
    lists: list[tuple[int, str, float]] = []
    seen, quiet = 0, time.time()
    while time.time() - quiet < (30 if seen < total else 3):  # after the last one: doubles
        for message in consumer.consume(500, 0.005):
            now, value = time.time(), message.value() or b""
            prefix, _, number = _text(value, _ID).partition("-")
            if prefix == f"e{_TRAFFIC}":
                lists.append((int(number), _text(value, _VERSION), now))
                seen, quiet = seen + 1, now
    consumer.close()
    results.put(lists)


def _text(value: bytes, key: bytes) -> str:
    """The text that follows a key of a message."""
    return value.partition(key)[2].partition(b'"')[0].decode()


def _figures(
    due: list[float],
    lists: list[tuple[int, str, float]],
    swaps: list[tuple[float, Decision]],
    seconds: int,
) -> dict[str, Any]:
    at = np.array(due)
    times = Counter(number for number, _, _ in lists)
    took = np.full(len(due), np.nan)
    for number, _, read in reversed(lists):  # the first one counts
        took[number] = 1000 * (read - due[number])
    steady, during, first_use = [], [], []
    for begun, decision in swaps:
        steady.append(took[(at >= begun - seconds) & (at < begun)])
        during.append(took[(at >= begun) & (at < begun + seconds)])
        used = [
            read
            for number, version, read in lists
            if version == decision.bundle_version and due[number] >= begun
        ]
        if not used:
            raise click.ClickException(f"expected lists by {decision.bundle_version}; got none")
        first_use.append(min(used) - begun)
    acting = _acting(due, swaps)
    late = sum(bool(acting[number]) and version != acting[number] for number, version, _ in lists)
    p99 = [float(np.nanpercentile(np.concatenate(part), 99)) for part in (steady, during)]
    return {
        "p99_ms_steady": round(p99[0], 2),
        "p99_ms_during": round(p99[1], 2),
        "ratio": round(p99[1] / p99[0], 2),
        "lists_lost": len(due) - len(times),
        "lists_doubled": sum(times.values()) - len(times),
        "lists_by_another_bundle": late,
        "seconds_publish_to_first_use": round(max(first_use), 2),
        "max_ms_steady": round(float(np.nanmax(np.concatenate(steady))), 1),
        "max_ms_during": round(float(np.nanmax(np.concatenate(during))), 1),
        "swaps": [
            {
                "decided": decision.decided,
                "p99_ms_steady": round(float(np.nanpercentile(before, 99)), 2),
                "p99_ms_during": round(float(np.nanpercentile(after, 99)), 2),
                "seconds_to_first_use": round(used, 2),
            }
            for (_, decision), before, after, used in zip(
                swaps, steady, during, first_use, strict=True
            )
        ],
    }


def _acting(due: list[float], swaps: list[tuple[float, Decision]]) -> list[str]:
    """The version that acts on each event by its time; none before the first decision."""
    versions = [""] * len(due)
    for _, decision in swaps:
        for number, moment in enumerate(due):
            if int(moment * 1000) >= decision.active_from:
                versions[number] = decision.bundle_version
    return versions
