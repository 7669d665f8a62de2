"""One history, replayed from Kafka and from files, in both profiles, with a swap and a kill."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient

from jobs.replay.settings import ReplaySettings
from jobs.settings import SettingsError, load
from models.list_files import Spool, read_lists
from models.loading import load_bundle
from models.registry import Registry
from operators.broker import Broker
from tests.bundles import versioned
from tests.kafka import (
    PATIENCE_S,
    ROOT,
    Reader,
    Record,
    completed,
    environment,
    job,
    last_words,
    python_workers,
    read,
    send,
    wait_for,
)
from tests.shopping import STARTER, Swap, decision, expected, shopping, starter
from udfs.events import EARLIEST_MS

LATE_MS = 4_070_908_800_000  # 2099
BAD = [b"{", b'{"event_id": "x"}', b"\xff\xfe", b"[]"]
BAD += [
    json.dumps({"event_id": "y", "event_type": "view", "event_time": LATE_MS, "user": "u"}).encode()
]
IDENTITY = "recommendation_id"
SECONDS = 8  # that the paced replay takes at least


@dataclass(frozen=True)
class Replays:
    """What was replayed, what must come of it, and what did."""

    folder: Path
    records: list[Record]
    decisions: dict[str, dict]  # by the engine-free function
    summary: dict  # what the one into a file printed last
    bootstrap: str

    @property
    def in_file(self) -> dict[str, dict]:
        """The decisions in the file; fails if one is there twice, or out of order."""
        found = [decision(json.dumps(each)) for each in read_lists(f"{self.folder}/lists.jsonl")]
        ids = [each["recommendation_id"] for each in found]
        assert ids == sorted(set(ids))
        return dict(zip(ids, found, strict=True))

    @property
    def in_topic(self) -> dict[str, dict]:
        """The decisions in the topic, ordered by their ids."""
        records = read(self.bootstrap, "replay-lists")
        found = sorted((decision(r.value or b"") for r in records), key=itemgetter(IDENTITY))
        return {each[IDENTITY]: each for each in found}


@pytest.fixture(scope="module")
def replays(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Replays:
    folder = tmp_path_factory.mktemp("replays")
    items = starter().catalogue.item_ids[:300]
    records = shopping(seed=3, users=20, events=700, items=items)
    for number, value in enumerate(BAD):
        records.insert(100 * (number + 1), Record(value, None, [("case", b"1")]))
    registry = Registry(folder / "registry")
    base, new = (versioned(STARTER, folder, name) for name in ("base", "new"))
    registry.publish(new)
    registry.promote("new", swap_time(records))
    swap = Swap(load_bundle(new), swap_time(records))
    decisions = expected(load_bundle(base), records, EARLIEST_MS + (1 << 40), swap)
    common = [
        f"bootstrap={broker.bootstrap}",
        f"bundle={base}",
        f"registry={folder / 'registry'}",
    ]
    (folder / "events.jsonl").write_bytes(b"".join((r.value or b"") + b"\n" for r in records))
    broker.create_topics({"replay-history": 3})
    send(broker.bootstrap, "replay-history", records)
    done = completed(
        folder,
        job(
            "replay",
            *common,
            "engine.profile=latency",
            "source.format=kafka",
            f"source.kafka.bootstrap={broker.bootstrap}",
            "source.kafka.topic=replay-history",
            "output=null",
            "create_topics=true",
            "recommendations_topic=replay-lists",
            "dead_letters_topic=replay-dead",
        ),
        PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr[-3000:] + last_words(folder)
    assert json.loads(done.stdout) == {"records": len(records)}
    summary = killed(
        broker,
        folder,
        job(
            "replay",
            *common,
            "engine.profile=throughput",
            "engine.parallelism=2",
            "engine.checkpoint_interval_s=1",
            "source.format=messages",
            f"source.path={folder / 'events.jsonl'}",
            f"speed={span_s(records) / SECONDS}",
            f"output={folder / 'lists.jsonl'}",
            f"report={folder / 'report.html'}",
        ),
        len(decisions),
    )
    return Replays(folder, records, decisions, summary, broker.bootstrap)


def killed(broker: Broker, folder: Path, command: list[str], lists: int) -> dict:
    """Run a paced replay, kill one of its Python workers meanwhile, and wait for its end."""
    screen = folder / "killed.out"
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})

    def topic() -> str | None:
        names = admin.list_topics(timeout=10).topics
        return next((n for n in names if n.startswith("streamrec-replay-") and "lists" in n), None)

    with (
        screen.open("w") as output,
        subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment(folder),
            stdout=subprocess.PIPE,
            stderr=output,
            text=True,
        ) as process,
    ):
        try:
            wait_for(lambda: topic() is not None, PATIENCE_S, "the topic of the lists")
            reader = Reader(broker.bootstrap, topic() or "")
            wait_for(lambda: len(reader.read()) > 0, PATIENCE_S, "the first list", 0.1)
            os.kill(python_workers(process.pid)[0], signal.SIGKILL)
            before = len(reader.read())
            reader.close()
            said, _ = process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()
    assert process.returncode == 0, screen.read_text()[-3000:] + last_words(folder)
    assert before < lists, "the kill was not in the middle"
    assert "restarts:" in screen.read_text()
    return json.loads(said)


def swap_time(records: list[Record]) -> int:
    times = sorted(event["event_time"] for event in events(records))
    return times[len(times) // 2]


def span_s(records: list[Record]) -> float:
    times = [event["event_time"] for event in events(records)]
    return (max(times) - min(times)) / 1000


def events(records: list[Record]) -> list[dict]:
    return [json.loads(record.value or b"") for record in records if record.key]


@pytest.mark.slow
def test_every_event_is_answered_as_the_engine_free_function_does_by_the_bundle_that_acted(
    replays: Replays,
) -> None:
    assert replays.in_file == replays.decisions
    assert {each["bundle_version"] for each in replays.decisions.values()} == {"base", "new"}
    assert replays.summary["other_bundle"] == 0


def test_source_target_profile_slots_pace_and_a_kill_change_no_byte(
    replays: Replays, tmp_path: Path
) -> None:
    one, other = (
        [json.dumps(each).encode() for each in lists.values()]
        for lists in (replays.in_file, replays.in_topic)
    )
    assert one == other
    with Spool(tmp_path / "spool") as spool:
        for record in read(replays.bootstrap, "replay-lists"):
            spool.add(record.value or b"")
        assert spool.decisions_sha256() == replays.summary["decisions_sha256"]
        assert len(spool) == replays.summary["lists"] == len(replays.decisions)


def test_what_is_no_event_is_told_with_its_bytes(replays: Replays) -> None:
    lines = (replays.folder / "lists.dead-letters.jsonl").read_text().splitlines()
    letters = [json.loads(line) for line in lines]
    values = [base64.b64decode(letter["base64"]) for letter in letters]
    assert sorted(values) == sorted(BAD)
    assert replays.summary["dead_letters"] == len(BAD)
    assert [replays.records[letter["number"]].value for letter in letters] == values
    assert all(letter["reason"] for letter in letters)
    sent = read(replays.bootstrap, "replay-dead")
    assert sorted(record.value or b"" for record in sent) == sorted(BAD)
    assert all(("case", b"1") in record.headers for record in sent)


def test_the_report_of_a_replay_is_beside_it(replays: Replays) -> None:
    assert "of the lists hold the item" in (replays.folder / "report.html").read_text("utf-8")


def test_a_replay_leaves_no_topic_behind(broker: Broker, replays: Replays) -> None:
    names = AdminClient({"bootstrap.servers": broker.bootstrap}).list_topics(timeout=10).topics
    assert not [name for name in names if name.startswith("streamrec-replay-")]


def test_compare_replays_what_is_not_replayed_and_finds_that_equal_bundles_are_equal(
    broker: Broker, replays: Replays
) -> None:
    page = replays.folder / "page.html"
    given = [
        f"bootstrap={broker.bootstrap}",
        "source.format=messages",
        f"source.path={replays.folder / 'events.jsonl'}",
    ]
    sets = [word for setting in given for word in ("--set", setting)]
    command = [*job("compare"), str(replays.folder / "lists.jsonl"), str(STARTER), *sets]
    done = completed(replays.folder, [*command, "--report", str(page)], PATIENCE_S)
    assert done.returncode == 0, done.stderr[-3000:] + last_words(replays.folder)
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary["outcome"] == "none"
    assert all(row["difference"] == [0, 0, 0] for row in summary["metrics"].values())
    assert summary["judged"] > 100
    text = page.read_text("utf-8")
    assert "Neither lists nor online-retail" in text
    assert text.count("<svg") == 5  # none by day, for it is one
    assert "<script" not in text
    assert "src=" not in text


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("output=lists.csv", ".jsonl or .parquet"),
        ("output=null", "expected `output`, or `bootstrap`"),
        ("speed=0", "greater than 0"),
        ("events_topic=user-events", "events_topic is not a setting"),
        ("source.format=otto", "messages"),
    ],
)
def test_settings_that_make_no_sense_are_refused(setting: str, said: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        load(ReplaySettings, "replay", None, [setting], {})
    assert said in str(refusal.value)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("source.path=none.parquet", "none.parquet"),
        ("bundle=models/none", "models/none"),
        ("window=20", "set `source.path`"),
    ],
)
def test_a_replay_that_cannot_run_is_refused_before_it_starts(
    tmp_path: Path, setting: str, said: str
) -> None:
    refused = completed(tmp_path, job("replay", setting))
    assert refused.returncode == 1
    assert said in refused.stderr
    assert "Traceback" not in refused.stderr
