from __future__ import annotations

import json
from typing import cast

import numpy as np

from models.recommender import RankedList, Recommender
from udfs.events import INTERACTIONS, TYPE_CODES, Event, Item, to_text
from udfs.recommend import Answering, Rules, recommendation_id
from udfs.session_features import SessionBatch

START = 1_322_728_000_000


class LastItemFirst:
    """A recommender whose answer shows what it was asked: the session's items, newest first."""

    bundle_version = "test-1"
    took_us = {"retrieve": 1, "rank": 2}

    def recommend(self, batch: SessionBatch, features: np.ndarray) -> list[RankedList]:
        assert len(features) == len(batch)
        lists = []
        for first, last in zip(batch.offsets[:-1], batch.offsets[1:], strict=True):
            items = batch.items[first:last][::-1]
            n = len(items)
            lists.append(RankedList(items, [1.0] * n, ["neural"] * n, [["because"]] * n, "full"))
        return lists


def answering(*triggers: str) -> Answering:
    recommender = cast(Recommender, LastItemFirst())
    return Answering(lambda _: recommender, Rules(triggers or INTERACTIONS, 1_800_000, 7_200_000))


def event(name: str, kind: str, seconds: int, *items: str) -> Event:
    return Event(name, TYPE_CODES[kind], START + seconds * 1000, [Item(i) for i in items], "s-1")


def window(*events: Event) -> str:
    return ",".join(map(to_text, events))


def items_of(value: str) -> list[str]:
    return [item["item_id"] for item in json.loads(value)["items"]]


def test_the_newest_event_is_answered_by_its_session_in_time_order() -> None:
    answers, tally = answering().answer(
        ["u"],
        [
            window(
                event("old", "view_item", -9000, "z"),
                event("b", "view_item", 20, "b"),
                event("a", "view_item", 10, "a"),
            )
        ],
    )
    assert answers[0] is not None
    assert items_of(answers[0].value) == ["b", "a"]
    assert (tally.answered, tally.not_triggering, tally.duplicates) == (1, 0, 0)


def test_a_message_follows_the_published_schema() -> None:
    trigger = Event("e", TYPE_CODES["view_item"], START, [Item("a")], "s-1", "list-7")
    answers, _ = answering().answer(["u"], [to_text(trigger)])
    assert answers[0] is not None
    message = json.loads(answers[0].value)
    assert message.pop("generated_at") > START
    assert message.pop("took_us").keys() == {"features", "retrieve", "rank"}
    assert message == {
        "schema_version": 1,
        "recommendation_id": recommendation_id("u", "e", "test-1"),
        "trigger_event_id": "e",
        "user_id": "u",
        "session_id": "s-1",
        "list_id": "list-7",
        "event_time": START,
        "items": [
            {
                "item_id": "a",
                "position": 0,
                "score": 1.0,
                "source": "neural",
                "reasons": ["because"],
                "propensity": 1.0,
            }
        ],
        "bundle_version": "test-1",
        "served_by": "full",
    }
    assert answers[0].event_time == "2011-12-01T08:26:40.000Z"
    assert answers[0].recommendation_id == message["recommendation_id"]


def test_every_window_has_exactly_one_outcome() -> None:
    seen = event("e", "view_item", 0, "a")
    windows = [
        window(seen),
        window(seen, event("x", "search", 5)),
        window(seen, event("f", "view_item", 6, "b"), seen),
        window(seen, event("e", "search", 7)),
    ]
    answers, tally = answering().answer(["u"] * 4, windows)
    assert [answer is not None for answer in answers] == [True, False, False, False]
    assert (tally.answered, tally.not_triggering, tally.duplicates) == (1, 1, 2)


def test_a_repeated_event_counts_once_in_later_sessions() -> None:
    again = event("e", "view_item", 0, "a")
    answers, _ = answering().answer(["u"], [window(again, again, event("f", "view_item", 1, "b"))])
    assert answers[0] is not None
    assert items_of(answers[0].value) == ["b", "a"]


def test_triggers_are_a_choice() -> None:
    search = [window(event("e", "search", 0))]
    assert answering("search").answer(["u"], search)[1].answered == 1
    assert answering("purchase").answer(["u"], search)[1].not_triggering == 1


def test_the_id_depends_on_user_trigger_and_bundle_alone() -> None:
    ids = {
        recommendation_id(*parts)
        for parts in [("u", "e", "1"), ("v", "e", "1"), ("u", "f", "1"), ("u", "e", "2")]
    }
    assert len(ids) == 4
    assert recommendation_id("u", "e", "1") in ids
    assert recommendation_id("ab", "c", "1") != recommendation_id("a", "bc", "1")


def test_what_the_state_need_not_keep_counts_no_more_although_it_is_there() -> None:
    seconds = [0, 7200, 7201]  # two hours are kept
    rules = Rules(INTERACTIONS, 10_000_000, 7_200_000)
    answering = Answering(lambda _: cast(Recommender, LastItemFirst()), rules)
    again = event("e0", "view_item", 7201, "i0")
    made = [event(f"e{n}", "view_item", n, f"i{n}") for n in seconds]
    windows = [window(*made[:2]), window(*made), window(made[0], again)]
    answers, tally = answering.answer(["u"] * 3, windows)
    found = [items_of(answer.value) for answer in answers if answer is not None]
    assert found == [["i7200", "i0"], ["i7201", "i7200"], ["i0"]]
    assert (tally.answered, tally.duplicates) == (3, 0)


def test_events_around_a_swap_are_answered_by_the_bundles_of_their_times() -> None:
    old, new = LastItemFirst(), LastItemFirst()
    new.bundle_version = "test-2"
    swapped = START + 20_000

    def chosen(event_time_ms: int) -> Recommender:
        return cast(Recommender, new if event_time_ms >= swapped else old)

    seconds = [10, 30, 19, 20, 5]  # as they arrive
    windows = [window(event(f"e{n}", "view_item", n, f"i{n}")) for n in seconds]
    answers, tally = Answering(chosen, Rules(INTERACTIONS, 1_800_000, 7_200_000)).answer(
        ["u"] * 5, windows
    )
    made = [json.loads(answer.value) for answer in answers if answer is not None]
    assert [each["bundle_version"] for each in made] == [
        "test-1",
        "test-2",
        "test-1",
        "test-2",
        "test-1",
    ]
    assert [each["items"][0]["item_id"] for each in made] == [f"i{n}" for n in seconds]
    for each, second in zip(made, seconds, strict=True):
        identity = recommendation_id("u", f"e{second}", each["bundle_version"])
        assert each["recommendation_id"] == identity
    assert tally.answered == 5
