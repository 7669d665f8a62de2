"""What a bundle's lists are worth on given sessions, and whether one bundle's are worth more.

sessions ─ lists ─ Outcome: ranks, items that are recommended, claims that came true
ranks of two bundles ─ paired bootstrap ─ the gain that is sure
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from time import perf_counter_ns

import numpy as np

from models.bootstrap import resampled_means
from models.bundle import Bundle
from models.evaluation import answered, covisit_scores, scored, without_seen
from models.metrics import ranks_from_lists, reciprocals, summary
from models.recommender import RankedList, Recommender, Settings
from models.sessions import SessionLog
from models.training import Progress
from udfs.session_features import SessionBatch, session_features

BATCH = 256
_WARM_UP, _ALONE, _BATCHES = 20, 200, 15


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a bundle's lists were worth."""

    ranks: np.ndarray  # int64 [N]
    recommended: int  # items in at least one list
    items: int  # of the catalogue
    calibration_error: float

    def metrics(self) -> dict[str, float]:
        """The usual metrics and the calibration error."""
        found = summary(self.ranks, self.recommended, self.items)
        return {**found, "calibration_error": round(self.calibration_error, 5)}


def outcome(
    bundle: Bundle, log: SessionLog, targets: np.ndarray, settings: Settings, progress: Progress
) -> Outcome:
    """What the lists that a bundle would have served before each target row [N] were worth."""
    ranks: list[np.ndarray] = []
    recommended: set[str] = set()
    claims: list[tuple[float, bool]] = []
    for wanted, answers in answered(bundle, log, targets, settings, progress):
        lists, scores = [a.item_ids for a in answers], [a.scores for a in answers]
        ranks.append(ranks_from_lists(lists, scores, wanted))
        recommended.update(item for items in lists for item in items)
        claims += [
            (_first_claim(answer), answer.item_ids[0] == item)
            for answer, item in zip(answers, wanted, strict=True)
            if answer.served_by == "full" and item in answer.item_ids
        ]
    claimed, came = np.array(claims).reshape(-1, 2).T
    return Outcome(
        np.concatenate(ranks),
        len(recommended),
        len(bundle.catalogue),
        calibration_error(claimed, came),
    )


def _first_claim(answer: RankedList) -> float:
    """How likely the first item is the next one, by the scores, if it is one of the list."""
    return float(1 / np.exp(np.array(answer.scores) - answer.scores[0]).sum())


def calibration_error(claimed: np.ndarray, came: np.ndarray, bins: int = 10) -> float:
    """Expected calibration error (Guo et al. 2017), bins of equal size; 1 without claims.

    `claimed` [C] are probabilities, `came` [C] is 1 where it happened, else 0.
    """
    if len(claimed) == 0:
        return 1.0
    order = np.argsort(claimed, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    gaps = [abs(claimed[part].mean() - came[part].mean()) * len(part) for part in parts]
    return float(np.sum(gaps) / len(claimed))


def neighbours_alone(
    bundle: Bundle, log: SessionLog, targets: np.ndarray, settings: Settings, progress: Progress
) -> np.ndarray:
    """Ranks by the decayed co-visits with the session's items: no encoder, no ranker."""

    def scores(batch: SessionBatch) -> np.ndarray:
        found = covisit_scores(bundle, batch)
        return without_seen(bundle, batch, found) if settings.exclude_seen else found

    chunks = scored(bundle, log, targets, scores, progress, "neighbours")
    return np.concatenate([ranks for _, ranks in chunks])


def paired_gain(
    own: np.ndarray,
    other: np.ndarray,
    session: np.ndarray,
    alpha: float = 0.05,
    resamples: int = 2_000,
    seed: int = 0,
) -> tuple[float, float]:
    """Mean gain in reciprocal rank and its lower bound, by the paired bootstrap (Sakai 2006).

    The bound holds but for a chance of `alpha`. Sessions [N] are drawn whole, since the
    predictions of one session depend on each other.
    """
    difference = reciprocals(own) - reciprocals(other)
    means = resampled_means(difference[:, None], session, resamples, seed)
    return float(difference.mean()), float(np.quantile(means, alpha))


def list_times(bundle: Bundle, log: SessionLog, targets: np.ndarray) -> tuple[float, float]:
    """Median microseconds of a list alone and of one in a batch, from the session's rows on."""
    recommender = Recommender(bundle)

    def timed(some: np.ndarray) -> float:
        batch = log.prefixes(some)
        started = perf_counter_ns()
        recommender.recommend(batch, session_features(batch))
        return (perf_counter_ns() - started) / 1_000 / len(some)

    spread = targets[np.linspace(0, len(targets) - 1, _WARM_UP + _ALONE).astype(int)]
    alone = [timed(one) for one in spread[:, None]][_WARM_UP:]
    starts = np.linspace(0, max(len(targets) - BATCH, 0), _BATCHES).astype(int)
    batched = [timed(np.sort(targets[at : at + BATCH])) for at in starts]
    return median(alone), median(batched[1:])
