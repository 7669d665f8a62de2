"""What is kept of a training run: files that programs read and a picture that people look at.

RUN/run.json     state, parameters, data window, metrics: written whole or not at all
RUN/curves.csv   curve, step, value of everything that was recorded on the way
RUN/curves.png   the same, drawn when the run ends
"""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from matplotlib.figure import Figure

RUN, CURVES, PICTURE = "run.json", "curves.csv", "curves.png"


class Run:
    """One run, recorded as it goes; its state is `running`, then `failed` or what `finish` says.

    A run of the same name that did not finish is begun anew.
    """

    def __init__(
        self, folder: Path, parameters: Mapping[str, Any], window: Mapping[str, Any]
    ) -> None:
        if folder.exists():
            if state_of(folder) not in (None, "running", "failed"):
                raise ValueError(f"expected no finished run at {folder}; name it otherwise")
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        self.folder = folder
        self._told: dict[str, Any] = {"parameters": dict(parameters), "data_window": dict(window)}
        self._points: dict[str, list[tuple[int, float]]] = {}
        self._write("running")
        self._file = (folder / CURVES).open("w", encoding="utf-8", newline="")
        self._rows = csv.writer(self._file)
        self._rows.writerow(["curve", "step", "value"])

    def record(self, curve: str, step: int, value: float) -> None:
        """Add a point to a curve: a `models.training.Record`."""
        self._rows.writerow([curve, step, value])
        self._points.setdefault(curve, []).append((step, value))

    def finish(self, state: str, metrics: Mapping[str, Any], **more: Any) -> None:
        """Keep how it ended, its metrics (nested as they are) and whatever else is to be told."""
        self._told |= {"metrics": dict(metrics), **more}
        self._write(state)

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
        if self._points:
            drawn(self._points).savefig(self.folder / PICTURE)
        if error is not None:
            self._told["error"] = f"{type(error).__name__}: {error}"
            self._write("failed")

    def _write(self, state: str) -> None:
        aside = self.folder / f".{RUN}.new"
        aside.write_text(json.dumps({"state": state, **self._told}, indent=1) + "\n", "utf-8")
        os.replace(aside, self.folder / RUN)


def state_of(folder: Path) -> str | None:
    """The state of the run in a folder, None where none was recorded."""
    path = folder / RUN
    return str(json.loads(path.read_text("utf-8"))["state"]) if path.exists() else None


def drawn(curves: Mapping[str, list[tuple[int, float]]]) -> Figure:
    """Each curve of (step, value) in a plot of its own, one below the other."""
    figure = Figure(figsize=(8, 2.5 * len(curves)), layout="constrained")
    plots = figure.subplots(len(curves), squeeze=False)[:, 0]
    for plot, (name, points) in zip(plots, curves.items(), strict=True):
        plot.plot(*zip(*points, strict=True), marker="." if len(points) < 50 else None)
        plot.set_title(name)
        plot.set_xlabel("step")
    return figure
