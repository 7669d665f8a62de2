"""The open data files as events: one place, used for training and for replaying the demo."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from models.sessions import EventTable, ItemFacts
from udfs.events import TYPE_ALIASES, TYPE_CODES

PRODUCT_CODE = r"^\d{5}"  # POST, DOT, M, BANK CHARGES and the like are not products


def online_retail_events(path: Path | str) -> EventTable:
    """Invoice lines of UCI Online Retail as add_to_cart events, an invoice being a session.

    Cancelled invoices and codes that are no products are left out. The file resolves minutes:
    line k of an invoice is given the invoice's time + k seconds, so that the order is kept.
    """
    lines = online_retail_lines(path)
    invoice, _ = encoded(lines["invoice"])
    user, _ = encoded(lines["user"])
    item, ids = encoded(lines["item_id"])
    return EventTable(
        users=user,
        items=item.astype(np.int32),
        types=np.full(len(item), TYPE_CODES["add_to_cart"], np.int8),
        times=lines["event_time"].to_numpy(),
        prices=lines["price"].to_numpy(),
        sessions=invoice,
        facts=ItemFacts(ids, _first_titles(lines, ids), [None] * len(ids)),
    )


def online_retail_lines(path: Path | str) -> pa.Table:
    """Product lines in file order: invoice, user, item_id, title, price, country, event_time.

    `event_time` is epoch ms (the file's local times read as UTC); a line without CustomerID
    has its invoice as user; a price of 0 is not known (NaN).
    """
    table = pq.read_table(path)
    sold = pc.and_(
        pc.match_substring_regex(table["InvoiceNo"], r"^\d"),
        pc.match_substring_regex(table["StockCode"], PRODUCT_CODE),
    )
    table = table.filter(pc.and_(sold, pc.greater(table["Quantity"], 0)))
    table = table.filter(pc.greater_equal(table["UnitPrice"], 0.0))
    customer = pc.cast(pc.cast(table["CustomerID"], pa.int64()), pa.string())
    price = table["UnitPrice"].to_numpy()
    return pa.table(
        {
            "invoice": table["InvoiceNo"],
            "user": pc.coalesce(customer, table["InvoiceNo"]),
            "item_id": pc.utf8_upper(table["StockCode"]),
            "title": pc.utf8_trim_whitespace(table["Description"]),
            "price": np.where(price > 0, price, np.nan),
            "country": table["Country"],
            "event_time": _line_times(table),
        }
    )


def otto_events(path: Path | str) -> EventTable:
    """Sessions of the OTTO sample as select_item, add_to_cart and purchase events."""
    users: list[int] = []
    names: list[str] = []
    types: list[int] = []
    times: list[int] = []
    kinds = {"clicks": "click", "carts": "cart", "orders": "order"}
    with Path(path).open(encoding="utf-8") as lines:
        for line in lines:
            session = json.loads(line)
            for event in session["events"]:
                users.append(session["session"])
                names.append(str(event["aid"]))
                types.append(TYPE_CODES[TYPE_ALIASES[kinds[event["type"]]]])
                times.append(event["ts"])
    item, ids = encoded(pa.array(names))
    owner = np.asarray(users, np.int64)
    return EventTable(
        users=owner,
        items=item.astype(np.int32),
        types=np.asarray(types, np.int8),
        times=np.asarray(times, np.int64),
        prices=np.full(len(names), np.nan),
        sessions=owner,
        facts=ItemFacts(ids, [None] * len(ids), [None] * len(ids)),
    )


def encoded(column: pa.Array | pa.ChunkedArray) -> tuple[np.ndarray, list[str]]:
    """Codes of a column's values in order of first appearance (-1 for null) and the values."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    values = pc.dictionary_encode(pc.cast(column, pa.string()))
    codes = pc.fill_null(pc.cast(values.indices, pa.int64()), -1)
    return codes.to_numpy(zero_copy_only=False), values.dictionary.to_pylist()


def _line_times(table: pa.Table) -> np.ndarray:
    """Time of each line in epoch ms: that of its invoice, one second later for each line."""
    invoice, _ = encoded(table["InvoiceNo"])
    minute = pc.cast(pc.cast(table["InvoiceDate"], pa.timestamp("ms")), pa.int64()).to_numpy()
    order = np.argsort(invoice, kind="stable")
    starts = np.flatnonzero(np.append(True, np.diff(invoice[order]) != 0))
    lengths = np.diff(np.append(starts, len(order)))
    within = np.arange(len(order)) - np.repeat(starts, lengths)
    times = np.empty(len(order), np.int64)
    times[order] = np.repeat(minute[order[starts]], lengths) + within * 1000
    return times


def _first_titles(lines: pa.Table, ids: list[str]) -> list[str | None]:
    """The most frequent title of each item (the first of equals): later ones note damages."""
    counts = lines.group_by(["item_id", "title"], use_threads=False).aggregate([([], "count_all")])
    best: dict[str, tuple[int, str]] = {}
    for row in counts.to_pylist():
        if row["title"] and row["count_all"] > best.get(row["item_id"], (0, ""))[0]:
            best[row["item_id"]] = (row["count_all"], row["title"])
    return [best[item][1] if item in best else None for item in ids]
