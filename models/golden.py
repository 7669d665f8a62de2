"""Questions with known answers: a bundle proves on loading that it still gives them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from models.bundle import Bundle
from models.bundle_files import BundleError
from models.recommender import RankedList, Recommender, Settings
from udfs.session_features import SessionBatch, session_features

TOLERANCE = 2e-3  # scores may differ this much between processors; an order only within it


def golden_answers(bundle: Bundle, batch: SessionBatch) -> bytes:
    """The batch and what the bundle answers to it, as JSON."""
    answers = Recommender(bundle, Settings()).recommend(batch, session_features(batch))
    return json.dumps(
        {
            "offsets": batch.offsets.tolist(),
            "items": batch.items,
            "types": batch.types.tolist(),
            "times": batch.times.tolist(),
            "prices": [None if np.isnan(price) else price for price in batch.prices.tolist()],
            "item_ids": [answer.item_ids for answer in answers],
            "scores": [[round(score, 6) for score in answer.scores] for answer in answers],
        },
        separators=(",", ":"),
    ).encode()


def check_golden(bundle: Bundle, data: bytes) -> None:
    """Raise BundleError unless the bundle gives the answers that were stored with it."""
    golden = _read(data)
    batch = _batch(golden)
    if len(batch) == 0 or len(golden["item_ids"]) != len(batch):
        raise BundleError("expected sessions with one answer each in golden.json")
    answers = Recommender(bundle, Settings()).recommend(batch, session_features(batch))
    expected = zip(golden["item_ids"], golden["scores"], strict=True)
    for number, (answer, (item_ids, scores)) in enumerate(zip(answers, expected, strict=True)):
        if not _same(answer, item_ids, scores):
            raise BundleError(
                f"expected the stored answer to golden session {number}; got another; "
                "its parts do not belong together: train or fetch the bundle again"
            )


def _read(data: bytes) -> dict[str, Any]:
    try:
        golden = json.loads(data)
        for key in ("offsets", "items", "types", "times", "prices", "item_ids", "scores"):
            if not isinstance(golden[key], list):
                raise TypeError(key)
    except (ValueError, KeyError, TypeError):
        raise BundleError("expected questions and answers in golden.json") from None
    return dict(golden)


def _batch(golden: dict[str, Any]) -> SessionBatch:
    prices = [np.nan if price is None else price for price in golden["prices"]]
    return SessionBatch(
        np.asarray(golden["offsets"], np.int64),
        golden["items"],
        np.asarray(golden["types"], np.int8),
        np.asarray(golden["times"], np.int64),
        np.asarray(prices, np.float64),
    )


def _same(answer: RankedList, item_ids: list[str], scores: list[float]) -> bool:
    """Equal scores by place within TOLERANCE; items may trade places only within it."""
    if len(answer.scores) != len(scores) or len(item_ids) != len(scores):
        return False
    got, want = np.asarray(answer.scores), np.asarray(scores)
    if answer.served_by == "retrieval" or not np.allclose(got, want, TOLERANCE, TOLERANCE):
        return False
    score_of = dict(zip(answer.item_ids, got.tolist(), strict=True))
    last = float(got[-1]) if len(got) else 0.0
    for item, score in zip(item_ids, scores, strict=True):
        slack = 2 * TOLERANCE * (1 + abs(score))
        if abs(score_of.get(item, last) - score) > slack:
            return False
    return True
