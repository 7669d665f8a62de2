"""A world whose tastes drift, small enough to be learned in seconds; its right answers are known.

Items 0 to 29 (the drifting ones) and 30 to 59 (the steady ones) are visited upwards or downwards,
each in half of the sessions, so that two items tell the third and one does not. Later, every other
of the drifting ones is skipped, an item `new` comes in the place of whatever followed `i3`, and
nobody looks at the steady ones.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.bundle import Bundle
from models.finetuning import FinetuneSettings
from models.fitting import FitSettings, Fitted, Slices
from models.publishing import finished, publish
from models.ranker_training import RankerSettings
from models.samples import Sample
from models.sessions import EventTable, ItemFacts, SessionLog, sessions_from
from models.training import EncoderSettings
from udfs.events import EVENT_TYPES, TYPE_CODES

torch.set_num_threads(1)  # of so little work, threads would mostly wait for one another
DRIFTING, STEADY, NEW = 0, 1, 60
LATER = 1_750_000_000_000
SMALL = FitSettings(
    encoder=EncoderSettings(dimension=16, epochs=8, batch=128, learning_rate=0.02, dropout=0.1),
    ranker=RankerSettings(samples=600, hidden=8, epochs=4, batch=16, learning_rate=0.01),
    min_count=1,
    seed=7,
)
TUNE = FinetuneSettings(epochs=8, batch=128, learning_rate=0.03, ranker_learning_rate=0.01, seed=5)


def silent(what: str, done: int, total: int) -> None:
    assert 0 <= done <= total, what


def sessions(kinds: list[int], count: int, seed: int, later: bool = False) -> SessionLog:
    """Sessions of six items, each of one of the kinds."""
    rng = np.random.default_rng(seed)
    kind = rng.choice(kinds, (count, 1))
    step = rng.choice([-1, 1], (count, 1)) * (1 + later)
    codes = kind * 30 + (rng.integers(0, 30, (count, 1)) + step * np.arange(6)) % 30
    if later:
        codes[:, 1:][codes[:, :-1] == 3] = NEW
    owner = np.repeat(np.arange(count), 6).astype(np.int64)
    times = (LATER if later else 1_700_000_000_000) + np.arange(codes.size) * 10_000
    ids = [*(f"i{code}" for code in range(60)), "new"]
    facts = ItemFacts(ids, [None] * len(ids), [None] * len(ids))
    types = np.full(codes.size, TYPE_CODES["view_item"], np.int8)
    prices = np.full(codes.size, np.nan)
    items = codes.ravel().astype(np.int32)
    return sessions_from(EventTable(owner, items, types, times, prices, owner, facts), 0)


def messages(log: SessionLog) -> list[str]:
    """The sessions of a log as they come from topic `sessions`."""
    found = []
    for number, (low, high) in enumerate(zip(log.offsets, log.offsets[1:], strict=False)):
        rows = range(low, high)
        events = [
            {
                "item_id": log.facts.ids[log.items[row]],
                "event_type": EVENT_TYPES[log.types[row]],
                "event_time": int(log.times[row]),
            }
            for row in rows
        ]
        told = {
            "schema_version": 1,
            "session_id": f"s{number}",
            "user_id": f"u{number}",
            "started_at": events[0]["event_time"],
            "ended_at": events[-1]["event_time"],
            "closed_by": "gap",
            "events": events,
            "features": {},
        }
        found.append(json.dumps(told))
    return found


def samples(log: SessionLog) -> list[Sample]:
    """The same as Flink hands them over."""
    return [Sample("session", "", text) for text in messages(log)]


def published(path: Path, fitted: Fitted, bundle: Bundle, slices: Slices, **more: Any) -> Path:
    """Write a bundle as a job would, but without measuring it first."""
    told = {"fit": SMALL.model_dump(mode="json")}
    measured = {"metrics": {}, "test_prefixes": 0}
    files, manifest = finished(path.name, fitted, bundle, slices, measured, told, **more)
    publish(path, files, manifest, replace=False)
    return path
