"""The simulator as a command: its settings, and real lists over Kafka."""

from __future__ import annotations

import json
import signal
import subprocess
import time
import uuid
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from jobs.settings import SettingsError, load
from jobs.simulate.settings import SimulateSettings, crowd
from operators.broker import Broker
from tests.kafka import (
    PATIENCE_S,
    ROOT,
    Record,
    completed,
    environment,
    job,
    read,
    running,
    send,
    wait_for,
)
from udfs.events import decode

NOW_MS = 1_750_000_000_000
SYNTHETIC = ("bundle=null", "items=200", "clusters=4", "users=500")


def settings(*overrides: str) -> SimulateSettings:
    return load(SimulateSettings, "simulate", None, overrides, {})


def simulate(*overrides: str, folder: Path, options: tuple[str, ...] = ()) -> Any:
    return completed(folder, [*job("simulate", *overrides), *options])


def test_the_rate_and_the_thinking_say_how_many_are_there_at_once() -> None:
    assert settings("rate=100", "think_s=15").at_once == 1500
    assert settings("rate=0.01", "think_s=1").at_once == 1


def test_the_rate_and_the_length_say_how_many_events_there_are() -> None:
    assert settings("rate=100", "seconds=3").count == 300
    assert settings("rate=0.01", "seconds=1").count == 1
    assert settings().count is None


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["users=10"], "expected at least 750 users"),
        (["bundle=models/none"], "models/none"),
        (["bundle=null", "items=5"], "expected between 1 and 5 clusters"),
        (["shopping.clicks=1"], "shopping.clicks is not a setting"),
        (["drift.share=2"], "drift.share"),
        (["shopping.leave=0.9"], "leave + cart + wander"),
    ],
)
def test_settings_that_do_not_fit_are_refused(overrides: list[str], said: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        crowd(settings(*overrides), NOW_MS)
    assert said in str(refusal.value)


def test_a_live_run_has_visits_of_its_own_unless_told_otherwise() -> None:
    small = (*SYNTHETIC, "rate=5")
    runs = [
        crowd(settings(*small), NOW_MS),
        crowd(settings(*small), NOW_MS + 1),
        crowd(settings(*small, "run=7"), NOW_MS),
        crowd(settings(*small, "run=7"), NOW_MS + 1),
    ]
    done = [[e.items[0].item_id for e in (run.turn() for _ in range(75))] for run in runs]
    assert done[0] != done[1]
    assert done[2] == done[3]


def test_a_run_without_its_topics_is_refused(broker: Broker, tmp_path: Path) -> None:
    where = (f"kafka.bootstrap={broker.bootstrap}", "recommendations_topic=no-such-topic")
    refused = simulate(*SYNTHETIC, "rate=5", *where, folder=tmp_path)
    assert refused.returncode == 1
    assert "no-such-topic" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_run_whose_events_are_refused_ends_and_says_so(broker: Broker, tmp_path: Path) -> None:
    broker.create_topics({"small-events": 1}, {"max.message.bytes": "150"})
    broker.create_topics({"small-lists": 1})
    topics = ("events_topic=small-events", "recommendations_topic=small-lists")
    where = f"kafka.bootstrap={broker.bootstrap}"
    ended = simulate(*SYNTHETIC, "rate=20", where, *topics, folder=tmp_path)
    assert ended.returncode == 1
    assert "events did not reach Kafka" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_ctrl_c_ends_a_run_with_its_summary(broker: Broker, tmp_path: Path) -> None:
    topics = {name: f"ctrl-c-{name}" for name in ("events", "lists")}
    broker.create_topics(dict.fromkeys(topics.values(), 2))
    process = subprocess.Popen(
        [
            *job(
                "simulate",
                *SYNTHETIC,
                "rate=20",
                f"kafka.bootstrap={broker.bootstrap}",
                f"events_topic={topics['events']}",
                f"recommendations_topic={topics['lists']}",
            ),
            "--json",
        ],
        cwd=ROOT,
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_for(lambda: len(read(broker.bootstrap, topics["events"])) > 20, 30, "events")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 0, err
    result = json.loads(out.splitlines()[-1])
    assert result["events"] == len(read(broker.bootstrap, topics["events"])) > 20
    assert result["ctr"] is None


@dataclass(frozen=True)
class Loop:
    """What a run against the real recommend job left on the topics, and its summary."""

    events: list[dict[str, Any]]
    lists: dict[str, dict[str, Any]]  # by recommendation_id
    dead: list[Record]
    result: dict[str, Any]
    seconds: float


@pytest.fixture(scope="module")
def loop(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Loop:
    folder = tmp_path_factory.mktemp("loop")
    events, lists, dead = (f"loop-{name}" for name in ("events", "lists", "dead"))
    broker.create_topics({events: 2, lists: 2, dead: 1})
    common = [
        f"kafka.bootstrap={broker.bootstrap}",
        f"events_topic={events}",
        f"recommendations_topic={lists}",
    ]
    with running(
        folder, "recommend", *common, f"dead_letters_topic={dead}", "engine.profile=latency"
    ):
        send(broker.bootstrap, events, [wake_up()])
        wait_for(lambda: len(read(broker.bootstrap, lists)) == 1, PATIENCE_S, "the first list")
        began = time.monotonic()
        said = simulate(
            *common,
            "rate=60",
            "think_s=0.25",
            "seconds=10",
            "drift.after_s=5",
            "drift.share=1.0",
            folder=folder,
            options=("--json",),
        )
        seconds = time.monotonic() - began
        assert said.returncode == 0, said.stderr
    sent = [json.loads(record.value or b"") for record in read(broker.bootstrap, events)]
    messages = [json.loads(record.value or b"") for record in read(broker.bootstrap, lists)]
    return Loop(
        [event for event in sent if event["user_id"] != "nobody"],
        {message["recommendation_id"]: message for message in messages},
        read(broker.bootstrap, dead),
        json.loads(said.stdout.splitlines()[-1]),
        seconds,
    )


def wake_up() -> Record:
    event = {
        "event_id": str(uuid.uuid4()),
        "event_type": "recommendation_request",
        "event_time": NOW_MS,
        "user_id": "nobody",
    }
    return Record(json.dumps(event).encode(), b"nobody")


def test_every_event_sent_is_valid_and_counted(loop: Loop) -> None:
    assert loop.dead == []
    assert len(loop.events) == loop.result["events"] >= 600
    assert Counter(e["event_type"] for e in loop.events) == loop.result["events_by_type"]
    assert len({event["event_id"] for event in loop.events}) == len(loop.events)
    now_ms = time.time_ns() // 1_000_000
    for event in loop.events:
        decode(json.dumps(event).encode(), now_ms)
    times = [event["event_time"] for event in loop.events]
    assert 9_900 <= max(times) - min(times) <= 11_500


def test_a_shopper_clicks_on_items_of_a_list_that_was_made_for_the_last_event(loop: Loop) -> None:
    sessions: dict[str, list[dict[str, Any]]] = {}
    for event in loop.events:  # a partition after the other; each shopper is in one
        sessions.setdefault(event["session_id"], []).append(event)
    shown = clicked = 0
    for events in sessions.values():
        for before, event in pairwise(events):
            if event["event_type"] != "view_item_list":
                continue
            shown += 1
            message = loop.lists[event["recommendation_id"]]
            assert message["trigger_event_id"] == before["event_id"]
            assert event["items"] == [
                {"item_id": item["item_id"], "position": item["position"]}
                for item in message["items"]
            ]
        for event in events:
            if event["event_type"] == "select_item" and "recommendation_id" in event:
                clicked += 1
                (item,) = event["items"]
                message = loop.lists[event["recommendation_id"]]
                assert message["items"][item["position"]]["item_id"] == item["item_id"]
    assert shown == loop.result["lists_seen"] > 100
    assert clicked == loop.result["clicks"] > 20


def test_lists_of_the_shipped_bundle_are_clicked_until_tastes_move(loop: Loop) -> None:
    before, after = loop.result["before_drift"], loop.result["after_drift"]
    assert before["ctr"] > 5 * after["ctr"]
    assert before["lists_seen"] + after["lists_seen"] == loop.result["lists_seen"]
    assert list(loop.result["by_bundle_version"]) == [
        next(iter(loop.lists.values()))["bundle_version"]
    ]
    deviation = loop.result["clicks"] - loop.result["expected_clicks"]
    # The run is not the same twice: what is seen hangs on how fast the lists come.
    assert abs(deviation) < 4 * loop.result["expected_clicks_sigma"]


def test_the_rate_is_kept(loop: Loop) -> None:
    assert 9.5 < loop.seconds < 35  # with the start of the process
    assert loop.result["lists_missed"] < 0.5 * loop.result["lists_received"]
