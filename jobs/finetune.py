"""Fine-tunes the bundle that acts on what came since the last run, and promotes what is better.

sessions ────┐
late-events ─┼─ bounded Flink run ─ Parquet ─ trainer ─ gate ─ registry ─ model-updates
feedback ────┘
"""

from __future__ import annotations

import fcntl
import json
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import msgspec
import torch
from pydantic import AfterValidator, Field
from pyflink.table import Table, TableEnvironment
from rich.console import Console

from jobs.settings import Settings, SettingsError
from jobs.train import progress_bar
from models.bundle import BundleError
from models.history import Decision, RegistryError
from models.registry import Registry
from models.rounds import Loop, RoundSettings
from models.samples import Offsets, Part, Sample, Samples
from operators import decoding, kafka
from operators.announcing import announce
from operators.environment import Engine, mode_of, table_environment
from operators.kafka import Kafka
from operators.ranges import Range, newest_event_time, unread
from operators.topics import TopicsError, require_topics

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
OPTIONS = {"every": "repeat it so often, e.g. 15m"}
"""Settings that are options of the command line as well."""


def _duration(text: str | None) -> str | None:
    if text is not None and not re.fullmatch(r"[1-9]\d*[smhd]", text):
        raise ValueError(f"expected a number and s, m, h or d, like 15m; got {text!r}")
    return text


class FinetuneJobSettings(Settings):
    """Settings of the finetune job."""

    kafka: Kafka = Kafka(group="streamrec-finetune")
    engine: Engine = Engine(profile="throughput")
    sessions_topic: str = Field("sessions", description="topic of the closed sessions")
    late_events_topic: str = Field("late-events", description="topic of what no session has")
    feedback_topic: str = Field("feedback", description="topic of what became of the lists")
    events_topic: str = Field("user-events", description="topic that says what time it is")
    model_updates_topic: str = Field("model-updates", description="topic of the decisions")
    registry: str = Field("registry", description="folder or URI (s3://, gs://, hdfs://)")
    folder: Path = Field(Path("finetune"), description="samples, replay buffer and runs")
    every: Annotated[str | None, AfterValidator(_duration)] = Field(
        None, description="repeat it so often, e.g. 15m; null: once"
    )
    lead_s: float = Field(
        10, ge=0, description="seconds of event time until a promoted bundle acts"
    )
    session_gap_s: int = Field(1800, ge=1, description="seconds of silence between late sessions")
    threads: int = Field(1, ge=1, description="of torch; another number, other last bits")
    round: RoundSettings = RoundSettings()


def main(settings: FinetuneJobSettings) -> int:
    """Run once, or again and again; a run that fails says why, and the next one goes on."""
    torch.set_num_threads(settings.threads)
    console = Console(stderr=True)
    try:
        topics = (*_inputs(settings), settings.events_topic, settings.model_updates_topic)
        require_topics(settings.kafka, topics)
        with alone(settings.folder):
            return _repeated(lambda: run(settings, console), settings.every)
    except (TopicsError, BlockingIOError) as error:
        raise SettingsError(f"finetune was not started: {error}") from None


def run(settings: FinetuneJobSettings, console: Console) -> int:
    """One run: read, learn, decide, announce."""
    samples, registry = Samples(settings.folder / "samples"), Registry(settings.registry)
    try:
        part = materialise(settings, samples)
        if part is not None:
            console.print(f"finetune: part {part.number}: {part.counts}", markup=False)
        with progress_bar(console) as progress:
            loop = Loop(settings.folder, registry, samples)
            decision = loop.round(settings.round, active_from(settings, samples), progress)
        console.print(f"finetune: {_said(decision, settings)}", markup=False)
        announce(settings.kafka, settings.model_updates_topic, registry.history(), settings.folder)
    except (BundleError, RegistryError, ConnectionError, ValueError, OSError) as error:
        console.print(f"finetune: {error}", style="red", markup=False)
        return 1
    summary = None if decision is None else msgspec.to_builtins(decision)
    print(json.dumps({"decision": summary}), flush=True)
    return 0


def materialise(settings: FinetuneJobSettings, samples: Samples) -> Part | None:
    """Read what came since the last run in a bounded Flink run; None if nothing came."""
    parts = samples.parts()
    reached: Offsets = parts[-1].offsets if parts else {}
    found = {
        topic: unread(settings.kafka, topic, reached.get(topic, {})) for topic in _inputs(settings)
    }
    ranges = {topic: each for topic, (each, _) in found.items()}
    if not any(first < last for each in ranges.values() for first, last in each.values()):
        return None
    env = table_environment(settings.engine, "finetune")
    rows = pipeline(env, ranges, settings).to_pandas().itertuples(index=False, name=None)
    return samples.add(
        (Sample(*row) for row in rows),
        {topic: {n: last for n, (_, last) in each.items()} for topic, each in ranges.items()},
        settings.session_gap_s * 1000,
        deleted_unread=sum(lost for _, lost in found.values()),
    )


def pipeline(
    env: TableEnvironment, ranges: Mapping[str, dict[int, Range]], settings: FinetuneJobSettings
) -> Table:
    """The records of ranges of the three topics as rows of (kind, user_id, text).

    Of late events only those that the sessions job found late: what came too late for feedback is
    in a session nevertheless.
    """
    for name, topic in zip(("closed", "late", "acted"), _inputs(settings), strict=True):
        kafka.raw_source(env, name, topic, settings.kafka, ranges=ranges[topic])
    late = decoding.decode(env, "late", mode_of(settings.engine))
    return env.sql_query(f"""
        SELECT 'session' AS `kind`, '' AS `user_id`, CAST(`value` AS STRING) AS `text` FROM `closed`
        UNION ALL
        SELECT 'feedback', '', CAST(`value` AS STRING) FROM `acted`
        UNION ALL
        SELECT 'late_event', COALESCE(`decoded`.`user_id`, ''), COALESCE(`decoded`.`event`, '')
        FROM {late} WHERE DECODE(`headers`['__late_event.stage'], 'UTF-8') = 'late'""")


def active_from(settings: FinetuneJobSettings, samples: Samples) -> int:
    """The event time, epoch ms, from which a bundle that is promoted now is to act.

    It lies ahead of the newest events, so that workers have loaded it by then and no event that
    was answered already would be answered otherwise in a replay.
    """
    newest = newest_event_time(settings.kafka, settings.events_topic)
    parts = samples.parts()
    seen = [newest or 0, parts[-1].watermark if parts else 0]
    return max(seen) + round(settings.lead_s * 1000)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the folder; raises BlockingIOError if another run holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BlockingIOError(f"expected no other run in {folder}; there is one") from None
        yield


def _repeated(work: Callable[[], int], every: str | None) -> int:
    """The exit code of the work, done once or, without an end, as often as `every` says."""
    while every is not None:
        due = time.monotonic() + int(every[:-1]) * _UNITS[every[-1]]
        work()
        time.sleep(max(due - time.monotonic(), 0))
    return work()


def _inputs(settings: FinetuneJobSettings) -> tuple[str, str, str]:
    return settings.sessions_topic, settings.late_events_topic, settings.feedback_topic


def _said(decision: Decision | None, settings: FinetuneJobSettings) -> str:
    if decision is None:
        least = settings.round.least_sessions
        return f"nothing to decide: fewer than {least} new sessions, or all judged already"
    return f"{decision.bundle_version} {decision.decided}: {decision.why}"


if __name__ == "__main__":
    sys.exit(main(FinetuneJobSettings()))
