"""A job in one process ends where it could only fail again."""

from __future__ import annotations

import pytest

from operators.running import beyond_repair
from operators.standalone import NO_PYTHON


@pytest.mark.parametrize(
    ("why", "taskmanagers", "said"),
    [
        ("java.io.IOException: no broker", 1, ""),
        ("java.io.IOException: no broker", 0, "Flink has ended the TaskManager"),
        (f"java.lang.Exception\nCaused by: {NO_PYTHON}(P.java:406)", 1, "Python cannot run"),
        ("java.lang.Error: java.lang.InterruptedException\n\tat elsewhere", 1, ""),
    ],
)
def test_a_failure_that_would_come_again_is_told_from_others(
    why: str, taskmanagers: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLINK_LOG_DIR", "/logs")
    found = beyond_repair(why, taskmanagers)
    assert found.startswith(said)
    assert bool(found) == bool(said)
