"""One split, every model: fitted on the training sessions, judged on the held-out ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

import numpy as np

from models.baselines import item_knn, popularity, session_knn
from models.bundle import Bundle
from models.comparison import list_times
from models.covisits import NeighbourSettings
from models.evaluation import encoder_scores
from models.fitting import FitSettings, Fitted, Slices, fit, neighbours_of
from models.metrics import ranks_from_lists
from models.past_sessions import KnnSettings, past_sessions
from models.protocol import (
    LIST,
    HeldOut,
    Progress,
    Scorer,
    Standing,
    chunks,
    held_out,
    of_scores,
)
from models.publishing import finished, publish
from models.recommender import Recommender, Settings
from models.sessions import SessionLog
from udfs.session_features import session_features

_MB = 1e6
_ITEM_KNN = NeighbourSettings(together=100, next=1, similar=0, half_life_days=36_500)


@dataclass(frozen=True)
class Judged:
    """The standing of every model on the same held-out sessions."""

    standings: dict[str, Standing]
    popularity: np.ndarray  # float32 [V], events of each item in training
    held: HeldOut
    fitted: Fitted
    bundle: Bundle

    def figures(self) -> dict[str, dict[str, float]]:
        """What the table shows of each model."""
        return {name: each.figures(self.popularity) for name, each in self.standings.items()}


def slices_of(train: SessionLog, test: SessionLog, valid_share: float) -> Slices:
    """Validation sessions are the newest of the training sessions; the test is given."""
    if len(train) < 2:
        raise ValueError(f"expected at least 2 sessions to learn from; got {len(train)}")
    valid = len(train) - max(int(len(train) * valid_share), 1)
    return Slices(train.part(0, valid), train.part(valid, len(train)), test)


def judge(slices: Slices, settings: FitSettings, progress: Progress) -> Judged:
    """Fit every model on train and valid and judge it on what of the test can be predicted."""
    train = slices.train.joined(slices.valid)
    held = held_out(train, slices.test)
    watch = Stopwatch(progress)
    fitted, bundle = fit(slices, settings, watch)
    return judged(bundle, fitted, train, held, watch, progress)


@dataclass
class Stopwatch:
    """Notes how long was worked on what, by what is said of the progress."""

    progress: Progress
    started: float = field(default_factory=perf_counter)
    seconds: dict[str, float] = field(default_factory=dict)  # first word of what → seconds
    last: float = field(default_factory=perf_counter)

    def __call__(self, what: str, done: int, total: int) -> None:
        now, part = perf_counter(), what.split(",")[0]
        self.seconds[part] = self.seconds.get(part, 0.0) + now - self.last
        self.last = now
        self.progress(what, done, total)

    @property
    def total(self) -> float:
        """Seconds from the first to the last word."""
        return self.last - self.started


def judged(
    bundle: Bundle,
    fitted: Fitted,
    train: SessionLog,
    held: HeldOut,
    watch: Stopwatch,
    progress: Progress,
) -> Judged:
    """The standing of a fitted bundle, of its encoder and of the baselines on the same items."""
    code = bundle.catalogue.places(train.facts.ids)
    standings = dict(_baselines(bundle, train, code, held, progress))
    standings |= _towers(bundle, fitted, code, held, watch, progress)
    standings["blend"] = _blend(bundle, fitted, held, watch.total, progress)
    return Judged(standings, bundle.catalogue.popularity, held, fitted, bundle)


def _towers(
    bundle: Bundle,
    fitted: Fitted,
    code: np.ndarray,
    held: HeldOut,
    watch: Stopwatch,
    progress: Progress,
) -> dict[str, Standing]:
    """Each tower of the encoder, and all of them together where there are several."""
    kinds = fitted.manifest["encoder"].split("+")
    width = bundle.vectors.shape[1] // len(kinds)
    parts = {kind: slice(n * width, (n + 1) * width) for n, kind in enumerate(kinds)}
    if len(kinds) > 1:
        parts["encoders"] = slice(None)

    def scorer(part: slice) -> Scorer:
        return lambda batch: encoder_scores(bundle, batch, part)

    size = (len(fitted.files["encoder.onnx"]) + bundle.vectors.nbytes) / _MB
    return {
        name: of_scores(
            scorer(part),
            held,
            code,
            watch.seconds.get(name, sum(watch.seconds.get(kind, 0.0) for kind in kinds)),
            size if part.start is None else size / len(kinds),
            progress,
            name,
        )
        for name, part in parts.items()
    }


def _baselines(
    bundle: Bundle, train: SessionLog, code: np.ndarray, held: HeldOut, progress: Progress
) -> Iterator[tuple[str, Standing]]:
    counts = bundle.catalogue.popularity
    index = bundle.catalogue.index
    yield (
        "popularity",
        of_scores(popularity(counts), held, code, 0.0, counts.nbytes / _MB, progress, "popularity"),
    )
    started = perf_counter()
    near = neighbours_of(train, bundle.catalogue, code, _ITEM_KNN)
    seconds, size = perf_counter() - started, (near.items.nbytes + near.weights.nbytes / 3) / _MB
    yield (
        "item_knn",
        of_scores(item_knn(near, index), held, code, seconds, size, progress, "item-kNN"),
    )
    started = perf_counter()
    items = code[train.items]
    known = items >= 0
    how = KnnSettings()
    past = past_sessions(
        items[known], train.session_of_row()[known], train.times[known], len(index), how
    )
    seconds = perf_counter() - started
    size = sum(each.nbytes for each in (past.offsets, past.items, past.ends)) / _MB
    yield (
        "vsknn",
        of_scores(session_knn(past, how, index), held, code, seconds, size, progress, "V-SKNN"),
    )


def _blend(
    bundle: Bundle,
    fitted: Fitted,
    held: HeldOut,
    seconds: float,
    progress: Progress,
) -> Standing:
    """The lists as they are served, items of the session among them."""
    recommender = Recommender(bundle, Settings(list_size=LIST, exclude_seen=False))
    index = bundle.catalogue.index
    ids = held.log.facts.ids
    ranks, lists = [], []
    for targets, batch in chunks(held, progress, "the blend"):
        answers = recommender.recommend(batch, session_features(batch))
        wanted = [ids[item] for item in held.log.items[targets].tolist()]
        listed, scores = [a.item_ids for a in answers], [a.scores for a in answers]
        ranks.append(ranks_from_lists(listed, scores, wanted))
        lists.append(
            np.array([[index[i] for i in a] + [-1] * (LIST - len(a)) for a in listed], np.int64)
        )
    _, list_us = list_times(bundle, held.log, held.targets)
    size = sum(map(len, fitted.files.values())) / _MB
    return Standing(np.concatenate(ranks), np.concatenate(lists), seconds, list_us, size)


def written(
    path: Path, done: Judged, slices: Slices, settings: FitSettings, progress: Progress
) -> None:
    """Write the blend as the bundle it is."""
    measured = {
        "metrics": {"blend": done.figures()["blend"]},
        "test_prefixes": len(done.held.targets),
    }
    shown = {"fit": settings.model_dump(mode="json")}
    files, manifest = finished("evaluated", done.fitted, done.bundle, slices, measured, shown)
    publish(path, files, manifest, replace=True)
    progress("writing the bundle", 1, 1)
