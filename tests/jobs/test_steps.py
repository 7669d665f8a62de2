"""A savepoint finds the state of each step by an id, which must not change by accident."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.kafka import completed

EXPECTED = json.loads(Path(__file__).with_name("steps.json").read_text("utf-8"))
# Flink 2.3 gives it no id of its own; it keeps no state.
STATELESS = "PythonCorrelate["


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, list[str]]]:
    state = tmp_path_factory.mktemp("graphs")
    done = completed(state, [sys.executable, "-m", "tests.jobs.graph"])
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize("graph", EXPECTED)
def test_a_savepoint_of_the_version_before_fits(graphs: dict, graph: str) -> None:
    assert graphs[graph] == EXPECTED[graph], "see tests/jobs/graph.py if that is meant"


def test_a_savepoint_fits_whatever_the_number_of_slots(graphs: dict) -> None:
    for name in graphs:
        assert graphs[name]["uids"] == graphs[name.replace("1 slots", "2 slots")]["uids"]


def test_every_step_that_may_keep_state_has_an_id(graphs: dict) -> None:
    for found in graphs.values():
        assert [name for name in found["without"] if not name.startswith(STATELESS)] == []
        assert found["max_parallelism"] == ["128"]
