"""Neighbours of items on data whose counts are known."""

from __future__ import annotations

import numpy as np
import pytest

from models.covisits import Neighbours, NeighbourSettings, counted, fit_neighbours


def fit(items: list[int], session: list[int], titles: list[str], **settings: int) -> Neighbours:
    times = np.zeros(len(items), np.int64)
    wanted = NeighbourSettings(**{"together": 2, "next": 2, "similar": 1, **settings})
    return fit_neighbours(np.array(items), np.array(session), times, titles, wanted)


def weights_of(table: Neighbours, item: int, other: int) -> np.ndarray:
    at = np.flatnonzero((table.items[item] == other) & table.weights[item].any(axis=1))
    return table.weights[item, at[0]] if len(at) else np.zeros(3)


def test_weights_equal_the_hand_computed_ones() -> None:
    table = fit([0, 1, 2, 0, 1], [0, 0, 0, 1, 1], ["a", "b", "c"])
    together, following, _ = weights_of(table, 0, 1)
    assert together == pytest.approx(2 / np.sqrt(2 * 2 + 10), abs=1e-3)
    assert following == pytest.approx(2 / (2 + 5), abs=1e-3)
    assert weights_of(table, 0, 2)[1] == pytest.approx(0.5 / (2 + 5), abs=1e-3)  # two rows apart
    assert weights_of(table, 1, 0)[1] == 0  # 0 never follows 1


def test_items_of_different_sessions_are_not_together() -> None:
    table = fit([0, 1, 2, 3], [0, 0, 1, 1], ["a", "b", "c", "d"])
    assert not weights_of(table, 1, 2).any()


def test_an_item_may_follow_itself_but_is_not_together_with_itself() -> None:
    table = fit([0, 0, 1], [0, 0, 0], ["a", "b"])
    together, following, similar = weights_of(table, 0, 0)
    assert (together, similar) == (0, 0)
    assert following == pytest.approx(1 / (2 + 5), rel=1e-3)


def test_titles_that_share_rare_words_are_similar() -> None:
    titles = ["red tea cup", "blue tea cup", "garden chair", "garden bench", "lamp", "clock"]
    table = fit([0, 2], [0, 1], titles)
    assert weights_of(table, 0, 1)[2] > 0.3
    assert not weights_of(table, 0, 2).any()


def test_each_item_keeps_as_many_neighbours_as_asked_whatever_the_data() -> None:
    rng = np.random.default_rng(0)
    items, session = rng.integers(0, 50, 5000), np.repeat(np.arange(100), 50)
    table = fit(items.tolist(), session.tolist(), ["x"] * 50)
    assert table.items.shape == (50, 5)
    assert (table.weights.any(axis=2).sum(axis=1) <= 5).all()
    assert all(len(set(row)) == len(row) for row in table.items.tolist() if 0 not in row)


def test_older_sessions_weigh_less() -> None:
    day = 86_400_000
    items, session = np.array([0, 1, 0, 2]), np.array([0, 0, 1, 1])
    times = np.array([0, 0, 100 * day, 100 * day])
    settings = NeighbourSettings(half_life_days=10)
    table = fit_neighbours(items, session, times, [None, None, None], settings)
    assert weights_of(table, 0, 2)[0] > 10 * weights_of(table, 0, 1)[0]


def test_counting_on_from_a_table_gives_what_counting_everything_at_once_gives() -> None:
    day, size = 86_400_000, 20
    rng = np.random.default_rng(1)
    items, session = rng.integers(0, size, 4_000), np.repeat(np.arange(1_000), 4)
    times = session * (day // 50)
    settings = NeighbourSettings(together=size, next=size, similar=0, half_life_days=10)
    titles = [None] * size
    everything = fit_neighbours(items, session, times, titles, settings)

    old = slice(0, 2_800)
    first = fit_neighbours(items[old], session[old], times[old], titles, settings)
    moved = rng.permutation(size)  # the catalogue has another order now
    assert first.visits is not None
    before = counted(first, first.visits, int(times[old].max()), moved, size)
    new = slice(2_800, None)
    table = fit_neighbours(moved[items[new]], session[new], times[new], titles, settings, before)
    assert everything.visits is not None
    assert table.visits is not None
    assert table.visits[moved] == pytest.approx(everything.visits, rel=1e-5)
    for item in range(size):
        for other in range(size):
            got = weights_of(table, moved[item], moved[other])
            assert got == pytest.approx(weights_of(everything, item, other), rel=0.01, abs=1e-3)


def test_items_that_are_gone_are_not_counted_on() -> None:
    first = fit([0, 1, 2, 0, 1], [0, 0, 0, 1, 1], ["a", "b", "c"])
    assert first.visits is not None
    before = counted(first, first.visits, 0, np.array([1, -1, 0]), 2)
    none = np.empty(0, np.int64)
    table = fit_neighbours(none, none, none, ["c", "a"], NeighbourSettings(), before)
    assert weights_of(table, 1, 0) == pytest.approx(weights_of(first, 0, 2), abs=1e-3)
    assert table.visits is not None
    assert table.visits.tolist() == [1, 2]
