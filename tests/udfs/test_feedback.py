from __future__ import annotations

import json
import random
from collections.abc import Iterable
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.feedback import (
    HORIZON_MS,
    RECEIVED_MS,
    START_MS,
    Act,
    Made,
    browsing,
    by_the_rules,
    check_rate,
    interleaved,
    shopped,
    told,
    truth,
)
from udfs.events import InvalidEventError
from udfs.feedback import (
    LABEL_OF_TYPE,
    Action,
    ActionItem,
    Feedback,
    ListedItem,
    MadeList,
    Tally,
    credit,
    decode_action,
    decode_list,
    finish,
    revise,
    to_text,
)

LIST = Made("r", "u", START_MS, ("a", "b", "c"))
SHOWN = Act("shown", "view_item_list", "u", START_MS + 1_000, (), "r")
CLICK = Act("click", "select_item", "u", START_MS + 5_000, (("b", 0, 1),), "r")
BOUGHT = Act("bought", "purchase", "u", START_MS + 9_000, (("b", 2.5, 2), ("z", 9.0, 1)), "r")


def text(act: Act) -> str:
    action = decode_action(act.record().value, RECEIVED_MS)[2]
    assert action is not None
    return action


def list_text(made: Made = LIST) -> str:
    return decode_list(made.record().value, RECEIVED_MS)[2]


def finals(*acts: Act) -> dict[str, dict[str, Any]]:
    records = [json.loads(one.value) for one in finish(list_text(), ",".join(map(text, acts)))]
    assert len({record["item_id"] for record in records}) == len(records)
    return {record["item_id"]: record for record in records}


def revisions(*acts: Act) -> list[dict[str, Any]]:
    """What the last of the actions changes."""
    records, _ = revise(list_text(), ",".join(map(text, acts)), True)
    return [json.loads(one.value) for one in records]


def test_a_final_record_tells_the_list_the_labels_and_the_times() -> None:
    assert finals(SHOWN, CLICK, BOUGHT)["b"] == {
        "schema_version": 1,
        "recommendation_id": "r",
        "item_id": "b",
        "position": 1,
        "user_id": "u",
        "label": {"impression": True, "click": True, "cart": False, "purchase": True},
        "value": 5.0,
        "shown_at": START_MS + 1_000,
        "acted_at": START_MS + 5_000,
        "label_delay_ms": 4_000,
        "attribution": "exact",
        "propensity": 0.5,
        "bundle_version": "bundle-1",
        "experiment": {"id": "x", "variant": "b"},
        "final": True,
        "revision": 3,
    }


def test_what_was_shown_and_not_touched_is_a_negative() -> None:
    record = finals(SHOWN, CLICK)["c"]
    assert record["label"] == {n: n == "impression" for n in record["label"]}
    assert (record["attribution"], record["acted_at"], record["label_delay_ms"]) == ("none",) + (
        None,
    ) * 2
    assert record["final"]


def test_a_list_that_nobody_saw_has_no_negatives() -> None:
    assert list(finals(CLICK)) == ["b"]
    assert finals(CLICK)["b"]["shown_at"] is None
    assert finals(CLICK)["b"]["label_delay_ms"] == 5_000  # since the list was made


def test_an_impression_of_some_items_shows_only_those() -> None:
    part = Act("part", "view_item_list", "u", START_MS, (("a", 0, 1), ("z", 0, 1)), "r")
    assert list(finals(part)) == ["a"]


def test_a_click_before_its_exposure_counts() -> None:
    early = Act("early", "select_item", "u", START_MS + 500, (("a", 0, 1),), "r")
    record = finals(early, SHOWN)["a"]
    assert record["label"]["impression"]
    assert record["label"]["click"]
    assert record["label_delay_ms"] == -500


def test_positives_are_told_at_once_and_what_was_merely_shown_is_not() -> None:
    assert revisions(SHOWN) == []
    (record,) = revisions(SHOWN, CLICK)
    assert (record["item_id"], record["final"], record["revision"]) == ("b", False, 2)
    assert record["label"]["click"]
    (record,) = revisions(SHOWN, CLICK, BOUGHT)  # a late positive is a revision of it
    assert (record["final"], record["revision"], record["value"]) == (False, 3, 5.0)
    (record,) = revisions(CLICK, SHOWN)  # so is what completes a positive
    assert record["label"]["impression"]


@pytest.mark.parametrize("again", [SHOWN, CLICK, BOUGHT])
def test_a_duplicate_changes_nothing(again: Act) -> None:
    acts = (SHOWN, CLICK, BOUGHT)
    assert finals(*acts, again) == finals(*acts)
    assert revise(list_text(), ",".join(map(text, (*acts, again))), True) == ([], Tally())


