"""What acts from when: the rules of the history, without any file."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.history import History, RegistryError, decoded, encoded

HASH = "0" * 64
DAY = 86_400_000


def decide(history: History, decided: str, version: str, active_from: int, **more: Any) -> None:
    fields = {"sha256": HASH, "active_from": active_from, **more}
    history.add(history.next(decided=decided, bundle_version=version, **fields))


def history_of(*decisions: tuple[str, str, int]) -> History:
    history = History()
    for decided, version, active_from in decisions:
        decide(history, decided, version, active_from)
    return history


def acting(history: History, event_time: int) -> str | None:
    decision = history.at(event_time)
    return decision.bundle_version if decision else None


def test_an_event_is_answered_by_the_newest_bundle_that_is_active_from_then() -> None:
    history = history_of(("promoted", "a", 10), ("promoted", "b", 20), ("promoted", "c", 20))
    assert [acting(history, time) for time in (9, 10, 19, 20, 99)] == [None, "a", "a", "c", "c"]


def test_a_rejected_bundle_never_acts() -> None:
    history = history_of(("promoted", "a", 10), ("rejected", "b", 20), ("promoted", "c", 30))
    assert [acting(history, time) for time in (19, 20, 30)] == ["a", "a", "c"]
    assert history.decisions[2].parent == "a"


def test_a_rollback_lets_the_one_before_act_again_and_older_events_keep_theirs() -> None:
    history = history_of(("promoted", "a", 10), ("promoted", "b", 20))
    decide(history, "rolled_back", history.before(), 30)
    assert [acting(history, time) for time in (15, 25, 35)] == ["a", "b", "a"]
    assert history.newest is not None
    assert history.newest.parent == "b"


def test_rolling_back_twice_does_not_lead_back_to_what_was_rolled_back_from() -> None:
    history = history_of(("promoted", "a", 1), ("promoted", "b", 2), ("promoted", "c", 3))
    decide(history, "rolled_back", history.before(), 4)
    assert acting(history, 4) == "b"
    assert history.before() == "a"
    decide(history, "rolled_back", "c", 5)  # asked for by name it may be
    assert history.before() == "b"


def test_a_rollback_takes_back_what_was_announced_for_later() -> None:
    history = history_of(("promoted", "a", 10), ("promoted", "b", 90), ("rolled_back", "a", 90))
    assert [acting(history, time) for time in (50, 90, 99)] == ["a", "a", "a"]


@pytest.mark.parametrize(
    ("before", "then", "reason"),
    [
        ([("promoted", "a", 20)], ("promoted", "b", 19), "at or after 20, from which a acts"),
        (
            [("promoted", "a", 10), ("promoted", "b", 20)],
            ("promoted", "a", 30),
            "a was announced at sequence 1 already",
        ),
        ([("promoted", "a", 10)], ("promoted", "a", 10), "announced at sequence 1 already"),
        ([("rejected", "a", 10)], ("promoted", "a", 20), "rejected at sequence 1 and stays out"),
        ([("rejected", "a", 10)], ("rolled_back", "a", 20), "a never did"),
        ([("promoted", "a", 10)], ("rejected", "a", 20), "to take it back, roll back"),
        ([("promoted", "a", 10)], ("rolled_back", "a", 20), "which acts already"),
        ([("promoted", "a", 10)], ("rolled_back", "b", 20), "b never did"),
        (
            [("promoted", "a", 10), ("promoted", "b", 20)],
            ("rolled_back", "a", 19),
            "at or after 20",
        ),
        ([], ("promoted", "a", 1_700_000_000_000_000), "active_from"),  # microseconds
        ([], ("promoted", "a", -1), "active_from"),
        ([], ("promoted", "../a", 1), "bundle_version"),
        ([], ("promoted", "a\n", 1), "bundle_version"),
        ([], ("praised", "a", 1), "decided"),
    ],
)
def test_what_breaks_the_rules_is_refused_with_the_reason(
    before: list[tuple[str, str, int]], then: tuple[str, str, int], reason: str
) -> None:
    history = history_of(*before)
    with pytest.raises(RegistryError, match=reason):
        decide(history, *then)
    assert len(history.decisions) == len(before)


def test_a_version_keeps_its_bytes() -> None:
    history = history_of(("promoted", "a", 10), ("promoted", "b", 20))
    with pytest.raises(RegistryError, match="it has another hash now"):
        decide(history, "rolled_back", "a", 30, sha256="1" * 64)


def test_a_decision_that_is_out_of_turn_is_refused() -> None:
    history = history_of(("promoted", "a", 10))
    with pytest.raises(RegistryError, match="expected sequence 2; got 1"):
        history.add(history.decisions[0])


def test_there_is_nothing_to_roll_back_to_at_first() -> None:
    with pytest.raises(RegistryError, match="there is none"):
        history_of(("promoted", "a", 10), ("rejected", "b", 20)).before()


def test_a_decision_is_a_message_and_comes_back_the_same() -> None:
    history = history_of(("promoted", "a", 10))
    decide(history, "promoted", "b", 20, why="better", metrics={"served": {"hr20": 0.5}}, uri="x")
    for decision in history.decisions:
        assert decoded(encoded(decision)) == decision


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[]", b"{}", b"[" * 50_000, b" " * 70_000, b'{"sequence": 1, "active_from": "1"}'],
)
def test_what_is_no_decision_is_refused(data: bytes) -> None:
    with pytest.raises(RegistryError, match="expected a decision"):
        decoded(data)


def test_too_large_a_decision_is_not_made() -> None:
    history = History()
    fields = {"sha256": HASH, "active_from": 1, "metrics": {"x": "y" * 70_000}}
    decision = history.next(decided="promoted", bundle_version="a", **fields)
    with pytest.raises(RegistryError, match="at most 65536 bytes"):
        encoded(decision)


def test_what_serves_what_comes_and_the_way_back_are_kept() -> None:
    history = history_of(*[("promoted", f"v{day}", day * DAY) for day in range(10)])
    assert history.kept(3, 20 * DAY) == (8, {"v7", "v8", "v9"})
    assert history.kept(1, 20 * DAY) == (9, {"v8", "v9"})  # late events, and a rollback, need v8
    assert history.kept(1, 5 * DAY) == (5, {"v4", "v5", "v6", "v7", "v8", "v9"})
    decide(history, "rolled_back", "v2", 10 * DAY)
    first, versions = history.kept(1, 20 * DAY)
    assert (first, versions) == (10, {"v9", "v2", "v1"})  # v1 is where a rollback would lead
    assert History().kept(3, DAY) == (0, set())


@st.composite
def histories(draw: st.DrawFn) -> History:
    """Whatever is tried, the history has what the rules let in."""
    history = History()
    for _ in range(draw(st.integers(0, 25))):
        version = draw(st.sampled_from("abcdefgh"))
        decided = draw(st.sampled_from(["promoted", "rejected", "rolled_back"]))
        try:
            decide(history, decided, version, draw(st.integers(0, 30)))
        except RegistryError:
            continue
    return history


@given(histories(), st.integers(-1, 31))
def test_what_acts_is_the_last_of_those_active_by_then(history: History, time: int) -> None:
    able = [each for each in history.decisions if each.acts and each.active_from <= time]
    assert history.at(time) == (able[-1] if able else None)


@given(histories(), st.integers(0, 31))
def test_a_new_decision_changes_nothing_before_its_time(history: History, start: int) -> None:
    before = [history.at(time) for time in range(start)]
    try:
        decide(history, "promoted", "new", start)
    except RegistryError:
        return
    assert [history.at(time) for time in range(start)] == before
    assert acting(history, start) == "new"


@given(histories(), st.integers(1, 5), st.integers(-1, 31))
def test_what_a_later_event_or_a_rollback_needs_is_kept(
    history: History, keep: int, now: int
) -> None:
    _, kept = history.kept(keep, now)
    for time in range(max(now, 0), 32):
        assert acting(history, time) in {*kept, None}
    assert {each.bundle_version for each in history.acting[-keep:]} <= kept
    with suppress(RegistryError):  # there is none
        assert history.before() in kept
