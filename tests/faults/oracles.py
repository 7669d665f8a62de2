"""What two readers got, held against the lists that are due."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Set
from typing import Any

from tests.faults.readers import Watch, committed
from tests.faults.scenario import Figures
from tests.kafka import PATIENCE_S, Record, wait_for
from tests.shopping import decision


def verified(
    bootstrap: str,
    watch: Watch,
    due: Mapping[str, dict[str, Any]],
    delivery: str,
    behind: Set[str] = frozenset(),
) -> Figures:
    """Hold what both readers got against what is due; AssertionError says where they differ.

    `due` has the decisions by recommendation_id, for each user in the order of the events. Those
    in `behind` may have come later.
    """
    fresh = committed(bootstrap, watch.topic)
    wait_for(
        lambda: len(watch.records()) >= len(fresh), PATIENCE_S, "the reader that ran meanwhile"
    )
    assert places(watch.records()[: len(fresh)]) == places(fresh), (
        "the reader that ran meanwhile got other records than the one that began afterwards"
    )
    found = [decision(record.value or b"") for record in fresh]
    times = Counter(made["recommendation_id"] for made in found)
    lost, unknown = due.keys() - times.keys(), times.keys() - due.keys()
    assert not lost, f"{len(lost)} of {len(due)} lists are lost: {sorted(lost)[:3]}"
    assert not unknown, f"{len(unknown)} lists that nobody asked for: {sorted(unknown)[:3]}"
    for made in found:
        wanted = due[made["recommendation_id"]]
        assert made == wanted, f"expected {wanted}; got {made}"
    again = sum(count - 1 for count in times.values())
    assert delivery == "at-least-once" or again == 0, f"{again} lists came twice"
    orders = [
        by_user(made for made in side if made["recommendation_id"] not in behind)
        for side in (found, due.values())
    ]
    assert orders[0] == orders[1], "the lists of a user are out of order"
    return {"lists": len(due), "lost": 0, "again": again}


def identity(record: Record) -> str:
    """The recommendation_id of a record."""
    return str(json.loads(record.value or b"")["recommendation_id"])


def places(records: list[Record]) -> list[tuple[int, int]]:
    return [(record.partition, record.offset) for record in records]


def by_user(decisions: Iterable[dict[str, Any]]) -> dict[str, list[str]]:
    """The ids of each user's lists in the order in which they came first."""
    order: dict[str, dict[str, None]] = defaultdict(dict)
    for made in decisions:
        order[made["user_id"]][made["recommendation_id"]] = None
    return {user: list(ids) for user, ids in order.items()}
