"""The simulated shop of the loop: so small that minutes of traffic teach a bundle something.

Its past is a day of browsing, from before there were any lists; the first bundle knows no more.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from jobs.simulate.crowd import Clock, Crowd
from jobs.simulate.population import ShopperEvent, Shopping
from jobs.simulate.settings import Broker, SimulateSettings, population
from jobs.simulate.tastes import Tastes

TOPICS = {
    "user-events": 2,
    "recommendations": 2,
    "dead-letters": 1,
    "sessions": 1,
    "late-events": 1,
    "feedback": 1,
    "model-updates": 1,
}
PAST_EVENTS = 9_000
GAP_S = 5  # of silence that end a session: shoppers here think for less than a second
SHOPPERS = SimulateSettings(
    bundle=None,
    items=120,
    clusters=8,
    rate=120,
    think_s=0.7,
    run=1,
    shopping=Shopping(leave=0.18),
)
_DAY_MS = 86_400_000

RECOMMEND = {"poll_s": 0.5, "session_gap_s": GAP_S, "list_size": 6, "batch_ms": 20}
SESSIONS = {"session_gap_s": GAP_S, "out_of_order_s": 1, "idle_s": 5}
FEEDBACK = {"horizon_s": 20, "out_of_order_s": 2, "idle_s": 5}
TRAIN = {
    "name": "shop",
    "test_prefixes": 2000,
    "fit": {"min_count": 2, "encoder": {"dimension": 32, "batch": 512, "negatives": 0}},
}
FINETUNE = {
    "session_gap_s": GAP_S,
    "lead_s": 5,
    "round": {
        "least_sessions": 100,
        "test_share": 0.2,
        "valid_share": 0.25,  # the ranker learns from these alone
        "finetune": {
            "epochs": 20,
            "patience": 2,
            "batch": 256,
            "learning_rate": 0.006,
            "ranker_learning_rate": 0.003,
        },
    },
}
"""Settings of the jobs, beside those that name places."""

UNHURRIED = {"execution.buffer-timeout.interval": "20 ms"}
"""Flink's options of all jobs: shoppers think for longer than a list takes. Flushing every
millisecond in all tasks of four jobs would fill two cores."""


def past(until_ms: int) -> Iterator[ShopperEvent]:
    """What shoppers did on the day before `until_ms`, epoch ms."""
    shoppers = population(SHOPPERS, until_ms)
    clock = Clock(until_ms - _DAY_MS, _DAY_MS / PAST_EVENTS)
    crowd = Crowd(shoppers, clock, at_once=3, run=0)
    return (crowd.turn() for _ in range(PAST_EVENTS))


def write_past(path: Path, until_ms: int) -> None:
    """Write the past as messages, one JSON object a line."""
    path.write_bytes(b"".join(msgspec.json.encode(event) + b"\n" for event in past(until_ms)))


def train_settings(messages: Path, output: Path) -> dict[str, Any]:
    """Settings of the train job for the first bundle, a folder below `output`."""
    source = {"format": "messages", "path": str(messages)}
    return {**TRAIN, "source": source, "output": f"{output}/{{version}}"}


def shoppers(bootstrap: str) -> SimulateSettings:
    """Settings of the traffic."""
    return SHOPPERS.model_copy(update={"kafka": Broker(bootstrap=bootstrap)})


def later(tastes: Tastes) -> Tastes:
    """The tastes after the drift."""
    drift = SHOPPERS.drift
    return tastes.drifted(drift.share, drift.new_items, SHOPPERS.seed)
