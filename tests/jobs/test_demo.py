import json
import os
import shutil
import signal
import subprocess
import threading
import time
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from jobs.demo.data import read_data
from jobs.demo.malformed import malformed
from jobs.demo.score import Score, misfits, missing_values
from jobs.demo.services import ROOT
from jobs.demo.stream import (
    RESEND_EVERY,
    Record,
    expected,
    interleave,
    most_popular,
    next_new_items,
    plan,
    record_of,
    with_malformed,
    with_repeats,
)
from jobs.demo.traffic import Sender
from jobs.demo.visits import Step, Visit, otto_visits, retail_visits
from udfs.events import InvalidEventError, decode

NOW_MS = 1_750_000_000_000
STARTER = ROOT / "models" / "starter" / "online-retail"


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


def test_the_next_item_is_the_first_later_one_not_yet_in_the_session() -> None:
    assert next_new_items(["A", "B", "A", "C", "C"]) == ["B", "C", "C", None, None]
    assert next_new_items(["A", "A"]) == [None, None]
    assert next_new_items(["A", "", "B"]) == ["B", "B", None]


def test_the_popular_list_leaves_out_what_is_in_the_session() -> None:
    popular = [str(number) for number in range(30)]
    assert most_popular(popular, {"0", "5"})[:6] == ["1", "2", "3", "4", "6", "7"]
    assert len(most_popular(popular, {"0"})) == 20


def test_each_users_events_keep_their_order_in_the_lanes() -> None:
    visits = [visit("u", "A", "B", "C"), visit("v", "A"), visit("u", "D"), visit("w", "A", "B")]
    steps = [step for done in interleave(visits, 2) for step in done]
    assert len(steps) == sum(len(each.steps) for each in visits)
    of_u = [place for place in steps if visits[place[0]].user == "u"]
    assert of_u == [(0, at) for at in range(5)] + [(2, at) for at in range(3)]
    assert steps[:2] == [(0, 0), (1, 0)]  # two lanes at a time


def test_a_list_is_judged_only_by_an_item_that_is_really_sent() -> None:
    # 32 records: 16 malformed ones and 16 steps, so the last additions of 20 are not sent.
    shopper = visit("u", *(f"item {number}" for number in range(20)))
    records = plan([shopper], [], ["item 1"], 32)
    judged = [record for record in records if record.outcome == "answered"]
    assert len(judged) == 16
    assert judged[14].next_item == "item 15"
    assert judged[15].next_item is None
    assert [record.popular for record in judged[:2]] == [True, False]


def test_a_repeated_record_comes_soon_with_the_same_bytes_and_is_not_judged_again() -> None:
    step = Step("added", "A", {"event_id": "1"})
    records = [record_of(Visit("u", "", [step], True), 0, ["B"])] * (2 * RESEND_EVERY)
    out = with_repeats(records)
    again = [number for number, record in enumerate(out) if record.outcome == "duplicates"]
    assert len(again) == 2
    assert out[again[0]].value == out[again[0] - 4].value
    assert out[again[0]].next_item is None


def test_every_malformed_value_is_refused_and_all_are_mixed_in() -> None:
    for value in malformed():
        with pytest.raises(InvalidEventError):
            decode(value, NOW_MS)
    assert len(malformed()) >= 12
    good = [Record(b"u", b"{}", "answered")] * 100
    mixed = with_malformed(good, malformed())
    assert expected(mixed)["dead_letters"] == len(malformed())
    assert Counter(r.value for r in mixed if r.outcome == "dead_letters") == Counter(malformed())
    assert mixed[0].outcome == mixed[-1].outcome == "answered"


def test_hits_are_counted_once_for_each_judged_list() -> None:
    shopper = visit("u", "A", "B", "C")
    first = record_of(shopper, 0, ["B", "C", None], ["B"])
    second = record_of(shopper, 1, ["B", "C", None], ["B"])
    score = Score({first.event_id: first, second.event_id: second})
    assert score.add(first.event_id, ["X", "B"], ["", ""], "full", 0.010) is not None
    assert score.add(first.event_id, ["B"], [""], "full", 0.5) is None
    assert score.add("somebody else's", ["B"], [""], "full", 0.5) is None
    score.add(second.event_id, ["X"] * 20 + ["C"], [""] * 21, "full", 0.030)
    assert (score.judged, score.hits, score.popular_hits, score.repeated) == (2, 1, 1, 1)
    assert score.hit_rate == 0.5
    assert score.percentile(50) == pytest.approx(20)


def test_books_that_do_not_balance_are_told_with_both_numbers() -> None:
    sent = {"answered": 5, "not_triggering": 2, "duplicates": 1, "dead_letters": 1}
    counters = {"consumed": 9, **sent}
    topics = {"user-events": 9, "recommendations": 5, "dead-letters": 1}
    assert misfits(sent, counters, topics) == []
    (lost,) = misfits(sent, counters, topics | {"recommendations": 4})
    assert lost == "answered: 5, but lists on recommendations: 4"
    assert "consumed: 9, but the sum of the outcomes: 8" in misfits(
        sent, counters | {"duplicates": 0}, topics
    )
    assert len(misfits(sent, {}, topics)) >= 4
    assert missing_values([b"a", b"a", None], [b"a", None]) == 1


