from __future__ import annotations

import json
from collections.abc import Iterable

from hypothesis import given, settings
from hypothesis import strategies as st

from udfs.events import TYPE_CODES, Event, Item, to_text
from udfs.session_features import FEATURES, SessionBatch, session_features
from udfs.sessions import Closing

START = 1_322_728_000_000
GAP_MS = 1_800_000
END = TYPE_CODES["session_end"]
NEVER = -1


def event(name: str, kind: str, seconds: int, *items: str, session: str | None = None) -> Event:
    time = START + seconds * 1000
    return Event(name, TYPE_CODES[kind], time, [Item(i, 1.5) for i in items], session)


def text(events: Iterable[Event]) -> str:
    return ",".join(map(to_text, events))


def by_silence(rule: Closing, events: Iterable[Event]) -> list[dict]:
    return [json.loads(session.value) for session in rule.by_silence("u", text(events))]


def by_end(rule: Closing, events: Iterable[Event], end: Event) -> list[dict]:
    """As the job sees them: the events of the look-back up to the time of `end`."""
    seen = (e for e in events if end.time - rule.lookback_ms <= e.time <= end.time)
    return [json.loads(session.value) for session in rule.by_end("u", text(seen), to_text(end))]


def closed(*events: Event) -> list[dict]:
    return by_silence(Closing(GAP_MS, NEVER), events)


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


def test_a_session_end_closes_at_once_and_the_silence_leaves_that_session_out() -> None:
    rule = Closing(GAP_MS, 60_000)
    events = [
        event("1", "view_item", 0, "a"),
        event("2", "session_end", 60),
        event("3", "view_item", 70, "b"),
        event("4", "session_end", 80),
    ]
    (first,) = by_end(rule, events, events[1])
    assert (first["closed_by"], first["ended_at"]) == ("event", START + 60_000)
    assert by_end(rule, events, events[3]) == []  # more than a minute after the silence
    (second,) = by_silence(rule, events)
    assert (second["closed_by"], second["started_at"]) == ("event", START + 70_000)


def test_a_stretch_that_is_seen_in_part_is_left_to_the_silence() -> None:
    rule = Closing(GAP_MS, 60_000)
    events = [event(str(n), "view_item", n * 1_700, "a") for n in range(5)]
    end = event("end", "session_end", 4 * 1_700 + 20)
    assert by_end(rule, [*events, end], end) == []
    assert len(by_silence(rule, [*events, end])) == 1


GAP = 4
moments = st.builds(
    Event,
    event_id=st.sampled_from("abcdefghij"),
    type=st.sampled_from([END, TYPE_CODES["view_item"]]),
    time=st.integers(START, START + 30),
    items=st.just([Item("i")]),
    session_id=st.sampled_from([None, "s", "t"]),
)


@settings(max_examples=500)
@given(st.lists(moments, max_size=12), st.integers(0, 12))
def test_each_session_is_closed_exactly_once_whatever_is_closed_at_once(
    events: list[Event], at_once: int
) -> None:
    rule, never = Closing(GAP, at_once), Closing(GAP, NEVER)
    ends = {to_text(e): e for e in events if e.type == END}.values()
    found = [session for end in ends for session in by_end(rule, events, end)]
    found += by_silence(rule, events)
    assert sorted(found, key=repr) == sorted(by_silence(never, events), key=repr)
