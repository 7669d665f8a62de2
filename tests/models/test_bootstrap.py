"""Intervals by hand, against a plain loop, and against what theory says."""

from __future__ import annotations

import numpy as np
import pytest

from models.bootstrap import Interval, intervals, resampled_means


def test_a_plain_loop_draws_the_same_means() -> None:
    rng = np.random.default_rng(1)
    owners, values = rng.integers(0, 9, 50), rng.random((50, 2))
    found = resampled_means(values, owners, 5, seed=4)
    draw, parts = np.random.default_rng(4), [values[owners == owner] for owner in range(9)]
    for means in found:
        drawn = np.concatenate([parts[owner] for owner in draw.integers(0, 9, 9)])
        assert means == pytest.approx(drawn.mean(axis=0))


def test_how_many_are_drawn_at_once_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    values, owners = np.random.default_rng(2).random((40, 1)), np.arange(40) // 4
    together = resampled_means(values, owners, 25, seed=0)
    monkeypatch.setattr("models.bootstrap._DRAWN", 1)
    assert resampled_means(values, owners, 25, seed=0) == pytest.approx(together)


def test_one_session_has_no_spread() -> None:
    values = np.array([[0.0], [1.0]])
    assert intervals(values, np.zeros(2)) == [Interval(0.5, 0.5, 0.5)]


def test_an_interval_is_as_wide_as_the_normal_distribution_says() -> None:
    values = np.random.default_rng(0).normal(3, 2, (1_000, 1))
    (found,) = intervals(values, np.arange(1_000))
    assert found.high - found.low == pytest.approx(2 * 1.96 * 2 / 1_000**0.5, rel=0.1)
    assert found.low < 3 < found.high


def test_what_depends_on_each_other_makes_the_interval_wider() -> None:
    values = np.repeat(np.random.default_rng(0).random(50), 20)[:, None]
    (whole,), (apart,) = intervals(values, np.arange(1_000) // 20), intervals(values, range(1_000))
    assert whole.high - whole.low > 3 * (apart.high - apart.low)


def test_a_paired_difference_is_surer_than_two_means() -> None:
    rng = np.random.default_rng(0)
    base = rng.random(200)
    values = np.stack([base, base + 0.01 + rng.normal(0, 0.01, 200)], axis=1)
    own, other, difference = intervals(np.c_[values, values[:, 1] - values[:, 0]], np.arange(200))
    assert other.low < own.high
    assert difference.is_sure
    assert difference.mean == pytest.approx(other.mean - own.mean)


def test_nothing_to_draw_from_is_zero() -> None:
    assert intervals(np.empty((0, 2)), np.empty(0)) == [Interval(0, 0, 0)] * 2
