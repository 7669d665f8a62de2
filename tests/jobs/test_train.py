"""The train job from files, messages and a Kafka range to a bundle that loads."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from jobs.settings import SettingsError, load
from jobs.train import TrainSettings, main, read
from models.event_files import from_messages
from models.loading import load_bundle
from models.recommender import Recommender
from operators.broker import Broker
from tests.kafka import wait_for

START = 1_700_000_000_000
FAST = (
    "fit.encoder.dimension=8",
    "fit.encoder.epochs=2",
    "fit.ranker.samples=200",
    "fit.ranker.epochs=1",
    "fit.min_count=1",
)


def rows() -> list[dict[str, Any]]:
    """120 users, each with two sessions of four items that follow each other."""
    return [
        {
            "who": f"u{user}",
            "what": f"i{(user + session * 5 + step) % 25}",
            "when": START + (session * 500 + user) * 3_600_000 + step * 1000,
            "cost": 2.5,
            "name": f"thing {(user + session * 5 + step) % 25}",
        }
        for session in range(2)
        for user in range(120)
        for step in range(4)
    ]


def as_message(row: dict[str, Any], number: int) -> bytes:
    event = {
        "event_id": str(number),
        "event_type": "view_item",
        "event_time": row["when"],
        "user_id": row["who"],
        "items": [{"item_id": row["what"], "price": row["cost"]}],
    }
    return json.dumps(event).encode()


def write_parquet(path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(rows()), path)


def write_csv(path: Path) -> None:
    pa.csv.write_csv(pa.Table.from_pylist(rows()), path)


def write_jsonl(path: Path) -> None:
    path.write_text("\n".join(json.dumps(row) for row in rows()))


def settings_for(format: str, path: Path, *more: str) -> TrainSettings:
    columns = ("user=who", "item=what", "time=when", "price=cost", "title=name")
    mapping = [f"source.columns.{column}" for column in columns]
    given = [f"source.format={format}", f"source.path={path}", *mapping, *FAST, *more]
    return load(TrainSettings, "train", overrides=given, environ={})


@pytest.mark.parametrize(
    ("format", "write"),
    [("parquet", write_parquet), ("csv", write_csv), ("jsonl", write_jsonl)],
)
def test_every_file_format_gives_the_same_events(
    tmp_path: Path, format: str, write: Callable[[Path], None]
) -> None:
    path = tmp_path / "events"
    write(path)
    table, left_out = read(settings_for(format, path).source)
    assert (len(table), left_out) == (960, 0)
    assert table.times.min() == START
    assert table.facts.ids[:3] == ["i0", "i1", "i2"]
    assert table.facts.titles[:2] == ["thing 0", "thing 1"]
    assert set(table.prices.tolist()) == {2.5}


def test_training_ends_with_a_bundle_that_loads_and_its_metrics(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_parquet(tmp_path / "events")
    paths = []
    for name in ("one", "two"):
        output = f"output={tmp_path}/{name}/{{version}}"
        assert main(settings_for("parquet", tmp_path / "events", output)) == 0
        told = json.loads(capsys.readouterr().out.splitlines()[-1])
        paths.append(Path(told["path"]))
    bundle = load_bundle(paths[0])
    assert bundle.version == told["bundle_version"] == paths[0].name
    assert set(told["metrics"]) >= {"blend", "served", "encoder", "covisits", "popularity"}
    assert Recommender(bundle).title("i3") == "thing 3"
    for file in paths[0].iterdir():  # one seed, one bundle, byte for byte
        assert file.read_bytes() == (paths[1] / file.name).read_bytes(), file.name


def test_a_column_that_is_not_there_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_parquet(tmp_path / "events")
    wrong = settings_for("parquet", tmp_path / "events", "source.columns.item=sku")
    assert main(wrong) == 1
    assert "expected the columns sku" in capsys.readouterr().err.replace("\n", " ")


def test_a_wrong_key_is_refused_before_anything_is_read() -> None:
    with pytest.raises(SettingsError, match=r"fit\.encoder\.epoch is not a setting"):
        settings_for("parquet", Path("none"), "fit.encoder.epoch=3")


def test_rows_without_a_known_type_user_or_item_are_counted(tmp_path: Path) -> None:
    table = pa.Table.from_pylist(
        [
            {"user_id": "u", "item_id": "a", "event_time": START, "kind": "click"},
            {"user_id": "u", "item_id": "b", "event_time": START, "kind": "dance"},
            {"user_id": None, "item_id": "b", "event_time": START, "kind": "view"},
            {"user_id": "u", "item_id": None, "event_time": START, "kind": "view"},
            {"user_id": "u", "item_id": "b", "event_time": None, "kind": "view"},
        ]
    )
    pq.write_table(table, tmp_path / "events")
    given = [f"source.path={tmp_path}/events", "source.columns.type=kind"]
    events, left_out = read(load(TrainSettings, "train", overrides=given, environ={}).source)
    assert (len(events), left_out) == (1, 4)


@pytest.mark.parametrize(
    ("unit", "value"),
    [("s", START // 1000), ("ms", START), ("us", START * 1000), ("ns", START * 1_000_000)],
)
def test_times_are_read_in_their_unit(tmp_path: Path, unit: str, value: int) -> None:
    row = {"user_id": "u", "item_id": "a", "event_time": value}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "events")
    given = [f"source.path={tmp_path}/events", f"source.time_unit={unit}"]
    events, _ = read(load(TrainSettings, "train", overrides=given, environ={}).source)
    assert events.times.tolist() == [START]


def test_messages_are_decoded_as_everywhere_and_invalid_ones_counted(tmp_path: Path) -> None:
    lines = [as_message(row, number) for number, row in enumerate(rows())]
    lines += [b"not json", lines[0], b'{"event_id": "x"}']
    (tmp_path / "events").write_bytes(b"\n".join(lines))
    table, invalid = read(settings_for("messages", tmp_path / "events").source)
    assert (len(table), invalid) == (960, 2)  # the repeated one is no row and not invalid


def test_nothing_valid_is_refused() -> None:
    with pytest.raises(ValueError, match="expected valid events; got none, 1 invalid"):
        from_messages([(b"junk", START)])


@pytest.fixture(scope="module")
def topic(broker: Broker) -> list[str]:
    """A topic with all rows, half of them a partition, at the Kafka time of the event.

    They are of one transaction: each partition ends with an offset that has no message.
    """
    broker.create_topics({"train-events": 2}, {"retention.ms": "-1"})  # the events are old
    settings = {"bootstrap.servers": broker.bootstrap, "transactional.id": "train"}
    producer = Producer(settings)
    producer.init_transactions()
    producer.begin_transaction()
    for number, row in enumerate(rows()):
        place = {"partition": number // 480, "timestamp": row["when"]}
        producer.produce("train-events", as_message(row, number), **place)
    producer.commit_transaction()
    # The broker marks the partitions as committed a moment later; until then nobody reads them.
    wait_for(lambda: readable(broker.bootstrap, "train-events") > 960, 60, "the transaction")
    return [f"source.kafka.bootstrap={broker.bootstrap}", "source.kafka.topic=train-events"]


def readable(bootstrap: str, topic: str) -> int:
    """How many offsets of the topic's two partitions are before the end of what is committed."""
    with closing(Consumer({"bootstrap.servers": bootstrap, "group.id": "count"})) as consumer:
        ends = [consumer.get_watermark_offsets(TopicPartition(topic, n), 10) for n in range(2)]
    return sum(high for _, high in ends)


