"""The recommend job on a mini-cluster with real workers and a real broker, in both profiles."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import pytest

from operators.broker import Broker
from operators.ports import free_port
from tests.counting import settled
from tests.kafka import (
    PATIENCE_S,
    Record,
    completed,
    job,
    python_workers,
    read,
    running,
    screen,
    send,
    wait_for,
)
from tests.malformed import malformed
from tests.shopping import START_MS, decision, expected, outcomes, shopping, starter

RUNS = {"latency": 2, "throughput": 1}  # profile → slots
NAMES = ("\x00", "\x1e", "\x1f\x7f", "a,b", '"\\', "😀", "u😀\u2028", "ü\uffff", "null", " ")
"""Of users and events: all valid, and all of characters that text on its way may be cut at."""

pytestmark = pytest.mark.slow  # whichever test is the first waits for a run in each profile


@dataclass(frozen=True)
class Traffic:
    """What was sent, and what every run made of it."""

    good: list[Record]
    bad: list[Record]
    decisions: dict[str, dict]  # by the engine-free function
    lists: dict[str, list[Record]]  # by profile
    dead: dict[str, list[Record]]
    counts: dict[str, list[tuple[dict, dict]]]  # what the counters told, and what they must tell
    screens: dict[str, str]


@pytest.fixture(scope="module")
def traffic(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Traffic:
    bundle = starter()
    good = shopping(seed=7, users=25, events=1200, items=bundle.catalogue.item_ids[:400])
    good += [named(f"{name}{number}", name) for number in range(3) for name in NAMES]
    bad = [
        Record(value, f"bad-{number}".encode(), [("case", str(number).encode())])
        for number, (_, value) in enumerate(malformed())
    ]
    bad += [Record(b"{", None, []), Record(b"", b"", [("empty", b"")])]
    mixed: list[Record] = list(good)
    draw = random.Random(11)
    for record in bad:
        mixed.insert(draw.randrange(len(mixed)), record)
    now = int(time.time() * 1000)
    decisions = expected(bundle, good, now)
    broker.create_topics({"t-events": 4})
    lists, dead, counts, screens, there = {}, {}, defaultdict(list), {}, 0
    for profile, slots in RUNS.items():
        state, rest = tmp_path_factory.mktemp(profile), f"127.0.0.1:{(port := free_port())}"
        topics = [f"t-{kind}-{profile}" for kind in ("lists", "dead")]
        settings = (
            f"kafka.bootstrap={broker.bootstrap}",
            f"kafka.group=t-{profile}",
            "kafka.create_topics=true",
            f"engine.profile={profile}",
            f"engine.parallelism={slots}",
            f"engine.rest_port={port}",
            "batch_ms=1000",  # of the latency profile: events are answered in large batches
            "events_topic=t-events",
            f"recommendations_topic={topics[0]}",
            f"dead_letters_topic={topics[1]}",
        )
        with running(state, "recommend", *settings):
            for stop in (len(mixed) // 2, len(mixed)):  # the counters go on where they were
                if there < stop:
                    there += len(send(broker.bootstrap, "t-events", mixed[there:stop]))
                due = outcomes(bundle, mixed[:there], now)
                counts[profile].append((settled(rest, there), due))
            for found, topic, count in zip(
                (lists, dead), topics, (len(decisions), len(bad)), strict=True
            ):
                wait_for(lambda t=topic, n=count: len(read(broker.bootstrap, t)) >= n, 60, topic)
                found[profile] = read(broker.bootstrap, topic)
        screens[profile] = screen(state, "recommend").read_text()
    sent = read(broker.bootstrap, "t-events")
    good_sent = [r for r in sent if ("trace", b"t") in r.headers]
    bad_sent = [r for r in sent if ("trace", b"t") not in r.headers]
    assert (len(good_sent), len(bad_sent)) == (len(good), len(bad))
    return Traffic(good, bad_sent, decisions, lists, dead, counts, screens)


def named(event: str, user: str) -> Record:
    told = {"event_id": event, "event_type": "view_item", "event_time": START_MS, "user_id": user}
    value = json.dumps({**told, "item_id": "85123A"}).encode()
    return Record(value, user.encode(), [("trace", b"t")])


@pytest.mark.parametrize("profile", RUNS)
def test_the_job_decides_what_the_engine_free_function_decides(
    traffic: Traffic, profile: str
) -> None:
    decisions = [decision(record.value or b"") for record in traffic.lists[profile]]
    assert len(decisions) == len(traffic.decisions)
    assert {d["recommendation_id"]: d for d in decisions} == traffic.decisions


@pytest.mark.parametrize("profile", RUNS)
def test_users_of_any_name_are_answered_under_it(traffic: Traffic, profile: str) -> None:
    keys = {
        decision(record.value or b"")["user_id"]: record.key for record in traffic.lists[profile]
    }
    assert [keys.get(name) for name in NAMES] == [name.encode() for name in NAMES]


def test_both_profiles_and_any_number_of_slots_give_identical_lists(traffic: Traffic) -> None:
    latency, throughput = (
        sorted(
            json.dumps(decision(record.value or b"")).encode() for record in traffic.lists[profile]
        )
        for profile in RUNS
    )
    assert latency == throughput


@pytest.mark.parametrize("profile", RUNS)
def test_events_are_answered_together(traffic: Traffic, profile: str) -> None:
    lists = traffic.lists[profile]
    instants = {json.loads(record.value or b"")["generated_at"] for record in lists}
    assert len(instants) < len(lists) / 5


@pytest.mark.parametrize("profile", RUNS)
def test_the_counters_of_a_running_job_balance(traffic: Traffic, profile: str) -> None:
    for told, due in traffic.counts[profile]:
        assert min(due.values()) > 0
        assert told == due


@pytest.mark.parametrize("profile", RUNS)
def test_the_job_says_in_which_mode_it_runs(traffic: Traffic, profile: str) -> None:
    mode = {"latency": "thread", "throughput": "process"}[profile]
    assert f"runs Python in {mode} mode" in traffic.screens[profile]


@pytest.mark.parametrize("profile", RUNS)
def test_every_malformed_record_is_a_dead_letter_byte_for_byte(
    traffic: Traffic, profile: str
) -> None:
    assert len(traffic.bad) >= 200
    place = {}
    for record in traffic.dead[profile]:
        origin = {n.removeprefix("__dead_letter."): v for n, v in record.headers if n[:2] == "__"}
        kept = [(n, v) for n, v in record.headers if n[:2] != "__"]
        assert origin["topic"] == b"t-events"
        assert origin["stage"] == b"decode"
        assert 0 < len(origin["reason"] or b"") <= 500
        key = (int(origin["partition"] or 0), int(origin["offset"] or 0))
        assert key not in place
        place[key] = (record.key, record.value, sorted(kept))
    assert place == {
        (record.partition, record.offset): (record.key, record.value, sorted(record.headers))
        for record in traffic.bad
    }


@pytest.mark.parametrize("profile", RUNS)
def test_a_message_has_the_headers_of_a_cloud_event(traffic: Traffic, profile: str) -> None:
    for record in traffic.lists[profile][:50]:
        message = json.loads(record.value or b"")
        headers = dict(record.headers)
        assert record.key == message["user_id"].encode()
        assert headers["ce_id"] == message["recommendation_id"].encode()
        assert headers["ce_type"] == b"streamrec.recommendation"
        assert headers["ce_source"]
        assert (headers["ce_time"] or b"").startswith(b"2011-12-0")


@pytest.mark.parametrize("profile", RUNS)
def test_nothing_restarted_the_job(traffic: Traffic, profile: str) -> None:
    assert "restarts" not in traffic.screens[profile]


def test_lists_are_full_even_for_users_and_items_never_seen(traffic: Traffic) -> None:
    assert {len(d["items"]) for d in traffic.decisions.values()} == {20}
    served = {d["served_by"] for d in traffic.decisions.values()}
    assert "full" in served
    assert "popular" in served


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("bundle=models/none", "models/none"),
        ("kafka.bootstrap=127.0.0.1:9", "none answered"),
        ("widow=1", "did you mean window?"),
        ("events_topic=no-such-topic", "no-such-topic"),
    ],
)
def test_a_job_that_cannot_run_is_refused_before_it_starts(
    tmp_path: Path, broker: Broker, setting: str, said: str
) -> None:
    command = job("recommend", f"kafka.bootstrap={broker.bootstrap}", setting)
    refused = completed(tmp_path, command)
    assert refused.returncode == 1
    assert said in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_job_ends_and_says_so_when_flink_has_ended_its_taskmanager(
    tmp_path: Path, broker: Broker
) -> None:
    broker.create_topics({"x-events": 1})
    settings = (
        f"kafka.bootstrap={broker.bootstrap}",
        "kafka.create_topics=true",
        "engine.profile=throughput",
        'engine.options={"task.cancellation.timeout": "1 ms"}',  # nothing ends as soon as that
        *(f"{kind}_topic=x-{kind}" for kind in ("events", "recommendations", "dead_letters")),
    )
    with running(tmp_path, "recommend", *settings) as process:
        send(broker.bootstrap, "x-events", [named("x", "user")])
        lists = "x-recommendations"
        wait_for(lambda: read(broker.bootstrap, lists) != [], PATIENCE_S, "the first list")
        os.kill(python_workers(process.pid)[0], signal.SIGKILL)
        send(broker.bootstrap, "x-events", [named("y", "user")])  # by which the loss is noticed
        assert process.wait(PATIENCE_S) == 1
    assert "Flink has ended the TaskManager" in screen(tmp_path, "recommend").read_text()
