"""Nearest sessions: as a naive version finds them, bounded, and the same however they came."""

from __future__ import annotations

import math
from dataclasses import fields
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.past_sessions import KnnSettings, PastSessions, past_sessions, restored
from models.session_knn import SessionKnn

V = 12
DAY_MS = 86_400_000
Sessions = list[tuple[int, list[int]]]
"""(end in hours, items) of each session, by end."""

sessions = st.lists(
    st.tuples(st.integers(0, 50), st.lists(st.integers(0, V - 1), min_size=1, max_size=7)),
    min_size=1,
    max_size=25,
).map(lambda each: sorted(each, key=lambda pair: pair[0]))
asked = st.lists(st.integers(0, V - 1), min_size=1, max_size=6)
chosen = st.builds(
    KnnSettings,
    per_item=st.integers(1, 4),
    longest=st.integers(2, 5),
    nearest=st.integers(1, 6),
    items=st.integers(1, 8),
    recent=st.integers(1, 7),
    half_life_days=st.sampled_from([0.5, 90.0]),
)


def rows(log: Sessions) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    items = [item for _, each in log for item in each]
    session = np.repeat(np.arange(len(log)), [len(each) for _, each in log])
    times = [hours * 3_600_000 for hours, each in log for _ in each]
    return np.array(items), session, np.array(times)


def indexed(log: Sessions, how: KnnSettings) -> PastSessions:
    return past_sessions(*rows(log), V, how)


def ask(past: PastSessions, how: KnnSettings, *questions: list[int]) -> list[dict]:
    """Each answer as {item: scores}, in order."""
    recent = np.full((len(questions), 6), -1, np.int32)
    for row, question in enumerate(questions):
        recent[row, : len(question)] = question
    lengths = np.array([len(question) for question in questions])
    found = SessionKnn(past, how).ask(recent, lengths)
    return [
        {int(found.items[at]): tuple(found.scores[at].tolist()) for at in range(low, high)}
        for low, high in pairwise(found.starts.tolist())
    ]


def naive(log: Sessions, how: KnnSettings, question: list[int]) -> dict:
    """VMIS-kNN written down as it is told, newest item of the question first."""
    past = []
    for hours, each in log:
        distinct = [item for at, item in enumerate(each) if item not in each[at + 1 :]]
        past.append((hours, distinct[-how.longest :]))
    listed = {
        item: [s for s in range(len(past)) if item in past[s][1]][-how.per_item :]
        for item in range(V)
    }
    kept = sorted({s for each in listed.values() for s in each})
    held = {item: sum(item in past[s][1] for s in kept) for item in range(V)}
    idf = {item: math.log((len(kept) + 1) / (held[item] + 1)) + 0.1 for item in range(V)}
    newest = max(past[s][0] for s in kept)
    similarity: dict[int, float] = {}
    match: dict[int, int] = {}
    for back, item in enumerate(question[: how.recent]):
        if item not in question[:back]:
            for s in listed[item]:
                similarity[s] = similarity.get(s, 0) + how.decay**back * idf[item]
                match.setdefault(s, item)
    for s in similarity:
        age = (newest - past[s][0]) / 24
        similarity[s] *= 0.5 ** (age / how.half_life_days) / len(past[s][1]) ** how.length_power
    voters = sorted(similarity, key=lambda s: (-round(similarity[s], 5), -s))[: how.nearest]
    scores: dict[int, list[float]] = {}
    for s in voters:
        at = past[s][1].index(match[s])
        for place, item in enumerate(past[s][1]):
            score = scores.setdefault(item, [0.0, 0.0])
            score[0] += similarity[s] * idf[item]
            if place != at:
                side = 1.0 if place > at else 0.5
                score[1] += side * similarity[s] * math.exp(-(abs(place - at) - 1) / how.reach)
    best = sorted(scores, key=lambda item: (-round(scores[item][0], 5), item))[: how.items]
    return {item: tuple(scores[item]) for item in best}


