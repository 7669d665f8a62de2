"""The bundles of a registry, and which acts from when: publish, promote, roll back, prune."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import click
import msgspec
from pydantic import Field
from rich.console import Console, Group, RenderableType
from rich.table import Table

from jobs.settings import Settings, SettingsError, load
from models.bundle import BundleError
from models.bundle_store import Published
from models.history import Decision, RegistryError
from models.registry import Registry

_AHEAD_MS = 31 * 86_400_000  # decisions never go back in time: a slip would be there for years


class BundlesSettings(Settings):
    """Settings of the bundles tool."""

    registry: str = Field("registry", description="folder or URI (s3://, gs://, hdfs://)")
    lead_s: float = Field(
        5,
        ge=0,
        le=86_400,
        description="seconds until a decision acts: the workers' `poll_s`, and the time to load",
    )


class EventTime(click.ParamType):
    """Epoch milliseconds, or `now` by the clock of this machine."""

    name = "MS|now"

    def convert(self, value: Any, param: click.Parameter | None, context: Any) -> int:
        if isinstance(value, int):
            return value
        if value == "now":
            return now_ms()
        if not value.isdecimal() or int(value) > now_ms() + _AHEAD_MS:
            self.fail(f"expected now, or epoch milliseconds at most 31 days ahead; got {value}")
        return int(value)


as_json = click.option("--json", "as_json", is_flag=True, help="print JSON")
active_from_option = click.option(
    "--active-from",
    type=EventTime(),
    help="time of the first event it acts on  [default: lead_s from now]",
)
why_option = click.option("--why", default="", metavar="TEXT", help="kept in the history")


@click.group(help=__doc__)
@click.option("--config", type=click.Path(path_type=Path), metavar="FILE", help="YAML settings")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="registry, lead_s")
@click.pass_context
def bundles(context: click.Context, config: Path | None, overrides: tuple[str, ...]) -> None:
    with told():
        settings = load(BundlesSettings, "bundles", config, overrides)
        context.obj = Registry(settings.registry)
        context.meta["lead_ms"] = round(settings.lead_s * 1000)


@bundles.command("list")
@as_json
@click.pass_obj
def list_bundles(registry: Registry, as_json: bool) -> None:
    """Show all decisions, oldest first, and the bundles that are not decided about."""
    with told():
        history, published = registry.history(), registry.bundles.all()
    acts = history.at(now_ms())
    table = Table("", "bundle", "decided", "active from", "", "why", title=registry.root.uri)
    for decision in history.decisions:
        there = "" if decision.bundle_version in published else "pruned"
        state = "acts now" if decision is acts else there
        table.add_row(*_row(decision), state, decision.why)
    undecided = [each for version, each in published.items() if history.about(version) is None]
    for each in undecided:
        table.add_row("", each.bundle_version, "not yet", "", "", "")
    told_as = {
        "registry": registry.root.uri,
        "acts_now": acts.bundle_version if acts else None,
        "decisions": history.decisions,
        "published": [_place(registry, each) for each in published.values()],
    }
    answer(told_as, as_json, table)


@bundles.command()
@click.argument("version", required=False)
@as_json
@click.pass_obj
def show(registry: Registry, version: str | None, as_json: bool) -> None:
    """Show what is in a bundle, its metrics, and what was decided; the one that acts now."""
    with told():
        acts = registry.bundle_at(now_ms())
        if version is None and acts is None:
            raise RegistryError("expected a VERSION; no bundle acts now")
        published = registry.bundles.find(version or acts.bundle_version)  # type: ignore[union-attr]
        manifest = registry.bundles.manifest(published)
    decisions = [
        each
        for each in registry.history().decisions
        if each.bundle_version == published.bundle_version
    ]
    place = _place(registry, published)
    answer(
        {**place, "decisions": decisions, "manifest": manifest},
        as_json,
        Group(_facts(place, manifest), _metrics(manifest), _decisions(decisions)),
    )


@bundles.command()
@click.argument("versions", nargs=-1)
@as_json
@click.pass_obj
def verify(registry: Registry, versions: tuple[str, ...], as_json: bool) -> None:
    """Check every hash, load and try out bundles; without VERSIONS all of them."""
    with told():
        found = [{"bundle_version": each} for each in versions or registry.bundles.all()]
    table = Table("bundle", "sound", "why not")
    for each in found:
        each["why"] = _fault(registry, each["bundle_version"])
        table.add_row(each["bundle_version"], "no" if each["why"] else "yes", each["why"])
    answer([{**each, "sound": not each["why"]} for each in found], as_json, table)
    if any(each["why"] for each in found):
        raise SystemExit(1)


@bundles.command()
@click.argument("folder")
@as_json
@click.pass_obj
def publish(registry: Registry, folder: str, as_json: bool) -> None:
    """Copy the bundle in FOLDER (or at a URI) into the registry; it does not act yet."""
    with told():
        published = registry.publish(folder)
    place = _place(registry, published)
    answer(place, as_json, f"published {published.bundle_version} at {place['uri']}")


@bundles.command()
@click.argument("version")
@active_from_option
@why_option
@as_json
@click.pass_context
def promote(
    context: click.Context, version: str, active_from: int | None, why: str, as_json: bool
) -> None:
    """Let a published bundle act, after it was verified and tried out."""
    with told():
        decision = context.obj.promote(version, _soon(context, active_from), why)
    answer(decision, as_json, _said(decision))


@bundles.command()
@click.option("--to", metavar="VERSION", help="any that acted; else the one that acted before")
@active_from_option
@why_option
@as_json
@click.pass_context
def rollback(
    context: click.Context, to: str | None, active_from: int | None, why: str, as_json: bool
) -> None:
    """Let an older bundle act again, after it was verified and tried out."""
    with told():
        decision = context.obj.rollback(_soon(context, active_from), to, why)
    answer(decision, as_json, _said(decision))


@bundles.command()
@click.option("--keep", type=click.IntRange(min=1), required=True, help="newest decisions to keep")
@as_json
@click.pass_obj
def prune(registry: Registry, keep: int, as_json: bool) -> None:
    """Delete bundles that neither act, nor acted in the last KEEP decisions, nor may come back.

    The history stays.
    """
    with told():
        removed = registry.prune(keep, now_ms())
    lines = "".join(f"\n  {version}" for version in removed)
    answer(removed, as_json, f"deleted {len(removed)} bundles{lines}")


def _soon(context: click.Context, active_from: int | None) -> int:
    """When a decision acts: as asked for, else when all workers can have its bundle ready.

    Where that is before the newest decision acts, it is when that one would.
    """
    if active_from is not None:
        return active_from
    newest = context.obj.history().newest
    return max(now_ms() + context.meta["lead_ms"], newest.active_from if newest else 0)


def now_ms() -> int:
    """Epoch milliseconds by the clock of this machine."""
    return time.time_ns() // 1_000_000


@contextmanager
def told() -> Iterator[None]:
    """What goes wrong is said in a sentence, without a traceback."""
    try:
        yield
    except (RegistryError, BundleError, SettingsError, OSError) as error:
        raise click.ClickException(str(error)) from None


def answer(value: Any, as_json: bool, shown: RenderableType) -> None:
    """Print an answer to a program, or to people."""
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(value), indent=1))
    else:
        Console().print(shown, soft_wrap=isinstance(shown, str), markup=False, highlight=False)


def _place(registry: Registry, published: Published) -> dict[str, Any]:
    return {
        "bundle_version": published.bundle_version,
        "uri": registry.bundles.place(published).uri,
        "sha256": published.sha256,
    }


def _fault(registry: Registry, version: str) -> str:
    """Why a bundle cannot be used, or nothing."""
    try:
        registry.bundles.load(registry.bundles.find(version))
    except (RegistryError, BundleError, OSError) as error:
        return str(error)
    return ""


def _row(decision: Decision) -> tuple[str, ...]:
    active_from = time_text(decision.active_from)
    return str(decision.sequence), decision.bundle_version, decision.decided, active_from


def _said(decision: Decision) -> str:
    instead = f" instead of {decision.parent}" if decision.parent else ""
    when = time_text(decision.active_from)
    return f"{decision.sequence}: {decision.bundle_version} acts on events from {when} on{instead}"


def time_text(event_time_ms: int) -> str:
    """A time as people read it, in UTC."""
    return datetime.fromtimestamp(event_time_ms / 1000, timezone.utc).isoformat(" ", "seconds")


def _facts(place: dict[str, Any], manifest: dict[str, Any]) -> Table:
    table = Table(show_header=False)
    window = manifest.get("data_window", {})
    shown = {
        **place,
        "trained on": " to ".join(time_text(each) for each in window.values()),
        **{f"{name}": f"{count:,}" for name, count in manifest.get("counts", {}).items()},
        "index": manifest.get("index", ""),
        "bytes": f"{sum(each['bytes'] for each in manifest['files'].values()):,}",
    }
    for name, value in shown.items():
        table.add_row(name, str(value))
    return table


def _metrics(manifest: dict[str, Any]) -> Table:
    metrics = manifest.get("metrics", {})
    names = list(dict.fromkeys(name for values in metrics.values() for name in values))
    table = Table("metrics of", *names)
    for model, values in metrics.items():
        table.add_row(model, *(f"{values[name]:.4f}" if name in values else "" for name in names))
    return table


def _decisions(decisions: list[Decision]) -> Table:
    table = Table("", "bundle", "decided", "active from", "why")
    for decision in decisions:
        table.add_row(*_row(decision), decision.why)
    return table
