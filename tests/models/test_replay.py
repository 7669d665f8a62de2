"""The replay buffer: bounded, the same whatever the order, proportional to what there was."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from models.replay import chosen, merged, read_buffer, refreshed, session_keys, write_buffer
from models.sessions import SessionLog
from tests.models.conftest import cycles


def told(log: SessionLog) -> list[tuple[object, ...]]:
    """What is in a log, whatever its item codes are."""
    rows = zip(
        log.session_of_row().tolist(),
        [log.facts.ids[code] for code in log.items.tolist()],
        log.types.tolist(),
        log.times.tolist(),
        log.prices.tolist(),
        strict=True,
    )
    return list(rows)


def renamed(log: SessionLog) -> SessionLog:
    """The same sessions in a data set that has its items in another order."""
    order = np.random.default_rng(0).permutation(len(log.facts.ids))
    facts = log.facts
    turned = replace(
        facts,
        ids=[facts.ids[code] for code in order],
        titles=[facts.titles[code] for code in order],
        categories=[facts.categories[code] for code in order],
    )
    return replace(log, items=np.argsort(order)[log.items].astype(np.int32), facts=turned)


def test_it_is_bounded_and_in_order_of_the_sessions_ends(cycle_log: SessionLog) -> None:
    buffer = refreshed(None, cycle_log, 100)
    assert len(buffer) == 100
    assert (np.diff(buffer.ends) >= 0).all()
    assert set(session_keys(buffer).tolist()) <= set(session_keys(cycle_log).tolist())


def test_parts_in_any_order_and_twice_give_what_everything_at_once_gives(
    cycle_log: SessionLog,
) -> None:
    wanted = told(refreshed(None, cycle_log, 100))
    first, second = cycle_log.part(0, 200), renamed(cycle_log.part(150, 500))
    for parts in ((first, second), (second, first), (first, second, first)):
        buffer = None
        for part in parts:
            buffer = refreshed(buffer, part, 100)
        assert buffer is not None
        assert told(buffer) == wanted


def test_items_are_in_it_in_proportion_to_their_frequency() -> None:
    log = cycles(sessions=6_000, items=30, length=4, seed=2)
    rare = np.flatnonzero((log.items.reshape(-1, 4)[:, 0] < 10) | (np.arange(6_000) % 4 == 0))
    log = chosen(log, rare)
    share = np.bincount(log.items, minlength=30) / len(log.items)
    buffer = refreshed(None, log, 1_000)
    got = np.bincount(buffer.items, minlength=30) / len(buffer.items)
    assert share.max() > 2 * share.min()
    assert got == pytest.approx(share, abs=4 * np.sqrt(share.max() / len(buffer.items) * 4))


def test_it_is_read_as_it_was_written(cycle_log: SessionLog, tmp_path: Path) -> None:
    path = tmp_path / "runs" / "replay.parquet"
    assert read_buffer(path) is None
    prices = np.where(np.arange(len(cycle_log.items)) % 3, cycle_log.prices, np.nan)
    log = refreshed(None, replace(cycle_log, prices=prices), 80)
    write_buffer(path, log)
    again = read_buffer(path)
    assert again is not None
    assert np.array_equal(session_keys(again), session_keys(log))
    assert np.array_equal(again.prices, log.prices, equal_nan=True)
    facts = dict(zip(log.facts.ids, zip(log.facts.titles, log.facts.categories)))  # noqa: B905
    for item, *fact in zip(again.facts.ids, again.facts.titles, again.facts.categories):  # noqa: B905
        assert facts[item] == tuple(fact)
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_a_write_that_did_not_end_leaves_the_old_buffer(
    cycle_log: SessionLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "replay.parquet"
    write_buffer(path, cycle_log.part(0, 10))

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pq, "write_table", killed)
        with pytest.raises(KeyboardInterrupt):
            write_buffer(path, cycle_log)
    assert len(read_buffer(path) or []) == 10


def test_a_buffer_with_foreign_rows_is_refused(cycle_log: SessionLog, tmp_path: Path) -> None:
    path = tmp_path / "replay.parquet"
    write_buffer(path, cycle_log.part(0, 10))
    table = pq.read_table(path)
    pq.write_table(table.set_column(2, "event_type", [["?"] * len(table)]), path)
    with pytest.raises(ValueError, match=r"expected a replay buffer at .*; 60 of its rows"):
        read_buffer(path)


def test_merged_sessions_know_the_facts_of_both(cycle_log: SessionLog) -> None:
    first = cycle_log.part(0, 5)
    nothing = replace(first.facts, titles=[None] * 30)
    assert merged(first, replace(first, facts=nothing)).facts.titles == first.facts.titles