@settings(max_examples=200, deadline=None)
@given(sessions, chosen, asked)
def test_it_finds_what_a_naive_version_finds(
    log: Sessions, how: KnnSettings, question: list[int]
) -> None:
    got, want = ask(indexed(log, how), how, question)[0], naive(log, how, question)
    values, wanted = (np.array(list(each.values())).reshape(-1, 2) for each in (got, want))
    assert values.shape == wanted.shape
    assert values[:, 0] == pytest.approx(wanted[:, 0], rel=1e-4)
    for item in got.keys() & want.keys():  # the last places may go to others of equal score
        if got[item][0] > values[-1, 0] * 1.001 and len(want) < how.items:
            assert got[item] == pytest.approx(want[item], rel=1e-4)


def test_ties_go_to_the_newer_session_and_to_the_lower_item() -> None:
    log = [(0, [1, 5]), (1, [1, 7]), (1, [1, 6])]
    how = KnnSettings(nearest=2, half_life_days=1e9)
    found = ask(indexed(log, how), how, [1])[0]
    assert list(found) == [6, 7, 1]  # 5 is of the oldest of three equal ones
    how = KnnSettings(nearest=3, items=2, half_life_days=1e9)
    assert list(ask(indexed(log, how), how, [1])[0]) == [5, 6]


@settings(max_examples=100, deadline=None)
@given(sessions, chosen, st.integers(0, 25))
def test_appending_gives_what_all_sessions_together_give(
    log: Sessions, how: KnnSettings, cut: int
) -> None:
    first, later = log[:cut], log[cut:]
    if not first:
        return
    grown = indexed(first, how).appended(*rows(later), how) if later else indexed(first, how)
    same(grown, indexed(log, how))


@settings(max_examples=100, deadline=None)
@given(sessions, chosen, st.lists(asked, min_size=1, max_size=5))
def test_a_question_gets_the_same_bits_alone_and_among_others(
    log: Sessions, how: KnnSettings, questions: list[list[int]]
) -> None:
    past = indexed(log, how)
    together = ask(past, how, *questions)
    assert [ask(past, how, question)[0] for question in questions] == together
    stored = restored(past.offsets, past.items, past.ends, V, how)
    same(stored, past)


def test_memory_is_bounded_by_the_newest_sessions_of_each_item() -> None:
    how = KnnSettings(per_item=3)
    log = [(hour, [hour % V, (hour + 1) % V]) for hour in range(1000)]
    past = indexed(log, how)
    assert len(past) <= 3 * V
    assert past.ends.min() >= (1000 - 3 * V) * 3_600_000


def test_the_reason_is_an_item_of_the_question_however_old_the_sessions_are() -> None:
    how = KnnSettings(half_life_days=0.01)
    past = indexed([(0, [1, 2]), (1, [3, 4]), (24 * 365, [5, 6])], how)
    recent = np.array([[3, 1, 7]], np.int32)
    found = SessionKnn(past, how).ask(recent, np.array([3]))
    assert dict(zip(found.items.tolist(), found.because.tolist(), strict=True)) == {
        **{1: 1, 2: 1},
        **{3: 3, 4: 3},
    }


def test_items_that_leave_the_catalogue_leave_the_sessions() -> None:
    how = KnnSettings()
    past = indexed([(0, [1, 2]), (1, [2, 3])], how)
    index = np.full(V, -1)
    index[[2, 3]] = [1, 0]
    moved = past.recoded(index, 2, how)
    assert moved.items.tolist() == [1, 1, 0]
    assert moved.offsets.tolist() == [0, 1, 3]


def test_stored_sessions_that_do_not_fit_together_are_refused() -> None:
    past = indexed([(0, [1, 2]), (1, [2, 3])], KnnSettings())
    for offsets, items, ends in (
        (past.offsets[:-1], past.items, past.ends),
        (past.offsets, past.items + V, past.ends),
        (past.offsets, past.items, past.ends[::-1]),
    ):
        with pytest.raises(ValueError, match="expected past sessions in order of time"):
            restored(offsets, items, ends, V, KnnSettings())


def same(one: PastSessions, other: PastSessions) -> None:
    for each in fields(PastSessions):
        assert np.array_equal(getattr(one, each.name), getattr(other, each.name)), each.name
