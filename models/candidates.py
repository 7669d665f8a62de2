"""Which items may be in a list, and what the ranker reads of each of them.

    recent items ─┬─ encoder ─ session vector ─ FAISS ─┐
                  ├─ neighbours of each, decayed ──────┤
                  ├─ past sessions alike ──────────────┼─ union by (session, item) ─ [M, F]
    trending and popular, the session's own items ─────┘

Everything is flat over the sessions of a chunk: candidate m belongs to session rows[m].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from models import kernels
from models.catalogue import STATIC_FEATURES
from models.past_sessions import KnnSettings
from models.session_knn import Alike
from udfs.session_features import FEATURES, SessionBatch

CANDIDATE_FEATURES = (
    "neural_score",  # inner product of session and item vector
    "neural_behind_best",  # the same minus the best of the session's candidates
    "neural_rank",  # 10 / (10 + rank among the neural candidates), 0 if not among them
    "together",  # log(1 + 10 × sum of decayed co-visits with the recent items)
    "together_share",  # sum of decayed co-visits against the session's best candidate
    "next",  # log(1 + 10 × sum of decayed followings)
    "next_share",
    "next_of_last",  # log(1 + 10 × how often it follows the last item)
    "similar",  # sum of decayed title similarities
    "alike",  # log(1 + similarity of the past sessions alike that hold it, times its idf)
    "alike_share",  # the same against the session's best candidate
    "near",  # log(1 + their similarity, by how near to the shared item it stood there)
    "near_share",
    "seen",  # log(1 + times the item is in the session)
    "newest_seen",  # 1 / (1 + steps back to it), 0 if it is not among the recent items
    "price_ratio",  # log of its price to the session's mean price, 0 where either is not known
    "category_match",  # share of the recent items that have its category
    *STATIC_FEATURES,
)
"""Names of the columns of `Candidates.features`, in order; part of a bundle's schema."""

SESSION_CONTEXT = tuple(name for name in FEATURES if name not in ("hour_of_day", "day_of_week"))
"""What the ranker reads of a session, in column order.

Not the calendar: it learns from the newest sessions before a fit, which may all lie on one weekend,
and then meets a Monday as far from all it saw as nothing else can be.
"""

_CONTEXT = [FEATURES.index(name) for name in SESSION_CONTEXT]
_MEAN_PRICE = FEATURES.index("mean_price")
_NONE = np.float32(0)
MOST = np.float32(1e9)  # session features beyond it say no more


class Blend(BaseModel):
    """How candidates are gathered; the ranker is trained on these, so a bundle fixes them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    recent: int = Field(default=10, ge=1, le=100, description="items of a session looked at")
    neural: int = Field(default=60, ge=1, description="candidates from the index")
    popular: int = Field(default=20, ge=1, description="candidates that are trending or popular")
    together_decay: float = Field(
        default=0.75, gt=0, le=1, description="weight of co-visits for each step back"
    )
    next_decay: float = Field(
        default=0.5, gt=0, le=1, description="weight of followings for each step back"
    )
    similar_decay: float = Field(
        default=0.75, gt=0, le=1, description="weight of similar titles for each step back"
    )
    knn: KnnSettings = KnnSettings()


@dataclass(frozen=True, slots=True)
class Recent:
    """The known items of B sessions."""

    codes: np.ndarray  # int32 [B, L], the last L known items, newest first, -1 behind them
    lengths: np.ndarray  # int64 [B], how many of the L are there
    seen_starts: np.ndarray  # int64 [B + 1], session b owns seen_items[starts[b]:starts[b+1]]
    seen_items: np.ndarray  # int32 [R], every known item of the session, oldest first


@dataclass(frozen=True, slots=True)
class Candidates:
    """M candidates of B sessions, session by session; an item occurs once in a session."""

    rows: np.ndarray  # int64 [M], session
    items: np.ndarray  # int64 [M], item
    starts: np.ndarray  # int64 [B + 1], session b owns candidates starts[b]:starts[b+1]
    features: np.ndarray  # float32 [M, len(CANDIDATE_FEATURES)]
    seen: np.ndarray  # int64 [M], how often the item is in the session already
    because: np.ndarray  # int64 [M], the recent item that speaks most for it, -1 if none does
    by_title: np.ndarray  # bool [M], whether that item speaks for it by its title alone


def known_items(batch: SessionBatch, index: dict[str, int]) -> np.ndarray:
    """Index of the item of every row of a batch, -1 where the catalogue lacks it: int32 [N]."""
    unknown = [-1] * len(batch.items)
    return np.fromiter(map(index.get, batch.items, unknown), np.int32, len(batch.items))


def recent_items(codes: np.ndarray, offsets: np.ndarray, chosen: np.ndarray, length: int) -> Recent:
    """The last `length` known items of the sessions `chosen` [B]; codes [N], offsets [S + 1]."""
    return Recent(*kernels.recent_of(codes, offsets, chosen, length))


def session_context(features: np.ndarray) -> np.ndarray:
    """Session features [B, F] as the ranker reads them [B, S]: log(1 + x), bounded, float32.

    This is not left to the network: ONNX Runtime computes the logarithm of the last few numbers
    of an array in another way than that of the others, and so a batch would change bits.
    """
    bounded = np.minimum(np.maximum(features[:, _CONTEXT], _NONE), MOST)
    out: np.ndarray = np.log1p(bounded)
    return out


class CandidateBuilder:
    """Joins what the sources propose and computes the ranker's features; not thread-safe."""

    def __init__(
        self,
        vectors: np.ndarray,
        neighbour_items: np.ndarray,
        neighbour_weights: np.ndarray,
        static: np.ndarray,
        prices: np.ndarray,
        categories: np.ndarray,
        popular: np.ndarray,
        blend: Blend,
    ) -> None:
        known = prices > 0
        log_prices = np.where(known, np.log(np.where(known, prices, 1.0)), np.nan)
        steps = np.arange(blend.recent)[:, None]
        decays = np.array([[blend.together_decay, blend.next_decay, blend.similar_decay]])
        self._sources = (
            np.ascontiguousarray(neighbour_items, np.int32),  # [V, K]
            np.ascontiguousarray(neighbour_weights, np.float32),  # [V, K, 3]
            (decays**steps).astype(np.float32),  # [L, 3]
            popular[: blend.popular].astype(np.int64),
        )
        self._place = np.full(len(vectors), -1, np.int32)
        self._items = (
            np.ascontiguousarray(vectors, np.float32),  # [V, D]
            np.column_stack([categories, log_prices, static]).astype(np.float32),  # [V, 2 + S]
        )

    def gather(
        self,
        recent: Recent,
        session_vectors: np.ndarray,
        neural: np.ndarray,
        neural_scores: np.ndarray,
        alike: Alike,
        features: np.ndarray,
    ) -> Candidates:
        """Candidates of B sessions.

        `session_vectors` [B, D], what the index found near them and how near [B, C] both, what
        past sessions alike held, and the session features [B, F].
        """
        own = (recent.codes, recent.lengths)
        rows, items, starts, seen, because, by_title, evidence = kernels.collect(
            *own,
            recent.seen_starts,
            recent.seen_items,
            neural,
            neural_scores,
            *self._sources,
            *(alike.starts, alike.items, alike.scores, alike.because),
            self._place,
        )
        prices = np.ascontiguousarray(features[:, _MEAN_PRICE])
        described = kernels.describe(
            *own, starts, items, seen, evidence, session_vectors, prices, *self._items
        )
        return Candidates(rows, items, starts, described, seen, because, by_title)
