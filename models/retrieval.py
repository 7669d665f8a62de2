"""The nearest items to a session's vector: a FAISS index chosen by what it is measured to do.

Inner products throughout. Searches give the same answer for a query alone and in a batch:
FAISS would hand 20 queries or more to BLAS, whose sums run in another order, so that is off.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import faiss
import numpy as np

_GLOBALS: Any = faiss.cvar
_GLOBALS.distance_compute_blas_threshold = 1 << 30

FLAT_UP_TO = 10_000
RECALL = 0.97
_CHEAP_ENOUGH = 10  # times fewer comparisons than Flat


def search(index: faiss.Index, queries: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores float32 [B, count] and items int64 [B, count], best first; -1 where none is left."""
    _use_one_core()
    scores, items = index.search(queries, count)
    return scores, items


def build_index(vectors: np.ndarray, queries: np.ndarray, count: int) -> tuple[Any, str]:
    """The cheapest index with recall@count of at least RECALL against Flat, and why it is.

    `vectors` [V, D] are the items', `queries` [Q, D] those of real sessions. Cost is counted in
    vectors compared, not in seconds, so that the choice is the same on every run.
    """
    _use_one_core()
    flat: Any = faiss.IndexFlatIP(vectors.shape[1])
    flat.add(vectors)
    exact = f"Flat: exact over {len(vectors)} items"
    if len(vectors) <= FLAT_UP_TO or len(queries) < 20:
        return flat, exact
    _, truth = flat.search(queries, count)
    best = (float(len(vectors)), flat, exact)
    for name, index in _variants(vectors):
        cost, found = _compared(index, queries, count)
        recall = _recall(found, truth)
        if recall >= RECALL and cost < best[0]:
            why = f"{name}: recall@{count} {recall:.3f} against Flat, {cost:.0f} comparisons"
            best = (cost, faiss.clone_index(index), why)
        if best[0] * _CHEAP_ENOUGH <= len(vectors):
            break  # building a graph takes minutes and could hardly save more
    return best[1], best[2]


def fixed_index(vectors: np.ndarray, name: str) -> Any:
    """The index named in a setting, e.g. `Flat` or `IVF223,Flat;16`, whatever it achieves."""
    _use_one_core()
    kind, _, probes = name.partition(";")
    index: Any = faiss.index_factory(vectors.shape[1], kind, faiss.METRIC_INNER_PRODUCT)
    if not index.is_trained:
        index.train(vectors)
    index.add(vectors)
    if probes:
        faiss.extract_index_ivf(index).nprobe = int(probes)
    return index


def _use_one_core() -> None:
    """Keep FAISS from sharing work out to threads, which would spin while others need them.

    OpenMP keeps this setting for each thread: every thread that calls FAISS has to say it.
    """
    faiss.omp_set_num_threads(1)


def _variants(vectors: np.ndarray) -> Iterator[tuple[str, Any]]:
    lists = int(2 ** np.round(np.log2(np.sqrt(len(vectors)))))
    inverted = fixed_index(vectors, f"IVF{lists},Flat")
    for probes in (4, 8, 16, 32, 64):
        inverted.nprobe = probes
        yield f"IVF{lists},Flat;{probes}", inverted
    graph: Any = faiss.index_factory(vectors.shape[1], "HNSW24,Flat", faiss.METRIC_INNER_PRODUCT)
    graph.hnsw.efConstruction = 100
    graph.add(vectors)
    for effort in (64, 128, 256):
        graph.hnsw.efSearch = effort
        yield f"HNSW24,Flat;{effort}", graph


def _compared(index: Any, queries: np.ndarray, count: int) -> tuple[float, np.ndarray]:
    """Vectors compared for a query, a jump through a graph counting four times; the items."""
    if isinstance(index, faiss.IndexHNSW):
        _GLOBALS.hnsw_stats.reset()
        _, found = index.search(queries, count)
        return 4.0 * _GLOBALS.hnsw_stats.ndis / len(queries), found
    _GLOBALS.indexIVF_stats.reset()
    _, found = index.search(queries, count)
    return index.nlist + _GLOBALS.indexIVF_stats.ndis / len(queries), found


def _recall(found: np.ndarray, truth: np.ndarray) -> float:
    hits = [np.isin(f, t).sum() for f, t in zip(found, truth, strict=True)]
    return float(np.sum(hits) / truth.size)
