"""What a run amounts to: for people, and as one JSON object."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Group, RenderableType
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from jobs.simulate.crowd import Crowd
from jobs.simulate.population import Exposure


def summary(crowd: Crowd) -> dict[str, Any]:
    """The counts of a run: events, lists, clicks and click-through, by bundle and by drift."""
    pairs = sorted(crowd.exposures.items())
    versions = sorted({version for version, _ in crowd.exposures})
    return {
        "seed": crowd.population.seed,
        "run": crowd.run,
        "events": crowd.events.total(),
        "events_by_type": dict(crowd.events.most_common()),
        "visits": crowd.visits,
        "lists_received": crowd.lists_received,
        "lists_missed": crowd.lists_missed,
        **figures(exposure for _, exposure in pairs),
        "before_drift": figures(exposure for (_, late), exposure in pairs if not late),
        "after_drift": figures(exposure for (_, late), exposure in pairs if late),
        "by_bundle_version": {
            name: {
                **figures(exposure for (version, _), exposure in pairs if version == name),
                "before_drift": figures(x for key, x in pairs if key == (name, False)),
                "after_drift": figures(x for key, x in pairs if key == (name, True)),
            }
            for name in versions
        },
    }


def figures(exposures: Iterable[Exposure]) -> dict[str, Any]:
    """Lists seen, impressions, clicks, and click-through as measured and as known beforehand."""
    total = Exposure()
    for exposure in exposures:
        total.add(exposure)
    some = total.impressions > 0
    return {
        "lists_seen": total.lists,
        "impressions": total.impressions,
        "clicks": total.clicks,
        "expected_clicks": round(total.expected_clicks, 3),
        "expected_clicks_sigma": round(total.variance**0.5, 3),
        "ctr": round(total.ctr, 6) if some else None,
        "expected_ctr": round(total.expected_ctr, 6) if some else None,
    }


def line(crowd: Crowd, seconds: float) -> str:
    """How far the run is, as one line."""
    seen = figures(crowd.exposures.values())
    return (
        f"{seconds:5.0f} s: {crowd.events.total():,} events, {seen['lists_seen']:,} lists seen, "
        f"{seen['clicks']:,} clicks"
    )


def shown(result: dict[str, Any]) -> RenderableType:
    """The summary for people, from the same values."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("lists by", "seen", "clicks", "expected", "CTR", "expected CTR"):
        table.add_column(name, justify="left" if name == "lists by" else "right")
    for version, of_version in result["by_bundle_version"].items():
        for when in ("before_drift", "after_drift"):
            if of_version[when]["lists_seen"]:
                table.add_row(*_row(f"{version}, {when.replace('_', ' the ')}", of_version[when]))
    table.add_row(*_row("all", result))
    told = [] if not result["lists_received"] else [table]
    types = ", ".join(f"{count:,} {name}" for name, count in result["events_by_type"].items())
    lines = [f"{result['events']:,} events in {result['visits']:,} visits: {types}"]
    lines.append(
        f"{result['lists_received']:,} lists came, {result['lists_missed']:,} of them for "
        "shoppers who had gone on or for others"
    )
    return Group(Rule("summary", style="dim"), *map(Text, lines), *told)


def _row(name: str, values: dict[str, Any]) -> tuple[str, ...]:
    rates = (values["ctr"], values["expected_ctr"])
    return (
        name,
        f"{values['lists_seen']:,}",
        f"{values['clicks']:,}",
        f"{values['expected_clicks']:,.1f} ± {values['expected_clicks_sigma']:.1f}",
        *("–" if rate is None else f"{rate:.4f}" for rate in rates),
    )
