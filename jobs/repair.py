"""What a job should have written and has not: its past once more, of which the missing is written.

events, all that the topic holds ─ the job, to the end ─ a topic of its own ─┐
what readers of the job's topic find ────────────────────────────────────────┴─ missing ─ the topic

Messages are told apart by their `ce_id`, so one that is there is never written twice.
"""

from __future__ import annotations

import importlib
import json
import signal
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from math import inf
from pathlib import Path
from typing import Any

import click
from confluent_kafka import KafkaException
from rich.console import Console

from jobs.__main__ import JOBS, ON_CLUSTER
from jobs.recommend import CLOCKLESS
from jobs.settings import SettingsError, load
from models.event_range import messages, to_ms
from operators.connection import Connection
from operators.sending import Outgoing, send
from operators.staging import staged

WRITES = {
    "feedback": ("feedback_topic", ("late_events_topic", "dead_letters_topic")),
    "recommend": ("recommendations_topic", ("dead_letters_topic",)),
    "sessions": ("sessions_topic", ("late_events_topic", "dead_letters_topic")),
}
"""Settings that name the topic which is repaired, and those to which the job writes besides."""

_PARTITIONS = 4
# A key goes to the partition that Flink's sink chooses; what nobody takes is told after a minute.
_AS_FLINK: dict[str, str | int] = {"partitioner": "murmur2_random", "message.timeout.ms": 60_000}


@click.command()
@click.argument("name", type=click.Choice(ON_CLUSTER))
@click.option("--config", type=click.Path(path_type=Path), metavar="FILE", help="the job's")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="as the job has them")
def repair(name: str, config: Path | None, overrides: tuple[str, ...]) -> None:
    """Write what the job NAME should have written and has not.

    Give it the settings that the job has. It reads all events that are still there; the job may
    run meanwhile. The last line on stdout is one JSON object.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    settings: Any = _loaded(name, config, overrides)
    topic = getattr(settings, WRITES[name][0])
    try:
        with staged(settings.kafka, {"again": _PARTITIONS, "besides": 1}) as topics:
            _run_again(name, settings, topics)
            counts: Counter[str] = Counter(due=0, missing=0, open=0)
            found = missing(settings.kafka, topics["again"], topic, _waits_ms(settings), counts)
            write(settings.kafka, topic, found)
    except (SettingsError, KafkaException, ValueError, OSError) as error:
        raise click.ClickException(f"repair {name}: {error}") from None
    Console(stderr=True).print(
        f"repair: {counts['missing']:,} of {counts['due']:,} messages were missing in {topic} and "
        f"are there now; {counts['open']:,} are still open",
        highlight=False,
        soft_wrap=True,
    )
    click.echo(json.dumps(counts))


def _loaded(name: str, config: Path | None, overrides: tuple[str, ...]) -> Any:
    module = importlib.import_module(f"jobs.{name}")
    try:
        return load(getattr(module, JOBS[name][0]), name, config, overrides)
    except SettingsError as error:
        raise click.ClickException(str(error)) from None


def _run_again(name: str, settings: Any, topics: Mapping[str, str]) -> None:
    """Run the job inside this process over all that its source holds, into the given topics."""
    own, besides = WRITES[name]
    kafka = settings.kafka.model_copy(
        update={"bounded": True, "start": "earliest", "group": topics["again"]}
    )
    changed: dict[str, Any] = {
        own: topics["again"],
        **dict.fromkeys(besides, topics["besides"]),
        "kafka": kafka,
        "delivery": "at-least-once",
        "engine": settings.engine.model_copy(update={"jobmanager": None, "options": {}}),
        **{key: value for key, value in CLOCKLESS.items() if hasattr(settings, key)},
    }
    if importlib.import_module(f"jobs.{name}").main(settings.model_copy(update=changed)):
        raise ValueError("the job was stopped or failed; nothing was written")


def _waits_ms(settings: Any) -> float | None:
    """How long after its time a message may still change; None: it never does."""
    if not hasattr(settings, "out_of_order_s"):
        return None
    follows = getattr(settings, "session_gap_s", 0) or getattr(settings, "horizon_s", 0)
    return 1000.0 * (follows + settings.out_of_order_s)


def missing(
    kafka: Connection, source: str, target: str, waits_ms: float | None, counts: Counter[str]
) -> Iterator[Any]:
    """The messages of `source` whose `ce_id` no reader finds in `target`.

    The end of `source` closed what was open: with `waits_ms` that is left to the job. `counts` are
    of the messages that are due, and of those that are missing and open.
    """
    there = {identity for identity, _, _ in _told(kafka, target)}
    closed = inf
    if waits_ms is not None:
        closed = max((time for _, time, _ in _told(kafka, source)), default=0) - waits_ms
    due: set[str] = set()
    for identity, time, message in _told(kafka, source):
        if identity in due:  # it came again after a failure
            continue
        due.add(identity)
        counts["due"] += 1
        if identity not in there:
            counts["missing" if time <= closed else "open"] += 1
            if time <= closed:
                yield message


def write(kafka: Connection, topic: str, found: Iterable[Any]) -> None:
    """Write messages as they are to a topic; raises ValueError if the brokers refuse one."""
    records = (Outgoing(topic, m.value(), m.key(), m.headers() or []) for m in found)
    if refused := send(kafka, records, _AS_FLINK):
        raise ValueError(f"the brokers did not take {len(refused)} messages: {refused[0]}")


def _told(kafka: Connection, topic: str) -> Iterator[tuple[str, int, Any]]:
    """Identity, time in epoch ms, and the message itself, of all that readers find in a topic."""
    for message in messages(kafka.client(), topic, "earliest", "latest"):
        headers = dict(message.headers() or [])
        yield headers["ce_id"].decode(), to_ms(headers["ce_time"].decode()), message
