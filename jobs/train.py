"""Trains encoder and ranker on past events and writes a bundle.

events ─ sessions ─ split by time ─┬─ train, valid ─ fit ─ export ─ index ─ bundle
                                   └─ test ──────── metrics beside the baselines
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import Field
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from jobs.settings import Settings
from jobs.sources import EventColumns, EventSource, epoch_ms
from models.fitting import FitSettings

FORMATS = Literal["parquet", "csv", "jsonl", "messages", "kafka", "online_retail", "otto"]


class ColumnNames(EventColumns):
    """The same, and what the items are."""

    title: str | None = Field(default=None, description="the item's title")
    category: str | None = Field(default=None, description="the item's category")


class Source(EventSource):
    """Where the events to learn from come from."""

    format: FORMATS = Field(
        default="parquet",
        description="parquet, csv, jsonl (by `columns`), messages (a file of user-events), "
        "kafka, or the open data sets online_retail and otto",
    )
    columns: ColumnNames = ColumnNames()


class Split(Settings):
    """Which sessions, by the time they end, are for what; always older before newer."""

    until: datetime | None = Field(
        default=None, description="ISO time; sessions after it are ignored"
    )
    test_from: datetime | None = Field(default=None, description="ISO time; null: by `test_share`")
    test_share: float = Field(default=0.1, ge=0, lt=1, description="newest sessions, only measured")
    valid_share: float = Field(
        default=0.1, gt=0, lt=1, description="newest of the rest: early stopping and the ranker"
    )


class TrainSettings(Settings):
    """Settings of the train job."""

    source: Source = Source()
    session_gap_s: float = Field(
        default=1800.0, gt=0, description="seconds of silence that end a session"
    )
    split: Split = Split()
    fit: FitSettings = FitSettings()
    name: str = Field(
        default="bundle", pattern=r"^[a-z0-9][a-z0-9_.-]*$", description="first part of the version"
    )
    output: str = Field(
        default="bundles/{version}", description="folder of the bundle; {version} is filled in"
    )
    replace: bool = Field(default=False, description="replace another bundle at `output`")
    threads: int = Field(default=1, ge=1, description="of torch; another number, other last bits")
    test_prefixes: int = Field(
        default=20_000, ge=1, description="of the test sessions, drawn if there are more"
    )

    def recipe(self) -> dict[str, Any]:
        """What a bundle tells of how it was made: not of this machine, nor of brokers."""
        return self.model_dump(
            mode="json",
            exclude={"output": True, "replace": True, "threads": True, "source": {"kafka"}},
        )


def main(settings: TrainSettings) -> int:
    """Train, write the bundle, print the metrics and a last line of JSON with path and metrics."""
    from models.bundle_files import BundleError

    console = Console(stderr=True)
    try:
        path, manifest = train(settings, console)
    except (BundleError, ValueError, OSError) as error:
        console.print(f"train: {error}", style="red", markup=False)
        return 1
    console.print(metrics_table(manifest))
    summary = {"path": str(path), "bundle_version": manifest["bundle_version"]}
    print(json.dumps({**summary, "metrics": manifest["metrics"]}), flush=True)
    return 0


def train(settings: TrainSettings, console: Console) -> tuple[Path, dict[str, Any]]:
    """Read, fit, measure and write; returns where the bundle is and its manifest."""
    import torch

    from models.fitting import fit
    from models.publishing import finished, measured, publish

    torch.set_num_threads(settings.threads)
    slices, told = slices_of(settings)
    console.print(f"{settings.source.format}: {told}", markup=False)
    with progress_bar(console) as progress:
        fitted, bundle = fit(slices, settings.fit, progress)
        metrics = measured(bundle, slices, settings.test_prefixes, settings.fit.seed, progress)
    files, manifest = finished(settings.name, fitted, bundle, slices, metrics, settings.recipe())
    path = Path(settings.output.format(version=manifest["bundle_version"]))
    publish(path, files, manifest, settings.replace)
    return path, manifest


def slices_of(settings: TrainSettings) -> tuple[Any, str]:
    """The sessions by time (`Slices`) and a sentence about what was read."""
    from models.fitting import Slices, split_by_time
    from models.sessions import sessions_from

    table, left_out = read(settings.source)
    log = sessions_from(table, int(settings.session_gap_s * 1000))
    split = settings.split
    slices: Slices = split_by_time(
        log,
        epoch_ms(split.until),
        epoch_ms(split.test_from),
        split.test_share,
        split.valid_share,
    )
    parts = f"{len(slices.train)} train, {len(slices.valid)} valid, {len(slices.test)} test"
    return slices, f"{len(table)} events, {left_out} left out; sessions: {parts}"


def read(source: Source) -> tuple[Any, int]:
    """Events of a source (`EventTable`) and how many were left out as invalid."""
    from models import datasets
    from models.event_files import Columns, read_events, read_messages
    from models.event_range import read_range

    if source.format == "kafka":
        return read_range(*source.kafka.range())
    if not source.path:
        raise ValueError(f"expected a file for format {source.format}; set `source.path`")
    if source.format == "online_retail":
        return datasets.online_retail_events(source.path), 0
    if source.format == "otto":
        return datasets.otto_events(source.path), 0
    if source.format == "messages":
        return read_messages(source.path)
    form = "json" if source.format == "jsonl" else source.format
    columns = Columns(**source.columns.model_dump())
    return read_events(source.path, form, columns, source.time_unit, source.event_type)


def metrics_table(manifest: dict[str, Any]) -> Table:
    """The metrics of what is served beside its parts and the baselines."""
    counts = manifest["counts"]
    table = Table(
        title=f"{manifest['bundle_version']}: {counts['test_prefixes']} test prefixes, "
        f"{counts['items']} items"
    )
    names = ("hr20", "mrr20", "ndcg20", "coverage")
    table.add_column("model")
    for name in names:
        table.add_column(name, justify="right")
    for model, metrics in manifest["metrics"].items():
        table.add_row(model, *(f"{metrics[name]:.4f}" for name in names))
    return table


@contextmanager
def progress_bar(console: Console) -> Iterator[Any]:
    """A callback (what, done, of) that draws one bar for each thing that is being done."""
    bars: dict[str, Any] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:

        def show(what: str, done: int, total: int) -> None:
            if what not in bars or progress.tasks[bars[what]].finished:
                bars[what] = progress.add_task(what, total=total)
            progress.update(bars[what], completed=done, total=total)

        yield show


if __name__ == "__main__":
    sys.exit(main(TrainSettings()))
