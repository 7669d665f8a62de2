"""What is chosen on the validation slice before anything is fitted on it."""

from __future__ import annotations

import numpy as np

from models.candidates import Blend, known_items, recent_items
from models.catalogue import Catalogue
from models.kernels import answerable
from models.metrics import MISS, reciprocal_rank
from models.past_sessions import PastSessions
from models.session_knn import SessionKnn
from models.sessions import SessionLog
from udfs.session_features import SessionBatch

PREFIXES = 3_000
"""Predictions that a choice rests on, at most."""


def best_half_life(
    past: PastSessions,
    valid: SessionLog,
    targets: np.ndarray,
    catalogue: Catalogue,
    blend: Blend,
    half_lives_days: tuple[float, ...],
) -> float:
    """The half-life at which past sessions alone predict the target rows best; ties: the longest.

    Judged by MRR@20. `past` must not hold the validation sessions.
    """
    some = targets[:: -(-len(targets) // PREFIXES) or 1]
    batch = valid.prefixes(some)
    target = catalogue.places(valid.facts.ids)[valid.items[some]]
    found = {
        days: _quality(past, batch, target, catalogue.index, _with(blend, days))
        for days in sorted(half_lives_days, reverse=True)
    }
    return max(found, key=lambda days: found[days])


def _with(blend: Blend, days: float) -> Blend:
    return blend.model_copy(update={"knn": blend.knn.model_copy(update={"half_life_days": days})})


def _quality(
    past: PastSessions, batch: SessionBatch, target: np.ndarray, index: dict[str, int], blend: Blend
) -> float:
    codes = known_items(batch, index)
    some = answerable(codes, batch.offsets)
    recent = recent_items(codes, batch.offsets, some, blend.recent)
    alike = SessionKnn(past, blend.knn).ask(recent.codes, recent.lengths)
    row = np.repeat(np.arange(len(some)), np.diff(alike.starts))
    hits = np.flatnonzero(alike.items == target[some][row])
    ranks = np.full(len(batch), MISS, np.int64)
    ranks[some[row[hits]]] = hits - alike.starts[row[hits]] + 1
    return reciprocal_rank(ranks)
