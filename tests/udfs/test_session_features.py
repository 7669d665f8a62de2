from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from udfs.events import EVENT_TYPES, TYPE_CODES, Event, Item
from udfs.session_features import (
    FEATURES,
    SessionBatch,
    current_session,
    session_features,
    split_sessions,
)

GAP_MS = 1_800_000
START = 1_322_728_000_000  # Thursday 2011-12-01 08:26:40 UTC


def event(name: str, seconds: float, *items: Item, session: str | None = None) -> Event:
    time = START + round(seconds * 1000)
    return Event(f"{name}@{seconds}", TYPE_CODES[name], time, list(items), session)


def features_of(*session: Event) -> dict[str, float]:
    row = session_features(SessionBatch.from_events([session]))[0]
    return dict(zip(FEATURES, row.tolist(), strict=True))


def test_features_of_a_session_counted_by_hand() -> None:
    assert features_of(
        event("view_item", 0, Item("a", 2.0)),
        event("search", 5),
        event("view_item_list", 6),
        event("select_item", 10, Item("b")),
        event("add_to_cart", 40, Item("a", 2.0)),
        event("purchase", 70, Item("a", 2.0), Item("c", 8.0)),
    ) == pytest.approx(
        {
            "interactions": 5,
            "distinct_items": 3,
            "repeat_share": 0.4,
            "duration_s": 70,
            "last_gap_s": 0,
            "mean_gap_s": 17.5,
            "views": 2,
            "carts": 1,
            "wishlists": 0,
            "purchases": 2,
            "priced_share": 0.8,
            "mean_price": 3.5,
            "last_price": 8,
            "hour_of_day": 8 + (26 + 110 / 60) / 60,
            "day_of_week": 3,
        },
        rel=1e-6,
    )


def test_a_session_without_interactions_has_only_zeros() -> None:
    assert set(features_of(event("search", 0)).values()) == {0.0}
    assert session_features(SessionBatch.from_events([])).shape == (0, len(FEATURES))


interactions = st.builds(
    Event,
    st.uuids().map(str),
    st.integers(0, len(EVENT_TYPES) - 1),
    st.integers(START, START + 10_000_000),
    st.lists(st.builds(Item, st.sampled_from("abcdef"), st.none() | st.floats(0, 1e6)), max_size=3),
    st.none() | st.sampled_from(["s", "t"]),
)


@given(st.lists(st.lists(interactions, max_size=6), max_size=6))
def test_a_session_has_the_same_features_alone_and_in_a_batch(
    sessions: list[list[Event]],
) -> None:
    together = session_features(SessionBatch.from_events(sessions))
    for row, session in enumerate(sessions):
        alone = session_features(SessionBatch.from_events([session]))
        assert together[row].tobytes() == alone[0].tobytes()


@given(st.lists(interactions, min_size=1, max_size=12))
def test_every_event_is_in_exactly_one_session_in_time_order(window: list[Event]) -> None:
    sessions = split_sessions(window, GAP_MS)
    flat = [e for session in sessions for e in session]
    assert sorted(map(id, flat)) == sorted(map(id, window))
    assert [e.time for e in flat] == sorted(e.time for e in window)
    for session in sessions:
        gaps = np.diff([e.time for e in session])
        assert (gaps <= GAP_MS).all()
        assert all(e.type != TYPE_CODES["session_end"] for e in session[:-1])
    assert current_session(window, GAP_MS) in sessions


def test_a_gap_must_be_exceeded_to_end_a_session() -> None:
    on_the_gap = [event("view_item", 0), event("view_item", 1800)]
    beyond = [event("view_item", 0), event("view_item", 1800.001)]
    assert len(split_sessions(on_the_gap, GAP_MS)) == 1
    assert len(split_sessions(beyond, GAP_MS)) == 2


def test_a_session_ends_with_session_end_and_where_its_id_changes() -> None:
    ended = [event("view_item", 0), event("session_end", 1), event("view_item", 2)]
    assert [len(s) for s in split_sessions(ended, GAP_MS)] == [2, 1]
    renamed = [event("view_item", t, session=s) for t, s in enumerate(["x", None, "x", "y"])]
    assert [len(s) for s in split_sessions(renamed, GAP_MS)] == [3, 1]


def test_a_trigger_that_comes_late_is_answered_in_its_own_session() -> None:
    old, new, late = event("view_item", 0), event("view_item", 9000), event("view_item", 60)
    assert current_session([old, new, late], GAP_MS) == [old, late]
