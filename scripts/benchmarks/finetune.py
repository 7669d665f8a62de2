"""What a fine-tune on a new week costs and is worth, beside a full retrain and no update at all.

    weeks 1 to n-2 ── fit ─────────── the bundle that serves ─┐
    week n-1 ──────── fine-tune it ── finetuned ──────────────┼─ lists for week n
    weeks 1 to n-1 ── fit anew ────── retrained ──────────────┘

Seconds run from sessions in memory to a bundle on disk that was loaded as serving loads it. The
data is Diginetica where it is there (see `DIGINETICA`), else simulated.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial, reduce
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import click
import numpy as np
import pyarrow.parquet as pq
import torch
from traffic import ROOT, machine, say

from models.bundle import Bundle
from models.comparison import paired_gain
from models.datasets import encoded
from models.evaluation import answered, sampled_targets
from models.finetuning import FinetuneSettings, finetune
from models.fitting import FitSettings, Fitted, Slices, fit
from models.loading import load_bundle
from models.metrics import hit_rate, ranks_from_lists, reciprocal_rank
from models.publishing import finished, publish
from models.recommender import Settings
from models.replay import read_buffer, refreshed, write_buffer
from models.sessions import EventTable, ItemFacts, SessionLog, sessions_from
from models.warm_start import read_parent
from udfs.events import TYPE_CODES

DIGINETICA = ROOT.parent / "shared" / "data" / "diginetica_17weeks.parquet"
_WEEKS = 17
_WEEK_MS = 7 * 86_400_000
_START_MS = 2_400 * _WEEK_MS
_VALID_SHARE = 0.1  # of the fits and of the new week alike
_FIT = FitSettings()
T = TypeVar("T")


@click.command()
@click.option("--events", default=1_000_000, show_default=True, help="events, at most")
@click.option("--runs", default=3, show_default=True, help="fine-tunes; the median counts")
@click.option("--replay", "size", default=30_000, show_default=True, help="sessions to replay from")
@click.option("--predictions", default=20_000, show_default=True, help="in the following week")
@click.option("--threads", default=os.cpu_count(), show_default=True, help="of torch")
@click.option("--synthetic", is_flag=True, help="simulate, even where Diginetica is there")
def finetune_week(
    events: int, runs: int, size: int, predictions: int, threads: int, synthetic: bool
) -> None:
    """Seconds and metrics of a fine-tune, beside a full retrain and no update."""
    torch.set_num_threads(threads)
    simulated = synthetic or not DIGINETICA.exists()
    weeks = by_week(drifting_sessions(events) if simulated else diginetica_sessions(events))
    *_, new, following = weeks
    until, history = joined(weeks[:-1]), joined(weeks[:-2])
    say(f"{sum(len(week.items) for week in weeks)} events in {len(weeks)} weeks")
    with tempfile.TemporaryDirectory(prefix="streamrec-bench-") as name:
        folder = Path(name)
        timed("fit of the serving bundle", lambda: fit_to(folder / "serving", history))
        replay, buffer_s = timed("replay buffer", lambda: buffer_of(folder, history, size))
        paths = [folder / f"tuned-{run}" for run in range(runs)]
        tuned = [timed("fine-tune", partial(finetune_to, p, folder, new, replay)) for p in paths]
        _, retrain_s = timed("full retrain", lambda: fit_to(folder / "retrained", until))
        targets = sampled_targets(following, predictions, seed=0)
        ranks = {
            name: ranks_of(load_bundle(folder / path), following, targets)
            for name, path in (
                ("finetune", "tuned-0"),
                ("retrain", "retrained"),
                ("no_update", "serving"),
            )
        }
    finetune_s = statistics.median(seconds for _, seconds in tuned)
    session = np.searchsorted(following.offsets, targets, side="right") - 1
    click.echo(
        json.dumps(
            {
                "finetune_s": round(finetune_s, 1),
                "retrain_s": round(retrain_s, 1),
                "ratio_s": round(finetune_s / retrain_s, 3),
                **{f"hr20_{name}": round(hit_rate(found), 4) for name, found in ranks.items()},
                **{
                    f"mrr20_{name}": round(reciprocal_rank(found), 4)
                    for name, found in ranks.items()
                },
                **{
                    f"mrr20_gain_on_{other}": gain(ranks["finetune"], ranks[other], session)
                    for other in ("retrain", "no_update")
                },
                "finetune_runs_s": [round(seconds, 1) for _, seconds in tuned],
                "buffer_s": round(buffer_s, 1),
                "data": "simulated" if simulated else "diginetica",
                "events": {"history": len(history.items), "new": len(new.items)},
                "predictions": len(targets),
                "threads": threads,
                "machine": machine(),
            }
        )
    )


def timed(what: str, work: Callable[[], T]) -> tuple[T, float]:
    """What the work gives and the seconds it takes."""
    say(f"{what} …")
    started = time.perf_counter()
    result = work()
    seconds = time.perf_counter() - started
    say(f"{what}: {seconds:.1f} s")
    return result, seconds


def fit_to(path: Path, log: SessionLog) -> None:
    """Fit a bundle on all sessions of a log, as `train` does, and write it."""
    slices = slices_of(log)
    write(path, *fit(slices, _FIT, Steps()), slices, {"fit": _FIT.model_dump(mode="json")})


def finetune_to(path: Path, folder: Path, new: SessionLog, replay: SessionLog) -> None:
    """Fine-tune the serving bundle on the sessions of a week and write the candidate."""
    parent, settings, slices = read_parent(folder / "serving"), FinetuneSettings(), slices_of(new)
    told = {
        "fit": parent.fit.model_dump(mode="json"),
        "finetune": settings.model_dump(mode="json"),
    }
    write(path, *finetune(parent, slices, replay, settings, Steps()), slices, told, replay)


def write(
    path: Path,
    fitted: Fitted,
    bundle: Bundle,
    slices: Slices,
    settings: dict[str, Any],
    replay: SessionLog | None = None,
) -> None:
    measured = {"metrics": {}, "test_prefixes": 0}
    files, manifest = finished(path.name, fitted, bundle, slices, measured, settings, replay)
    publish(path, files, manifest, replace=False)


def slices_of(log: SessionLog) -> Slices:
    """The newest sessions for validation, none for testing: that is the following week."""
    cut = len(log) - int(len(log) * _VALID_SHARE)
    return Slices(log.part(0, cut), log.part(cut, len(log)), log.part(len(log), len(log)))


def buffer_of(folder: Path, history: SessionLog, size: int) -> SessionLog:
    """A replay buffer of the history, through its file."""
    write_buffer(folder / "replay.parquet", refreshed(None, history, size))
    found = read_buffer(folder / "replay.parquet")
    assert found is not None
    return found


def ranks_of(bundle: Bundle, log: SessionLog, targets: np.ndarray) -> np.ndarray:
    """Ranks of the next items in the lists of a bundle, seen items included: int64 [N]."""
    chunks = answered(bundle, log, targets, Settings(exclude_seen=False), Steps())
    ranks = [
        ranks_from_lists([a.item_ids for a in lists], [a.scores for a in lists], wanted)
        for wanted, lists in chunks
    ]
    return np.concatenate(ranks)


def gain(own: np.ndarray, other: np.ndarray, session: np.ndarray) -> list[float]:
    """Mean gain in MRR@20 and its lower bound with 95 % confidence."""
    return [round(value, 4) for value in paired_gain(own, other, session)]


class Steps:
    """Tells every stage that is done, on stderr."""

    def __init__(self) -> None:
        self._started = time.perf_counter()

    def __call__(self, what: str, done: int, total: int) -> None:
        if done == total:
            say(f"  {time.perf_counter() - self._started:6.1f} s  {what}")


def by_week(log: SessionLog) -> list[SessionLog]:
    """The sessions that end in each week, without weeks that have none."""
    week = (log.ends - _START_MS) // _WEEK_MS
    cuts = np.searchsorted(week, np.arange(week.max() + 2)).tolist()
    return [log.part(a, b) for a, b in pairwise(cuts) if a < b]


def joined(weeks: list[SessionLog]) -> SessionLog:
    return reduce(SessionLog.joined, weeks)


def diginetica_sessions(events: int) -> SessionLog:
    """Sessions of Diginetica, drawn if there are more events than wanted.

    The file tells only the week of a row and their order: rows are spread evenly over their week.
    """
    table = pq.read_table(DIGINETICA)
    week = table["period"].to_numpy().astype(np.int64)
    session = table["session_id"].to_numpy().astype(np.int64)
    first = np.searchsorted(week, np.arange(week.max() + 2))
    within = (np.arange(len(week)) - first[week]) / np.diff(first)[week]
    item, ids = encoded(table["item_id"])
    if len(week) > events:
        some = np.random.default_rng(0).random(session.max() + 1) < events / len(week)
        kept = some[session]
        week, session, within, item = week[kept], session[kept], within[kept], item[kept]
    times = _START_MS + week * _WEEK_MS + (within * _WEEK_MS).astype(np.int64)
    return views(session, item, times, ids)


def drifting_sessions(events: int) -> SessionLog:
    """Sessions of a Markov chain over as many items and sessions as Diginetica has, in proportion.

    Items live in clusters of 40 and are popular by a power law; a tenth of the clusters change
    what follows what every week, and a third of the items appear only in the course of time.
    """
    rng = np.random.default_rng(0)
    size = max(events // 23 // 40, 3) * 40
    count = events // 5
    length = 2 + rng.geometric(1 / 3.0, count) - 1
    session = np.repeat(np.arange(count), length)
    week = np.sort(rng.integers(0, _WEEKS, count))
    born = np.where(rng.random(size) < 1 / 3, rng.integers(0, _WEEKS, size), 0)
    born[::40] = 0  # every cluster has an item from the start
    weight = rng.permutation(1 / (1 + np.arange(size)) ** 0.8)
    stride = 1 + np.cumsum(rng.random((_WEEKS, size // 40)) < 0.1, axis=0)  # of each cluster
    place = np.concatenate([[0], np.cumsum(length)])[:-1]
    item = np.empty(len(session), np.int64)
    for now in range(_WEEKS):
        chance = weight * (born <= now)
        own = np.flatnonzero(week == now)
        current = rng.choice(size, len(own), p=chance / chance.sum())
        for step in range(int(length[own].max())):
            going = step < length[own]
            item[place[own[going]] + step] = current[going]
            cluster, inner = current // 40, current % 40
            follow = cluster * 40 + (inner + stride[now, cluster]) % 40
            near = cluster * 40 + rng.integers(0, 40, len(own))
            current = np.where(rng.random(len(own)) < 0.6, follow, near)
            current = np.where(born[current] <= now, current, near - near % 40)
    start = week * _WEEK_MS + rng.integers(0, _WEEK_MS - 3_600_000, count)
    times = _START_MS + start[session] + (np.arange(len(session)) - place[session]) * 30_000
    return views(session, item, times, [f"item-{number}" for number in range(size)])


def views(session: np.ndarray, item: np.ndarray, times: np.ndarray, ids: list[str]) -> SessionLog:
    """Sessions of views of items without titles and prices."""
    nothing: list[str | None] = [None] * len(ids)
    types = np.full(len(item), TYPE_CODES["view_item"], np.int8)
    prices = np.full(len(item), np.nan)
    facts = ItemFacts(ids, nothing, nothing)
    table = EventTable(session, item.astype(np.int32), types, times, prices, session, facts)
    return sessions_from(table, gap_ms=0)
