"""The open data become the events that their documentation promises."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models.datasets import online_retail_events, online_retail_lines, otto_events
from models.sessions import EventTable, sessions_from
from udfs.events import TYPE_CODES

DATA = Path(__file__).resolve().parents[2] / "scripts" / "data"


@pytest.fixture(scope="module")
def retail() -> EventTable:
    return online_retail_events(DATA / "uci_online_retail.parquet")


def test_invoices_are_sessions_in_the_order_of_their_lines(retail: EventTable) -> None:
    log = sessions_from(retail, 1_800_000)
    first = [retail.facts.ids[code] for code in log.items[log.offsets[0] : log.offsets[1]]]
    assert first == ["85123A", "71053", "84406B", "84029G", "84029E", "22752", "21730"]
    assert np.diff(log.times[log.offsets[0] : log.offsets[1]]).tolist() == [1000] * 6


def test_cancellations_and_what_is_no_product_are_left_out(retail: EventTable) -> None:
    lines = online_retail_lines(DATA / "uci_online_retail.parquet")
    assert not {"POST", "DOT", "M", "BANK CHARGES", "C2", "D"} & set(retail.facts.ids)
    assert not [invoice for invoice in lines["invoice"].unique().to_pylist() if invoice[0] == "C"]
    assert len(retail) == lines.num_rows == 528_886


def test_every_line_has_a_user_and_most_items_a_title(retail: EventTable) -> None:
    assert (retail.users >= 0).all()
    assert retail.facts.titles[0] == "WHITE HANGING HEART T-LIGHT HOLDER"
    assert sum(title is None for title in retail.facts.titles) < 20


def test_otto_events_keep_their_types() -> None:
    table = otto_events(DATA / "otto_sample.jsonl")
    counts = np.bincount(table.types, minlength=11)
    kinds = ("select_item", "add_to_cart", "purchase")
    assert [counts[TYPE_CODES[name]] for name in kinds] == [800, 52, 10]
