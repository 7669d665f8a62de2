"""The finetune job with a real broker, real Flink workers and a real trainer."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from confluent_kafka import Producer

from jobs.__main__ import jobs
from jobs.finetune import alone
from models.history import Decision
from models.registry import Registry
from models.samples import Samples
from operators.broker import Broker
from tests import drift
from tests.kafka import Record, read, run_to_end, send

TOPICS = {"n-sessions": 2, "n-late": 1, "n-feedback": 2, "n-events": 1, "n-updates": 1}


def event(name: str, time_ms: int, item: str, late_at: str = "") -> Record:
    told = {"event_id": name, "event_type": "view_item", "event_time": time_ms, "user_id": "u"}
    headers = [("__late_event.stage", late_at.encode())] if late_at else []
    return Record(json.dumps({**told, "item_id": item}).encode(), b"u", [*headers])


def feedback(item: str, click: bool) -> Record:
    label = {"impression": True, "click": click, "cart": False, "purchase": False}
    told = {"recommendation_id": "r", "item_id": item, "bundle_version": "b", "label": label}
    return Record(json.dumps({**told, "final": True, "revision": 1}).encode(), b"r")


def aborted(bootstrap: str, topic: str) -> None:
    """Leave a session that was never committed, and the marker that says so, at the end."""
    producer = Producer({"bootstrap.servers": bootstrap, "transactional.id": topic})
    producer.init_transactions()
    producer.begin_transaction()
    for partition in range(TOPICS[topic]):
        text = drift.messages(drift.sessions([drift.STEADY], 1, seed=9))[0]
        producer.produce(topic, text, partition=partition)
    producer.flush()
    producer.abort_transaction()


def settings(broker: Broker, state: Path, profile: str) -> list[str]:
    return [
        f"kafka.bootstrap={broker.bootstrap}",
        f"engine.profile={profile}",
        "sessions_topic=n-sessions",
        "late_events_topic=n-late",
        "feedback_topic=n-feedback",
        "events_topic=n-events",
        "model_updates_topic=n-updates",
        f"registry={state / 'registry'}",
        f"folder={state / 'finetune'}",
        "lead_s=60",
        "round.least_sessions=100",
        "round.finetune.epochs=8",
        "round.finetune.batch=128",
        "round.finetune.learning_rate=0.03",
        "round.finetune.ranker_learning_rate=0.01",
        "round.gate.exclude_seen=false",
        "round.gate.least=50",
        "round.gate.alone_us=1000000",
        "round.gate.batch_us=1000000",
        "round.gate.calibration_tolerance=1",
        "round.gate.coverage_tolerance=0.9",
    ]


@pytest.mark.slow
def test_what_came_is_learned_judged_promoted_and_announced_once(
    broker: Broker, serving: Path, tmp_path: Path
) -> None:
    registry, samples = Registry(tmp_path / "registry"), Samples(tmp_path / "finetune" / "samples")
    first = registry.promote(registry.publish(serving).bundle_version, 0)
    broker.create_topics(TOPICS)
    log = drift.sessions([drift.DRIFTING], 400, seed=2, later=True)
    now = int(log.times.max()) + 1_000_000
    send(broker.bootstrap, "n-sessions", [Record(text.encode()) for text in drift.messages(log)])
    aborted(broker.bootstrap, "n-sessions")
    late = [event("l1", now - 9000, "i1", "late"), event("l2", now - 10_000, "i2", "late")]
    in_a_session = event("l3", now - 8000, "i3", "attribute")  # too late for feedback alone
    no_event = Record(b"{", None, [("__late_event.stage", b"late")])
    send(broker.bootstrap, "n-late", [*late, in_a_session, no_event])
    send(broker.bootstrap, "n-feedback", [feedback("i1", True), feedback("i2", False)])
    send(broker.bootstrap, "n-events", [event("e", now, "i1")])

    said = run_to_end(tmp_path, "finetune", *settings(broker, tmp_path, "latency"))
    decisions = [
        msgspec.json.decode(record.value or b"", type=Decision)
        for record in read(broker.bootstrap, "n-updates")
    ]
    assert decisions == registry.history().decisions, said
    assert decisions[0] == first
    assert decisions[1].decided == "promoted", decisions[1].why
    assert decisions[1].active_from == now + 60_000
    assert decisions[1].metrics["click_rates"] == {"b": {"shown": 2, "ctr": 0.5}}
    (part,) = samples.parts()
    assert {name: count for name, count in part.counts.items() if count} == {
        "sessions": 400,
        "late_sessions": 1,
        "feedback": 2,
        "invalid": 1,
    }
    rows = pq.read_table(samples.folder / "000001" / "sessions.parquet")
    assert rows["item_id"].to_pylist()[-2:] == ["i2", "i1"]

    send(broker.bootstrap, "n-sessions", [Record(drift.messages(log)[0].encode()), Record(b"{}")])
    run_to_end(tmp_path, "finetune", *settings(broker, tmp_path, "throughput"))
    assert [part.counts["sessions"] for part in samples.parts()] == [400, 1]
    assert samples.parts()[1].counts["invalid"] == 1
    assert registry.history().decisions == decisions  # too few new sessions
    assert len(read(broker.bootstrap, "n-updates")) == 2


def test_only_one_run_works_in_a_folder(tmp_path: Path) -> None:
    with (
        alone(tmp_path),
        pytest.raises(BlockingIOError, match="expected no other run in"),
        alone(tmp_path),
    ):
        pass


def test_how_often_is_an_option_that_must_be_a_time() -> None:
    result = CliRunner().invoke(jobs, ["finetune", "--every", "often"])
    assert result.exit_code == 1
    assert "every: " in result.output
    assert "like 15m; got 'often'" in result.output
