from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import settings

from operators.broker import Broker

settings.register_profile("no deadline", deadline=None)  # a busy machine makes nothing wrong
settings.load_profile("no deadline")


@pytest.fixture(scope="session")
def broker() -> Iterator[Broker]:
    """One real Kafka broker for all tests; each test uses topics of its own."""
    with Broker() as running:
        yield running
