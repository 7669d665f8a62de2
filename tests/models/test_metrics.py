"""Metrics on tables computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from models import metrics


def test_ties_count_against_the_target() -> None:
    scores = np.array([[0.9, 0.5, 0.5, 0.1], [0.2, 0.2, 0.2, 0.2]])
    assert metrics.ranks_from_scores(scores, np.array([1, 0])).tolist() == [3, 4]


def test_unknown_targets_and_scores_that_are_not_finite_are_misses() -> None:
    scores = np.array([[0.9, 0.5], [np.nan, 0.1]])
    ranks = metrics.ranks_from_scores(scores, np.array([-1, 0]))
    assert ranks.tolist() == [metrics.MISS, metrics.MISS]


def test_a_score_that_is_not_finite_does_not_push_others_down() -> None:
    assert metrics.ranks_from_scores(np.array([[np.nan, 0.5, 0.7]]), np.array([1])).tolist() == [2]


def test_the_first_items_are_the_best_finite_ones_of_equals_the_lower() -> None:
    scores = np.array([[0.1, np.nan, 0.3, 0.3], [np.nan, np.inf, np.nan, -5.0]])
    assert metrics.first_items(scores, 3).tolist() == [[2, 3, 0], [3, -1, -1]]


def test_ranks_in_lists_count_ties_against_the_target() -> None:
    lists, scores = [["a", "b", "c"], ["a"]], [[3.0, 2.0, 2.0], [1.0]]
    assert metrics.ranks_from_lists(lists, scores, ["b", "z"]).tolist() == [3, metrics.MISS]


def test_metrics_equal_the_hand_computed_table() -> None:
    ranks = np.array([1, 2, 4, 21, metrics.MISS])
    assert metrics.hit_rate(ranks) == pytest.approx(3 / 5)
    assert metrics.reciprocal_rank(ranks) == pytest.approx((1 + 1 / 2 + 1 / 4) / 5)
    gain = (1 + 1 / np.log2(3) + 1 / np.log2(5)) / 5
    assert metrics.discounted_gain(ranks) == pytest.approx(gain)
    assert metrics.hit_rate(ranks, cutoff=2) == pytest.approx(2 / 5)


def test_nothing_to_predict_gives_zero() -> None:
    assert metrics.summary(np.empty(0, np.int64), 0, 0) == {
        "hr20": 0.0,
        "mrr20": 0.0,
        "ndcg20": 0.0,
        "coverage": 0.0,
    }
