"""Models on held-out sessions: next-item quality over the whole catalogue, beside baselines.

sessions ─┬─ train ─ popularity, item-kNN, V-SKNN, encoder, blend (a bundle) ─┐
          └─ test ── every prefix, unseen items left out ──────────────────────┴─ table, JSON
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from jobs.evaluate import data
from jobs.settings import SettingsError, load


@click.command()
@click.argument("dataset", required=False, type=click.Choice(data.SETS))
@click.option(
    "--data",
    "folder",
    type=click.Path(path_type=Path),
    default=data.DATA,
    envvar="SESSION_DATA",
    show_default=True,
    show_envvar=True,
    help="folder of the data sets",
)
@click.option("--train", type=click.Path(path_type=Path), help="file of sessions to learn from")
@click.option("--test", type=click.Path(path_type=Path), help="file of sessions to be judged on")
@click.option("--columns", metavar="NAMES", help="SESSION,ITEM,TIME or name=column pairs")
@click.option("--continual", is_flag=True, help="learn and judge period by period")
@click.option("--period", metavar="COLUMN", help="the column that numbers the periods")
@click.option("--bundle", type=click.Path(path_type=Path), help="write the blend as a bundle here")
@click.option("--valid", default=0.2, show_default=True, help="share of train to choose by")
@click.option("--threads", default=1, show_default=True, help="of torch")
@click.option("--config", type=click.Path(path_type=Path), help="YAML of the fit's settings")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="of the fit")
def evaluate(
    dataset: str | None,
    folder: Path,
    train: Path | None,
    test: Path | None,
    columns: str | None,
    continual: bool,
    period: str | None,
    bundle: Path | None,
    valid: float,
    threads: int,
    config: Path | None,
    overrides: tuple[str, ...],
) -> None:
    """Judge models on a DATASET, or on the sessions of your own files.

    A file is Parquet, CSV or JSONL with a session, an item and a time in each row. Without --test
    the newest sessions of --train are judged on. The last line on stdout is one JSON object.
    """
    from models.fitting import FitSettings

    console = Console(stderr=True)
    try:
        source = _source(dataset, folder, train, test, columns, continual, period)
        settings: Any = load(FitSettings, "evaluate", config, overrides)
        told = _judged(source, settings, valid, threads, bundle, console)
    except (SettingsError, ValueError, OSError) as error:
        raise click.ClickException(str(error)) from None
    click.echo(json.dumps({"dataset": dataset or str(train), **told}))


def _source(
    dataset: str | None,
    folder: Path,
    train: Path | None,
    test: Path | None,
    columns: str | None,
    continual: bool,
    period: str | None,
) -> data.Source:
    if (dataset is None) == (train is None):
        raise click.UsageError(f"give one of {', '.join(data.SETS)}, or --train FILE")
    if dataset is not None:
        if test or columns:
            raise click.UsageError("--test and --columns belong to --train FILE")
        source = data.known(dataset, folder)
        if continual and not (period or source.period):
            raise click.UsageError(f"{dataset} has no periods: leave --continual out")
        return replace(source, period=period or source.period)
    assert train is not None
    if continual != (period is not None):
        raise click.UsageError("--continual and --period COLUMN belong together")
    if period and test:
        raise click.UsageError("--continual judges on the periods of --train; leave --test out")
    named = data.columns_of(columns) if columns else None
    return data.Source(train, test, named, period)


def _judged(
    source: data.Source,
    settings: Any,
    valid: float,
    threads: int,
    bundle: Path | None,
    console: Console,
) -> dict[str, Any]:
    import torch

    from jobs.evaluate import report
    from jobs.evaluate.continual import judge_weeks
    from jobs.evaluate.run import judge, slices_of, written
    from jobs.train import progress_bar
    from models.protocol import averaged

    torch.set_num_threads(threads)
    if source.period is None:
        train, test = data.split(source)
        with progress_bar(console) as progress:
            slices = slices_of(train, test, valid)
            done = judge(slices, settings, progress)
            if bundle is not None:
                written(bundle, done, slices, settings, progress)
        figures, told = done.figures(), counts(done)
    else:
        weeks, told = [], {"predictions": 0, "left_out": 0, "alone": 0}
        with progress_bar(console) as progress:
            for done in judge_weeks(data.periods(source), settings, valid, progress):
                weeks.append(done.figures())
                console.print(report.of_period(len(weeks), weeks[-1]), highlight=False)
                told = {key: told[key] + value for key, value in counts(done).items()}
        figures = {model: averaged([week[model] for week in weeks]) for model in weeks[0]}
        told["periods"] = len(weeks)
    title = (
        f"{told['predictions']:,} predictions; left out: {told['left_out']:,} events of items that "
        f"training never saw, {told['alone']:,} that were then alone"
    )
    Console(stderr=True, width=max(console.width, report.WIDTH)).print(report.table(title, figures))
    return report.as_json(figures, **told)


def counts(done: Any) -> dict[str, int]:
    """How many predictions there were, and what was left out."""
    held = done.held
    return {"predictions": len(held.targets), "left_out": held.left_out, "alone": held.alone}
