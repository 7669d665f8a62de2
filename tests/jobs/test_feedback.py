"""The feedback job on a mini-cluster with real workers and a real broker, in both profiles."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, TopicPartition

from operators.broker import Broker
from operators.ports import free_port
from tests.counting import counted
from tests.feedback import (
    DISORDER_MS,
    HORIZON_MS,
    START_MS,
    Act,
    Made,
    Shopped,
    browsing,
    check_rate,
    interleaved,
    shopped,
    told,
    truth,
)
from tests.kafka import (
    PATIENCE_S,
    Record,
    python_workers,
    read,
    run_to_end,
    running,
    screen,
    send,
    wait_for,
)
from tests.malformed import malformed

KINDS = ("events", "recommendations", "feedback", "late_events", "dead_letters")
DAY_MS = 86_400_000
Key = tuple[str, str]  # recommendation_id, item_id


def options(broker: Broker, name: str, *more: str, there: Sequence[str] = KINDS) -> list[str]:
    broker.create_topics({f"{name}-{kind}": 2 for kind in there})
    return [
        f"kafka.bootstrap={broker.bootstrap}",
        f"kafka.group={name}",
        f"horizon_s={HORIZON_MS // 1000}",
        *(f"{kind}_topic={name}-{kind}" for kind in KINDS),
        *more,
    ]


def messages(records: Sequence[Record]) -> list[dict[str, Any]]:
    return [json.loads(record.value or b"") for record in records]


def finals(records: Sequence[Record]) -> dict[Key, dict[str, Any]]:
    """The final records by key, each of which must be there once."""
    found = [message for message in messages(records) if message["final"]]
    by_key = {(m["recommendation_id"], m["item_id"]): m for m in found}
    assert len(by_key) == len(found), "a list's item has more than one final record"
    return by_key


@dataclass(frozen=True)
class Shuffled:
    """A bounded run over records in any order: what was sent and what came of it."""

    lists: list[Made]
    arrivals: list[Act]
    shopped: Shopped  # part of them
    bad: dict[str, list[bytes | None]]  # stage → values
    feedback: list[Record]
    late: list[Record]
    dead: list[Record]
    screen: str


@pytest.fixture(scope="module")
def shuffled(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Shuffled:
    given = ("engine.profile=latency", "out_of_order_s=1000000", "kafka.create_topics=true")
    settings = options(broker, "f-any", *given, there=KINDS[:2])
    draw = random.Random(7)
    lists, acts = browsing(seed=7, users=150)
    acts.append(Act("stray", "select_item", "u", START_MS, (("i-1", 0, 1),), "nobody-made-it"))
    shoppers = shopped(seed=3, turns=2_000)
    lists, acts = lists + shoppers.lists, acts + shoppers.acts
    arrivals = interleaved(draw, acts)
    again = [made for made in lists if draw.random() < 0.1]  # a list may be written twice
    bad = {
        "decode": [value for _, value in malformed()][:20],
        "decode_recommendation": [None, b"{", b'{"recommendation_id": "r", "user_id": "u"}'],
    }
    offered = [made.record() for made in lists + again]
    offered += [Record(value, b"bad") for value in bad["decode_recommendation"]]
    done = [act.record() for act in arrivals] + [Record(value, b"bad") for value in bad["decode"]]
    draw.shuffle(offered)
    draw.shuffle(done)
    send(broker.bootstrap, "f-any-recommendations", offered)
    send(broker.bootstrap, "f-any-events", done)
    said = run_to_end(tmp_path_factory.mktemp("shuffled"), "feedback", *settings)
    results = (read(broker.bootstrap, f"f-any-{kind}") for kind in KINDS[2:])
    return Shuffled(lists, arrivals, shoppers, bad, *results, said)


def test_each_item_ends_with_the_one_final_record_that_the_contract_says(
    shuffled: Shuffled,
) -> None:
    found = {key: told(message) for key, message in finals(shuffled.feedback).items()}
    expected = truth(shuffled.lists, shuffled.arrivals)
    assert found == expected
    attributions = Counter(known["attribution"] for known in expected.values())
    assert min(attributions[name] for name in ("exact", "item_window", "none")) > 50


def test_the_clicks_of_simulated_shoppers_are_exact_and_as_many_as_are_expected(
    shuffled: Shuffled,
) -> None:
    check_rate(shuffled.shopped, finals(shuffled.feedback).values())


def test_every_positive_is_told_before_its_final_record(shuffled: Shuffled) -> None:
    final = finals(shuffled.feedback)
    last = {}
    for message in messages(shuffled.feedback):
        if not message["final"]:
            last[message["recommendation_id"], message["item_id"]] = message
    assert last.keys() == {key for key, m in final.items() if m["attribution"] != "none"}
    for key, message in last.items():
        assert message["label"] == final[key]["label"]
        assert message["revision"] <= final[key]["revision"]


def test_records_have_the_list_as_key_and_headers_of_their_own(shuffled: Shuffled) -> None:
    ids = set()
    for record, message in zip(shuffled.feedback, messages(shuffled.feedback), strict=True):
        assert (record.key or b"").decode() == message["recommendation_id"]
        headers = dict(record.headers)
        assert headers["ce_type"] == b"streamrec.feedback"
        ids.add(headers["ce_id"])
    assert len(ids) == len(shuffled.feedback)
    assert "restarts" not in shuffled.screen


def test_what_names_a_list_that_is_not_there_or_long_past_goes_to_late_events(
    shuffled: Shuffled,
) -> None:
    made = {one.recommendation_id: one.time for one in shuffled.lists}
    lost = [
        act.record().value or b""
        for act in shuffled.arrivals
        if act.recommendation_id is not None
        and act.time - made.get(act.recommendation_id, 0) > HORIZON_MS
    ]
    assert len(set(lost)) > 10
    assert sorted(record.value or b"" for record in shuffled.late) == sorted(lost)
    for record in shuffled.late:
        headers = dict(record.headers)
        assert headers["n"] == b"1"
        assert headers["__late_event.stage"] == b"attribute"
        assert (
            headers["__late_event.reason"] == b"no list of its recommendation_id within the horizon"
        )


def test_what_is_not_valid_is_a_dead_letter_that_says_of_which_stage(shuffled: Shuffled) -> None:
    for stage, values in shuffled.bad.items():
        found = [
            record.value
            for record in shuffled.dead
            if dict(record.headers)["__dead_letter.stage"] == stage.encode()
        ]
        assert Counter(found) == Counter(values)
    assert len(shuffled.dead) == sum(map(len, shuffled.bad.values()))


class Streamed:
    """A streaming run, exactly-once: sends by event time, reads what is committed."""

    def __init__(self, broker: Broker, name: str) -> None:
        self.bootstrap, self.name = broker.bootstrap, name
        self.lists: list[Made] = []
        self.arrivals: list[Act] = []
        self.sent = 0

    def send(self, seed: int, start: int, rate: float = 0) -> Thread:
        """Some users' lists and actions, a little out of order, `rate` a second; 0: at once."""
        draw = random.Random(seed)
        lists, acts = browsing(seed, users=40, start=start)
        lag = [(act.time + draw.randrange(5_000), act) for act in interleaved(draw, acts)]
        arrivals = [act for _, act in sorted(lag, key=lambda pair: pair[0])]
        self.lists += lists
        self.arrivals += arrivals
        self._send("recommendations", [one.record() for one in sorted(lists, key=_time)])

        def paced() -> Iterator[Record]:
            for act in arrivals:
                yield act.record()
                time.sleep(1 / rate if rate else 0)

        sender = Thread(target=self._send, args=("events", paced()))
        sender.start()
        return sender

    def end_horizons(self, time_ms: int) -> Made:
        """Let the watermark of every partition pass the horizon of all that was before."""
        return self.tick(time_ms + 4 * HORIZON_MS)

    def tick(self, time_ms: int) -> Made:
        """A list and an event of that time in every partition; returns one of the lists."""
        users = [f"tick-{number}" for number in range(8)]
        lists = [Made(f"r-{user}-{time_ms}", user, time_ms, ("i-0",)) for user in users]
        self._send("recommendations", [made.record() for made in lists])
        acts = [Act(f"e-{user}-{time_ms}", "search", user, time_ms) for user in users]
        self._send("events", [act.record() for act in acts])
        return lists[0]

    def see(self, made: Made) -> None:
        """The list is shown."""
        act = Act("seen", "view_item_list", made.user, made.time + 1, (), made.recommendation_id)
        self.lists.append(made)
        self.arrivals.append(act)
        self._send("events", [act.record()])

    def _send(self, kind: str, records: Iterable[Record]) -> None:
        self.sent += len(send(self.bootstrap, f"{self.name}-{kind}", records))

    def read(self, kind: str = "feedback", isolation: str = "read_committed") -> list[Record]:
        return read_isolated(self.bootstrap, f"{self.name}-{kind}", isolation)

    def wait_for_finals(self) -> None:
        count = len(truth(self.lists, self.arrivals))
        wait_for(lambda: len(finals(self.read())) >= count, PATIENCE_S, f"{count} final records")

    def check(self) -> None:
        """What is committed is what the contract says, and nothing of it is there twice."""
        found = {key: told(message) for key, message in finals(self.read()).items()}
        assert found == truth(self.lists, self.arrivals)
        ids = Counter(dict(record.headers)["ce_id"] for record in self.read())
        assert max(ids.values()) == 1