def test_a_second_click_is_no_news() -> None:
    second = Act("second", "select_item", "u", START_MS + 6_000, (("b", 0, 1),), "r")
    assert revisions(SHOWN, CLICK, second) == []


def test_a_second_purchase_adds_its_value() -> None:
    second = Act("second", "purchase", "u", START_MS + 99_000, (("b", 1.0, 3), ("b", 0.5, 1)), "r")
    assert finals(BOUGHT, second)["b"]["value"] == 8.5
    assert revisions(BOUGHT, second)[0]["value"] == 8.5


def test_of_two_contents_of_one_event_id_the_order_chooses_none() -> None:
    other = Act("click", "select_item", "u", START_MS + 7_000, (("a", 0, 1),), "r")
    assert finals(CLICK, other) == finals(other, CLICK)
    assert len(finals(CLICK, other)) == 1


def test_a_closed_list_and_one_that_is_not_there_are_told_of_no_more() -> None:
    actions = ",".join(map(text, (CLICK, SHOWN)))
    for made, is_open, joined in ((list_text(), False, 1), (None, False, 0)):
        records, tally = revise(made, actions, is_open)
        assert records == []
        assert (tally.exposures, tally.joined, tally.revisions) == (1, joined, 0)


def test_exposures_revisions_and_items_that_are_not_in_the_list_are_counted() -> None:
    _, tally = revise(list_text(), text(SHOWN), True)
    assert (tally.exposures, tally.joined, tally.revisions, tally.not_in_list) == (1, 1, 0, 0)
    _, tally = revise(list_text(), text(BOUGHT), True)
    assert (tally.exposures, tally.joined, tally.revisions, tally.not_in_list) == (0, 0, 1, 1)


def test_the_keys_of_records_are_the_same_whenever_they_are_made() -> None:
    actions = ",".join(map(text, (SHOWN, CLICK)))
    assert [one.identity for one in revise(list_text(), actions, True)[0]] == ["r:b:2"]
    assert [one.identity for one in finish(list_text(), actions)] == [
        "r:a:final",
        "r:b:final",
        "r:c:final",
    ]


UNNAMED = Act("e", "add_to_cart", "u", START_MS + 60_000, (("a", 0, 1), ("x", 0, 1)))


def credited(*lists: Made, act: Act = UNNAMED) -> list[tuple[str, list[str], bool]]:
    found = credit(",".join(map(list_text, lists)), text(act), HORIZON_MS)
    actions = [(identity, json.loads(action)) for identity, action in found]
    return [(identity, [item[0] for item in action[3]], action[4]) for identity, action in actions]


def test_an_action_without_a_list_goes_to_the_newest_that_holds_its_item() -> None:
    old = Made("old", "u", START_MS, ("a", "x"))
    new = Made("new", "u", START_MS + 30_000, ("a", "b"))
    after = Made("after", "u", START_MS + 60_000, ("a", "x"))  # made of this very action
    expected = [("new", ["a"], True), ("old", ["x"], True)]
    assert credited(old, new, after) == credited(after, new, old) == expected


def test_of_two_lists_made_at_once_the_greater_id_is_the_newer() -> None:
    lists = [Made(name, "u", START_MS, ("a",)) for name in ("r1", "r2")]
    assert credited(*lists) == credited(*lists[::-1]) == [("r2", ["a"], True)]


@pytest.mark.parametrize(("age", "found"), [(0, 0), (1, 1), (HORIZON_MS, 1), (HORIZON_MS + 1, 0)])
def test_only_lists_made_before_within_the_horizon_are_credited(age: int, found: int) -> None:
    made = Made("r", "u", UNNAMED.time - age, ("a",))
    assert len(credited(made)) == found


def test_a_guess_is_attributed_by_item_window_and_a_named_action_makes_it_exact() -> None:
    made = MadeList("r", "u", START_MS, "bundle-1", [ListedItem("a", 0)])
    guess = Action("g", 1, START_MS + 5, [ActionItem("a")], guessed=True)
    named = Action("n", 2, START_MS + 9, [ActionItem("a")])
    for actions, attribution in (([guess], "item_window"), ([guess, named], "exact")):
        (record,) = finish(to_text(made), ",".join(map(to_text, actions)))
        assert json.loads(record.value)["attribution"] == attribution


