"""The protocol against a brute force that is too simple to be wrong, and by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.metrics import MISS
from models.protocol import Standing, averaged, held_out, of_scores
from models.sessions import EventTable, ItemFacts, SessionLog, sessions_from
from udfs.events import TYPE_CODES
from udfs.session_features import SessionBatch

IDS = ["a", "b", "c", "d", "e"]


def log(*sessions: str, ids: list[str] = IDS) -> SessionLog:
    """Sessions as texts, a letter an item; later ones are later."""
    items = [ids.index(item) for each in sessions for item in each]
    owner = np.repeat(np.arange(len(sessions)), [len(each) for each in sessions])
    size = len(items)
    table = EventTable(
        owner,
        np.array(items, np.int32),
        np.full(size, TYPE_CODES["view_item"], np.int8),
        1_700_000_000_000 + np.arange(size) * 1000,
        np.full(size, np.nan),
        owner,
        ItemFacts(ids, [None] * len(ids), [None] * len(ids)),
    )
    return sessions_from(table, 1_800_000)


def silent(what: str, done: int, total: int) -> None:
    assert 0 < done <= total, what


def test_what_training_never_saw_is_left_out_and_counted() -> None:
    train = log("abc", "ab", ids=[*IDS, "f"])
    held = held_out(train, log("fab", "cf", "db", "fcfa", ids=["f", "d", "c", "b", "a"]))
    items = [train.facts.ids[code] for code in held.log.items]
    assert (items, held.log.offsets.tolist()) == (["a", "b", "c", "a"], [0, 2, 4])
    assert (held.left_out, held.alone) == (5, 2)
    assert held.targets.tolist() == [1, 3]


def by_length(scores: np.ndarray) -> np.ndarray:
    """A model that answers by how many items it was shown: row `length` of the scores."""

    def scorer(batch: SessionBatch) -> np.ndarray:
        return scores[np.diff(batch.offsets)]

    return scorer  # type: ignore[return-value]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.text("abcde", min_size=1, max_size=5), min_size=1, max_size=6),
    st.lists(st.integers(-1, 3), min_size=30, max_size=30),
)
def test_ranks_are_those_of_a_brute_force(sessions: list[str], values: list[int]) -> None:
    if not any(len(each) > 1 for each in sessions):
        return
    scores = np.array(values, np.float64).reshape(6, 5)
    scores[scores < 0] = np.nan
    held = held_out(log("abcde"), log(*sessions))
    got = of_scores(by_length(scores), held, np.arange(5), 1.0, 2.0, silent, "it")  # type: ignore[arg-type]
    want = []
    for each in sessions:
        for at in range(1, len(each)):
            row, target = scores[at], IDS.index(each[at])
            as_good = [other for other in range(5) if row[other] >= row[target]]
            want.append(len(as_good) if np.isfinite(row[target]) else MISS)
    assert got.ranks.tolist() == want
    assert got.lists.shape == (len(want), 20)


def test_items_beyond_the_models_catalogue_are_misses() -> None:
    held = held_out(log("abcde"), log("ab", "ac"))
    code = np.array([0, -1, 1, -1, -1])  # the model knows a and c
    scores = np.tile([1.0, 2.0], (6, 1))
    standing = of_scores(by_length(scores), held, code, 0.0, 0.0, silent, "it")  # type: ignore[arg-type]
    assert standing.ranks.tolist() == [MISS, 1]


def test_figures_equal_the_hand_computed_table() -> None:
    ranks = np.array([1, 7, 15, MISS])
    lists = np.array([[0, 1], [0, 2], [0, -1], [1, 0]])
    figures = Standing(ranks, lists, 3.0, 5.0, 7.0).figures(np.array([10.0, 5.0, 0.0, 1.0]))
    assert figures["hr5"] == 1 / 4
    assert figures["hr10"] == 2 / 4
    assert figures["hr20"] == 3 / 4
    assert figures["mrr20"] == pytest.approx((1 + 1 / 7 + 1 / 15) / 4)
    assert figures["ndcg20"] == pytest.approx((1 + 1 / np.log2(8) + 1 / 4) / 4)
    assert figures["coverage"] == 3 / 4
    assert figures["popularity_bias"] == pytest.approx((10 + 5 + 10 + 0 + 10 + 5 + 10) / 7 / 10)
    assert (figures["train_s"], figures["list_us"], figures["mb"], figures["count"]) == (3, 5, 7, 4)


def test_periods_count_alike_however_many_predictions_they_have() -> None:
    weeks = [{"hr20": 0.2, "count": 10, "train_s": 3.0}, {"hr20": 0.4, "count": 90, "train_s": 1.0}]
    assert averaged(weeks) == {"hr20": pytest.approx(0.3), "count": 100, "train_s": 4.0}


def test_nothing_to_predict_is_refused() -> None:
    held = held_out(log("abc"), log("de"))
    with pytest.raises(ValueError, match="expected held-out sessions with at least 2 events"):
        of_scores(by_length(np.ones((6, 5))), held, np.arange(5), 0.0, 0.0, silent, "it")  # type: ignore[arg-type]


def test_test_sessions_do_not_change_what_is_known_of_items() -> None:
    train, test = log("abc"), log("abd")
    assert held_out(train, test).log.facts is train.facts
    assert len(test) == len(replace(test))