def _time(made: Made) -> int:
    return made.time


def read_isolated(bootstrap: str, topic: str, isolation: str) -> list[Record]:
    """The records of the topic that a reader of this isolation level sees now."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "tests",
            "isolation.level": isolation,
            "enable.auto.commit": False,
            "enable.partition.eof": True,
        }
    )
    places = [TopicPartition(topic, number, 0) for number in (0, 1)]
    consumer.assign(places)
    records, open_partitions = [], len(places)
    while open_partitions:
        message = consumer.poll(10)
        assert message is not None, f"{topic} did not end"
        if message.error() is not None:
            assert message.error().code() == KafkaError._PARTITION_EOF, message.error()
            open_partitions -= 1
            continue
        headers: Any = message.headers() or []
        records.append(Record(message.value(), message.key(), list(headers)))
    consumer.close()
    return records


@pytest.mark.slow
def test_exactly_once_survives_a_killed_worker_and_what_is_late_goes_aside(
    broker: Broker, tmp_path: Path
) -> None:
    run, port = Streamed(broker, "f-once"), free_port()
    settings = options(
        broker,
        run.name,
        "delivery=exactly-once",
        "transaction_timeout_s=60",
        "engine.profile=throughput",
        "engine.parallelism=1",
        "engine.checkpoint_interval_s=3",
        f"engine.checkpoint_dir={(tmp_path / 'checkpoints').as_uri()}",
        f"engine.rest_port={port}",
    )
    with running(tmp_path, "feedback", *settings) as process:
        run.send(seed=1, start=START_MS).join()
        run.end_horizons(START_MS)
        run.wait_for_finals()
        run.check()
        expected, rest = counts(run), f"127.0.0.1:{port}"
        wait_for(lambda: counted(rest) == expected, 60, "the counters")

        committed = len(run.read())
        sender = run.send(seed=2, start=START_MS + DAY_MS, rate=25)
        wait_for(lambda: len(run.read()) > committed, 60, "a checkpoint", pause=0.05)
        # Just committed: what is written now stays in an open transaction for some time.
        wait_for(lambda: uncommitted(run) > 0, 60, "records in an open transaction", pause=0.05)
        os.kill(python_workers(process.pid)[0], signal.SIGKILL)
        sender.join()
        last = run.end_horizons(START_MS + DAY_MS)
        run.wait_for_finals()
        run.check()
        aborted = len(run.read(isolation="read_uncommitted")) - len(run.read())
        assert aborted > 0, "the kill came at a moment when it had no consequence"

        run.see(last)
        run.tick(last.time + HORIZON_MS + DISORDER_MS * 3 // 2)
        run.wait_for_finals()  # of the last list, too: it was closed a moment ago
        before = len(run.read("late_events"))
        late = [
            Act(
                "late-1",
                "select_item",
                last.user,
                last.time,
                (("i-0", 0, 1),),
                last.recommendation_id,
            ),
            Act("late-2", "view_item_list", "u", START_MS, (), run.lists[0].recommendation_id),
            Act("late-3", "select_item", run.lists[0].user, START_MS, (("i-1", 0, 1),)),
        ]
        send(run.bootstrap, f"{run.name}-events", [act.record() for act in late])
        wait_for(lambda: len(run.read("late_events")) == before + 3, 60, "the late events")
        run.check()  # they have changed nothing
    assert process.returncode == 0
    reasons = {
        json.loads(record.value or b"")["event_id"]: dict(record.headers)["__late_event.reason"]
        for record in run.read("late_events")
    }
    for name in ("late-1", "late-2"):  # a closed list may be forgotten already or not
        assert reasons[name] in (
            b"after the final record of its list",
            b"no list of its recommendation_id within the horizon",
        )
    assert reasons["late-3"] == b"behind the watermark"
    said = screen(tmp_path, "feedback").read_text()
    assert said.count("restarts:") == 1
    assert "join_ratio " in said


def uncommitted(run: Streamed) -> int:
    return len(run.read(isolation="read_uncommitted")) - len(run.read())


def counts(run: Streamed) -> dict[str, int]:
    """What the counters must show of all that was sent and told; of none there is no counter."""
    made = {one.recommendation_id: one for one in run.lists}
    named = [act for act in run.arrivals if act.recommendation_id is not None]
    joined = [act for act in named if act.time <= made[act.recommendation_id].time + HORIZON_MS]
    late = len(named) - len(joined)
    named, joined = list(set(named)), list(set(joined))  # a repeated one is not counted again
    tellings = Counter(message["final"] for message in messages(run.read()))
    return {
        "consumed": run.sent,
        "exposures": sum(act.type == "view_item_list" for act in named),
        "joined": sum(act.type == "view_item_list" for act in joined),
        "revisions": tellings[False],
        "finals": tellings[True],
        "not_in_list": sum(
            item not in made[act.recommendation_id].items
            for act in joined
            for item, *_ in act.items
        ),
        "late": late,
    }
