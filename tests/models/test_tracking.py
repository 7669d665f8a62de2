"""What is kept of a run: numbers for programs, curves for people."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from models.tracking import Run, drawn, state_of

PARAMETERS = {"finetune": {"epochs": 3, "name": None}, "seed": 1}
WINDOW = {"from": 10, "to": 20}


def test_parameters_window_metrics_and_curves_are_kept(tmp_path: Path) -> None:
    with Run(tmp_path / "one", PARAMETERS, WINDOW) as run:
        assert state_of(run.folder) == "running"
        for step in range(3):
            run.record("encoder/loss", step, 1.0 / (step + 1))
        run.finish("refused", {"candidate": {"hr20": 0.25}}, reasons=["too slow"])
    told = json.loads((tmp_path / "one" / "run.json").read_text("utf-8"))
    assert told == {
        "state": "refused",
        "parameters": PARAMETERS,
        "data_window": WINDOW,
        "metrics": {"candidate": {"hr20": 0.25}},
        "reasons": ["too slow"],
    }
    with (tmp_path / "one" / "curves.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["curve"], int(row["step"])) for row in rows] == [
        ("encoder/loss", step) for step in range(3)
    ]
    assert [float(row["value"]) for row in rows] == [1, 1 / 2, 1 / 3]
    assert (tmp_path / "one" / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_every_curve_is_drawn_under_its_name() -> None:
    plots = drawn({"loss": [(0, 3.0), (1, 2.0)], "mrr": [(0, 0.5)]}).get_axes()
    assert [plot.get_title() for plot in plots] == ["loss", "mrr"]
    assert plots[0].lines[0].get_xydata().tolist() == [[0, 3], [1, 2]]


def test_a_run_that_fails_says_so_and_can_be_begun_again(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no data"), Run(tmp_path / "one", {}, {}):
        raise ValueError("no data")
    told = json.loads((tmp_path / "one" / "run.json").read_text("utf-8"))
    assert (told["state"], told["error"]) == ("failed", "ValueError: no data")
    with Run(tmp_path / "one", {}, {}) as run:
        run.finish("promoted", {})
    assert state_of(tmp_path / "one") == "promoted"


def test_a_finished_run_is_not_overwritten(tmp_path: Path) -> None:
    with Run(tmp_path / "one", {}, {}) as run:
        run.finish("promoted", {})
    with pytest.raises(ValueError, match="expected no finished run at"):
        Run(tmp_path / "one", {}, {})
