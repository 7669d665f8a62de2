"""Overlaps on tables that were computed by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.overlap import common, jaccard, rank_biased

OWN = np.array([[1, 2, 3], [1, 2, 3], [1, 2, 3], [1, -1, -1], [-1, -1, -1]])
OTHER = np.array([[1, 2, 3], [3, 2, 1], [4, 5, 6], [1, 2, -1], [-1, -1, -1]])


def test_what_the_first_places_have_in_common() -> None:
    table = [[1, 2, 3], [0, 1, 3], [0, 0, 0], [1, 1, 1], [0, 0, 0]]
    assert common(OWN, OTHER).tolist() == table


def test_the_jaccard_index() -> None:
    assert jaccard(OWN, OTHER).tolist() == [1, 1, 0, 0.5, 1]


def test_the_rank_biased_overlap() -> None:
    # (1 - p) / p · (p · 0/1 + p² · 1/2 + p³ · 3/3) + p³ · 3/3 with p = .9
    backwards = 0.1 / 0.9 * (0.81 / 2 + 0.729) + 0.729
    assert rank_biased(OWN, OTHER)[:3] == pytest.approx([1, backwards, 0])


lists = st.lists(st.permutations(range(6)), min_size=1, max_size=5)


@given(lists, lists)
def test_both_measures_are_symmetric_between_zero_and_one(a: list, b: list) -> None:
    size = min(len(a), len(b))
    own, other = np.array(a[:size])[:, :4], np.array(b[:size])[:, :4]
    for measure in (jaccard, rank_biased):
        found = measure(own, other)
        assert found == pytest.approx(measure(other, own))
        assert ((found >= 0) & (found <= 1 + 1e-12)).all()
        assert measure(own, own) == pytest.approx(np.ones(size))
    naive = [len(set(x) & set(y)) / len(set(x) | set(y)) for x, y in zip(own, other, strict=True)]
    assert jaccard(own, other) == pytest.approx(naive)
