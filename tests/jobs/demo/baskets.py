"""Visits of shoppers that the tests of the demo make up."""

from __future__ import annotations

from typing import Any

from jobs.demo.visits import Visit, retail_visits

NOW_MS = 1_750_000_000_000


def line(user: str, invoice: str, item: str, time: int, price: float = 1.0) -> dict[str, Any]:
    return {
        "user": user,
        "invoice": invoice,
        "item_id": item,
        "event_time": 1_322_730_000_000 + time,
        "price": price,
        "country": "France",
    }


def visit(user: str, *items: str) -> Visit:
    lines = [line(user, f"{user}-basket", item, at * 1000) for at, item in enumerate(items)]
    return retail_visits(lines)[0]