def kafka_range(topic: list[str], *more: str) -> TrainSettings:
    given = ["source.format=kafka", *topic, *FAST, *more]
    return load(TrainSettings, "train", overrides=given, environ={})


@pytest.mark.parametrize(
    ("start", "end", "count"),
    [
        ("earliest", "latest", 960),
        ("3", "7", 8),
        ("2023-11-14T23:13:20Z", "latest", 956),  # an hour after START
        ("earliest", "2023-11-14T23:13:20Z", 4),
    ],
)
def test_a_kafka_range_is_bounded_at_both_ends(
    topic: list[str], start: str, end: str, count: int
) -> None:
    bounds = (f"source.kafka.start={start}", f"source.kafka.end={end}")
    table, invalid = read(kafka_range(topic, *bounds).source)
    assert (len(table), invalid) == (count, 0)


def test_a_bundle_is_trained_from_a_kafka_range(
    topic: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(kafka_range(topic, f"output={tmp_path}/{{version}}")) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    bundle = load_bundle(Path(told["path"]))
    assert sorted(bundle.catalogue.item_ids) == sorted(f"i{number}" for number in range(25))


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("source.kafka.topic=no-such-topic", "no-such-topic"),
        ("source.kafka.bootstrap=127.0.0.1:9", "expected brokers that tell of train-events"),
        ("source.kafka.start=yesterday", "expected an ISO time"),
    ],
)
def test_a_range_that_is_none_is_refused(
    topic: list[str], capsys: pytest.CaptureFixture[str], setting: str, said: str
) -> None:
    assert main(kafka_range(topic, setting)) == 1
    assert said in capsys.readouterr().err.replace("\n", " ")
