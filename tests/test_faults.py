"""The faults: the quick ones are tried, and the oracles see what they are there to see."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from operators.broker import Broker
from tests.faults.__main__ import faults
from tests.faults.oracles import verified
from tests.faults.readers import Watch
from tests.faults.scenario import SCENARIOS
from tests.kafka import ROOT, Record, completed, send

Decisions = list[dict[str, Any]]
DUE = [
    {"recommendation_id": f"{user}-{number}", "user_id": user, "items": [number]}
    for number in range(3)
    for user in "ab"
]


@pytest.mark.slow
@pytest.mark.parametrize("name", [each.name for each in SCENARIOS.values() if each.quick])
def test_what_is_quick_to_break_holds(name: str, tmp_path: Path) -> None:
    done = completed(tmp_path, [sys.executable, "-m", "tests.faults", name], 900)
    assert done.returncode == 0, done.stderr[-8000:]
    told = json.loads(done.stdout.splitlines()[-1])[name]
    assert told["passed"] is True
    assert told["lost"] == 0


def test_every_scenario_is_listed_and_described() -> None:
    listed = CliRunner().invoke(faults, ["--list"]).output
    described = (ROOT / "docs" / "faults.md").read_text()
    for scenario in SCENARIOS.values():
        assert f"{scenario.name} " in listed
        assert len(scenario.purpose) > 20
    assert set(re.findall(r"^\| `(\w+)`", described, re.MULTILINE)) == set(SCENARIOS)


def without(decisions: Decisions) -> Decisions:
    return decisions[:-1]


def doubled(decisions: Decisions) -> Decisions:
    return [*decisions, decisions[0]]


def changed(decisions: Decisions) -> Decisions:
    return [*decisions[:-1], {**decisions[-1], "items": [7]}]


def unasked(decisions: Decisions) -> Decisions:
    return [*decisions, {**decisions[0], "recommendation_id": "nobody's"}]


def reordered(decisions: Decisions) -> Decisions:
    return decisions[::-1]


WRONG: dict[Callable[[Decisions], Decisions], str] = {
    without: "1 of 6 lists are lost",
    doubled: "1 lists came twice",
    changed: "expected {'recommendation_id': 'b-2'",
    unasked: "1 lists that nobody asked for",
    reordered: "out of order",
}


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.__name__)
def test_the_oracles_see_what_is(broker: Broker, wrong: Callable[[Decisions], Decisions]) -> None:
    with pytest.raises(AssertionError, match=WRONG[wrong]):
        oracles(broker, f"oracles-{wrong.__name__}", wrong(DUE), "exactly-once")


def test_the_oracles_let_right_lists_pass_and_count_those_that_came_again(broker: Broker) -> None:
    assert oracles(broker, "oracles-once", DUE, "exactly-once")["again"] == 0
    assert oracles(broker, "oracles-again", doubled(DUE), "at-least-once")["again"] == 1


def oracles(broker: Broker, topic: str, decisions: Decisions, delivery: str) -> dict[str, Any]:
    broker.create_topics({topic: 1})
    watch = Watch(broker.bootstrap, topic)
    try:
        stamps = {"generated_at": 0, "took_us": {}}
        messages = [json.dumps(made | stamps).encode() for made in decisions]
        send(broker.bootstrap, topic, map(Record, messages))
        due = {made["recommendation_id"]: made for made in DUE}
        return verified(broker.bootstrap, watch, due, delivery)
    finally:
        watch.close()
