"""A valid bundle without any training, as large as wished: what benchmarks and tests serve.

Item vectors lie in clusters, as trained ones do; neighbours are mostly of the same cluster.
Needs the training environment, since torch writes the two networks.
"""

from __future__ import annotations

from pathlib import Path

import faiss
import numpy as np

from models.bundle import Bundle, assemble
from models.bundle_files import file_table, manifest_text, write_files
from models.candidates import Blend
from models.catalogue import Catalogue
from models.covisits import Neighbours
from models.golden import golden_answers
from models.past_sessions import KnnSettings, PastSessions, past_sessions
from models.retrieval import FLAT_UP_TO, build_index
from udfs.events import TYPE_CODES
from udfs.session_features import SessionBatch

_START_MS = 1_700_000_000_000


def write_synthetic_bundle(
    path: Path | str,
    items: int = 50_000,
    seed: int = 0,
    dimension: int = 64,
    neighbours: int = 48,
) -> Path:
    """Write a bundle of `items` items with random but sound weights; returns its path."""
    rng = np.random.default_rng(seed)
    cluster = rng.integers(0, max(items // 100, 1), items)
    vectors = _vectors(rng, cluster, dimension)
    catalogue = _catalogue(rng, items, cluster)
    table = _neighbours(rng, cluster, min(neighbours, items))
    manifest, files = _files(catalogue, vectors, table, _past(rng, table, Blend().knn), seed)
    bundle = assemble(manifest, files)
    sessions = synthetic_sessions(bundle, 8, seed)
    files["golden.json"] = golden_answers(bundle, sessions)
    manifest["files"] = file_table(files)
    write_files(Path(path), files, manifest_text(manifest), replace=False)
    return Path(path)


def synthetic_sessions(bundle: Bundle, count: int, seed: int, longest: int = 20) -> SessionBatch:
    """Random sessions of 1 to `longest` known items that wander from neighbour to neighbour."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, longest + 1, count)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    total, size = int(offsets[-1]), len(bundle.catalogue)
    items = rng.integers(0, size, total)
    jump = rng.random(total) < 0.3
    for row in np.setdiff1d(np.arange(1, total), offsets):
        if not jump[row]:
            near = bundle.neighbours.items[items[row - 1]]
            items[row] = near[rng.integers(0, len(near))]
    return SessionBatch(
        offsets,
        [bundle.catalogue.item_ids[item] for item in items.tolist()],
        np.full(total, TYPE_CODES["view_item"], np.int8),
        _START_MS + np.arange(total, dtype=np.int64) * 1000,
        np.where(rng.random(total) < 0.8, rng.lognormal(1.0, 0.8, total).round(2), np.nan),
    )


def _vectors(rng: np.random.Generator, cluster: np.ndarray, dimension: int) -> np.ndarray:
    """Points around the centres of their clusters: float32 [V, D], norms near 1."""
    centres = rng.standard_normal((int(cluster.max()) + 1, dimension))
    points = centres[cluster] + 0.4 * rng.standard_normal((len(cluster), dimension))
    return np.ascontiguousarray(points / np.sqrt(dimension), np.float32)


def _catalogue(rng: np.random.Generator, items: int, cluster: np.ndarray) -> Catalogue:
    popularity = np.sort(rng.zipf(1.3, items).clip(1, 100_000))[::-1].astype(np.float32)
    return Catalogue(
        [f"item-{number:07d}" for number in range(items)],
        [f"ITEM {number} OF KIND {kind}" for number, kind in enumerate(cluster.tolist())],
        (cluster % 500).astype(np.int32),
        rng.lognormal(1.0, 0.8, items).astype(np.float32),
        popularity,
        (popularity * rng.random(items) * 0.1).astype(np.float32),
        (rng.random(items) * 30).astype(np.float32),
    )


def _neighbours(rng: np.random.Generator, cluster: np.ndarray, count: int) -> Neighbours:
    size = len(cluster)
    order = np.argsort(cluster, kind="stable")
    place = np.empty(size, np.int64)
    place[order] = np.arange(size)
    step = np.arange(1, count + 1)
    items = order[(place[:, None] + step) % size].astype(np.int32)  # no item twice
    weights = rng.random((size, count, 3)) * (rng.random((size, count, 3)) < 0.6)
    return Neighbours(items, (weights * 0.3).astype(np.float16).astype(np.float32))


def _past(rng: np.random.Generator, table: Neighbours, settings: KnnSettings) -> PastSessions:
    """Sessions that go from neighbour to neighbour: twice as many as items, of 2 to 8 rows."""
    size = len(table.items)
    lengths = rng.integers(2, 9, min(2 * size, 100_000))
    longest = int(lengths.max())
    items = rng.integers(0, size, (len(lengths), longest))
    for step in range(1, longest):
        near = rng.integers(0, table.items.shape[1], len(lengths))
        items[:, step] = table.items[items[:, step - 1], near]
    inside = np.arange(longest) < lengths[:, None]
    session = np.repeat(np.arange(len(lengths)), lengths)
    return past_sessions(
        items[inside], session, _START_MS - 1000 * (len(lengths) - session), size, settings
    )


def _files(
    catalogue: Catalogue, vectors: np.ndarray, table: Neighbours, past: PastSessions, seed: int
) -> tuple[dict[str, object], dict[str, bytes]]:
    import torch

    from models.encoders import SessionEncoder
    from models.export import export_encoder, export_ranker
    from models.fitting import (
        FitSettings,
        base_manifest,
        blank_ranker,
        catalogue_files,
        npy,
        past_files,
    )

    torch.manual_seed(seed)
    settings = FitSettings()
    encoder = SessionEncoder(2, vectors.shape[1], 0.0).eval()
    ranker = blank_ranker(settings).eval()
    index, why = _index(vectors, seed, settings.blend)
    files = {
        **catalogue_files(catalogue, table),
        **past_files(past),
        "encoder.onnx": export_encoder(encoder, settings.blend.recent),
        "ranker.onnx": export_ranker(ranker),
        "vectors.npy": npy(vectors),
        "index.faiss": faiss.serialize_index(index).tobytes(),
    }
    named = {"bundle_version": f"synthetic-{len(catalogue)}-{seed}", "index": why}
    return {**base_manifest(settings), **named}, files


def _index(vectors: np.ndarray, seed: int, blend: Blend) -> tuple[faiss.Index, str]:
    """The index that training would choose for queries near the items."""
    rng = np.random.default_rng(seed)
    near = vectors[rng.integers(0, len(vectors), 300)]
    noise = rng.standard_normal(near.shape) * (0.3 / np.sqrt(vectors.shape[1]))
    queries = (near + noise).astype(np.float32)
    return build_index(vectors, queries, min(blend.neural, len(vectors), FLAT_UP_TO))
