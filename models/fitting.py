"""From sessions to a bundle: what is fitted on which slice of time.

train ──────── encoder and neighbours ── candidates for prefixes of valid ── ranker
train + valid ─ encoder and neighbours again, as many epochs as were best ── bundle
test ────────── only measured
"""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from models.batching import ItemRows
from models.bundle import FORMAT, Bundle, assemble, feature_schema
from models.candidates import Blend, known_items, session_context
from models.catalogue import Catalogue, catalogue_of
from models.covisits import Counted, Neighbours, NeighbourSettings, fit_neighbours
from models.encoders import CandidateRanker, SessionEncoder
from models.evaluation import sampled_targets
from models.export import export_encoder, export_ranker
from models.networks import encode, open_network
from models.past_sessions import KnnSettings, PastSessions, past_sessions
from models.ranker_training import RankerSettings, RankingTask, fit_ranker
from models.recommender import Recommender
from models.retrieval import build_index
from models.sessions import SessionLog
from models.training import EncoderSettings, Progress, fit_encoder
from models.tuning import best_half_life
from udfs.session_features import SessionBatch, session_features


class FitSettings(BaseModel):
    """Everything that decides what comes out of a fit besides the data."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    encoder: EncoderSettings = EncoderSettings()
    ranker: RankerSettings = RankerSettings()
    neighbours: NeighbourSettings = NeighbourSettings()
    blend: Blend = Blend()
    min_count: int = Field(default=5, ge=1, description="times an item must occur to be known")
    max_items: int = Field(default=1_000_000, ge=2, description="most popular items that are kept")
    recent_half_life_days: float = Field(
        default=7.0, gt=0, description="age at which an event counts half for what is popular now"
    )
    half_lives_days: tuple[float, ...] = Field(
        default=(2.0, 7.0, 30.0, 365.0),
        description="tried on the validation slice for blend.knn.half_life_days; none: as set",
    )
    bought_together: str = Field(
        default="bought together with", description="wording of the reason, before an item's title"
    )
    seed: int = Field(default=0, ge=0, description="of everything random")


@dataclass(frozen=True, slots=True)
class Slices:
    """Sessions of three consecutive times."""

    train: SessionLog
    valid: SessionLog
    test: SessionLog


@dataclass(frozen=True, slots=True)
class Fitted:
    """A fit's files (all but golden.json), its base manifest and what it found out."""

    files: dict[str, bytes]
    manifest: dict[str, Any]
    epochs: list[int]  # of each tower of the encoder


def fit(slices: Slices, settings: FitSettings, progress: Progress) -> tuple[Fitted, Bundle]:
    """Fit on train and valid; returns the files and the bundle they make up."""
    settings = tuned(slices, settings)
    first, _, epochs = _fit_parts(slices.train, slices.valid, [], settings, progress)
    untrained = export_ranker(blank_ranker(settings))
    base = base_manifest(settings)
    trial = assemble(base, {**first, "ranker.onnx": untrained})
    ranker = fit_ranker(
        ranking_task(trial, slices.valid, settings, progress),
        settings.ranker,
        settings.seed,
        progress,
    )
    everything = slices.train.joined(slices.valid)
    files, index, _ = _fit_parts(everything, None, epochs, settings, progress)
    files["ranker.onnx"] = export_ranker(ranker)
    manifest = {**base, "index": index, "encoder_epochs": epochs}
    return Fitted(files, manifest, epochs), assemble(manifest, files)


def tuned(slices: Slices, settings: FitSettings) -> FitSettings:
    """Settings with what is chosen on the validation slice."""
    catalogue, code = catalogue_of(
        slices.train, settings.min_count, settings.max_items, settings.recent_half_life_days
    )
    targets = slices.valid.target_rows()
    if len(settings.half_lives_days) == 0 or len(targets) == 0 or len(catalogue) == 0:
        return settings
    blend = settings.blend
    past = past_of(slices.train, code, len(catalogue), blend.knn)
    days = best_half_life(past, slices.valid, targets, catalogue, blend, settings.half_lives_days)
    knn = blend.knn.model_copy(update={"half_life_days": days})
    return settings.model_copy(update={"blend": blend.model_copy(update={"knn": knn})})


