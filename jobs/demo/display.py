"""What the demo shows while it runs and at its end: rich renderables from plain values."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from jobs.demo.closing import closing_table
from jobs.demo.score import Score, Shown, identity

TOP = 3  # items of a list that are shown
ROW_LINES = TOP + 1  # with the line between rows
HEAD_LINES = 6  # progress, rule, head of the table
SHORT_PLACES = {"United Kingdom": "UK"}
ROW_SECONDS = 1.5  # how often the table takes a new row
OTHER_SHOP_EVERY = 6  # rows
LINE_SECONDS = 5.0  # between two lines where there is no terminal


class Screen:
    """The live picture; a line from time to time where there is no terminal to draw on."""

    def __init__(
        self, console: Console, score: Score, titles: Mapping[str, str], planned: int
    ) -> None:
        self._console, self._score, self._titles = console, score, titles
        self._planned = planned
        self._rows: deque[Shown] = deque(maxlen=20)
        self._taken = 0  # rows so far
        self._lines = 0
        self._live = Live(console=console, auto_refresh=False, transient=True)

    def __enter__(self) -> Screen:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._live.stop()

    def update(self, sent: int, seconds: float, newest: Mapping[bool, Shown]) -> None:
        """Take the newest list as a row, not more often than one can read, and draw."""
        progress = Progress(sent, self._planned, seconds)
        if seconds >= self._taken * ROW_SECONDS:
            self._taken += 1
            shown = newest.get(self._taken % OTHER_SHOP_EVERY != 0) or newest.get(True)
            if shown is not None and shown not in self._rows:
                self._rows.appendleft(shown)
        if self._console.is_terminal:
            height = self._console.height
            picture = screen(progress, self._score, list(self._rows), self._titles, height)
            self._live.update(picture, refresh=True)
        elif seconds >= self._lines * LINE_SECONDS:
            self._lines += 1
            self._console.print(line(progress, self._score), soft_wrap=True)
            for shown in list(self._rows)[:1]:
                self._console.print(example(shown, self._titles), soft_wrap=True, markup=False)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the replay is."""

    sent: int
    planned: int
    seconds: float


def screen(
    progress: Progress, score: Score, rows: list[Shown], titles: Mapping[str, str], height: int
) -> RenderableType:
    """Progress above, the newest lists below, as many as fit."""
    fitting = max((height - HEAD_LINES) // ROW_LINES, 1)
    table = Table(expand=True, box=None, padding=(0, 1, 0, 0), header_style="bold")
    for name, ratio in (("shopper", 9), ("just did", 19), ("is offered", 27), ("because", 25)):
        table.add_column(name, ratio=ratio, no_wrap=True, overflow="ellipsis")
    table.add_column("ms", justify="right", width=5, no_wrap=True)
    for shown in rows[:fitting]:
        table.add_row(*_row(shown, titles))
        table.add_row()
    return Group(_head(progress, score), Rule(style="dim"), table)


def _head(progress: Progress, score: Score) -> Text:
    text = Text(
        f"{progress.sent:,} of {progress.planned:,} events sent, {score.lists:,} lists received "
        f"({progress.seconds:.0f} s)\nfrom event to list: "
    )
    text.append(f"p50 {score.percentile(50):.0f} ms  p99 {score.percentile(99):.0f} ms", "bold")
    text.append("\nnext item was in the list: ")
    text.append(f"{score.hit_rate:.3f}", "bold green")
    text.append(f"  (among the most popular: {score.hit_rate_popularity:.3f})\n")
    text.append("▸ marks the item the shopper really added next", "dim")
    return text


def _row(shown: Shown, titles: Mapping[str, str]) -> tuple[Text, Text, Text, Text, str]:
    record = shown.record
    assert record.visit is not None
    assert record.step is not None
    item = record.step.item
    offered, because = Text(), Text(style="dim")
    for place, code in enumerate(shown.items[:TOP]):
        taken = code == record.next_item
        mark, style = ("▸ ", "bold green") if taken else ("  ", "")
        offered.append(f"{mark}{titles.get(code, code)}\n", style)
        because.append(f"{shown.reasons[place].replace('bought together with', 'with')}\n")
    place_name = SHORT_PLACES.get(record.visit.place, record.visit.place)
    user = Text(f"{record.visit.user}\n").append(place_name, "dim")
    did = Text(f"{record.step.verb}\n", "dim")
    did.append(titles.get(item, item) if item else "the basket", "not dim")
    offered.rstrip()
    because.rstrip()
    return user, did, offered, because, f"{shown.latency_ms:.0f}"


def line(progress: Progress, score: Score) -> str:
    """The progress as one line, where there is no terminal to draw on."""
    return (
        f"{progress.seconds:3.0f} s: {progress.sent:,} of {progress.planned:,} events, "
        f"{score.lists:,} lists, p50 {score.percentile(50):.0f} ms, "
        f"p99 {score.percentile(99):.0f} ms, next item in the list {score.hit_rate:.3f} "
        f"(popularity {score.hit_rate_popularity:.3f})"
    )


def example(shown: Shown, titles: Mapping[str, str]) -> str:
    """One list as one line."""
    record = shown.record
    assert record.visit is not None
    assert record.step is not None
    best = shown.items[0] if shown.items else ""
    because = shown.reasons[0] if shown.reasons else "nothing"
    return (
        f"       {record.visit.user} {record.step.verb} "
        f"{titles.get(record.step.item, record.step.item) or 'the basket'}: "
        f"first of the list is {titles.get(best, best)} ({because})"
    )


def summary(result: Mapping[str, Any]) -> RenderableType:
    """The closing table, from the same values as `--json` prints."""
    reasons = [
        (Text(f"{count:,}", "dim"), Text(f"  {reason}", "dim"))
        for reason, count in result["dead_letter_reasons"].items()
    ]
    wrong = result["misfits"]
    books = Text("they do not balance", "red") if wrong else Text("they balance", "green")
    balance = ("books", Text(f"{identity(result)}; ").append_text(books))
    return closing_table([*_figures(result), *reasons, balance], wrong)


def _figures(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    warm_up = result["warm_up_events"]
    return [
        (f"{result['consumed']:,}", f"events consumed, {warm_up:,} of them to warm up"),
        (f"{result['answered']:,}", "answered with a list"),
        (f"{result['p50_ms']:.1f} ms", "from event to list, half of them within (p50)"),
        (f"{result['p99_ms']:.1f} ms", "from event to list, 99 of 100 within (p99)"),
        (f"{result['seconds_to_first_list']:.1f} s", "from the start of the command to a list"),
        (
            f"{result['hit_rate']:.3f}",
            f"of {result['judged']:,} lists of 20 held the item that was added next",
        ),
        (
            f"{result['hit_rate_popularity']:.3f}",
            "would have, with the 20 most popular items not in the basket",
        ),
        (
            f"{result['other_shop_lists']:,}",
            "lists for shoppers of another shop (OTTO), whose items nobody trained on; not judged",
        ),
        (f"{result['not_triggering']:,}", "events that ask for no list (session_end)"),
        (f"{result['duplicates']:,}", "events that were sent twice, answered once"),
        (f"{result['dead_letters']:,}", "dead letters, byte for byte as they were sent:"),
    ]
