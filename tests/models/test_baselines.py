"""The baselines on sessions whose right answer is known."""

from __future__ import annotations

import numpy as np

from models.baselines import item_knn, popularity, session_knn
from models.covisits import NeighbourSettings, fit_neighbours
from models.past_sessions import KnnSettings, past_sessions
from udfs.session_features import SessionBatch

ITEMS = np.array([0, 1, 0, 1, 2, 1, 2, 3])
SESSION = np.array([0, 0, 1, 1, 2, 2, 3, 3])  # 01, 01, 21, 23
TIMES = np.arange(8) * 1000
INDEX = {f"i{n}": n for n in range(5)}


def asked(*sessions: list[str]) -> SessionBatch:
    items = [item for each in sessions for item in each]
    offsets = np.cumsum([0, *(len(each) for each in sessions)])
    size = len(items)
    return SessionBatch(
        offsets, items, np.full(size, 2, np.int8), np.arange(size), np.full(size, np.nan)
    )


def ranked(scores: np.ndarray) -> list[int]:
    known = np.flatnonzero(np.isfinite(scores))
    return known[np.argsort(-scores[known], kind="stable")].tolist()


def test_popularity_says_the_same_to_everybody() -> None:
    scores = popularity(np.bincount(ITEMS, minlength=5))(asked(["i0"], ["new"]))
    assert ranked(scores[0]) == ranked(scores[1]) == [1, 0, 2, 3, 4]


def test_item_knn_looks_at_the_last_known_item() -> None:
    settings = NeighbourSettings(together=5, next=1, similar=0, half_life_days=36_500)
    near = fit_neighbours(ITEMS, SESSION, TIMES, [None] * 5, settings)
    scores = item_knn(near, INDEX)(asked(["i0", "i3"], ["i3", "i1", "new"], ["new"]))
    assert ranked(scores[0]) == [2]
    assert ranked(scores[1]) == [0, 2]
    assert ranked(scores[2]) == []


def test_session_knn_finds_what_like_sessions_held() -> None:
    how = KnnSettings()
    past = past_sessions(ITEMS, SESSION, TIMES, 5, how)
    scores = session_knn(past, how, INDEX)(asked(["i0"], ["i3"], ["new"]))
    assert set(ranked(scores[0])) == {0, 1}
    assert set(ranked(scores[1])) == {2, 3}
    assert ranked(scores[2]) == []
