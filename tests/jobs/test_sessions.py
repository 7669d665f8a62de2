"""The sessions job on a mini-cluster with real workers and a real broker, in both profiles."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import pytest

from operators.broker import Broker
from tests.kafka import PATIENCE_S, Record, read, run_to_end, running, send, wait_for
from tests.malformed import malformed
from tests.shopping import GAP_MS, START_MS, shopping
from udfs.events import Event, decode, to_text
from udfs.session_features import (
    FEATURES,
    SessionBatch,
    current_session,
    session_features,
    split_sessions,
)
from udfs.sessions import Closing

RUNS = {"latency": 1, "throughput": 2}  # profile → slots

pytestmark = pytest.mark.slow  # whichever test is the first waits for a run in each profile


@dataclass(frozen=True)
class Traffic:
    """What was sent, and what each run made of it."""

    on_time: list[Record]
    bad: list[Record]
    sessions: dict[str, list[Record]]
    late_events: dict[str, list[Record]]
    dead: dict[str, list[Record]]
    screens: dict[str, str]


@pytest.fixture(scope="module")
def traffic(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Traffic:
    on_time = shopping(seed=3, users=20, events=900, items=[f"i-{n}" for n in range(50)])
    bad = [Record(value, b"bad") for _, value in malformed()]
    broker.create_topics({"s-events": 4})
    send(broker.bootstrap, "s-events", on_time + bad)
    results: list[dict[str, list[Record]]] = [{}, {}, {}]
    screens = {}
    for profile, slots in RUNS.items():
        state = tmp_path_factory.mktemp(profile)
        settings = [
            f"kafka.bootstrap={broker.bootstrap}",
            "kafka.create_topics=true",
            f"engine.profile={profile}",
            f"engine.parallelism={slots}",
            "out_of_order_s=1000000",
            f"sessions_topic=s-sessions-{profile}",
            f"late_events_topic=s-late-{profile}",
            f"dead_letters_topic=s-dead-{profile}",
        ]
        screens[profile] = run_to_end(state, "sessions", *settings, "events_topic=s-events")
        for result, topic in zip(results, ("sessions", "late", "dead"), strict=True):
            result[profile] = read(broker.bootstrap, f"s-{topic}-{profile}")
    return Traffic(on_time, bad, *results, screens)


def by_user(records: list[Record]) -> dict[str, list[Event]]:
    users: dict[str, list[Event]] = defaultdict(list)
    for record in records:
        user, decoded = decode(record.value, int(time.time() * 1000))
        users[user].append(decoded)
    return users


@pytest.mark.parametrize("profile", RUNS)
def test_nothing_restarted_the_job(traffic: Traffic, profile: str) -> None:
    assert "restarts" not in traffic.screens[profile]  # else what is sent may come twice


@pytest.mark.parametrize("profile", RUNS)
def test_the_job_closes_the_sessions_that_the_rule_closes(traffic: Traffic, profile: str) -> None:
    expected = {}
    every = Closing(GAP_MS, at_once_ms=-1)  # what is closed at once is the same, only sooner
    for user, events in by_user(traffic.on_time).items():
        for closed in every.by_silence(user, ",".join(map(to_text, events))):
            expected[closed.session_id] = json.loads(closed.value)
    found = [json.loads(record.value or b"") for record in traffic.sessions[profile]]
    assert len(found) == len(expected)
    assert {session["session_id"]: session for session in found} == expected
    assert {session["closed_by"] for session in found} == {"gap", "event"}


@pytest.mark.parametrize("profile", RUNS)
def test_serving_closed_sessions_and_training_see_the_same_features(
    traffic: Traffic, profile: str
) -> None:
    published = {
        (session["user_id"], session["started_at"]): session["features"]
        for session in (json.loads(record.value or b"") for record in traffic.sessions[profile])
    }
    compared = 0
    for user, events in by_user(traffic.on_time).items():
        kept = list({e.event_id: e for e in reversed(events)}.values())[::-1]
        for session in split_sessions(kept, GAP_MS):
            newest = max(kept.index(e) for e in session)  # serving answers when this one arrives
            served = current_session(kept[: newest + 1], GAP_MS)
            features = published.get((user, session[0].time))
            if features is not None and served == session:
                compared += 1
                rows = session_features(SessionBatch.from_events([session, served])).tolist()
                assert rows[0] == rows[1]
                assert features == dict(zip(FEATURES, rows[0], strict=True))
    assert compared > 50


@pytest.mark.parametrize("profile", RUNS)
def test_what_is_no_event_is_a_dead_letter_of_this_job_too(traffic: Traffic, profile: str) -> None:
    assert sorted(r.value or b"" for r in traffic.dead[profile]) == sorted(
        r.value or b"" for r in traffic.bad
    )
    assert traffic.late_events[profile] == []


def event(name: str, seconds: int, kind: str = "view", user: str = "u") -> Record:
    value = {"event_id": name, "event_type": kind, "user_id": user, "item_id": name}
    value |= {"event_time": START_MS + seconds * 1000}
    return Record(json.dumps(value).encode(), user.encode(), [("n", b"1")])


def test_a_session_end_closes_at_once_and_what_comes_too_late_goes_to_late_events(
    broker: Broker, tmp_path: Path
) -> None:
    topics = ("l-events", "l-sessions", "l-late", "l-dead")
    broker.create_topics(dict.fromkeys(topics, 1))
    settings = [
        f"kafka.bootstrap={broker.bootstrap}",
        "engine.profile=latency",
        "events_topic=l-events",
        "sessions_topic=l-sessions",
        "late_events_topic=l-late",
        "dead_letters_topic=l-dead",
    ]

    def sessions() -> list[dict]:
        return [json.loads(record.value or b"") for record in read(broker.bootstrap, "l-sessions")]

    with running(tmp_path, "sessions", *settings) as process:
        ended = [event("v", 20, user="v"), event("end", 30, "session_end", "v")]
        soon = event("soon", 60)  # a minute: long before the gap
        send(broker.bootstrap, "l-events", [event("a", 0), *ended, ended[1], soon])
        wait_for(lambda: len(sessions()) == 1, PATIENCE_S, "the session that was ended")
        assert [*tmp_path.glob("tmp-*/streamrec-sessions-*/flink-web-upload")], "not its own folder"
        late = event("late", 40)
        send(broker.bootstrap, "l-events", [late, event("b", 4000), event("c", 9000)])
        wait_for(lambda: len(sessions()) == 3, PATIENCE_S, "the sessions that a gap ended")
    assert process.returncode == 0
    (found,) = read(broker.bootstrap, "l-late")
    assert (found.key, found.value) == (late.key, late.value)
    headers = dict(found.headers)
    assert headers["n"] == b"1"
    assert headers["__late_event.offset"] == b"5"
    assert headers["__late_event.reason"] == b"behind the watermark"
    assert [[e["item_id"] for e in session["events"]] for session in sessions()] == [
        ["v", None],
        ["a", "soon"],
        ["b"],
    ]
    assert [session["closed_by"] for session in sessions()] == ["event", "gap", "gap"]