class Clock:
    """A clock that stands still unless it is waited on."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> bool:
        self.now += seconds
        return False


class Recording(Sender):
    def __init__(self, clock: Clock) -> None:
        self._clock, self.clock, self.times = clock, clock, []

    def send(self, record: Record, due: float) -> None:
        self.times.append((due - 100, self.clock.now - 100))
        if len(self.times) == 2:
            self.clock.now += 1.0  # a long pause: what is late goes out at once


def test_a_pause_delays_no_later_event_and_counts_as_latency() -> None:
    clock = Clock()
    sender = Recording(clock)
    sender.send_paced([Record(b"u", b"{}", "answered")] * 4, 10, clock)  # type: ignore[arg-type]
    due, sent = zip(*sender.times, strict=True)
    assert due == pytest.approx((0, 0.1, 0.2, 0.3))
    assert sent == pytest.approx((0, 0.1, 1.1, 1.1))


def test_the_planned_records_are_new_to_the_bundle_and_always_the_same() -> None:
    data = read_data(STARTER, 2000)
    known_until = json.loads((STARTER / "manifest.json").read_text())["data_window"]["to"]
    assert 1990 <= len(data.records) <= 2000
    for record in data.records:
        if record.outcome == "answered" and record.visit and record.visit.known:
            assert record.step is not None
            assert record.step.event["event_time"] > known_until
    assert all((record.key or b"").startswith(b"warm-up-") for record in data.warm_up)
    assert [r.value for r in read_data(STARTER, 2000).records] == [r.value for r in data.records]


class Demo:
    """Runs the command in an empty temporary folder and finds what it leaves behind."""

    def __init__(self, folder: Path) -> None:
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        self.mark = f"DEMO_TEST={uuid.uuid4()}"
        name, _, value = self.mark.partition("=")
        self.environment = {**os.environ, "TMPDIR": str(self.temporary), name: value}

    def start(self, *options: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [str(ROOT / "scripts" / "demo"), *options],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *options: str) -> tuple[int, str, str]:
        with self.start(*options) as process:
            out, err = process.communicate(timeout=280)
        return process.returncode, out, err

    def processes(self) -> list[str]:
        found = []
        for environment in Path("/proc").glob("[0-9]*/environ"):
            try:
                if self.mark.encode() in environment.read_bytes().split(b"\0"):
                    found.append((environment.parent / "cmdline").read_text().replace("\0", " "))
            except OSError:
                continue
        return found

    def assert_nothing_is_left(self) -> None:
        deadline = time.monotonic() + 60  # a JVM takes a moment to see that its parent ended
        while self.processes() and time.monotonic() < deadline:
            time.sleep(0.2)
        assert self.processes() == []
        assert [path.name for path in self.temporary.iterdir() if path.is_dir()] == []


@pytest.fixture
def demo(tmp_path: Path) -> Demo:
    return Demo(tmp_path)


def test_the_demo_answers_real_shoppers_accounts_for_every_record_and_tidies_up(
    demo: Demo,
) -> None:
    code, out, err = demo.run("--json", "--seconds", "15")
    assert code == 0, err
    result = json.loads(out.splitlines()[-1])
    assert result["misfits"] == []
    outcomes = ("answered", "not_triggering", "duplicates", "dead_letters")
    assert result["consumed"] == sum(result[name] for name in outcomes) > 3000
    planned = read_data(STARTER, 3000)
    assert {name: result[name] for name in outcomes} == planned.expected
    assert sum(result["dead_letter_reasons"].values()) == len(malformed())
    assert result["duplicates"] > 0
    assert result["hit_rate"] >= 5 * result["hit_rate_popularity"] > 0
    assert result["judged"] > 1500
    assert 0 < result["p50_ms"] <= result["p99_ms"]
    assert result["seconds_to_first_list"] > 0
    assert result["served_by"]["popular"] == result["other_shop_lists"]
    assert "they balance" in err
    demo.assert_nothing_is_left()


def test_a_demo_that_is_terminated_while_starting_leaves_nothing(demo: Demo) -> None:
    with demo.start() as process:
        assert process.stderr is not None
        for text in process.stderr:
            if "The broker answers" in text:
                break
        threading.Timer(2, process.send_signal, [signal.SIGTERM]).start()
        process.communicate(timeout=120)
    assert process.returncode == 130
    demo.assert_nothing_is_left()


def test_a_job_that_refuses_to_start_is_told_with_its_reason(demo: Demo, tmp_path: Path) -> None:
    bundle = shutil.copytree(STARTER, tmp_path / "damaged")
    with (bundle / "index.faiss").open("r+b") as index:
        index.write(b"not an index")
    code, out, err = demo.run("--json", "--bundle", str(bundle))
    assert (code, out) == (1, "")
    assert "the recommend job ended" in err
    assert "index.faiss" in err
    demo.assert_nothing_is_left()


def test_a_missing_bundle_is_refused_before_anything_starts(demo: Demo, tmp_path: Path) -> None:
    code, _, err = demo.run("--bundle", str(tmp_path))
    assert code == 1
    assert "no bundle in" in err
    assert "python -m jobs train" in err
