"""The index is exact where it is small and measured where it is not."""

from __future__ import annotations

import faiss
import numpy as np
import pytest

from models.retrieval import RECALL, build_index, search


def clustered(size: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((100, 16))
    points = centres[rng.integers(0, 100, size)] + 0.3 * rng.standard_normal((size, 16))
    return points.astype(np.float32)


def test_a_small_catalogue_is_searched_exactly() -> None:
    vectors = clustered(2_000, 0)
    index, why = build_index(vectors, vectors[:50], 20)
    assert why.startswith("Flat: exact")
    scores, items = search(index, vectors[:50], 20)
    truth = np.sort(vectors[:50] @ vectors.T, axis=1)[:, :-21:-1]
    assert np.allclose(scores, truth, atol=1e-4)
    assert items.shape == (50, 20)


def test_the_chosen_index_reaches_the_recall_it_states() -> None:
    vectors, queries = clustered(12_000, 0), clustered(12_000, 0)[::50] * np.float32(1.1)
    index, why = build_index(vectors, queries, 50)
    assert not why.startswith("Flat")
    flat = faiss.IndexFlatIP(16)
    flat.add(vectors)
    truth, found = flat.search(queries, 50)[1], index.search(queries, 50)[1]
    recall = np.mean([len(set(t) & set(f)) / 50 for t, f in zip(truth, found, strict=True)])
    assert recall >= RECALL
    assert f"{recall:.3f}" in why


def test_the_choice_is_the_same_every_time() -> None:
    vectors = clustered(11_000, 3)
    made = [build_index(vectors, vectors[:100], 50) for _ in range(2)]
    assert made[0][1] == made[1][1]
    assert np.array_equal(*(faiss.serialize_index(index) for index, _ in made))


@pytest.mark.parametrize("size", [1, 2, 19, 20, 21, 200])
def test_a_query_gets_the_same_bits_in_every_batch(size: int) -> None:
    vectors = clustered(3_000, 1)
    index, _ = build_index(vectors, vectors[:50], 100)
    scores, items = search(index, vectors[:200], 100)
    for at in range(0, 200 - size + 1, 37):
        part = search(index, vectors[at : at + size], 100)
        assert np.array_equal(part[0], scores[at : at + size])
        assert np.array_equal(part[1], items[at : at + size])
