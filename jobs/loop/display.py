"""What the loop shows while it runs and at its end: the story, CTR over time, the verdicts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.rule import Rule
from rich.text import Text

from jobs.demo.closing import closing_table
from jobs.loop.rates import Rate, Rates
from jobs.loop.result import reasons
from models.history import Decision

BLOCKS = "▁▂▃▄▅▆▇█"
COLOURS = ("yellow", "green", "cyan", "magenta")  # of bundles, in the order they acted
LINE_SECONDS = 10.0  # between two lines where there is no terminal


@dataclass
class Story:
    """What happened so far."""

    told: list[Text] = field(default_factory=list)
    now: str = ""  # what is waited for
    figures: str = ""
    rates: Rates = field(default_factory=Rates)
    versions: list[str] = field(default_factory=list)  # bundles, in the order they acted


class Screen:
    """The live picture; lines where there is no terminal to draw on."""

    def __init__(self, console: Console, story: Story) -> None:
        self._console, self._story = console, story
        self._due = 0.0  # when the next line may come, where there is no terminal
        self._shown = 0  # rates so far
        self._live = Live(console=console, auto_refresh=False, transient=True)

    def __enter__(self) -> Screen:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._live.stop()

    def tell(self, seconds: float, what: str, style: str = "") -> None:
        """Something that happened, which stays on the screen."""
        self._say(Text(f"{clock(seconds)}  ", "dim").append(what, style))

    def verdict(self, seconds: float, decision: Decision) -> None:
        """What the gate decided, with its reasons."""
        word, style = ("promoted", "bold green") if decision.acts else ("refused", "bold red")
        self.tell(seconds, f"The gate: {decision.bundle_version} {word}", style)
        for reason in reasons(decision):
            self._say(Text(f"        {reason}", "dim"))

    def update(self, seconds: float) -> None:
        """Draw; where there is no terminal, a line from time to time."""
        story = self._story
        if self._console.is_terminal:
            self._live.update(picture(seconds, story, self._console.width), refresh=True)
        elif len(story.rates.rates) > self._shown and seconds >= self._due:
            self._due, self._shown = seconds + LINE_SECONDS, len(story.rates.rates)
            self._console.print(
                f"{clock(seconds)}  {_newest(story)}; {story.figures}", soft_wrap=True
            )

    def _say(self, text: Text) -> None:
        self._story.told.append(text)
        self._console.print(text, soft_wrap=not self._console.is_terminal)


def picture(seconds: float, story: Story, width: int) -> RenderableType:
    """Below what was told: CTR over time, who is who, the counts, what is waited for."""
    return Group(
        Rule("clicks on the items of lists, over time", style="dim"),
        bars(story.rates.rates[-width:], story.versions),
        legend(story),
        Text(story.figures, "dim"),
        Text(f"{clock(seconds)}  ", "dim").append(f"{story.now} …", "bold"),
    )


def bars(rates: list[Rate], versions: list[str]) -> Text:
    """A block an interval, as high as its CTR beside the highest, in the colour of its bundle."""
    text, highest = Text(), max((rate.ctr for rate in rates), default=0.0) or 1.0
    for rate in rates:
        height = round(rate.ctr / highest * (len(BLOCKS) - 1))
        text.append(BLOCKS[height], colour(rate.version, versions))
    return text


def legend(story: Story) -> Text:
    """The bundles in their colours, and the newest CTR."""
    text = Text()
    for version in story.versions:
        text.append(f"█ {version}  ", colour(version, story.versions))
    return text.append(_newest(story) if story.rates.rates else "")


def colour(version: str, versions: list[str]) -> str:
    """The colour of a bundle."""
    place = versions.index(version) if version in versions else -1
    return COLOURS[place % len(COLOURS)]


def clock(seconds: float) -> str:
    """Minutes and seconds since the command began."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def _newest(story: Story) -> str:
    rate = story.rates.rates[-1]
    return f"CTR {rate.ctr:.1%} now, of lists by {rate.version}"


def summary(told: Mapping[str, Any]) -> RenderableType:
    """The closing table, from the same values as `--json` prints."""
    return closing_table(_figures(told), told["shortcomings"])


def _figures(told: Mapping[str, Any]) -> list[tuple[str, str]]:
    before, after = told["lists_before"], told["lists_after"]
    return [
        (_share(told["ctr_before_drift"]), "of the items shown were clicked before tastes moved"),
        (_share(told["ctr_before"]), f"then, in {before:,} lists by the bundle from before"),
        (_share(told["ctr_after"]), f"in {after:,} lists by what was fine-tuned"),
        (
            f"{told['promoted']} and {told['refused']}",
            "fine-tuned bundles promoted and refused by the gate",
        ),
        (f"{told['sessions']:,}", "closed sessions"),
        (f"{told['join_ratio']:.4f}", f"of {told['exposures']:,} lists seen found their feedback"),
        (f"{told['feedback_final']:,}", "final feedback records, one an item of a list"),
        (f"{told['seconds']:.0f} s", "from the start of the command"),
    ]


def _share(rate: float | None) -> str:
    return "–" if rate is None else f"{rate:.2%}"
