"""What a bundle is worth beside its own parts and popularity, on sessions it never saw.

Every prefix of every test session asks for the item that came next; the whole catalogue is
ranked; ties count against us; items that training never saw are misses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from models.bundle import Bundle
from models.candidates import known_items, recent_items
from models.kernels import answerable
from models.metrics import first_items, ranks_from_lists, ranks_from_scores, summary
from models.networks import encode
from models.recommender import RankedList, Recommender, Settings
from models.sessions import SessionLog
from models.training import Progress
from udfs.session_features import SessionBatch, session_features

_CHUNK = 256
Scorer = Callable[[SessionBatch], np.ndarray]
"""Sessions → scores of the whole catalogue [B, V]."""


def sampled_targets(log: SessionLog, at_most: int, seed: int) -> np.ndarray:
    """Rows whose item is to be predicted: all of them, or `at_most` drawn without bias."""
    rows = log.target_rows()
    if len(rows) > at_most:
        rows = np.sort(np.random.default_rng(seed).choice(rows, at_most, replace=False))
    return rows


def evaluate(
    bundle: Bundle, log: SessionLog, targets: np.ndarray, progress: Progress
) -> dict[str, dict[str, float]]:
    """Metrics of the served lists (`blend`; `served`: seen items left out) and of their parts."""
    results = {
        "blend": list_metrics(bundle, log, targets, Settings(exclude_seen=False), progress),
        "served": list_metrics(bundle, log, targets, Settings(exclude_seen=True), progress),
    }
    scorers: dict[str, Scorer] = {
        "encoder": lambda batch: encoder_scores(bundle, batch),
        "covisits": lambda batch: covisit_scores(bundle, batch),
        "popularity": lambda batch: popularity_scores(bundle, batch),
    }
    for name, scorer in scorers.items():
        results[name] = _of_scores(bundle, log, targets, scorer, progress, name)
    results["served_popularity"] = _of_scores(
        bundle,
        log,
        targets,
        lambda batch: without_seen(bundle, batch, popularity_scores(bundle, batch)),
        progress,
        "popularity without seen",
    )
    return results


def encoder_scores(bundle: Bundle, batch: SessionBatch, part: slice = slice(None)) -> np.ndarray:
    """Inner products with every item [B, V]; NaN for a session without a known item.

    `part` says which of the vectors' numbers count: those of one tower.
    """
    out = np.full((len(batch), len(bundle.catalogue)), np.nan, np.float32)
    for some, codes, lengths in _recent(bundle, batch):
        length = int(lengths.max())
        place = np.maximum(lengths[:, None] - 1 - np.arange(length), 0)
        order = np.take_along_axis(codes, place, axis=1)
        states = encode(bundle.encoder, bundle.vectors[order], lengths)
        out[some] = states[:, part] @ bundle.vectors[:, part].T
    return out


def covisit_scores(bundle: Bundle, batch: SessionBatch) -> np.ndarray:
    """Decayed co-visits (together and next) with the recent items [B, V]; NaN without any."""
    out = np.full((len(batch), len(bundle.catalogue)), np.nan)
    for some, codes, _ in _recent(bundle, batch):
        row, place = np.nonzero(codes >= 0)
        source = codes[row, place]
        weights = bundle.neighbours.weights[source].astype(np.float64)
        decay = np.stack(
            [bundle.blend.together_decay**place, bundle.blend.next_decay**place], axis=1
        )
        both = (weights[:, :, :2] * decay[:, None, :]).sum(axis=2)
        keys = row[:, None] * out.shape[1] + bundle.neighbours.items[source]
        total = np.bincount(keys.ravel(), both.ravel(), minlength=len(some) * out.shape[1])
        total = total.reshape(len(some), -1)
        out[some] = np.where(total > 0, total, np.nan)
    return out


def popularity_scores(bundle: Bundle, batch: SessionBatch) -> np.ndarray:
    """How often each item occurred in training, for every session alike [B, V]."""
    return np.broadcast_to(bundle.catalogue.popularity, (len(batch), len(bundle.catalogue)))


def without_seen(bundle: Bundle, batch: SessionBatch, scores: np.ndarray) -> np.ndarray:
    """A copy of scores [B, V] with NaN for the items of each session."""
    codes = known_items(batch, bundle.catalogue.index)
    session = np.repeat(np.arange(len(batch)), np.diff(batch.offsets))
    scores = scores.copy()
    scores[session[codes >= 0], codes[codes >= 0]] = np.nan
    return scores


def _recent(
    bundle: Bundle, batch: SessionBatch
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    codes = known_items(batch, bundle.catalogue.index)
    some = answerable(codes, batch.offsets)
    if len(some):
        recent = recent_items(codes, batch.offsets, some, bundle.blend.recent)
        yield some, recent.codes, recent.lengths


def _chunks(log: SessionLog, targets: np.ndarray) -> Iterator[tuple[np.ndarray, SessionBatch]]:
    for at in range(0, len(targets), _CHUNK):
        part = targets[at : at + _CHUNK]
        yield part, log.prefixes(part)


def answered(
    bundle: Bundle, log: SessionLog, targets: np.ndarray, settings: Settings, progress: Progress
) -> Iterator[tuple[list[str], list[RankedList]]]:
    """In chunks: the items that came next and the lists that would have been served before."""
    recommender = Recommender(bundle, settings)
    for number, (part, batch) in enumerate(_chunks(log, targets)):
        ids = [log.facts.ids[code] for code in log.items[part].tolist()]
        yield ids, recommender.recommend(batch, session_features(batch))
        progress("evaluating the lists", min((number + 1) * _CHUNK, len(targets)), len(targets))


def list_metrics(
    bundle: Bundle, log: SessionLog, targets: np.ndarray, settings: Settings, progress: Progress
) -> dict[str, float]:
    """Metrics of the lists a bundle would have served."""
    ranks: list[np.ndarray] = []
    recommended: set[str] = set()
    for ids, answers in answered(bundle, log, targets, settings, progress):
        lists, scores = [a.item_ids for a in answers], [a.scores for a in answers]
        recommended.update(item for items in lists for item in items)
        ranks.append(ranks_from_lists(lists, scores, ids))
    return summary(_joined(ranks), len(recommended), len(bundle.catalogue))


def scored(
    bundle: Bundle,
    log: SessionLog,
    targets: np.ndarray,
    scorer: Scorer,
    progress: Progress,
    name: str,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """In chunks: scores of the whole catalogue [B, V] and the ranks of what came next [B]."""
    code = bundle.catalogue.places(log.facts.ids)
    for number, (part, batch) in enumerate(_chunks(log, targets)):
        scores = scorer(batch)
        yield scores, ranks_from_scores(scores, code[log.items[part]])
        progress(f"evaluating {name}", min((number + 1) * _CHUNK, len(targets)), len(targets))


def _of_scores(
    bundle: Bundle,
    log: SessionLog,
    targets: np.ndarray,
    scorer: Scorer,
    progress: Progress,
    name: str,
) -> dict[str, float]:
    ranks, recommended = [], np.zeros(len(bundle.catalogue), bool)
    for scores, found in scored(bundle, log, targets, scorer, progress, name):
        ranks.append(found)
        first = first_items(scores, 20)
        recommended[first[first >= 0]] = True
    return summary(_joined(ranks), int(recommended.sum()), len(bundle.catalogue))


def _joined(ranks: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(ranks) if ranks else np.empty(0, np.int64)
