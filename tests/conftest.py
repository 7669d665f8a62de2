from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from operators.broker import Broker
from tests.canaries import screens_and_logs, sung

if TYPE_CHECKING:
    from models.fitting import Slices

settings.register_profile("no deadline", deadline=None)  # a busy machine makes nothing wrong
settings.load_profile("no deadline")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files whose tests may take long, so that no worker has one left at the end."""
    long = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in long)


@pytest.fixture(scope="session", autouse=True)
def nothing_sings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """After all tests: no user of theirs and no secret stands in a log or on a screen."""
    yield
    told = sung(screens_and_logs(tmp_path_factory.getbasetemp()))
    assert not told, f"{len(told)} lines tell of users or secrets: {told[:3]}"


@pytest.fixture(scope="session")
def broker() -> Iterator[Broker]:
    """One real Kafka broker for all tests; each test uses topics of its own."""
    with Broker() as running:
        yield running


@pytest.fixture(scope="session")
def old() -> Slices:
    """Sessions of both kinds of `tests.drift`, from before the drift."""
    from models.fitting import split_by_time
    from tests import drift

    log = drift.sessions([drift.DRIFTING, drift.STEADY], 900, seed=1)
    return split_by_time(log, None, None, 0.1, 0.2)


@pytest.fixture(scope="session")
def serving(old: Slices, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that was fitted before the drift."""
    from models.fitting import fit
    from tests import drift

    path = tmp_path_factory.mktemp("bundles") / "serving"
    return drift.published(path, *fit(old, drift.SMALL, drift.silent), old)
