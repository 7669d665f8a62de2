"""Serving needs neither torch nor Flink nor pandas."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SERVING = (
    "bundle",
    "candidates",
    "covisits",
    "golden",
    "ranking",
    "recommender",
    "registry",
    "retrieval",
)


@pytest.mark.parametrize("module", [*SERVING, "metrics", "datasets", "sessions"])
def test_a_serving_module_imports_without_torch_and_flink(module: str) -> None:
    code = (
        "import sys; sys.modules.update(torch=None, pyflink=None, onnx=None); "
        f"import models.{module}"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_the_starter_bundle_is_served_without_torch_flink_and_pandas() -> None:
    code = (
        "import sys; sys.modules.update(torch=None, pyflink=None, onnx=None, pandas=None); "
        "from models.loading import load_bundle; load_bundle('models/starter/online-retail')"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_a_bundle_tells_nobody_that_it_is_served(tmp_path: Path) -> None:
    watched = ("CI", "GITHUB_ACTIONS", "ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")
    environment = {name: value for name, value in os.environ.items() if name not in watched}
    code = "from models.loading import load_bundle; load_bundle('models/starter/online-retail')"
    subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        cwd=ROOT,
        env=environment | {"HOME": str(tmp_path), "TMPDIR": str(tmp_path)},
    )
    # ONNX Runtime keeps an id of the machine and what it has yet to send to its makers in files.
    assert not [*tmp_path.rglob("*")]
