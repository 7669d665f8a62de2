"""What every model has to beat: popularity, item-kNN and V-SKNN, as scores of the catalogue."""

from __future__ import annotations

import numpy as np

from models.candidates import known_items, recent_items
from models.covisits import Neighbours
from models.kernels import answerable
from models.past_sessions import KnnSettings, PastSessions
from models.protocol import Scorer
from models.session_knn import SessionKnn
from udfs.session_features import SessionBatch

RECENT = 10
"""Last items of a session that V-SKNN looks at."""


def popularity(counts: np.ndarray) -> Scorer:
    """How often each item occurred [V], for every session alike."""
    return lambda batch: np.broadcast_to(counts, (len(batch), len(counts)))


def item_knn(neighbours: Neighbours, index: dict[str, int]) -> Scorer:
    """Cosine of co-occurrence with the last known item (Sarwar et al. 2001)."""

    def scores(batch: SessionBatch) -> np.ndarray:
        out = np.full((len(batch), len(index)), np.nan, np.float32)
        some, codes, _ = _recent(batch, index, 1)
        near = neighbours.weights[codes[:, 0], :, 0]
        row, place = np.nonzero(near > 0)
        out[some[row], neighbours.items[codes[row, 0], place]] = near[row, place]
        return out

    return scores


def session_knn(past: PastSessions, settings: KnnSettings, index: dict[str, int]) -> Scorer:
    """What the nearest past sessions held, weighted by similarity and idf."""
    everything = settings.model_copy(
        update={"items": settings.nearest * settings.longest, "recent": RECENT}
    )
    knn = SessionKnn(past, everything)

    def scores(batch: SessionBatch) -> np.ndarray:
        out = np.full((len(batch), len(index)), np.nan, np.float32)
        some, codes, lengths = _recent(batch, index, RECENT)
        alike = knn.ask(codes, lengths)
        out[np.repeat(some, np.diff(alike.starts)), alike.items] = alike.scores[:, 0]
        return out

    return scores


def _recent(
    batch: SessionBatch, index: dict[str, int], length: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The sessions with a known item, their last items and how many those are."""
    codes = known_items(batch, index)
    some = answerable(codes, batch.offsets)
    recent = recent_items(codes, batch.offsets, some, length)
    return some, recent.codes, recent.lengths
