"""Lists: the same bits in every batch, never what must not be in them, and honest about why."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.bundle import Bundle
from models.loading import load_bundle
from models.ranking import Reasons
from models.recommender import RankedList, Recommender, Settings
from models.synthetic import synthetic_sessions, write_synthetic_bundle
from udfs.session_features import SessionBatch, session_features


def part(batch: SessionBatch, sessions: list[int]) -> SessionBatch:
    """The given sessions of a batch as a batch of their own."""
    bounds = [(int(batch.offsets[s]), int(batch.offsets[s + 1])) for s in sessions]
    rows = np.concatenate([np.arange(low, high) for low, high in bounds] or [[]]).astype(int)
    return SessionBatch(
        np.concatenate([[0], np.cumsum([high - low for low, high in bounds])]).astype(np.int64),
        [batch.items[row] for row in rows],
        batch.types[rows],
        batch.times[rows],
        batch.prices[rows],
    )


def answers(recommender: Recommender, batch: SessionBatch) -> list[RankedList]:
    return recommender.recommend(batch, session_features(batch))


@pytest.fixture(scope="module")
def batch(bundle: Bundle) -> SessionBatch:
    sessions = synthetic_sessions(bundle, 1000, seed=5)
    strange = [f"unknown-{n}" if n % 7 == 0 else item for n, item in enumerate(sessions.items)]
    return replace(sessions, items=strange)


@pytest.fixture(scope="module")
def full(bundle: Bundle, batch: SessionBatch) -> list[RankedList]:
    return answers(Recommender(bundle), batch)


def test_a_session_alone_gets_the_bits_it_gets_in_a_batch_of_1000(
    bundle: Bundle, batch: SessionBatch, full: list[RankedList]
) -> None:
    recommender = Recommender(bundle)
    for session in range(len(batch)):
        assert answers(recommender, part(batch, [session])) == [full[session]]


@settings(max_examples=60)
@given(st.data())
def test_any_batch_gives_each_session_the_same_bits(
    bundle: Bundle, batch: SessionBatch, full: list[RankedList], data: st.DataObject
) -> None:
    size = data.draw(st.sampled_from([1, 2, 3, 5, 16, 19, 20, 21, 47, 48, 49, 97, 200]))
    first = data.draw(st.integers(0, 999))
    step = data.draw(st.sampled_from([1, 7, 13, 333]))
    chosen = [(first + step * n) % 1000 for n in range(size)]
    assert answers(Recommender(bundle), part(batch, chosen)) == [full[s] for s in chosen]


def test_an_inverted_index_changes_no_bit_either(tmp_path: Path) -> None:
    path = write_synthetic_bundle(tmp_path / "large", items=12_000, seed=1, dimension=16)
    bundle = load_bundle(path)
    assert "IVF" in bundle.manifest["index"] or "HNSW" in bundle.manifest["index"]
    sessions = synthetic_sessions(bundle, 300, seed=2)
    together = answers(Recommender(bundle), sessions)
    for at in range(0, 300, 7):
        assert answers(Recommender(bundle), part(sessions, [at])) == [together[at]]


def test_lists_are_full_sorted_and_free_of_repetitions(full: list[RankedList]) -> None:
    for answer in full:
        assert len(answer.item_ids) == len(set(answer.item_ids)) == 20
        assert answer.scores == sorted(answer.scores, reverse=True)
        columns = (answer.scores, answer.sources, answer.reasons)
        assert {len(column) for column in columns} == {20}
        assert all(reason for reasons in answer.reasons for reason in reasons)


def test_items_of_the_session_are_left_out_unless_wanted(
    bundle: Bundle, batch: SessionBatch, full: list[RankedList]
) -> None:
    kept = answers(Recommender(bundle, Settings(exclude_seen=False)), batch)
    repeats = 0
    for session, (without, answer) in enumerate(zip(full, kept, strict=True)):
        own = set(batch.items[batch.offsets[session] : batch.offsets[session + 1]])
        assert not own & set(without.item_ids)
        repeats += bool(own & set(answer.item_ids))
    assert repeats > 100


def test_a_session_without_a_known_item_gets_what_is_popular(bundle: Bundle) -> None:
    unknown = SessionBatch(
        np.array([0, 0, 1]),
        ["never seen"],
        np.array([2], np.int8),
        np.array([1_700_000_000_000]),
        np.array([np.nan]),
    )
    for answer in answers(Recommender(bundle), unknown):
        assert answer.served_by == "popular"
        assert answer.item_ids == [bundle.catalogue.item_ids[i] for i in bundle.popular[:20]]
        assert set(answer.sources) <= {"trending", "popular"}
        assert all(reasons[0].startswith("popular ") for reasons in answer.reasons)


def test_an_empty_batch_gives_no_list(bundle: Bundle, batch: SessionBatch) -> None:
    assert answers(Recommender(bundle), part(batch, [])) == []


class Broken:
    """A network that fails, or that gives what is not finite for the first of its rows."""

    def __init__(self, network: Any = None) -> None:
        self._network = network

    def run(self, names: None, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        if self._network is None:
            raise RuntimeError("out of order")
        out = self._network.run(names, inputs)
        out[0][0] = np.nan
        return list(out)


def test_retrieval_answers_where_the_ranker_fails(bundle: Bundle, batch: SessionBatch) -> None:
    few = part(batch, list(range(30)))
    lists = answers(Recommender(replace(bundle, ranker=Broken())), few)
    assert {answer.served_by for answer in lists} <= {"retrieval", "popular"}
    assert all(len(answer.item_ids) == 20 for answer in lists)


def test_only_the_sessions_with_bad_scores_fall_back(bundle: Bundle, batch: SessionBatch) -> None:
    few = part(batch, [2, 3, 4])
    lists = answers(Recommender(replace(bundle, ranker=Broken(bundle.ranker))), few)
    assert [answer.served_by for answer in lists] == ["retrieval", "full", "full"]


def test_what_is_popular_answers_where_the_encoder_fails(
    bundle: Bundle, batch: SessionBatch
) -> None:
    few = part(batch, list(range(10)))
    for broken in (Broken(), Broken(bundle.encoder)):
        lists = answers(Recommender(replace(bundle, encoder=broken)), few)
        assert {answer.served_by for answer in lists} == {"popular"}
        for session, answer in enumerate(lists):
            own = set(few.items[few.offsets[session] : few.offsets[session + 1]])
            assert not own & set(answer.item_ids)


def test_a_reason_names_an_item_of_the_session(
    bundle: Bundle, batch: SessionBatch, full: list[RankedList]
) -> None:
    recommender = Recommender(bundle)
    found = 0
    for session, answer in enumerate(full):
        own = batch.items[batch.offsets[session] : batch.offsets[session + 1]]
        titles = {recommender.title(item) for item in own}
        for source, reasons in zip(answer.sources, answer.reasons, strict=True):
            if source == "neighbours":
                assert reasons[0].removeprefix("bought together with ") in titles
                found += 1
    assert found > 1000


def test_titles_are_told_where_they_are_known(bundle: Bundle) -> None:
    recommender = Recommender(bundle)
    assert recommender.title("item-0000001") == bundle.catalogue.titles[1]
    assert recommender.title("never seen") is None


def test_extreme_prices_and_times_spoil_no_score(bundle: Bundle, batch: SessionBatch) -> None:
    few = part(batch, list(range(40)))
    wild = replace(
        few,
        prices=np.where(np.arange(len(few.items)) % 2, 1e308, 1e-320),
        times=few.times * 1_000_000,
    )
    with np.errstate(all="ignore"):
        lists = answers(Recommender(bundle), wild)
    assert all(np.isfinite(answer.scores).all() for answer in lists)
    assert "retrieval" not in {answer.served_by for answer in lists}


def test_a_session_of_thousands_of_rows_is_answered(bundle: Bundle) -> None:
    sessions = synthetic_sessions(bundle, 1, seed=1, longest=2)
    size = 20_000
    long = SessionBatch(
        np.array([0, size]),
        (sessions.items * size)[:size],
        np.full(size, 2, np.int8),
        np.arange(size) + 1_700_000_000_000,
        np.full(size, np.nan),
    )
    assert answers(Recommender(bundle), long)[0].served_by == "full"


def test_timings_are_told(bundle: Bundle, batch: SessionBatch) -> None:
    recommender = Recommender(bundle)
    answers(recommender, batch)
    assert set(recommender.took_us) == {"retrieve", "rank"}
    assert all(microseconds > 0 for microseconds in recommender.took_us.values())


def test_a_list_of_nothing_is_refused(bundle: Bundle) -> None:
    with pytest.raises(ValueError, match="`list_size` must be at least 1; got 0"):
        Recommender(bundle, Settings(list_size=0))


@pytest.mark.parametrize("size", [1, 7, 300, 1000])
def test_any_list_size_is_served(bundle: Bundle, batch: SessionBatch, size: int) -> None:
    for answer in answers(Recommender(bundle, Settings(list_size=size)), part(batch, [1, 2])):
        assert 1 <= len(answer.item_ids) <= size


@pytest.mark.parametrize("names", [["tea"], ["tea", "cup", "jam"]])
def test_every_reason_is_told_in_words(names: list[str]) -> None:
    reasons = Reasons(names, "bought with")
    size, last = len(names), names[-1]
    assert reasons[size - 1] == (f"bought with {last}",)
    assert reasons[2 * size - 1] == (f"similar to {last}",)
    assert reasons[3 * size - 1] == ("fits this session", f"bought with {last}")
    assert reasons[4 * size - 1] == ("fits this session", f"similar to {last}")
    assert [reasons[4 * size + n][0].split()[0] for n in range(3)] == ["fits", "popular", "popular"]
    assert reasons[4 * size + 1] != reasons[4 * size + 2]
