"""Candidate features of one session, computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from models.candidates import (
    CANDIDATE_FEATURES,
    SESSION_CONTEXT,
    Blend,
    CandidateBuilder,
    Candidates,
    recent_items,
    session_context,
)
from models.session_knn import Alike
from udfs.session_features import FEATURES

V, D = 6, 2
PRICES = np.array([1.0, 2.0, 0.0, 4.0, 5.0, 6.0], np.float32)
CATEGORIES = np.array([0, 0, 1, 1, -1, -1], np.int32)
BLEND = Blend(recent=3, popular=1, together_decay=0.5, next_decay=0.25, similar_decay=1.0)


@pytest.fixture
def found() -> Candidates:
    """A session that saw item 1, then 0; neural candidates 3 and 2; the popular one is 5."""
    neighbours = np.zeros((V, 1), np.int32)
    weights = np.zeros((V, 1, 3), np.float32)
    neighbours[0], neighbours[1] = 3, 3
    weights[0], weights[1] = (0.4, 0.2, 0.0), (0.2, 0.8, 0.5)
    vectors = np.arange(V * D, dtype=np.float32).reshape(V, D)
    static = np.zeros((V, len(CANDIDATE_FEATURES) - 17), np.float32)
    builder = CandidateBuilder(
        vectors, neighbours, weights, static, PRICES, CATEGORIES, np.array([5, 4]), BLEND
    )
    recent = recent_items(np.array([1, -1, 0], np.int32), np.array([0, 3]), np.array([0]), 3)
    features = np.zeros((1, len(FEATURES)), np.float32)
    features[0, FEATURES.index("mean_price")] = 2.0
    near, scores = np.array([[3, 2]]), np.array([[13, 9]], np.float32)
    alike = Alike(
        np.array([0, 2]),
        np.array([4, 1]),
        np.array([[3.0, 2.0], [1.5, 0.0]], np.float32),
        np.array([0, 1]),
    )
    return builder.gather(recent, np.ones((1, D), np.float32), near, scores, alike, features)


def value(found: Candidates, item: int, feature: str) -> float:
    row = int(np.flatnonzero(found.items == item)[0])
    return float(found.features[row, CANDIDATE_FEATURES.index(feature)])


def test_candidates_are_the_union_of_all_sources(found: Candidates) -> None:
    assert sorted(found.items.tolist()) == [0, 1, 2, 3, 4, 5]
    assert set(found.items[found.seen > 0].tolist()) == {0, 1}
    assert found.starts.tolist() == [0, 6]


def test_neural_features(found: Candidates) -> None:
    assert value(found, 3, "neural_score") == 6 + 7
    assert value(found, 3, "neural_behind_best") == 13 - 21  # item 5: 10 + 11
    assert value(found, 3, "neural_rank") == 1.0
    assert value(found, 2, "neural_rank") == pytest.approx(10 / 11)
    assert value(found, 5, "neural_rank") == 0.0


def test_covisits_decay_with_the_steps_back(found: Candidates) -> None:
    together, following = 0.4 + 0.5 * 0.2, 0.2 + 0.25 * 0.8
    assert value(found, 3, "together") == pytest.approx(np.log1p(10 * together))
    assert value(found, 3, "next") == pytest.approx(np.log1p(10 * following))
    assert value(found, 3, "next_of_last") == pytest.approx(np.log1p(10 * 0.2))
    assert value(found, 3, "similar") == pytest.approx(0.5)
    assert value(found, 3, "together_share") == 1.0
    assert value(found, 5, "together") == 0.0


def test_what_past_sessions_alike_held_is_told(found: Candidates) -> None:
    assert value(found, 4, "alike") == pytest.approx(np.log1p(3.0))
    assert value(found, 4, "alike_share") == 1.0
    assert value(found, 1, "alike_share") == 0.5
    assert value(found, 4, "near") == pytest.approx(np.log1p(2.0))
    assert value(found, 1, "near") == 0.0
    assert found.because[found.items.tolist().index(4)] == 0
    assert found.because[found.items.tolist().index(1)] == -1  # no item is its own reason


def test_price_and_category_are_compared_with_the_session(found: Candidates) -> None:
    assert value(found, 3, "price_ratio") == pytest.approx(np.log(2.0))
    assert value(found, 2, "price_ratio") == 0.0  # its price is not known
    assert value(found, 0, "category_match") == 1.0
    assert value(found, 3, "category_match") == 0.0
    assert value(found, 5, "category_match") == 0.0  # not known is not the same


def test_what_was_seen_is_counted(found: Candidates) -> None:
    assert value(found, 1, "seen") == pytest.approx(np.log(2.0))
    assert value(found, 3, "seen") == 0.0
    assert value(found, 0, "newest_seen") == 1.0
    assert value(found, 1, "newest_seen") == 0.5
    assert value(found, 3, "newest_seen") == 0.0


def test_recent_items_are_the_newest_first() -> None:
    codes = np.array([4, 5, -1, 6, 7, 8], np.int32)
    recent = recent_items(codes, np.array([0, 3, 6]), np.array([0, 1]), 2)
    assert recent.codes.tolist() == [[5, 4], [8, 7]]
    assert recent.lengths.tolist() == [2, 2]
    assert recent.seen_items.tolist() == [4, 5, 6, 7, 8]


def test_session_context_is_finite_whatever_the_features() -> None:
    wild = np.resize(np.array([np.inf, 3e38, 0.0, 1.0], np.float32), (1, len(FEATURES)))
    assert np.isfinite(session_context(wild)).all()
    assert session_context(wild)[0, 3] == pytest.approx(np.log(2.0))


def test_the_ranker_reads_the_same_of_a_session_on_every_day_and_hour() -> None:
    features = np.ones((2, len(FEATURES)), np.float32)
    features[1, [FEATURES.index("hour_of_day"), FEATURES.index("day_of_week")]] = 23, 6
    context = session_context(features)
    assert context.shape == (2, len(SESSION_CONTEXT))
    assert np.array_equal(context[0], context[1])
