"""What a worker does around the rules."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from udfs.flink import settle_memory


class Operation:
    """As PyFlink's: it holds a function that refers to it."""

    def __init__(self) -> None:
        self.process = lambda: self


@pytest.fixture(autouse=True)
def unfrozen() -> Iterator[None]:
    yield
    gc.unfreeze()


def test_what_was_opened_before_is_freed_when_a_function_is_opened_anew() -> None:
    operation = Operation()
    seen = weakref.ref(operation)
    settle_memory()
    del operation
    gc.collect()
    assert seen() is not None  # it is kept out of collections
    settle_memory()
    assert seen() is None
