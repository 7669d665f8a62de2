"""The dead-letters tool against a real broker, on records in the form the jobs write."""

from __future__ import annotations

import subprocess
import sys

import pytest

from operators.broker import Broker
from tests.kafka import ROOT, Record, read, send

BINARY = bytes(range(256))
REFUSED = {  # name → (reason, partition of origin, record as it first came)
    "binary": ("expected UTF-8; got byte 0x80", 1, Record(BINARY, b"\x00k", [("h", BINARY)])),
    "same header twice": ("expected an object", 0, Record(b"[]", b"k", [("h", b"1"), ("h", None)])),
    "no key, no value": ("expected a value; got null", 0, Record(None, None, [])),
    "empty": ("expected an object", 2, Record(b"", b"", [("trace", b"")])),
    "large": ("expected at most 1 MiB", 0, Record(b"x" * (2 << 20), b"k", [])),
}


@pytest.fixture(scope="module")
def letters(broker: Broker) -> str:
    """The dead-letter topic that all tests read; nobody writes to it afterwards."""
    broker.create_topics({"tool-dead": 2})
    send(broker.bootstrap, "tool-dead", [dead("tool-origin", *what) for what in REFUSED.values()])
    return "tool-dead"


def dead(topic: str, reason: str, partition: int, record: Record) -> Record:
    """The dead letter that `operators.decoding` makes of a record."""
    origin = {
        "topic": topic,
        "partition": str(partition),
        "offset": "7",
        "stage": "decode",
        "reason": reason,
    }
    told = [(f"__dead_letter.{name}", text.encode()) for name, text in origin.items()]
    return Record(record.value, record.key, [*record.headers, *told])


def tool(broker: Broker, topic: str, *words: str) -> subprocess.CompletedProcess[str]:
    sets = ["--set", f"bootstrap={broker.bootstrap}", "--set", f"topic={topic}"]
    return subprocess.run(
        [sys.executable, "-m", "jobs", "dead-letters", *sets, *words],
        cwd=ROOT,
        env={"COLUMNS": "200", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def contents(records: list[Record]) -> list[tuple]:
    return sorted(((r.value, r.key, r.headers) for r in records), key=repr)


def test_the_list_says_where_each_came_from_and_why(broker: Broker, letters: str) -> None:
    shown = tool(broker, letters, "list")
    assert shown.returncode == 0, shown.stderr
    for reason, partition, _ in REFUSED.values():
        assert any(
            f"tool-origin:{partition}:7" in line and "decode" in line and reason in line
            for line in shown.stdout.splitlines()
        )
    assert "5 dead letters, 5 shown" in shown.stdout
    assert r"\x00\x01" in shown.stdout


def test_a_limited_list_still_counts_all(broker: Broker, letters: str) -> None:
    assert "5 dead letters, 2 shown" in tool(broker, letters, "list", "--limit", "2").stdout


def test_the_list_can_be_of_one_reason(broker: Broker, letters: str) -> None:
    shown = tool(broker, letters, "list", "--reason", "an object").stdout
    assert "2 dead letters, 2 shown" in shown
    assert "UTF-8" not in shown


def test_reasons_are_counted_the_most_frequent_first(broker: Broker, letters: str) -> None:
    shown = tool(broker, letters, "reasons")
    assert shown.returncode == 0, shown.stderr
    rows = [line for line in shown.stdout.splitlines() if "decode" in line]
    assert len(rows) == 4
    assert "2" in rows[0]
    assert "expected an object" in rows[0]
    assert all(" 1 " in row for row in rows[1:])


def test_what_is_sent_back_is_the_original_byte_for_byte(broker: Broker) -> None:
    broker.create_topics({"back-dead": 2, "back-origin": 3, "back-other": 1})
    there = [dead("back-origin", *what) for what in REFUSED.values()]
    elsewhere = Record(b"{", b"other", [("a", b"b")])
    send(broker.bootstrap, "back-dead", [*there, dead("back-other", "cut off", 0, elsewhere)])
    done = tool(broker, "back-dead", "resend", "--all")
    assert done.returncode == 0, done.stderr
    assert "sent 6 records back" in done.stdout
    first = [record for _, _, record in REFUSED.values()]
    assert contents(read(broker.bootstrap, "back-origin")) == contents(first)
    assert contents(read(broker.bootstrap, "back-other")) == contents([elsewhere])
    assert len(read(broker.bootstrap, "back-dead")) == 6


def test_only_records_of_the_reason_asked_for_are_sent_back(broker: Broker) -> None:
    broker.create_topics({"some-dead": 2, "some-origin": 2})
    send(broker.bootstrap, "some-dead", [dead("some-origin", *w) for w in REFUSED.values()])
    done = tool(broker, "some-dead", "resend", "--reason", "an object")
    assert "sent 2 records back" in done.stdout
    back = contents(read(broker.bootstrap, "some-origin"))
    chosen = [record for reason, _, record in REFUSED.values() if "an object" in reason]
    assert back == contents(chosen)


def test_late_events_are_sent_back_too(broker: Broker) -> None:
    broker.create_topics({"late": 1, "late-origin": 1})
    record = Record(b"{}", b"u", [("n", b"1")])
    told = [("__late_event.topic", b"late-origin"), ("__late_event.reason", b"too late")]
    send(broker.bootstrap, "late", [Record(record.value, record.key, [*record.headers, *told])])
    assert "sent 1 records back" in tool(broker, "late", "resend", "--all").stdout
    assert contents(read(broker.bootstrap, "late-origin")) == contents([record])


def test_nothing_is_sent_back_unless_it_is_said_what(broker: Broker, letters: str) -> None:
    refused = tool(broker, letters, "resend")
    assert refused.returncode == 2
    assert "--reason TEXT or --all" in refused.stderr


def test_a_record_that_the_broker_refuses_is_an_error(broker: Broker) -> None:
    broker.create_topics({"full-dead": 1})
    broker.create_topics({"full-origin": 1}, {"max.message.bytes": "1000"})
    send(broker.bootstrap, "full-dead", [dead("full-origin", *w) for w in REFUSED.values()])
    refused = tool(broker, "full-dead", "resend", "--all")
    assert refused.returncode == 1
    assert "1 of 5 records were refused" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert len(read(broker.bootstrap, "full-origin")) == 4


@pytest.mark.parametrize("words", [["list"], ["reasons"], ["resend", "--all"]])
def test_a_missing_topic_is_named(broker: Broker, words: list[str]) -> None:
    refused = tool(broker, "no-such-letters", *words)
    assert refused.returncode == 1
    assert "no-such-letters" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_record_that_does_not_say_its_origin_is_not_sent(broker: Broker) -> None:
    broker.create_topics({"stray-dead": 1})
    send(broker.bootstrap, "stray-dead", [Record(b"no dead letter", b"k")])
    refused = tool(broker, "stray-dead", "resend", "--all")
    assert refused.returncode == 1
    assert "does not say where it came from" in refused.stderr
    assert "Traceback" not in refused.stderr