def past_of(log: SessionLog, code: np.ndarray, size: int, settings: KnnSettings) -> PastSessions:
    """The sessions of a log in a catalogue of `size` items, to which `code` maps its items."""
    items = code[log.items]
    known = items >= 0
    return past_sessions(
        items[known], log.session_of_row()[known], log.times[known], size, settings
    )


def _fit_parts(
    log: SessionLog,
    valid: SessionLog | None,
    epochs: list[int],
    settings: FitSettings,
    progress: Progress,
) -> tuple[dict[str, bytes], str, list[int]]:
    """Files of catalogue, neighbours, encoder and index; why this index; epochs fitted."""
    catalogue, code = catalogue_of(
        log, settings.min_count, settings.max_items, settings.recent_half_life_days
    )
    if len(catalogue) < 2:
        raise ValueError(
            f"expected at least 2 items that occur {settings.min_count} times; "
            f"got {len(catalogue)}; give more data or lower `min_count`"
        )
    progress("neighbours", 0, 1)
    neighbours = neighbours_of(log, catalogue, code, settings.neighbours)
    progress("neighbours", 1, 1)
    rows = known_rows(log, code)
    encoder, epochs = fit_encoder(
        rows,
        None if valid is None else known_rows(valid, code),
        len(catalogue),
        settings.blend.recent,
        settings.encoder,
        settings.seed,
        progress,
        epochs,
    )
    past = past_of(log, code, len(catalogue), settings.blend.knn)
    files, index = part_files(catalogue, neighbours, past, encoder, rows, settings)
    return files, index, epochs


def part_files(
    catalogue: Catalogue,
    neighbours: Neighbours,
    past: PastSessions,
    encoder: SessionEncoder,
    rows: ItemRows,
    settings: FitSettings,
) -> tuple[dict[str, bytes], str]:
    """Files of everything but the ranker, and why this index; it is tried on sessions of `rows`."""
    files = {**catalogue_files(catalogue, neighbours), **past_files(past)}
    vectors = _vectors(encoder)
    files["encoder.onnx"] = export_encoder(encoder, settings.blend.recent)
    files["vectors.npy"] = npy(vectors)
    queries = _queries(files["encoder.onnx"], vectors, rows, settings)
    index, why = build_index(vectors, queries, min(settings.blend.neural, len(vectors)))
    files["index.faiss"] = faiss.serialize_index(index).tobytes()
    return files, why


def neighbours_of(
    log: SessionLog,
    catalogue: Catalogue,
    code: np.ndarray,
    settings: NeighbourSettings,
    before: Counted | None = None,
) -> Neighbours:
    """Neighbours of the catalogue's items; `code` maps the log's items to them."""
    items = code[log.items]
    known = items >= 0
    return fit_neighbours(
        items[known],
        log.session_of_row()[known],
        log.times[known],
        catalogue.titles,
        settings,
        before,
    )


def ranking_task(
    bundle: Bundle, log: SessionLog, settings: FitSettings, progress: Progress
) -> RankingTask:
    """Candidates that retrieval really makes for prefixes of sessions it was not fitted on."""
    recommender = Recommender(bundle)
    code = bundle.catalogue.places(log.facts.ids)
    targets = sampled_targets(log, settings.ranker.samples, settings.seed)
    task = RankingTask([], [], [])
    for at in range(0, len(targets), 512):
        part = targets[at : at + 512]
        batch = log.prefixes(part)
        features = session_features(batch)
        wanted = code[log.items[part]]
        for chunk, found in recommender.candidates(batch, features):
            task.candidates.append(found)
            task.sessions.append(session_context(features[chunk]))
            task.targets.append(_places(found.rows, found.items, wanted[chunk]))
        progress("candidates", min(at + 512, len(targets)), len(targets))
    return task


