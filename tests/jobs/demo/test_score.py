"""Lists → hits, latency, and books that must balance."""

from __future__ import annotations

import pytest

from jobs.demo.score import Score, misfits, missing_values
from jobs.demo.stream import (
    record_of,
)
from tests.jobs.demo.baskets import visit


def test_hits_are_counted_once_for_each_judged_list() -> None:
    shopper = visit("u", "A", "B", "C")
    first = record_of(shopper, 0, ["B", "C", None], ["B"])
    second = record_of(shopper, 1, ["B", "C", None], ["B"])
    score = Score({first.event_id: first, second.event_id: second})
    assert score.add(first.event_id, ["X", "B"], ["", ""], "full", 0.010) is not None
    assert score.add(first.event_id, ["B"], [""], "full", 0.5) is None
    assert score.add("somebody else's", ["B"], [""], "full", 0.5) is None
    score.add(second.event_id, ["X"] * 20 + ["C"], [""] * 21, "full", 0.030)
    assert (score.judged, score.hits, score.popular_hits, score.repeated) == (2, 1, 1, 1)
    assert score.hit_rate == 0.5
    assert score.percentile(50) == pytest.approx(20)


def test_books_that_do_not_balance_are_told_with_both_numbers() -> None:
    sent = {"answered": 5, "not_triggering": 2, "duplicates": 1, "dead_letters": 1}
    counters = {"consumed": 9, **sent}
    topics = {"user-events": 9, "recommendations": 5, "dead-letters": 1}
    assert misfits(sent, counters, topics) == []
    (lost,) = misfits(sent, counters, topics | {"recommendations": 4})
    assert lost == "answered: 5, but lists on recommendations: 4"
    assert "consumed: 9, but the sum of the outcomes: 8" in misfits(
        sent, counters | {"duplicates": 0}, topics
    )
    assert len(misfits(sent, {}, topics)) >= 4
    assert missing_values([b"a", b"a", None], [b"a", None]) == 1
