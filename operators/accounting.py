"""Every record that the recommend job consumes meets exactly one outcome."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

Outcome = Literal["answered", "not_triggering", "duplicates", "dead_letters"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
FEEDBACK = ("exposures", "joined", "revisions", "finals", "not_in_list")
_SWAPS = ("bundles_loaded", "bundles_refused", "other_bundle")  # models.serving.COUNTS
LOST = "transactions_lost"  # which brokers gave up before they were committed
DROPPED = "dropped"  # by Flink's windows, which is for nobody to see: `late` should have had them
COUNTERS = ("consumed", *OUTCOMES, "sessions", *FEEDBACK, "late", *_SWAPS, LOST, DROPPED)
"""Names of the counters of all jobs, in the order in which they are shown."""


def accounted(counts: Mapping[str, int]) -> int:
    """How many records have met their outcome: all, once it equals `counts["consumed"]`."""
    return sum(counts.get(name, 0) for name in OUTCOMES)
