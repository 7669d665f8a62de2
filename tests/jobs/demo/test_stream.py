"""Visits → one stream of records, each with the outcome that it must meet."""

from __future__ import annotations

from collections import Counter

import pytest

from jobs.demo.malformed import malformed
from jobs.demo.stream import (
    RESEND_EVERY,
    Record,
    expected,
    interleave,
    most_popular,
    next_new_items,
    plan,
    record_of,
    with_malformed,
    with_repeats,
)
from jobs.demo.visits import Step, Visit
from tests.jobs.demo.baskets import NOW_MS, visit
from udfs.events import InvalidEventError, decode


def test_the_next_item_is_the_first_later_one_not_yet_in_the_session() -> None:
    assert next_new_items(["A", "B", "A", "C", "C"]) == ["B", "C", "C", None, None]
    assert next_new_items(["A", "A"]) == [None, None]
    assert next_new_items(["A", "", "B"]) == ["B", "B", None]


def test_the_popular_list_leaves_out_what_is_in_the_session() -> None:
    popular = [str(number) for number in range(30)]
    assert most_popular(popular, {"0", "5"})[:6] == ["1", "2", "3", "4", "6", "7"]
    assert len(most_popular(popular, {"0"})) == 20


def test_each_users_events_keep_their_order_in_the_lanes() -> None:
    visits = [visit("u", "A", "B", "C"), visit("v", "A"), visit("u", "D"), visit("w", "A", "B")]
    steps = [step for done in interleave(visits, 2) for step in done]
    assert len(steps) == sum(len(each.steps) for each in visits)
    of_u = [place for place in steps if visits[place[0]].user == "u"]
    assert of_u == [(0, at) for at in range(5)] + [(2, at) for at in range(3)]
    assert steps[:2] == [(0, 0), (1, 0)]  # two lanes at a time


def test_a_list_is_judged_only_by_an_item_that_is_really_sent() -> None:
    # 32 records: 16 malformed ones and 16 steps, so the last additions of 20 are not sent.
    shopper = visit("u", *(f"item {number}" for number in range(20)))
    records = plan([shopper], [], ["item 1"], 32)
    judged = [record for record in records if record.outcome == "answered"]
    assert len(judged) == 16
    assert judged[14].next_item == "item 15"
    assert judged[15].next_item is None
    assert [record.popular for record in judged[:2]] == [True, False]


def test_a_repeated_record_comes_soon_with_the_same_bytes_and_is_not_judged_again() -> None:
    step = Step("added", "A", {"event_id": "1"})
    records = [record_of(Visit("u", "", [step], True), 0, ["B"])] * (2 * RESEND_EVERY)
    out = with_repeats(records)
    again = [number for number, record in enumerate(out) if record.outcome == "duplicates"]
    assert len(again) == 2
    assert out[again[0]].value == out[again[0] - 4].value
    assert out[again[0]].next_item is None


def test_every_malformed_value_is_refused_and_all_are_mixed_in() -> None:
    for value in malformed():
        with pytest.raises(InvalidEventError):
            decode(value, NOW_MS)
    assert len(malformed()) >= 12
    good = [Record(b"u", b"{}", "answered")] * 100
    mixed = with_malformed(good, malformed())
    assert expected(mixed)["dead_letters"] == len(malformed())
    assert Counter(r.value for r in mixed if r.outcome == "dead_letters") == Counter(malformed())
    assert mixed[0].outcome == mixed[-1].outcome == "answered"
