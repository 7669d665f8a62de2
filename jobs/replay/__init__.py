"""Answers a stretch of history again, by the pipeline of the recommend job.

Parquet, CSV, JSONL ─┐                                           ┌─ file (JSONL, Parquet) ─ report
messages ────────────┼─ by event time ─ a topic ─ recommend job ─┤
Kafka range ─────────┘   (at any pace)                           └─ recommendations, dead-letters
"""

from __future__ import annotations

import json
import signal
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaException
from rich.console import Console

from jobs.recommend import CLOCKLESS, Answers, Past, RecommendSettings, answer, served
from jobs.replay.output import Replayed, report, written
from jobs.replay.settings import ReplaySettings
from jobs.report import require_matplotlib
from jobs.settings import SettingsError
from jobs.sources import epoch_ms
from models.bundle import BundleError
from models.bundle_files import read_manifest
from models.event_files import Columns
from models.event_range import messages
from models.history import History, RegistryError
from models.list_files import Spool
from models.past_events import (
    PARTITIONS,
    PastRecord,
    between,
    past_baskets,
    past_messages,
    past_range,
    past_rows,
)
from models.recommender import Settings as Ranking
from models.registry import Registry
from models.serving import Serving
from models.storage import Folder
from operators.broker import BrokerError
from operators.connection import Connection
from operators.dead_letters import read as read_letters
from operators.kafka import Kafka
from operators.staging import Feeder, brokers, ranges_of, staged
from operators.topics import TopicsError, require_topics
from udfs.events import rfc3339

OPTIONS = {"report": "HTML file that says how good the lists were"}
"""Settings that are options of the command line as well."""


class ReplayError(ValueError):
    """Why a replay did not come to its end."""


def main(settings: ReplaySettings) -> int:
    """Replay into a file or topics; the last line on stdout is a JSON summary."""
    console = Console(stderr=True)
    interruptible()
    with told("replay"):
        if settings.report:
            require_matplotlib()
        check(settings)
        with console.status("replay: reading the history"):
            records = history(settings)
        console.print(f"replay: {len(records):,} records, {span(records)}", highlight=False)
        with brokers(settings) as kafka, spooled() as spool:
            found = replay(settings, kafka, records, spool)
            summary: dict[str, Any] = {"records": len(records)}
            if settings.output:
                summary |= written(settings.output, records, spool, found, console)
            if settings.report:
                report(settings, records, spool, console)
        print(json.dumps(summary), flush=True)
    return 0


def replay(
    settings: ReplaySettings, kafka: Connection, records: list[PastRecord], spool: Spool
) -> Replayed:
    """Answer the records; the lists come into `spool`, if they are to be written to a file.

    Raises ReplayError if the job failed or was stopped, and what a broken source raises.
    """
    partitions = max(PARTITIONS, 1 + max(record.partition for record in records))
    kinds = {"events": partitions} | ({"lists": PARTITIONS, "dead": 1} if settings.output else {})
    with staged(kafka, kinds) as topics:
        feeder = Feeder(kafka, topics["events"], records, settings.speed)
        ranges = ranges_of(records, partitions)
        past = Past(ranges, settings.out_of_order_s, feeder.start if settings.speed else None)
        try:
            if not settings.speed:  # what is paced waits for the job
                feeder.start()
            code = answer(as_live(settings, kafka, topics), "replay", past)
        finally:
            interruptible()  # the job had its own way to stop
            feeder.finish()
        if code:
            raise ReplayError("the job was stopped or failed; nothing was written to `output`")
        if not settings.output:
            return Replayed([], 0)
        acting, other = acting_bundle(settings), 0
        for message in messages(kafka.client(), topics["lists"], "earliest", "latest"):
            made = spool.add(message.value())
            other += made["bundle_version"] != acting(made["event_time"])
        letters = read_letters(kafka, topics["dead"])
        dead = {(each.origin["partition"], each.origin["offset"]): each for each in letters}
        return Replayed([*dead.values()], other)  # one that came again after a failure counts once


def as_live(
    settings: ReplaySettings, kafka: Connection, topics: Mapping[str, str] | None = None
) -> RecommendSettings:
    """The same answers by the recommend job, which no clock disturbs."""
    topics = topics or {}
    return RecommendSettings(
        **{name: getattr(settings, name) for name in Answers.model_fields},
        kafka=_job(kafka, group=topics.get("events", "replay"), bounded=True),
        engine=settings.engine,
        events_topic=topics.get("events", ""),
        recommendations_topic=topics.get("lists", settings.recommendations_topic),
        dead_letters_topic=topics.get("dead", settings.dead_letters_topic),
        **CLOCKLESS,
    )


def _job(kafka: Connection, **options: Any) -> Kafka:
    """The same connection as that of a job."""
    return Kafka(**{name: getattr(kafka, name) for name in Connection.model_fields}, **options)


def check(settings: ReplaySettings) -> None:
    """Raise what would stop the replay later: no sound bundle, no topics."""
    Serving(served(as_live(settings, settings)), Ranking())
    if not settings.output:
        kafka = _job(settings, create_topics=settings.create_topics)
        require_topics(kafka, (settings.recommendations_topic, settings.dead_letters_topic))


def history(settings: ReplaySettings) -> list[PastRecord]:
    """The records that are to be replayed, in order; raises ReplayError if there are none."""
    source = settings.source
    if source.format == "kafka":
        records = past_range(*source.kafka.range())
    elif not source.path:
        raise ReplayError("expected a file or folder; set `source.path`")
    elif source.format == "messages":
        records = past_messages(source.path)
    elif source.format == "online_retail":
        records = past_baskets(source.path)
    else:
        form = "json" if source.format == "jsonl" else source.format
        names = source.columns.model_dump()
        event_id = names.pop("event_id")
        records = past_rows(
            source.path, form, Columns(**names), event_id, source.time_unit, source.event_type
        )
    records = between(records, epoch_ms(settings.since), epoch_ms(settings.until))
    if not records:
        raise ReplayError("expected records between `since` and `until`; there are none")
    return records


def acting_bundle(settings: ReplaySettings) -> Callable[[int], str]:
    """Which version the history of the registry says acts on an event of a time, epoch ms."""
    live = served(as_live(settings, settings))
    base = read_manifest(Folder.at(live.bundle))[0]["bundle_version"]
    past = Registry(live.registry).history() if live.registry else History()

    def acting(event_time: int) -> str:
        decision = past.at(event_time)
        return decision.bundle_version if decision else str(base)

    return acting


def span(records: list[PastRecord]) -> str:
    """From when to when the records are, for people."""
    first, last = (rfc3339(records[at].place)[:16].replace("T", " ") for at in (0, -1))
    return f"{first} to {last}"


@contextmanager
def spooled() -> Iterator[Spool]:
    """A spool in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="streamrec-replay-") as folder:  # noqa: SIM117
        with Spool(Path(folder) / "lists") as spool:
            yield spool


@contextmanager
def told(job: str) -> Iterator[None]:
    """Turn what a user can mend into a SettingsError that says so."""
    try:
        yield
    except KafkaException as error:
        raise SettingsError(f"{job}: the brokers: {error.args[0].str()}") from None
    except (BundleError, RegistryError, TopicsError, BrokerError, ValueError, OSError) as error:
        raise SettingsError(f"{job}: {str(error) or repr(error)}") from None


def interruptible() -> None:
    """Let SIGTERM interrupt as Ctrl-C does, so that nothing is left behind."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
