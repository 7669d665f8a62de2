"""The figures of a report on a history of two users, computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from models.list_quality import exposures, gini, lists_of, total_gain
from models.report_facts import Facts, Judging, facts
from udfs.events import TYPE_CODES, Event, Item

VIEW = TYPE_CODES["view_item"]
DAY_MS = 86_400_000
EVENTS = [
    ("u", Event("1", VIEW, 0, [Item("a")])),
    ("u", Event("2", VIEW, 1, [Item("b")])),
    ("u", Event("3", VIEW, 2, [Item("c")])),
    ("v", Event("4", VIEW, DAY_MS, [Item("a")])),
    ("v", Event("5", VIEW, DAY_MS + 1, [Item("b")])),
]


def message(number: str, items: str, took: int = 10, scores: list[float] | None = None) -> dict:
    user, event = next((user, event) for user, event in EVENTS if event.event_id == number)
    values = scores or [float(len(items) - place) for place in range(len(items))]
    return {
        "trigger_event_id": number,
        "user_id": user,
        "event_time": event.time,
        "items": [{"item_id": i, "score": s} for i, s in zip(items, values, strict=True)],
        "bundle_version": "v",
        "served_by": "full",
        "took_us": {"features": took, "rank": took},
    }


A = [message("1", "cb"), message("2", "ac"), message("3", "ab"), message("4", "xy")]
B = [message("1", "bc", 20), message("2", "cx"), message("4", "yb"), message("5", "zz"[:1])]


@pytest.fixture(scope="module")
def found() -> Facts:
    return facts({"A": A, "B": B}, EVENTS, Judging(1_800_000, size=2))


def test_only_events_that_both_answered_are_compared(found: Facts) -> None:
    assert [len(side.lists) for side in found.sides] == [3, 3]
    assert [side.only_here for side in found.sides] == [1, 1]
    assert found.judged == 3
    assert (found.events, found.users, found.sessions) == (5, 2, 2)


def test_the_metrics_are_those_computed_by_hand(found: Facts) -> None:
    second = 1 / math.log2(3)
    table = {  # next: b after 1, c after 2, b after 4
        "hit": ([2 / 3, 1], 1 / 3),
        "first": ([0, 2 / 3], 2 / 3),
        "mrr": ([1 / 3, 2.5 / 3], 0.5),
        "ndcg": ([2 * second / 3, (2 + second) / 3], None),
        "later": ([2 / 3, 1], 1 / 3),  # b and c after 1: A and B hold both
    }
    for name, (sides, difference) in table.items():
        row = found.metrics[name]
        assert [each.mean for each in row.sides] == pytest.approx(sides)
        assert row.difference is not None
        expected = sides[1] - sides[0] if difference is None else difference
        assert row.difference.mean == pytest.approx(expected)


def test_what_is_shown_is_counted(found: Facts) -> None:
    assert found.items == 6  # a, b, c, and x, y, z, which nobody touched
    assert [found.coverage(side) for side in found.sides] == pytest.approx([5 / 6, 4 / 6])
    assert found.shown_more == [("b", 1, 2), ("a", 1, 0)]
    popularity = {"a": 400, "b": 400, "c": 200, "x": 0, "y": 0}
    shown = [[popularity[item] for item in "cbacxy"], [popularity[item] for item in "bccxyb"]]
    assert [each.mean for each in found.popularity.sides] == pytest.approx(
        [np.mean(each) for each in shown]
    )


def test_who_wins_is_named(found: Facts) -> None:
    assert [(gain.owner, gain.lists, gain.before, gain.after) for gain in found.items_won] == [
        ("b", 2, 1, 2),
        ("c", 1, 1, 1),
    ]
    assert [(gain.owner, gain.before, gain.after) for gain in found.users_won] == [
        ("v", 0, 1),
        ("u", 2, 2),
    ]


def test_the_overlap_is_that_of_the_pairs(found: Facts) -> None:
    # cb and bc, ac and cx, xy and yb
    assert found.common.tolist() == [2, 1, 1]
    assert found.overlap["Jaccard@2"].mean == pytest.approx(5 / 9)
    assert found.overlap["first item the same"].mean == 0


def test_lists_are_grouped_by_the_length_of_the_session_and_by_day(found: Facts) -> None:
    assert [(name, lists) for name, lists, _ in found.by_length] == [("1", 2), ("2–3", 1)]
    assert [(at, lists) for at, lists, _ in found.by_period] == [(0, 2), (DAY_MS, 1)]


def test_what_a_list_costs_is_the_sum_of_its_stages(found: Facts) -> None:
    assert [side.took_us(1) for side in found.sides] == [20, 40]


def test_one_replay_has_no_differences() -> None:
    (alone,) = (facts({"A": A}, EVENTS, Judging(1_800_000, size=2)),)
    assert len(alone.sides[0].lists) == 4
    assert alone.metrics["hit"].difference is None
    assert (alone.overlap, alone.items_won, alone.shown_more) == ({}, [], [])


def test_equal_scores_count_against_a_list() -> None:
    tied = [message("1", "cb", scores=[1, 1]), message("2", "cx", scores=[1, 1])]
    row = facts({"A": tied}, EVENTS, Judging(1_800_000, size=2)).metrics["mrr"]
    assert row.sides[0].mean == 0.5


def test_lists_of_another_history_are_refused() -> None:
    with pytest.raises(ValueError, match="of none"):
        facts({"A": A}, EVENTS[:2], Judging(1_800_000))
    with pytest.raises(ValueError, match="no event that all answered"):
        facts({"A": A[:1], "B": B[1:]}, EVENTS, Judging(1_800_000))


def test_exposure_and_its_inequality() -> None:
    lists = lists_of(A, {}, 2)  # c b a x y
    assert exposures(lists, 6).tolist() == [2, 2, 2, 1, 1, 0]
    assert gini(np.array([5, 5, 0, 5])) == 0
    assert gini(np.array([1, 3])) == 0.25
    assert gini(np.zeros(3)) == 0


def test_owners_are_ordered_by_what_they_gain() -> None:
    known, counts, sums = total_gain(np.array([1, -1, 1, 0]), np.array([7, 3, 7, 5]))
    assert (known.tolist(), counts.tolist(), sums.tolist()) == ([7, 5, 3], [2, 1, 1], [2, 0, -1])
