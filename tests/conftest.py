from __future__ import annotations

from collections.abc import Iterator

import pytest

from operators.broker import Broker


@pytest.fixture(scope="session")
def broker() -> Iterator[Broker]:
    """One real Kafka broker for all tests; each test uses topics of its own."""
    with Broker() as running:
        yield running
