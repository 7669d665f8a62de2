"""How models are compared: every prefix of every held-out session, the whole catalogue ranked.

    training sessions ─ catalogue ─┐
    held-out sessions ─ what the catalogue knows ─ prefixes ─ a model's scores ─ ranks ─ Standing

The rank of the item that came next counts every item with a score at least as high: ties count
against the model. As in GRU4Rec's evaluation, held-out events of items that training never saw
are left out, then sessions of a single event; how many is told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np

from models.metrics import (
    coverage,
    discounted_gain,
    first_items,
    hit_rate,
    popularity_bias,
    ranks_from_scores,
    reciprocal_rank,
)
from models.sessions import SessionLog
from udfs.session_features import SessionBatch

LIST = 20
_CHUNK = 256

Scorer = Callable[[SessionBatch], np.ndarray]
"""Sessions → scores of the whole catalogue [B, V]; what is not finite is not ranked."""

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Sessions to be predicted, in the item codes of the training sessions."""

    log: SessionLog
    left_out: int  # events of items that training never saw
    alone: int  # events whose session has no other event left

    @property
    def targets(self) -> np.ndarray:
        """The rows to be predicted: int64 [N]."""
        return self.log.target_rows()


def held_out(train: SessionLog, test: SessionLog) -> HeldOut:
    """What of the test sessions can be judged after training on `train`."""
    seen = np.bincount(train.items, minlength=len(train.facts.ids)) > 0
    index = {item: code for code, item in enumerate(train.facts.ids) if seen[code]}
    moved = np.array([index.get(item, -1) for item in test.facts.ids], np.int32)
    known = moved[test.items] >= 0
    session = test.session_of_row()
    left = np.bincount(session[known], minlength=len(test))
    kept = known & (left[session] > 1)
    offsets = np.append(0, np.cumsum(left[left > 1])).astype(np.int64)
    log = replace(
        test,
        offsets=offsets,
        items=moved[test.items[kept]],
        types=test.types[kept],
        times=test.times[kept],
        prices=test.prices[kept],
        facts=train.facts,
    )
    return HeldOut(log, int((~known).sum()), int((known & (left[session] == 1)).sum()))


@dataclass(frozen=True)
class Standing:
    """What a model is worth, and what it costs."""

    ranks: np.ndarray  # int64 [N]
    lists: np.ndarray  # int64 [N, 20], the first items of each list, -1 behind the last
    train_s: float
    list_us: float  # of a list in a batch
    mb: float

    def figures(self, popularity: np.ndarray) -> dict[str, float]:
        """Everything a table shows; `popularity` [V] counts the events of each item."""
        recommended = self.lists[self.lists >= 0]
        return {
            **{f"hr{cutoff}": hit_rate(self.ranks, cutoff) for cutoff in (5, 10, 20)},
            "mrr20": reciprocal_rank(self.ranks),
            "ndcg20": discounted_gain(self.ranks),
            "coverage": coverage(len(np.unique(recommended)), len(popularity)),
            "popularity_bias": popularity_bias(recommended, popularity),
            "train_s": self.train_s,
            "list_us": self.list_us,
            "mb": self.mb,
            "count": len(self.ranks),
        }


def of_scores(
    scorer: Scorer,
    held: HeldOut,
    code: np.ndarray,
    train_s: float,
    mb: float,
    progress: Progress,
    name: str,
) -> Standing:
    """The standing of a model that scores; `code` maps the log's items to its catalogue."""
    ranks, lists, took = [], [], 0.0
    for targets, batch in chunks(held, progress, name):
        started = perf_counter()
        scores = scorer(batch)
        lists.append(first_items(scores, LIST))
        took += perf_counter() - started
        ranks.append(ranks_from_scores(scores, code[held.log.items[targets]]))
    joined = np.concatenate(ranks)
    return Standing(joined, np.concatenate(lists), train_s, took / len(joined) * 1e6, mb)


def chunks(
    held: HeldOut, progress: Progress, name: str
) -> Iterator[tuple[np.ndarray, SessionBatch]]:
    """Targets and what was known before each, a few hundred at a time."""
    targets = held.targets
    if not len(targets):
        raise ValueError(
            "expected held-out sessions with at least 2 events of items that training saw; "
            "got none; give a test file of the same shop, of a later time"
        )
    for at in range(0, len(targets), _CHUNK):
        part = targets[at : at + _CHUNK]
        yield part, held.log.prefixes(part)
        progress(f"judging {name}", min(at + _CHUNK, len(targets)), len(targets))


def averaged(weeks: Sequence[dict[str, float]]) -> dict[str, float]:
    """Figures of several test periods: their mean, each period alike; counts and seconds add up."""
    summed = ("count", "train_s")
    return {
        name: float((np.sum if name in summed else np.mean)([week[name] for week in weeks]))
        for name in weeks[0]
    }
