"""The plots of a report as SVG texts, which stand in the page itself."""

from __future__ import annotations

import io
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import numpy as np

from models.bootstrap import Interval
from models.report_facts import Facts

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#8c96a3", "#1f6feb")  # of the first and the second; of one alone, the second
GAIN, LOSS, UNSURE = "#1a7f37", "#cf222e", "#8c96a3"
NAMES = {"hit": "next item\nin the list", "first": "… in first\nplace", "mrr": "MRR"}
NAMES |= {"ndcg": "NDCG", "later": "later items\nin the list"}
_STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 10,
    "svg.fonttype": "none",  # text stays text: small, and in the reader's font
    "svg.hashsalt": "streamrec",  # the same figures give the same bytes
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#8c96a3",
    "axes.titlelocation": "left",
}


_WIDE = "\N{EM SPACE}" * 3  # SVG makes one of several plain spaces


class NoMatplotlibError(ValueError):
    """Plots were asked for where nothing can draw them."""

    def __init__(self) -> None:
        super().__init__(
            "expected matplotlib, which draws the report; install the extra `train`: "
            "./scripts/setup train"
        )


def require_matplotlib() -> None:
    """Raise NoMatplotlibError where it is missing: before anything else is done."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise NoMatplotlibError from None


def plots(facts: Facts) -> dict[str, str]:
    """All plots by name, as SVG elements."""
    import matplotlib

    drawn: dict[str, Any] = {"metrics": _metrics, "by_length": _by_length}
    if len(facts.by_period) > 1:
        drawn["by_period"] = _by_period
    if len(facts.sides) == 2:
        drawn |= {"difference": _difference, "overlap": _overlap}
    drawn["exposure"] = _exposure
    with matplotlib.rc_context(_STYLE):
        return {name: _svg(draw(facts)) for name, draw in drawn.items()}


def _metrics(facts: Facts) -> Figure:
    figure, axes = _figure(7.4, 3.1)
    width = 0.8 / len(facts.sides)
    for number, side in enumerate(facts.sides):
        found = [facts.metrics[name].sides[number] for name in NAMES]
        at = np.arange(len(NAMES)) + (number - (len(facts.sides) - 1) / 2) * width
        axes.bar(at, _means(found), width * 0.92, color=_colour(facts, number), label=side.name)
        axes.errorbar(at, _means(found), _bars(found), fmt="none", ecolor="#24292f", capsize=2)
    axes.set_xticks(range(len(NAMES)), NAMES.values())
    axes.set_ylim(bottom=0)
    _legend(facts, axes)
    return figure


def _difference(facts: Facts) -> Figure:
    figure, axes = _figure(7.4, 2.6)
    for place, name in enumerate(reversed(NAMES)):
        each = facts.metrics[name].difference
        assert each is not None
        colour = UNSURE if not each.is_sure else GAIN if each.mean > 0 else LOSS
        points = [[100 * bar[0]] for bar in _bars([each])]
        axes.errorbar(100 * each.mean, place, xerr=points, fmt="o", color=colour, capsize=3)
    axes.axvline(0, color="#24292f", linewidth=0.8)
    axes.set_yticks(range(len(NAMES)), [n.replace("\n", " ") for n in reversed(NAMES.values())])
    axes.margins(y=0.15)
    first, second = (side.name for side in facts.sides)
    axes.set_xlabel(f"← {first} better {_WIDE} points of 100 {_WIDE} {second} better →")
    return figure


def _by_length(facts: Facts) -> Figure:
    figure, axes = _figure(7.4, 2.8)
    labels = [f"{name}\n({count:,} lists)" for name, count, _ in facts.by_length]
    _lines(facts, axes, range(len(labels)), [found for *_, found in facts.by_length])
    axes.set_xticks(range(len(labels)), labels)
    axes.set_xlabel("items in the session so far")
    axes.set_ylabel("next item in the list")
    return figure


def _by_period(facts: Facts) -> Figure:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    figure, axes = _figure(7.4, 2.8)
    days = [datetime.fromtimestamp(at / 1000, timezone.utc) for at, *_ in facts.by_period]
    _lines(facts, axes, days, [found for *_, found in facts.by_period])
    axes.set_ylabel("next item in the list")
    locator = AutoDateLocator(maxticks=8)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    return figure


def _overlap(facts: Facts) -> Figure:
    figure, axes = _figure(7.4, 2.4)
    size = facts.judging.size
    counts = np.bincount(facts.common, minlength=size + 1)
    axes.bar(range(size + 1), 100 * counts / counts.sum(), color=COLOURS[1])
    axes.set_xlabel(f"items in both lists, of {size}")
    axes.set_ylabel("% of the events")
    axes.xaxis.get_major_locator().set_params(integer=True)
    return figure


def _exposure(facts: Facts) -> Figure:
    figure, axes = _figure(7.4, 2.8)
    for number, side in enumerate(facts.sides):
        counts = np.sort(np.append(side.shown, np.zeros(facts.items - len(side.shown))))[::-1]
        share = np.append(0, 100 * counts.cumsum() / max(counts.sum(), 1))
        items = 100 * np.arange(len(share)) / (len(share) - 1)
        step = max(len(share) // 400, 1)
        axes.plot(items[::step], share[::step], color=_colour(facts, number), label=side.name)
    axes.plot([0, 100], [0, 100], color=UNSURE, linewidth=0.8, linestyle=":")
    axes.set_xlabel("% of all items, the most shown first")
    axes.set_ylabel("% of the places\nin lists")
    axes.set_ylim(0, 101)
    _legend(facts, axes)
    return figure


def _lines(facts: Facts, axes: Any, at: Sequence[Any], found: list[list[Interval]]) -> None:
    for number, side in enumerate(facts.sides):
        own = [each[number] for each in found]
        colour = _colour(facts, number)
        axes.errorbar(
            at, _means(own), _bars(own), marker="o", color=colour, capsize=2, label=side.name
        )
    axes.set_ylim(bottom=0)
    _legend(facts, axes)


def _figure(width: float, height: float) -> tuple[Figure, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _colour(facts: Facts, number: int) -> str:
    return COLOURS[number if len(facts.sides) == 2 else 1]


def _legend(facts: Facts, axes: Any) -> None:
    if len(facts.sides) == 2:
        axes.legend(frameon=False)


def _means(found: Sequence[Interval]) -> list[float]:
    return [each.mean for each in found]


def _bars(found: Sequence[Interval]) -> list[list[float]]:
    """How far the bounds are from the means: below, above."""
    below = [max(each.mean - each.low, 0) for each in found]
    return [below, [max(each.high - each.mean, 0) for each in found]]


def _svg(figure: Figure) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue().partition("<svg")[2].join(["<svg", ""])
