"""The loop's summary tells what happened, and says what did not."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from jobs.loop.display import Screen, Story, bars, picture, summary
from jobs.loop.rates import STEP_S, Rates
from jobs.loop.result import Closed, reasons, result, shortcomings
from jobs.simulate.crowd import Clock, Crowd
from jobs.simulate.population import Exposure, Population
from jobs.simulate.tastes import synthetic_tastes
from models.history import Decision

WHY = (
    "serving: MRR@20 0.2 against 0.3; gain -0.1, at least -0.2; expected more than +0.1; "
    "coverage: 5 items"
)


def decision(sequence: int, version: str, decided: Any, why: str = "") -> Decision:
    return Decision(
        sequence=sequence,
        bundle_version=version,
        active_from=sequence,
        sha256="0" * 64,
        decided=decided,
        why=why,
    )


def closed(**changes: Any) -> Closed:
    """A loop that closed: 100 clicks on 4,000 items, then 50, then 80."""
    crowd = Crowd(Population(synthetic_tastes(50, 2, 0), users=50), Clock(0, 10.0), at_once=5)
    crowd.exposures = {
        ("a", False): Exposure(400, 4000, 100, 101.0, 90.0),
        ("a", True): Exposure(400, 4000, 50, 49.0, 40.0),
        ("c", True): Exposure(400, 4000, 80, 81.0, 70.0),
    }
    told = {
        "crowd": crowd,
        "decisions": [
            decision(1, "a", "promoted", "the first"),
            decision(2, "b", "rejected", WHY),
            decision(3, "c", "promoted", "bundle: sound"),
        ],
        "feedback": {"joined": 1195, "finals": 9000, "revisions": 200},
        "sessions": 700,
        "seconds": 200.0,
    }
    return Closed(**{**told, **changes})


def test_a_loop_that_closed_has_no_shortcomings_and_tells_its_figures() -> None:
    told = result(closed())
    assert told["shortcomings"] == []
    assert (told["ctr_before_drift"], told["ctr_before"], told["ctr_after"]) == (
        0.025,
        0.0125,
        0.02,
    )
    assert (told["promoted"], told["refused"]) == (1, 1)
    assert told["lists_by_bundle_version"] == {"a": 800, "c": 400}
    assert told["join_ratio"] == round(1195 / 1200, 5)
    assert told["feedback_final"] == 9000
    assert told["bundles"][1]["reasons"] == [WHY[: WHY.index("; coverage")], "coverage: 5 items"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"feedback": {"joined": 1195}}, "no final feedback"),
        ({"feedback": {"joined": 1180, "finals": 1}}, "only 0.9833 of the lists seen"),
        ({"decisions": closed().decisions[:2]}, "no fine-tuned bundle was promoted"),
        ({"decisions": closed().decisions[::2]}, "no fine-tuned bundle was refused"),
    ],
)
def test_what_did_not_happen_is_said(changes: dict[str, Any], said: str) -> None:
    (sentence,) = result(closed(**changes))["shortcomings"]
    assert said in sentence


def test_clicks_that_were_not_won_back_are_a_shortcoming() -> None:
    told = result(closed())
    (sentence,) = shortcomings({**told, "ctr_after": told["ctr_before"]})
    assert sentence == "CTR 0.0125 of the fine-tuned bundle is not above the 0.0125 before it"
    assert "the lists are of one bundle" in shortcomings(
        {**told, "lists_by_bundle_version": {"a": 1}}
    )


def test_reasons_are_told_apart_by_their_checks() -> None:
    assert reasons(decision(1, "a", "rejected", "bundle: a, b; c")) == ["bundle: a, b; c"]


def test_a_rate_is_that_of_its_interval_and_of_whose_lists_were_seen_in_it() -> None:
    rates, seen = Rates(), {("a", False): Exposure(100, 1000, 50)}
    rates.look(0.0, seen)
    seen["a", True] = Exposure(10, 100, 1)
    seen["b", True] = Exposure(90, 900, 9)
    rates.look(STEP_S / 2, seen)
    assert len(rates.rates) == 1
    rates.look(STEP_S, seen)
    rates.look(2 * STEP_S, seen)  # nobody saw a list: nothing is known
    assert [(r.version, r.lists, r.ctr) for r in rates.rates] == [
        ("a", 100, 0.05),
        ("b", 100, 0.01),
    ]


def test_the_screen_shows_the_story_the_bars_and_who_is_who() -> None:
    story = Story(versions=["a", "b"], now="waiting", figures="10 events")
    story.rates.look(0.0, {("a", False): Exposure(100, 1000, 80)})
    story.rates.look(10.0, {("a", False): Exposure(200, 2000, 120)})
    assert bars(story.rates.rates, story.versions).plain == "█▅"
    console = Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None)
    console.print(picture(61.0, story, 100))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "█ a  █ b  CTR 4.0% now, of lists by a" in text
    assert "1:01  waiting …" in text


def test_without_a_terminal_verdicts_and_figures_are_lines() -> None:
    out, story = io.StringIO(), Story(versions=["a"], figures="10 events")
    story.rates.look(0.0, {("a", False): Exposure(100, 1000, 80)})
    with Screen(Console(file=out, width=300), story) as screen:
        screen.verdict(5.0, decision(2, "b", "rejected", WHY))
        screen.update(6.0)
        screen.update(7.0)
    lines = out.getvalue().splitlines()
    assert lines[0] == "0:05  The gate: b refused"
    assert lines[2].strip() == "coverage: 5 items"
    assert lines[3:] == ["0:06  CTR 8.0% now, of lists by a; 10 events"]


def test_the_summary_shows_what_is_missing() -> None:
    console = Console(file=io.StringIO(), width=100)
    console.print(summary(result(closed(feedback={"joined": 1200}))))
    assert "! " in (text := console.file.getvalue())  # type: ignore[attr-defined]
    assert "no final feedback" in text
    assert "2.00%" in text
