"""What Flink's REST shows: the counters of a running job, and the TaskManagers."""

from __future__ import annotations

from operators.accounting import accounted
from operators.rest import Rest
from operators.running import counters
from tests.kafka import PATIENCE_S, wait_for


def counted(rest: str) -> dict[str, int]:
    """The counters of the only job there; none while the REST does not answer."""
    try:
        (job,) = Rest(rest).get("/jobs")["jobs"]
        return counters(Rest(rest), job["id"])
    except (OSError, ValueError):
        return {}


def addresses(rest: Rest) -> set[str]:
    """Where the TaskManagers listen: a new process has another address."""
    return {each["path"] for each in rest.get("/taskmanagers")["taskmanagers"]}


def settled(rest: str, consumed: int) -> dict[str, int]:
    """The counters once each of `consumed` records has met its outcome."""
    seen: dict[str, int] = {}

    def is_settled() -> bool:
        seen.update(counted(rest))
        return seen.get("consumed") == consumed == accounted(seen)

    wait_for(is_settled, PATIENCE_S, f"{consumed} records to be accounted for")
    return seen
