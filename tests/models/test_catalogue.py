"""Items counted on from an earlier catalogue are what counting everything at once makes them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from models.catalogue import Catalogue, catalogue_of, updated_catalogue
from models.sessions import EventTable, ItemFacts, SessionLog, sessions_from
from udfs.events import TYPE_CODES

DAY = 86_400_000


@pytest.fixture(scope="module")
def log() -> SessionLog:
    """Forty days of random sessions over 50 items of 4 categories, at fixed prices."""
    rng = np.random.default_rng(3)
    session = np.repeat(np.arange(800), 5).astype(np.int64)
    items = rng.integers(0, 50, len(session)).astype(np.int32)
    times = session * (DAY // 20) + np.tile(np.arange(5), 800) * 1000
    facts = ItemFacts(
        [f"i{code}" for code in range(50)],
        [f"title {code}" for code in range(50)],
        [f"kind{code % 4}" for code in range(50)],
    )
    types = np.full(len(items), TYPE_CODES["view_item"], np.int8)
    table = EventTable(session, items, types, times, items + 1.0, session, facts)
    return sessions_from(table, 0)


def by_item(catalogue: Catalogue) -> dict[str, tuple[float, ...]]:
    columns = zip(
        catalogue.popularity.tolist(),
        catalogue.recent.tolist(),
        catalogue.days_unseen.tolist(),
        catalogue.prices.tolist(),
        strict=True,
    )
    return dict(zip(catalogue.item_ids, columns, strict=True))


def update(before: Catalogue, first: SessionLog, log: SessionLog) -> tuple[Catalogue, np.ndarray]:
    return updated_catalogue(before, int(first.times.max()), log, {}, 1, 100, 7.0)


def test_counting_on_gives_what_counting_everything_at_once_gives(log: SessionLog) -> None:
    first, second = log.part(0, 600), log.part(600, 800)
    found, code = update(catalogue_of(first, 1, 100, 7.0)[0], first, second)
    everything, _ = catalogue_of(log, 1, 100, 7.0)
    wanted = by_item(everything)
    assert list(found.item_ids) == sorted(found.item_ids, key=lambda i: -wanted[i][0])
    for item, columns in by_item(found).items():
        assert columns == pytest.approx(wanted[item], rel=1e-4, abs=1e-4)
    assert [found.item_ids[place] for place in code.tolist()] == log.facts.ids


def test_categories_keep_their_codes(log: SessionLog) -> None:
    first, second = log.part(0, 600), log.part(600, 800)
    names = [f"kind{n % 4}" if n < 45 else "another" for n in range(50)]
    later = replace(second, facts=replace(log.facts, categories=names))
    old = first.items < 45
    sessions = np.bincount(first.session_of_row()[old], minlength=600)
    known = replace(
        first,
        offsets=np.concatenate([[0], np.cumsum(sessions)]),
        **{name: getattr(first, name)[old] for name in ("items", "types", "times", "prices")},
    )
    before, _ = catalogue_of(known, 1, 100, 7.0)
    found, _ = update(before, known, later)
    assert len(before) == 45
    assert len(found) == 50
    codes = dict(zip(found.item_ids, found.categories.tolist(), strict=True))
    assert codes == {f"i{n}": n % 4 if n < 45 else 4 for n in range(50)}


def test_a_new_item_needs_enough_occurrences_those_of_the_replay_included(log: SessionLog) -> None:
    first, second = log.part(0, 600), log.part(600, 800)
    before, _ = catalogue_of(first, 1, 40, 7.0)
    until = int(first.times.max())
    missing = sorted(set(log.facts.ids) - set(before.item_ids))
    assert len(missing) == 10
    none, code = updated_catalogue(before, until, second, {}, 1_000, 100, 7.0)
    assert set(none.item_ids) == set(before.item_ids)
    assert (code == -1).sum() == 10
    seen = {missing[0]: 1_000}
    one, _ = updated_catalogue(before, until, second, seen, 1_000, 100, 7.0)
    assert set(one.item_ids) == {*before.item_ids, missing[0]}


def test_the_catalogue_stays_bounded(log: SessionLog) -> None:
    first, second = log.part(0, 600), log.part(600, 800)
    before, _ = catalogue_of(first, 1, 40, 7.0)
    found, code = updated_catalogue(before, int(first.times.max()), second, {}, 1, 45, 7.0)
    assert len(found) == 45
    assert code.max() == 44
