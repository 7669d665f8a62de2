"""The order of what is replayed, and that nothing of it is lost."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from confluent_kafka import Producer

from models.event_files import Columns
from models.past_events import (
    PARTITIONS,
    between,
    events_of,
    past_baskets,
    past_messages,
    past_range,
    past_rows,
)
from operators.broker import Broker
from udfs.events import TYPE_CODES

T = 1_322_700_000_000
COLUMNS = Columns("sku", "at", "visitor", type="what", price="paid")
ROWS = [
    {"sku": "B", "at": T + 2, "visitor": "u", "what": "click", "paid": 2.5},
    {"sku": "A", "at": T + 1, "visitor": "u", "what": "view", "paid": None},
    {"sku": None, "at": T + 1, "visitor": "v", "what": "search", "paid": None},
    {"sku": "A", "at": None, "visitor": "u", "what": "view", "paid": 1.0},
    {"sku": "A", "at": T + 3, "visitor": None, "what": "view", "paid": 1.0},
    {"sku": "A", "at": T + 4, "visitor": "u", "what": "dance", "paid": 1.0},
    {"sku": "A", "at": T + 1, "visitor": "u", "what": "view", "paid": None},
]


def message(name: str, time: int, user: str = "u") -> bytes:
    event = {"event_id": name, "event_type": "view", "event_time": time, "user_id": user}
    return json.dumps(event).encode()


@pytest.mark.parametrize("form", ["parquet", "csv", "json"])
def test_rows_are_sorted_by_time_and_those_that_are_no_events_go_with_them(
    tmp_path: Path, form: str
) -> None:
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "rows")
    elif form == "json":
        (tmp_path / "rows").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    else:
        rows = [["" if value is None else str(value) for value in row.values()] for row in ROWS]
        (tmp_path / "rows").write_text("\n".join(map(",".join, [[*ROWS[0]], *rows])))
    records = past_rows(str(tmp_path / "rows"), form, COLUMNS, None, "ms", "view_item")
    numbers = [record.number for record in records]
    assert numbers == [1, 2, 3, 6, 0, 4, 5]  # the one without a time has that of the first
    events = [
        (user, event.time, [i.item_id for i in event.items]) for user, event in events_of(records)
    ]
    shown = [("u", T + 1, ["A"]), ("u", T + 1, ["A"]), ("u", T + 2, ["B"])]
    searches = [("v", T + 1, [])]
    known = [event for event in events if event[0] in ("u", "v")]
    assert [event for event in known if event not in searches] == shown
    assert searches[0] in known
    prices = {item.price for _, event in events_of(records) for item in event.items}
    assert prices == {None, 2.5}


def test_ids_do_not_hang_on_the_file(tmp_path: Path) -> None:
    ids = []
    for name, rows in {"one": ROWS, "other": ROWS[::-1][1:]}.items():
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / name)
        records = past_rows(str(tmp_path / name), "parquet", COLUMNS, None, "ms", "view_item")
        ids.append([event.event_id for _, event in events_of(records)])
    assert set(ids[1]) < set(ids[0])
    assert len(set(ids[0])) == len(ids[0])


def test_a_column_of_ids_and_one_of_sessions_are_kept(tmp_path: Path) -> None:
    table = pa.table({"id": ["e-1"], "s": [7], "item_id": [3], "t": [T // 1000]})
    pq.write_table(table, tmp_path / "rows")
    columns = Columns("item_id", "t", None, session="s")
    (record,) = past_rows(str(tmp_path / "rows"), "parquet", columns, "id", "s", "purchase")
    ((user, event),) = events_of([record])
    assert (user, event.event_id, event.session_id, event.time) == ("7", "e-1", "7", T)
    assert event.type == TYPE_CODES["purchase"]
    assert record.key == b"7"


def test_columns_that_are_not_there_are_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"item_id": ["a"], "event_time": [T]}), tmp_path / "rows")
    with pytest.raises(ValueError, match="visitor"):
        past_rows(
            str(tmp_path / "rows"), "parquet", Columns("item_id", "event_time", "visitor"), None,
            "ms", "view_item",
        )  # fmt: skip


def test_messages_keep_their_order_and_late_ones_their_place(tmp_path: Path) -> None:
    lines = [b"junk", message("a", T), message("b", T + 9), b"", message("late", T + 1), b"{}"]
    lines += [message("2099", 4_070_908_800_000), message("c", T + 10, "v")]
    (tmp_path / "log").write_bytes(b"\n".join(lines) + b"\n")
    records = past_messages(str(tmp_path / "log"))
    assert [record.number for record in records] == [0, 1, 2, 4, 5, 6, 7]
    assert [record.place - T for record in records] == [0, 0, 9, 9, 9, 9, 10]
    assert [event.event_id for _, event in events_of(records)] == ["a", "b", "late", "c"]
    assert len({record.partition for record in records if record.key == b"u"}) == 1
    assert all(record.partition < PARTITIONS for record in records)
    some = between(records, T + 9, T + 10)
    assert [record.number for record in some] == [2, 4, 5, 6]


def test_a_range_of_a_topic_is_merged_by_time_and_keeps_the_order_of_each_partition(
    broker: Broker,
) -> None:
    topic = f"past-{uuid.uuid4()}"
    broker.create_topics({topic: 2})
    producer = Producer({"bootstrap.servers": broker.bootstrap})
    sent = [(0, "a", T), (0, "b", T + 20), (0, "late", T + 5), (1, "c", T + 10), (1, "d", T + 20)]
    for partition, name, time in sent:
        producer.produce(
            topic, message(name, time), b"k", partition, timestamp=T + 50, headers=[("h", b"1")]
        )
    producer.produce(topic, None, None, 1, timestamp=T + 60)
    producer.flush()
    records = past_range({"bootstrap.servers": broker.bootstrap}, topic, "earliest", "latest")
    names = [event.event_id for _, event in events_of(records)]
    assert names == ["a", "c", "b", "late", "d"]
    assert [(r.partition, r.number) for r in records] == [
        (0, 0),
        (1, 0),
        (0, 1),
        (0, 2),
        (1, 1),
        (1, 2),
    ]
    assert (records[0].received, records[0].headers, records[0].key) == (
        T + 50,
        [("h", b"1")],
        b"k",
    )
    assert records[-1].value is None
    assert [
        r.number for r in past_range({"bootstrap.servers": broker.bootstrap}, topic, "1", "2")
    ] == [1, 1]


def test_the_open_data_are_baskets() -> None:
    records = past_baskets("scripts/data/uci_online_retail.parquet")
    december = between(records, 1_322_697_600_000, None)
    assert len(december) == 25_053
    user, event = next(events_of(december))
    assert (user, event.session_id, event.type) == ("15687", "579899", TYPE_CODES["add_to_cart"])
    assert len({event.event_id for _, event in events_of(december)}) == 25_053
