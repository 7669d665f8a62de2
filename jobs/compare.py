"""Replays one history with two bundles or two settings, and reports which is better for whom.

           ┌─ replay with A ─ lists ─┐
history ───┤                         ├─ paired by event ─ HTML, JSON
           └─ replay with B ─ lists ─┘
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from jobs.replay import (
    ReplayError,
    check,
    history,
    interruptible,
    replay,
    spooled,
    told,
)
from jobs.replay.output import judging, side_name, titles
from jobs.replay.settings import ReplaySettings
from jobs.report import require_matplotlib, verdict, write_report
from jobs.settings import SettingsError, load
from models.bundle_files import MANIFEST
from models.list_files import SUFFIXES, read_lists
from models.past_events import events_of
from models.report_facts import Facts, facts
from operators.environment import ROOT
from operators.staging import brokers


@click.command(help="\b\n" + __doc__)
@click.argument("a")
@click.argument("b")
@click.option("--config", type=click.Path(path_type=Path), metavar="FILE", help="YAML settings")
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="a setting of replay, for both; may be repeated",
)
@click.option(
    "--report",
    default="compare.html",
    show_default=True,
    metavar="FILE",
    help="the HTML page",
)
@click.option("--repeats", is_flag=True, help="count items that were in the session already")
def compare(
    a: str, b: str, config: Path | None, overrides: tuple[str, ...], report: str, repeats: bool
) -> None:
    """A and B: a bundle's folder, a settings file of replay, or the output of one.

    Whatever they are, `source` says which history was, or is to be, replayed.
    """
    console = Console(stderr=True)
    interruptible()
    try:
        with told("compare"):
            require_matplotlib()
            sides = named(a, b, config, overrides)
            common = one_history(sides, config, overrides)
            found = compared(sides, common, repeats)
            bundles = [side for side in sides.values() if not isinstance(side, str)] or [common]
            write_report(report, found, titles(*bundles))
            tell(found, report, console)
    except SettingsError as error:
        raise click.ClickException(str(error)) from None


def named(
    a: str, b: str, config: Path | None, overrides: Sequence[str]
) -> dict[str, ReplaySettings | str]:
    """What is compared, by name: settings of a replay that is to be run, or a file of lists."""
    found = [_side(each, config, overrides) for each in (a, b)]
    names = [name for name, _ in found]
    if names[0] == names[1]:
        names = [f"A: {names[0]}", f"B: {names[1]}"]
    return dict(zip(names, (side for _, side in found), strict=True))


def _side(
    given: str, config: Path | None, overrides: Sequence[str]
) -> tuple[str, ReplaySettings | str]:
    if given.endswith(SUFFIXES):
        return Path(given).stem, given
    if given.endswith((".yaml", ".yml")):
        return Path(given).stem, load(ReplaySettings, "replay", Path(given), overrides)
    if not (ROOT / given / MANIFEST).is_file():
        raise ReplayError(
            "expected a bundle's folder, a settings file (.yaml) or the output of a replay "
            f"({', '.join(SUFFIXES)}); got {given}"
        )
    settings = load(ReplaySettings, "replay", config, overrides)
    chosen = settings.model_copy(update={"bundle": given, "registry": ""})
    return side_name(chosen), chosen


def compared(
    sides: Mapping[str, ReplaySettings | str], common: ReplaySettings, repeats: bool
) -> Facts:
    """Replay what is not replayed yet, and hold both against what users did next."""
    records = history(common)
    with ExitStack() as stack:
        to_run = [side for side in sides.values() if not isinstance(side, str)]
        for settings in to_run:
            check(settings)
        kafka = stack.enter_context(brokers(common)) if to_run else common
        lists: dict[str, Iterable[Any]] = {}
        for name, side in sides.items():
            if isinstance(side, str):
                lists[name] = read_lists(side)
            else:
                spool = stack.enter_context(spooled())
                into_spool = side.model_copy(update={"output": "lists.jsonl"})
                replay(into_spool, kafka, records, spool)
                lists[name] = spool.messages()
        sizes = [side.list_size for side in to_run] or [common.list_size]
        rule = judging(common, repeats, max(sizes))
        return facts(lists, [*events_of(records)], rule)


def one_history(
    sides: Mapping[str, ReplaySettings | str], config: Path | None, overrides: Sequence[str]
) -> ReplaySettings:
    """Settings that say which history it is; raises ReplayError if the sides do not agree."""
    found = [side for side in sides.values() if not isinstance(side, str)]
    first = found[0] if found else load(ReplaySettings, "replay", config, overrides)
    for name in ("source", "since", "until", "session_gap_s"):
        values = {str(getattr(settings, name)) for settings in found}
        if len(values) > 1:
            raise ReplayError(f"expected one history; `{name}` differs: {' and '.join(values)}")
    return first


def tell(found: Facts, report: str, console: Console) -> None:
    """Print the verdict and the figures; the last line on stdout is a JSON summary."""
    said = verdict(found)
    first, second = (side.name for side in found.sides)
    table = Table("", first, second, "difference", "95 %", title=said.headline)
    for name, row in found.metrics.items():
        assert row.difference is not None
        means = (f"{each.mean:.4f}" for each in row.sides)
        bounds = f"{row.difference.low:+.4f} to {row.difference.high:+.4f}"
        table.add_row(name, *means, f"{row.difference.mean:+.4f}", bounds)
    console.print(table)
    console.print(f"compare: the report is in {report}", markup=False, highlight=False)
    metrics = {
        name: {"sides": row.sides, "difference": row.difference}
        for name, row in found.metrics.items()
    }
    names = [side.name for side in found.sides]
    summary = {"outcome": said.outcome, "sides": names, "judged": found.judged}
    print(json.dumps({**summary, "metrics": metrics, "report": report}), flush=True)
