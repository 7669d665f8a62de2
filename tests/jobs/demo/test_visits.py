"""Open data → visits: steps of one shopper."""

from __future__ import annotations

import json

from jobs.demo.visits import otto_visits, retail_visits
from tests.jobs.demo.baskets import NOW_MS, line, visit
from udfs.events import decode


def test_a_basket_becomes_additions_a_purchase_and_an_end() -> None:
    steps = visit("u", "A", "B").steps
    assert [step.event["event_type"] for step in steps] == [
        "add_to_cart",
        "add_to_cart",
        "purchase",
        "session_end",
    ]
    assert steps[0].event["items"] == [{"item_id": "A", "price": 1.0}]
    assert [item["item_id"] for item in steps[2].event["items"]] == ["A", "B"]
    times = [step.event["event_time"] for step in steps]
    assert times == sorted(times)
    assert len({step.event["event_id"] for step in steps}) == 4


def test_an_unknown_price_is_left_out_because_nan_is_no_json_number() -> None:
    (only,) = retail_visits([line("u", "1", "A", 0, float("nan"))])
    assert only.steps[0].event["items"] == [{"item_id": "A"}]


def test_overlapping_invoices_of_a_customer_are_one_visit_and_later_ones_another() -> None:
    lines = [line("u", "1", "A", 0), line("u", "1", "B", 1000), line("u", "2", "C", 1000)]
    lines += [line("v", "3", "D", 500), line("u", "4", "E", 60_000)]
    found = [(v.user, [s.item for s in v.steps[:-2]]) for v in retail_visits(lines)]
    assert found == [("u", ["A", "B", "C"]), ("v", ["D"]), ("u", ["E"])]


def test_otto_events_are_valid_under_another_trackers_names() -> None:
    events = [{"aid": 7, "ts": 1_659_304_800_025, "type": "clicks"}]
    events += [{"aid": 8, "ts": 1_659_304_801_000, "type": "carts"}]
    (other,) = otto_visits([{"session": 3, "events": events}])
    user, event = decode(json.dumps(other.steps[1].event).encode(), NOW_MS)
    assert (user, event.items[0].item_id, event.time) == ("otto-3", "otto-8", 1_659_304_801_000)
    assert not other.known
