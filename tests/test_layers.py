"""Who may import what: rules and models know no Flink, what serves knows no torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
WITH_FLINK = {"udfs.flink"}  # of udfs and models; the whole of jobs and operators may
NO_FLINK_NEEDED = (
    "operators.dead_letters",
    "operators.broker",
    "operators.cluster",
    "operators.release",
    "operators.remote",
)


def modules(*folders: str) -> list[str]:
    return sorted(
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for folder in folders
        for path in (ROOT / folder).glob("*.py")
        if path.stem != "__init__"
    )


def imports(code: str, *, without: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    blocked = f"import sys; sys.modules.update(dict.fromkeys({without!r}))"
    return subprocess.run(
        [sys.executable, "-c", f"{blocked}; {code}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_models_and_rules_import_without_flink() -> None:
    names = [name for name in modules("models", "udfs") if name not in WITH_FLINK]
    done = imports(f"import {', '.join([*names, *NO_FLINK_NEEDED])}", without=("pyflink",))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "names",
    [
        "udfs.flink",
        "jobs.recommend, jobs.sessions",
        "jobs.__main__, jobs.bundles, jobs.dead_letters",
        "jobs.replay, jobs.compare",
    ],
)
def test_what_serves_imports_without_torch(names: str) -> None:
    done = imports(f"import {names}", without=("torch", "onnx", "onnxscript", "matplotlib"))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("module", modules("models", "udfs"))
def test_nothing_points_back_up_the_layers(module: str) -> None:
    tree = ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text("utf-8"))
    found = {
        name.split(".")[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert not found & {"jobs", "operators"}


@pytest.mark.parametrize("module", modules("jobs", "models", "operators", "udfs"))
def test_what_is_decoded_is_worked_out_at_import(module: str) -> None:
    """msgspec crashes the process where two threads are the first to decode a type."""
    tree = ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text("utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    decodes = [call for call in calls if getattr(call.func, "attr", "") == "decode"]
    assert not [call for call in decodes if any(word.arg == "type" for word in call.keywords)]