def golden_batch(bundle: Bundle, log: SessionLog, count: int = 24) -> SessionBatch:
    """Prefixes of sessions of the log and one session that knows nothing, evenly chosen."""
    targets = log.target_rows()
    chosen = targets[np.linspace(0, len(targets) - 1, min(count, len(targets))).astype(int)]
    batch = log.prefixes(chosen)
    if (known_items(batch, bundle.catalogue.index) >= 0).sum() == 0:
        raise ValueError("expected a known item in the newest sessions; found none")
    return replace(batch, offsets=np.append(batch.offsets, batch.offsets[-1]))


def _places(rows: np.ndarray, items: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Where each session's wanted item is among the candidates, -1 if it is not: int64 [B]."""
    places = np.full(len(wanted), -1)
    hits = np.flatnonzero(items == wanted[rows])
    places[rows[hits]] = hits
    return places


def known_rows(log: SessionLog, code: np.ndarray) -> ItemRows:
    """The rows of a log whose items `code` maps to the catalogue."""
    items = code[log.items]
    known = items >= 0
    return ItemRows(items[known].astype(np.int64), log.session_of_row()[known])


def known_times(log: SessionLog, code: np.ndarray) -> np.ndarray:
    """The times of the rows that `known_rows` gives: int64 [N]."""
    return log.times[code[log.items] >= 0]


def _vectors(encoder: SessionEncoder) -> np.ndarray:
    weight = encoder.vectors.weight.detach().cpu().numpy()
    return np.ascontiguousarray(weight, np.float32)


def _queries(
    encoder: bytes, vectors: np.ndarray, rows: ItemRows, settings: FitSettings
) -> np.ndarray:
    """Session vectors of up to 500 places of real sessions, for measuring an index: [Q, D]."""
    length = settings.blend.recent
    if len(rows.items) < length:
        return np.empty((0, vectors.shape[1]), np.float32)
    ends = np.linspace(length, len(rows.items), 500).astype(int)
    windows = rows.items[ends[:, None] - length + np.arange(length)]
    return encode(open_network(encoder), vectors[windows], np.full(len(ends), length))


def blank_ranker(settings: FitSettings) -> CandidateRanker:
    """An untrained ranker: what a trial bundle needs to retrieve candidates."""
    schema = feature_schema()
    return CandidateRanker(len(schema["candidate"]), len(schema["session"]), settings.ranker.hidden)


def base_manifest(settings: FitSettings) -> dict[str, Any]:
    """What the manifest of every fit with these settings says."""
    return {
        "format": FORMAT,
        "features": feature_schema(),
        "blend": settings.blend.model_dump(),
        "encoder": settings.encoder.kind,
        "texts": {"together": settings.bought_together},
    }


def catalogue_files(catalogue: Catalogue, neighbours: Neighbours) -> dict[str, bytes]:
    """Files of the items and their neighbours; with `visits`, which a fine-tune counts on from."""
    table = catalogue.to_table()
    if neighbours.visits is not None:
        table = table.append_column("visits", pa.array(neighbours.visits, pa.float32()))
    return {
        "items.arrow": _arrow(table),
        "neighbour_items.npy": npy(neighbours.items),
        "neighbour_weights.npy": npy(neighbours.weights.astype(np.float16)),
    }


def past_files(past: PastSessions) -> dict[str, bytes]:
    """Files of the past sessions; what indexes them is made anew when they are read."""
    return {
        "session_offsets.npy": npy(past.offsets),
        "session_items.npy": npy(past.items),
        "session_ends.npy": npy(past.ends),
    }


def _arrow(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def split_by_time(
    log: SessionLog,
    until_ms: int | None,
    test_from_ms: int | None,
    test_share: float,
    valid_share: float,
) -> Slices:
    """Cut a log at session ends: what ends at `test_from_ms` or later is for testing only.

    Raises ValueError if nothing is left to train or validate on.
    """
    ends = log.ends
    last = len(log) if until_ms is None else int(np.searchsorted(ends, until_ms))
    if test_from_ms is None:
        test = last - int(last * test_share)
    else:
        test = min(int(np.searchsorted(ends, test_from_ms)), last)
    valid = test - max(int(test * valid_share), 1)
    if valid < 1:
        raise ValueError(f"expected at least 2 sessions before the test slice; got {test}")
    return Slices(log.part(0, valid), log.part(valid, test), log.part(test, last))
