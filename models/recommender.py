"""Sessions in, ranked lists out: the one function that serving, evaluation and golden batches use.

    SessionBatch ─ known items ─ encoder ─ candidates ─ ranker ─ best of each ─ RankedList

If a stage fails the next simpler one answers, and `served_by` says which.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from itertools import pairwise
from time import perf_counter_ns

import numpy as np

from models.bundle import Bundle
from models.candidates import (
    CandidateBuilder,
    Candidates,
    Recent,
    known_items,
    recent_items,
    session_context,
)
from models.kernels import answerable, sequences
from models.networks import encode, score
from models.ranking import (
    POPULAR,
    SOURCES,
    TRENDS,
    Reasons,
    best_of_each,
    explain,
    fall_back,
)
from models.retrieval import search
from models.session_knn import SessionKnn
from udfs.session_features import SessionBatch

CHUNK = 96  # sessions worked on at once, so that the arrays of a stage stay in the cache
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RankedList:
    """One answer: parallel columns, best first; treat them as read-only, texts are shared."""

    item_ids: list[str]
    scores: list[float]
    sources: list[str]
    reasons: list[tuple[str, ...]]
    served_by: str  # full, retrieval (the ranker failed) or popular (nothing known, or failure)


@dataclass(frozen=True, slots=True)
class Settings:
    """What a user of a bundle may choose."""

    list_size: int = 20
    exclude_seen: bool = True  # leave out items that are in the session already


class Recommender:
    """Answers batches of sessions from one bundle; the same session, the same bits, always.

    It keeps working memory and its timings: give every thread one of its own.
    """

    def __init__(self, bundle: Bundle, settings: Settings = Settings()) -> None:
        if settings.list_size < 1:
            raise ValueError(f"`list_size` must be at least 1; got {settings.list_size}")
        self.settings = settings
        self.bundle_version = bundle.version
        self.took_us = {"retrieve": 0, "rank": 0}
        self._bundle = bundle
        self._index = bundle.catalogue.index
        self._titles = bundle.catalogue.titles
        self._popular = bundle.popular
        self._neural = min(bundle.blend.neural, len(self._index))
        self._builder = CandidateBuilder(
            bundle.vectors,
            bundle.neighbours.items,
            bundle.neighbours.weights,
            bundle.catalogue.static_features(),
            bundle.catalogue.prices,
            bundle.catalogue.categories,
            bundle.popular,
            bundle.blend,
        )
        self._knn = SessionKnn(bundle.past, bundle.blend.knn)
        names = [t or i for i, t in zip(bundle.catalogue.item_ids, self._titles, strict=True)]
        self._reasons = Reasons(names, bundle.texts["together"])
        self._nothing_known = self._popular_list(frozenset())

    def title(self, item_id: str) -> str | None:
        """The item's title, None where the item or its title is not known."""
        place = self._index.get(item_id)
        return None if place is None else self._titles[place]

    def recommend(self, batch: SessionBatch, features: np.ndarray) -> list[RankedList]:
        """One list for each session; `features` are `session_features(batch)` [B, F].

        `took_us` then holds the microseconds a list took, on average, by stage.
        """
        took = [0, 0]
        codes = known_items(batch, self._index)
        some = answerable(codes, batch.offsets)
        answers = [self._nothing_known] * len(batch)
        for at in range(0, len(some), CHUNK):
            chunk = some[at : at + CHUNK]
            lists = self._answer(batch, codes, chunk, features[chunk], took)
            for place, answer in zip(chunk.tolist(), lists, strict=True):
                answers[place] = answer
        size = max(len(batch), 1) * 1000
        self.took_us = {"retrieve": took[0] // size, "rank": took[1] // size}
        return answers

    def candidates(
        self, batch: SessionBatch, features: np.ndarray
    ) -> list[tuple[np.ndarray, Candidates]]:
        """What would be ranked, in chunks of (sessions of the batch, candidates): for training."""
        codes = known_items(batch, self._index)
        some = answerable(codes, batch.offsets)
        chunks = [some[at : at + CHUNK] for at in range(0, len(some), CHUNK)]
        return [
            (
                chunk,
                self._retrieve(
                    recent_items(codes, batch.offsets, chunk, self._length), features[chunk]
                ),
            )
            for chunk in chunks
        ]

    @property
    def _length(self) -> int:
        return self._bundle.blend.recent

    def _answer(
        self,
        batch: SessionBatch,
        codes: np.ndarray,
        chunk: np.ndarray,
        features: np.ndarray,
        took: list[int],
    ) -> list[RankedList]:
        started = perf_counter_ns()
        recent = recent_items(codes, batch.offsets, chunk, self._length)
        try:
            found = self._retrieve(recent, features)
        except Exception:
            _log.exception("retrieval failed, %d sessions get the popular list", len(chunk))
            return [self._popular_list(frozenset(seen)) for seen in _seen_sets(recent)]
        retrieved = perf_counter_ns()
        scores = self._scores(found, features)
        failed = fall_back(scores, found.starts, found.features)
        answers = self._lists(found, scores, failed)
        took[0] += retrieved - started
        took[1] += perf_counter_ns() - retrieved
        return answers

    def _retrieve(self, recent: Recent, features: np.ndarray) -> Candidates:
        vectors = sequences(self._bundle.vectors, recent.codes, recent.lengths)
        sessions = encode(self._bundle.encoder, vectors, recent.lengths)
        if not np.isfinite(sessions).all():
            raise FloatingPointError("expected finite session vectors from the encoder")
        scores, neural = search(self._bundle.index, sessions, self._neural)
        alike = self._knn.ask(recent.codes, recent.lengths)
        return self._builder.gather(recent, sessions, neural, scores, alike, features)

    def _scores(self, found: Candidates, features: np.ndarray) -> np.ndarray:
        """Scores of the candidates, float32 [M]; NaN where the ranker fails."""
        try:
            return score(self._bundle.ranker, found.features, session_context(features), found.rows)
        except Exception:
            _log.exception("ranking failed, %d sessions fall back", len(found.starts) - 1)
            return np.full(len(found.items), np.nan, np.float32)

    def _lists(self, found: Candidates, scores: np.ndarray, failed: np.ndarray) -> list[RankedList]:
        left_out = found.seen > 0 if self.settings.exclude_seen else np.zeros(len(scores), bool)
        chosen, lengths = best_of_each(
            scores, found.items, found.starts, left_out, self.settings.list_size
        )
        source, reason = explain(
            chosen,
            found.items,
            found.features,
            found.because,
            found.by_title,
            self._bundle.trending,
        )
        rows = zip(
            lengths.tolist(),
            found.items[chosen].tolist(),
            np.round(scores[chosen].astype(np.float64), 6).tolist(),
            source.tolist(),
            reason.tolist(),
            failed.tolist(),
            strict=True,
        )
        ids, texts = self._bundle.catalogue.item_ids, self._reasons
        return [
            RankedList(
                [ids[i] for i in item[:n]],
                values[:n],
                [SOURCES[s] for s in origin[:n]],
                [texts[r] for r in why[:n]],
                "retrieval" if bad else "full",
            )
            for n, item, values, origin, why, bad in rows
        ]

    def _popular_list(self, seen: frozenset[int]) -> RankedList:
        """Trending and popular items, those of the session left out if they are to be."""
        left_out = seen if self.settings.exclude_seen else frozenset()
        items = [i for i in self._popular.tolist() if i not in left_out]
        items = items[: self.settings.list_size]
        rising = self._bundle.trending[items].tolist()
        return RankedList(
            [self._bundle.catalogue.item_ids[i] for i in items],
            [round(float(self._bundle.catalogue.recent[i]), 6) for i in items],
            ["trending" if up else "popular" for up in rising],
            [(TRENDS,) if up else (POPULAR,) for up in rising],
            "popular",
        )


def _seen_sets(recent: Recent) -> list[set[int]]:
    return [set(recent.seen_items[low:high].tolist()) for low, high in pairwise(recent.seen_starts)]
