"""Sessions cut from columns are those that the streaming rule cuts."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from models.sessions import EventTable, ItemFacts, SessionLog, sessions_from
from udfs.events import INTERACTION_CODES, TYPE_CODES, Event, Item
from udfs.session_features import SessionBatch, split_sessions

GAP = 1000
IDS = ["a", "b", "c"]
ROW = st.tuples(
    st.integers(0, 2),  # user
    st.integers(0, 2),  # item
    st.sampled_from([TYPE_CODES[name] for name in ("view_item", "add_to_cart", "session_end")]),
    st.integers(0, 20).map(lambda step: 1_700_000_000_000 + step * 400),
)


def table_of(rows: list[tuple[int, int, int, int]]) -> EventTable:
    users, items, types, times = (np.array(column) for column in zip(*rows, strict=True))
    items = np.where(types == TYPE_CODES["session_end"], -1, items).astype(np.int32)
    prices = np.full(len(rows), np.nan)
    facts = ItemFacts(IDS, [None] * 3, [None] * 3)
    return EventTable(users, items, types.astype(np.int8), times, prices, None, facts)


def as_sets(log: SessionLog) -> list[list[tuple[int, int]]]:
    bounds = zip(log.offsets[:-1].tolist(), log.offsets[1:].tolist(), strict=True)
    pairs = list(zip(log.items.tolist(), log.times.tolist(), strict=True))
    return sorted(pairs[low:high] for low, high in bounds)


@given(st.lists(ROW, min_size=1, max_size=30))
def test_columns_are_cut_as_events_are(rows: list[tuple[int, int, int, int]]) -> None:
    expected = []
    for user in range(3):
        events = [
            Event(str(n), kind, time, [Item(IDS[item])] if kind in INTERACTION_CODES else [])
            for n, (owner, item, kind, time) in enumerate(rows)
            if owner == user
        ]
        for session in split_sessions(events, GAP):
            pairs = [(IDS.index(e.items[0].item_id), e.time) for e in session if e.items]
            if pairs:
                expected.append(pairs)
    if expected:
        log = sessions_from(table_of(rows), GAP)
        assert as_sets(log) == sorted(expected)
        assert (np.diff(log.ends) >= 0).all()


def test_a_prefix_holds_what_came_before_its_target(cycle_log: SessionLog) -> None:
    targets = cycle_log.target_rows()[[0, 1, 7]]
    batch = cycle_log.prefixes(targets)
    assert isinstance(batch, SessionBatch)
    assert np.diff(batch.offsets).tolist() == [1, 2, 3]
    row = int(targets[1])
    expected = [cycle_log.facts.ids[code] for code in cycle_log.items[row - 2 : row]]
    assert batch.items[1:3] == expected


def test_parts_joined_are_the_whole(cycle_log: SessionLog) -> None:
    whole = cycle_log.part(0, 200).joined(cycle_log.part(200, len(cycle_log)))
    assert np.array_equal(whole.offsets, cycle_log.offsets)
    assert np.array_equal(whole.items, cycle_log.items)
