"""The open data as visits: who did what in which order, with each event as it will be sent."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from udfs.events import MAX_ITEMS


@dataclass(frozen=True, slots=True)
class Step:
    """One thing a shopper does, with the event as it will be sent."""

    verb: str  # for people: added, looked at, bought, left
    item: str  # "" where it is not about one item
    event: dict[str, Any]
    triggers: bool = True


@dataclass(frozen=True, slots=True)
class Visit:
    """One session of one shopper: its steps in the order in which they happened."""

    user: str
    place: str  # where the shopper is from, for people
    steps: Sequence[Step]
    known: bool  # whether the bundle was trained on this shop


def retail_visits(lines: Iterable[dict[str, Any]], prefix: str = "") -> list[Visit]:
    """Baskets as visits: add_to_cart for each line, then purchase and session_end.

    `lines` are rows of `online_retail_lines`. Invoices of one customer that overlap in time are
    one visit: a session can not be in two places. Visits are in order of their first line.
    """
    visits: list[list[dict[str, Any]]] = []
    last: dict[str, list[dict[str, Any]]] = {}
    for line in sorted(lines, key=lambda line: line["event_time"]):
        visit = last.get(line["user"])
        if visit is None or not _continues(visit, line):
            visit = last[line["user"]] = []
            visits.append(visit)
        visit.append(line)
    return [_retail_visit(visit, prefix) for visit in visits]


def _continues(visit: list[dict[str, Any]], line: dict[str, Any]) -> bool:
    """Lines of an invoice are one second apart, so a longer silence is another visit."""
    return bool(line["event_time"] - visit[-1]["event_time"] <= 1000)


def _retail_visit(lines: list[dict[str, Any]], prefix: str) -> Visit:
    user, session = prefix + lines[0]["user"], prefix + lines[0]["invoice"]
    steps = []
    for number, line in enumerate(lines):
        event = _event(f"{session}-{number}", "add_to_cart", line["event_time"], user, session)
        steps.append(Step("added", line["item_id"], {**event, "items": [_item(line)]}))
    end = lines[-1]["event_time"]
    bought = _event(f"{session}-purchase", "purchase", end + 1000, user, session)
    bought["items"] = [_item(line) for line in lines[:MAX_ITEMS]]
    left = _event(f"{session}-end", "session_end", end + 2000, user, session)
    steps += [Step("bought", "", bought), Step("left", "", left, triggers=False)]
    return Visit(user, lines[0]["country"], steps, known=True)


def _event(event_id: str, kind: str, time: int, user: str, session: str) -> dict[str, Any]:
    return {
        "schema_version": 1,
        "event_id": event_id,
        "event_type": kind,
        "event_time": time,
        "user_id": user,
        "session_id": session,
    }


def _item(line: dict[str, Any]) -> dict[str, Any]:
    price = line["price"]
    known = price is not None and price == price
    return {"item_id": line["item_id"], **({"price": price} if known else {})}


def otto_visits(sessions: Iterable[dict[str, Any]]) -> list[Visit]:
    """OTTO sessions, spelt as another tracker would: visitor_id, timestamp, click, cart, order.

    Item ids get a prefix, because OTTO's numbers could be taken for stock codes of the shop.
    """
    types = {"clicks": "click", "carts": "cart", "orders": "order"}
    verbs = {"clicks": "looked at", "carts": "added", "orders": "bought"}
    visits = []
    for session in sessions:
        user = f"otto-{session['session']}"
        steps = []
        for number, event in enumerate(session["events"]):
            item = f"otto-{event['aid']}"
            sent = {
                "messageId": f"{user}-{number}",
                "type": types[event["type"]],
                "timestamp": event["ts"],
                "visitor_id": user,
                "product_id": item,
            }
            steps.append(Step(verbs[event["type"]], item, sent))
        visits.append(Visit(user, "OTTO", steps, known=False))
    return visits
