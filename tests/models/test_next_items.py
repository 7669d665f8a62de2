"""What came next, on sessions that are small enough to be read."""

from __future__ import annotations

from models.next_items import futures
from udfs.events import TYPE_CODES, Event, Item

GAP_MS = 1_000


def event(name: str, time: int, items: str = "", kind: str = "view_item") -> Event:
    return Event(name, TYPE_CODES[kind], time, [Item(item) for item in items])


def test_the_next_items_are_those_of_the_first_later_event_that_brings_a_new_one() -> None:
    events = [
        event("a", 0, "x"),
        event("b", 1, "x"),
        event("c", 2, kind="search"),
        event("d", 3, "xyz", "purchase"),
        event("e", 4, "w"),
    ]
    found = futures((("u", each) for each in events), GAP_MS)
    assert [found["u", name].next for name in "abcde"] == [{"y", "z"}] * 3 + [{"w"}, set()]
    assert [found["u", name].later for name in "abcde"] == [3, 3, 3, 1, 0]
    assert [found["u", name].items for name in "abcde"] == [1, 1, 1, 3, 4]
    assert [found["u", "a"].holds(item) for item in "xyzw?"] == [False, True, True, True, False]


def test_repeats_count_if_asked_for() -> None:
    events = [event("a", 0, "x"), event("b", 1, "y"), event("c", 2, "x")]
    found = futures((("u", each) for each in events), GAP_MS, repeats=True)
    assert [found["u", name].next for name in "abc"] == [{"y"}, {"x"}, set()]
    assert [found["u", name].later for name in "abc"] == [2, 1, 0]
    assert found["u", "b"].holds("x")


def test_sessions_users_late_events_and_repeated_ids_are_those_of_the_job() -> None:
    events = [
        ("u", event("a", 0, "x")),
        ("v", event("a", 0, "q")),
        ("u", event("c", 200, "z")),
        ("u", event("b", 100, "y")),  # late: its place is before c
        ("u", event("c", 999, "p")),  # sent again: the first counts
        ("u", event("d", 5_000, "w")),  # after the gap
    ]
    found = futures(events, GAP_MS)
    assert found["u", "a"].next == {"y"}
    assert found["u", "b"].next == {"z"}
    assert found["u", "c"].next == set()
    assert found["v", "a"].next == set()
    assert len({found[key].session for key in [("u", "a"), ("u", "d"), ("v", "a")]}) == 3
    assert found["u", "a"].session == found["u", "c"].session
