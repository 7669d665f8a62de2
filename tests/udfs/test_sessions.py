from __future__ import annotations

import json

from udfs.events import TYPE_CODES, Event, Item, to_text
from udfs.session_features import FEATURES, SessionBatch, session_features
from udfs.sessions import close_sessions

START = 1_322_728_000_000
GAP_MS = 1_800_000


def event(name: str, kind: str, seconds: int, *items: str, session: str | None = None) -> Event:
    time = START + seconds * 1000
    return Event(name, TYPE_CODES[kind], time, [Item(i, 1.5) for i in items], session)


def closed(*events: Event) -> list[dict]:
    text = ",".join(map(to_text, events))
    return [json.loads(session.value) for session in close_sessions("u", text, GAP_MS)]


def test_a_session_tells_its_events_in_time_order() -> None:
    (session,) = closed(
        event("2", "purchase", 20, "a", "b", session="s-9"), event("1", "search", 10)
    )
    assert session["session_id"] == "s-9"
    assert (session["started_at"], session["ended_at"]) == (START + 10_000, START + 20_000)
    assert session["closed_by"] == "gap"
    assert session["events"] == [
        {"item_id": None, "event_type": "search", "event_time": START + 10_000},
        {"item_id": "a", "event_type": "purchase", "event_time": START + 20_000},
        {"item_id": "b", "event_type": "purchase", "event_time": START + 20_000},
    ]


def test_session_end_closes_and_what_follows_is_another_session() -> None:
    first, second = closed(
        event("1", "view_item", 0, "a"),
        event("2", "session_end", 5),
        event("3", "view_item", 9, "b"),
    )
    assert (first["closed_by"], second["closed_by"]) == ("event", "gap")
    assert second["session_id"] == f"u:{START + 9000}"


def test_a_lone_session_end_is_no_session() -> None:
    assert closed(event("1", "session_end", 0)) == []


def test_a_repeated_event_counts_once() -> None:
    again = event("1", "view_item", 0, "a")
    (session,) = closed(again, event("2", "view_item", 3, "b"), again)
    assert len(session["events"]) == 2


def test_the_feature_row_is_that_of_the_one_function() -> None:
    events = [event("1", "view_item", 0, "a"), event("2", "add_to_cart", 7, "a")]
    (session,) = closed(*events)
    row = session_features(SessionBatch.from_events([events]))[0]
    assert session["features"] == dict(zip(FEATURES, row.tolist(), strict=True))