@pytest.mark.parametrize(
    "act",
    [
        Act("e", "search", "u", START_MS, (("a", 0, 1),), "r"),
        Act("e", "view_item_list", "u", START_MS, (("a", 0, 1),)),  # of which list?
        Act("e", "select_item", "u", START_MS, (), "r"),  # of which item?
    ],
)
def test_an_event_that_tells_nothing_of_a_list_is_no_feedback(act: Act) -> None:
    assert decode_action(act.record().value, RECEIVED_MS) == ("u", None, None)


@pytest.mark.parametrize("name", LABEL_OF_TYPE)
def test_an_action_is_read_with_its_list(name: str) -> None:
    user, named, action = decode_action(
        Act("e", name, "u", START_MS, (("a", 2.0, 3),), "r").record().value, RECEIVED_MS
    )
    assert (user, named) == ("u", "r")
    value = 6.0 if name == "purchase" else 0.0
    expected = Action("e", LABEL_OF_TYPE[name], START_MS, [ActionItem("a", value)])
    assert action == to_text(expected)


def test_the_alias_impression_is_an_exposure() -> None:
    value = SHOWN.record().value or b""
    aliased = value.replace(b"view_item_list", b"impression")
    assert decode_action(aliased, RECEIVED_MS) == decode_action(value, RECEIVED_MS)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"recommendation_id": ...}, "missing required field `recommendation_id`"),
        ({"user_id": ""}, "length >= 1 - at `$.user_id`"),
        ({"items": [{"position": 0}]}, "`item_id` - at `$.items[0]`"),
        ({"items": None}, "at `$.items`"),
        ({"bundle_version": 3}, "at `$.bundle_version`"),
        ({"event_time": 1_700_000_000}, "before the year 2000"),
        ({"event_time": RECEIVED_MS + 600_001}, "more than 10 minutes ahead"),
    ],
)
def test_what_is_no_recommendation_is_refused(change: dict[str, Any], reason: str) -> None:
    message = json.loads(LIST.record().value or b"") | change
    message = {name: value for name, value in message.items() if value is not ...}
    with pytest.raises(InvalidEventError) as refusal:
        decode_list(json.dumps(message).encode(), RECEIVED_MS)
    assert reason in str(refusal.value)


def test_an_item_listed_twice_counts_where_it_is_first() -> None:
    doubled = Made("r", "u", START_MS, ("a", "b", "a"))
    (record,) = finish(list_text(doubled), text(Act("e", "select_item", *UNNAMED_A)))
    assert json.loads(record.value)["position"] == 0


UNNAMED_A = ("u", START_MS + 1, (("a", 0, 1),), "r")


def test_the_message_has_the_fields_of_the_published_schema() -> None:
    assert Feedback.__struct_fields__ == tuple(finals(SHOWN)["a"])


@settings(max_examples=1500, deadline=None)
@given(seed=st.integers(0, 2**32), order=st.integers(0, 2**32))
def test_neither_order_nor_duplicates_nor_delay_change_the_final_records(
    seed: int, order: int
) -> None:
    lists, acts = browsing(seed, users=2)
    expected = truth(lists, acts)
    draw = random.Random(order)
    for _ in range(2):
        arrivals = interleaved(draw, acts)
        told_now, records = by_the_rules(lists, arrivals)
        found = {(r["recommendation_id"], r["item_id"]): r for r in records}
        assert len(found) == len(records)  # exactly one final record each
        assert all(record["final"] for record in records)
        assert {key: told(record) for key, record in found.items()} == expected
        last = {(r["recommendation_id"], r["item_id"]): r for r in told_now}
        positives = {key for key, known in expected.items() if known["attribution"] != "none"}
        assert last.keys() == positives  # told before the final, and only they
        for key, record in last.items():
            assert not record["final"]
            assert record["label"] == found[key]["label"]  # the last revision was right
            assert record["revision"] <= found[key]["revision"]


def test_the_clicks_of_simulated_shoppers_are_exact_and_as_many_as_are_expected() -> None:
    seen, draw = shopped(seed=11, turns=4_000), random.Random(11)
    lists, acts = by_user(seen.lists), by_user(seen.acts)
    found = []
    for user, mine in lists.items():
        done = acts.get(user, [])
        _, records = by_the_rules(mine, interleaved(draw, done))
        known = {(r["recommendation_id"], r["item_id"]): told(r) for r in records}
        assert known == truth(mine, done)
        found += records
    check_rate(seen, found)


Of = TypeVar("Of", Made, Act)


def by_user(several: Iterable[Of]) -> dict[str, list[Of]]:
    found: dict[str, list[Of]] = {}
    for one in several:
        found.setdefault(one.user, []).append(one)
    return found
