"""The report says what the figures say, needs nothing but itself, and is the same every time."""

from __future__ import annotations

import random
import re
import sys
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest

from jobs.report import NoMatplotlibError, require_matplotlib, verdict, write_report
from models.report_facts import Facts, Judging, facts
from udfs.events import TYPE_CODES, Event, Item

USERS, LENGTH, HOUR_MS = 150, 5, 3_600_000
ITEMS = [f"<{n}>" for n in range(40)]  # names that would break a page
TITLES = {item: f"A & B {item}" for item in ITEMS[:20]}
JUDGING = Judging(1_800_000, size=4, resamples=200)


def history() -> list[tuple[str, Event]]:
    draw = random.Random(1)
    return [
        (
            f"user {user}",
            Event(f"{user}-{n}", TYPE_CODES["view_item"], user * HOUR_MS + n, [Item(item)]),
        )
        for user in range(USERS)
        for n, item in enumerate(draw.sample(ITEMS, LENGTH))
    ]


def lists(seed: int, share: float, place: int = 0, took: int = 100) -> list[dict]:
    """Lists of which a share holds the item that comes next, in a given place."""
    draw, events, found = random.Random(seed), history(), []
    for (user, event), (_, after) in pairwise(events):
        items = [f"other {n}" for n in draw.sample(range(9), 4)]
        if draw.random() < share:
            items[place] = after.items[0].item_id
        message = {
            "trigger_event_id": event.event_id,
            "user_id": user,
            "event_time": event.time,
            "items": [{"item_id": i, "score": -n} for n, i in enumerate(items)],
            "bundle_version": f"v{seed}",
            "served_by": "full",
            "took_us": {"features": took},
        }
        found.append(message)
    return found


def compared(own: list[dict], other: list[dict]) -> Facts:
    return facts({"old": own, "new": other}, history(), JUDGING)


@pytest.mark.parametrize(
    ("own", "other", "outcome", "headline"),
    [
        ((1, 0.3), (2, 0.6), "second", "new is better than old."),
        ((1, 0.6), (2, 0.3), "first", "old is better than new."),
        ((1, 0.5), (1, 0.5), "none", "Neither old nor new is better"),
        ((1, 0.45, 0), (2, 0.7, 3), "mixed", "a matter of choice"),
    ],
)
def test_the_verdict_is_what_is_surely_different(
    own: tuple, other: tuple, outcome: str, headline: str
) -> None:
    said = verdict(compared(lists(*own), lists(*other)))
    assert said.outcome == outcome
    assert headline in said.headline


def test_the_sentences_have_the_figures() -> None:
    found = compared(lists(1, 0.3), lists(2, 0.6, took=900))
    text = " ".join(verdict(found).sentences)
    hit = found.metrics["hit"]
    assert f"{100 * hit.sides[1].mean:.1f} % of its lists, old in" in text
    assert f"{100 * hit.sides[0].mean:.1f} %" in text
    assert hit.difference
    assert f"+{100 * hit.difference.mean:.1f} points" in text
    assert "more than chance" in text
    assert "900 µs with new and 100 µs with old" in text


def test_what_may_be_chance_is_said_to_be(tmp_path: Path) -> None:
    found = compared(lists(1, 0.5), lists(2, 0.5))
    text = " ".join(verdict(found).sentences)
    assert "which may be chance" in text
    assert "cannot be seen here" in text


class Checked(HTMLParser):
    """Collects what a page loads, and which elements stay open."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loaded: list[str] = []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        if tag not in ("meta", "br"):
            self.open.append(tag)
        self.loaded += [
            value for name, value in attrs if name in ("src", "href") and value[:1] != "#"
        ]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize("two", [True, False])
def test_a_page_is_sound_stands_alone_and_is_the_same_every_time(tmp_path: Path, two: bool) -> None:
    given = {"old": lists(1, 0.3), "new <x>": lists(2, 0.6)} if two else {"old": lists(1, 0.3)}
    found = facts(given, history(), JUDGING)
    for name in ("one", "other"):
        write_report(tmp_path / name, found, TITLES)
    text = (tmp_path / "one").read_text("utf-8")
    assert text == (tmp_path / "other").read_text("utf-8")
    page = Checked()
    page.feed(text)
    assert page.open == []
    assert page.loaded == []
    assert "<script" not in text
    plots = re.findall(r"<svg.*?</svg>", text, re.S)
    assert len(plots) == (6 if two else 4)
    for plot in plots:
        ElementTree.fromstring(plot)
    assert verdict(found).headline.replace("<", "&lt;").replace(">", "&gt;") in text
    assert "A &amp; B &lt;" in text or not two
    assert len(text) < 300_000


def test_a_report_without_matplotlib_is_refused_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(NoMatplotlibError, match="scripts/setup train"):
        require_matplotlib()
