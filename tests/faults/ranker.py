"""A ranker that fails at run time, for some sessions or for all."""

from __future__ import annotations

import json
import logging
from collections import Counter
from dataclasses import replace
from typing import Any

from models.bundle import Bundle
from models.loading import load_bundle
from models.registry import Registry
from tests.bundles import versioned
from tests.canaries import USER
from tests.faults.broken_bundles import crack_ranker
from tests.faults.bundles import WORKERS, on
from tests.faults.readers import committed
from tests.faults.run import Run, run
from tests.faults.scenario import Figures, Ground, scenario
from tests.faults.stage import stage
from tests.kafka import PATIENCE_S, Record, now_ms, send, wait_for
from tests.shopping import START_MS, STARTER, Swap, decision, expected, shopping, starter

DEAR = 2_000_000  # a price that no ranker has seen
USERS, EVENTS = 40, 1_000
EVERY_MS = START_MS + 30 * 86_400_000  # when the events begin for which it always fails
WELL_MS = START_MS + 60 * 86_400_000  # and those that a sound bundle answers
BEFORE_MS = 3_600_000  # some events come out of order
Lists = dict[str, dict[str, Any]]


@scenario()
def ranker_failure(ground: Ground) -> Figures:
    """A ranker fails for 5 % of sessions, then for all: simpler lists, then full ones again."""
    registry = Registry(ground.folder / "registry")
    paths = {name: versioned(STARTER, ground.folder, name) for name in ("cracked", "mended")}
    crack_ranker(paths["cracked"], "mean_price", DEAR / 2)
    for path in paths.values():
        registry.publish(path)
    registry.promote("cracked", START_MS - BEFORE_MS)
    before = bought(31, USERS // 20, START_MS) + bought(32, USERS, EVERY_MS)
    after = bought(33, 0, WELL_MS)
    settings = ("throughput", "exactly-once", *on(registry))
    with stage(ground) as ours, run(ours, "ranker", *settings, records=before, rate=50) as ran:
        ran.flow.wait_for(EVENTS)
        registry.promote("mended", WELL_MS - BEFORE_MS)
        wait_for(lambda: loaded(ran) == 2 * WORKERS, PATIENCE_S, "the sound bundle to be loaded")
        ran.flow.finish()
        send(ours.broker.bootstrap, ran.events, after)
        swap = Swap(load_bundle(paths["mended"]), WELL_MS - BEFORE_MS)
        told = held(ran, load_bundle(paths["cracked"]), before + after, swap)
        assert ran.failures() == 0, ran.why_it_ended()
    return told


def bought(seed: int, dear: int, start_ms: int) -> list[Record]:
    """Events of USERS shoppers, `dear` of whom look only at what costs DEAR."""
    users = {f"{USER}-{number}" for number in range(dear)}
    return [
        priced(record) if (record.key or b"").decode() in users else record
        for record in shopping(seed, USERS, EVENTS, starter().catalogue.item_ids[:200], start_ms)
    ]


def priced(record: Record) -> Record:
    event = json.loads(record.value or b"")
    items = [{**item, "price": DEAR} for item in event["items"]]
    return Record(json.dumps({**event, "items": items}).encode(), record.key, record.headers)


def held(ran: Run, cracked: Bundle, sent: list[Record], swap: Swap) -> Figures:
    """Hold each list against what its session gets alone, and against a ranker that is gone.

    Sessions that are ranked together with one that fails may get the simpler list as well.
    """
    now = now_ms()
    logging.disable()  # it would be told of each list that the ranker fails or is gone
    alone = expected(cracked, sent, now, swap)
    without = expected(replace(cracked, ranker=Gone()), sent, now, swap)
    logging.disable(logging.NOTSET)

    ran.wait_for_lists(alone.keys())
    found = [
        decision(each.value or b"") for each in committed(ran.stage.broker.bootstrap, ran.lists)
    ]
    came = {made["recommendation_id"]: made for made in found}
    assert came.keys() == alone.keys(), "expected a list for every event"
    assert len(came) == len(found), f"{len(found) - len(came)} lists came twice"
    for name, made in came.items():
        assert made in (alone[name], without[name]), f"expected {alone[name]}; got {made}"
    phases = {"some": (0, EVERY_MS), "all": (EVERY_MS, WELL_MS), "mended": (WELL_MS, 1e15)}
    told: Figures = {
        phase: dict(
            Counter(m["served_by"] for m in found if low <= m["event_time"] + BEFORE_MS < high)
        )
        for phase, (low, high) in phases.items()
    }
    assert "retrieval" in told["some"], told
    assert "full" not in told["all"], told
    assert "retrieval" not in told["mended"], told
    along = sum(came[name] != due for name, due in alone.items())
    failing = sum(due["served_by"] == "retrieval" for due in alone.values())
    return {"lists": len(found), "failing": failing, "taken_along": along, "served_by": told}


class Gone:
    """A network that answers nothing."""

    def run(self, *_: object) -> None:
        raise RuntimeError("gone")


def loaded(ran: Run) -> int:
    """How many bundles all workers have loaded together."""
    return ran.counts().get("bundles_loaded", 0)
