"""A job of today goes on from a savepoint that an earlier version left."""

from __future__ import annotations

import time
from collections.abc import Set
from typing import Any

from operators.remote import cancel
from tests.faults.readers import committed
from tests.faults.scenario import Figures, Ground, scenario
from tests.faults.stage import Stage, stage
from tests.jobs.savepoints.kept import PARTITIONS, PROFILES, Kept, send_to_their_places
from tests.kafka import PATIENCE_S, Record, wait_for


@scenario()
def savepoint_upgrade(ground: Ground) -> Figures:
    """A kept savepoint is gone on from on another broker: all is as if it had never stopped.

    Sessions were open and windows half full. What comes then is, byte for byte but for the stamps
    of lists, what a job of today makes of all events in one run, less what was sent before.
    """
    figures: Figures = {}
    with stage(ground) as ours:
        for job in PROFILES:
            kept, began = Kept(job), time.monotonic()
            due = kept.due(kept.before + kept.after)
            whole = _made(ours, kept, "whole", None, due.keys())
            left = due.keys() - kept.delivered
            later = _made(ours, kept, "kept", kept.savepoint, left)
            assert whole == due, "an uninterrupted run made something else"
            assert later == {name: whole[name] for name in left}, "it went on differently"
            figures[job] = {"before": len(kept.delivered), "after": len(later)}
            ground.say(f"{job} went on, after {time.monotonic() - began:.0f} s in all")
    return figures


def _made(ours: Stage, kept: Kept, prefix: str, state: str | None, due: Set[str]) -> dict[str, Any]:
    """What the job makes of all the records, or of those after `state`: by its ids."""
    events, messages, *_ = topics = kept.topics(prefix)
    ours.broker.create_topics(dict.fromkeys(topics, PARTITIONS))
    send_to_their_places(ours.broker, events, kept.before + kept.after)
    job_id = ours.submit(kept.job, *kept.settings(ours.broker.bootstrap, state, prefix))

    def found() -> list[Record]:
        return committed(ours.broker.bootstrap, messages)

    wait_for(lambda: kept.found(found()).keys() >= due, PATIENCE_S, f"what {kept.job} makes")
    cancel(ours.rest, job_id)
    return kept.found(found())
