"""The last steps of a training run: measure, describe, write."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from models.bundle import Bundle, assemble
from models.bundle_files import file_table, manifest_text, write_files
from models.evaluation import evaluate, sampled_targets
from models.fitting import Fitted, Slices, golden_batch
from models.golden import golden_answers
from models.loading import load_bundle
from models.provenance import CODE, FINETUNE_CODE, code_hash, data_hash, settings_hash
from models.sessions import SessionLog
from models.training import Progress

_LIBRARIES = ("faiss-cpu", "numpy", "onnx", "onnxruntime", "pyarrow", "torch")


def measured(
    bundle: Bundle, slices: Slices, at_most: int, seed: int, progress: Progress
) -> dict[str, Any]:
    """Metrics on the test sessions and the number of predictions they rest on."""
    targets = sampled_targets(slices.test, at_most, seed)
    results = evaluate(bundle, slices.test, targets, progress) if len(targets) else {}
    return {"metrics": results, "test_prefixes": len(targets)}


def finished(
    name: str,
    fitted: Fitted,
    bundle: Bundle,
    slices: Slices,
    measured: Mapping[str, Any],
    settings: dict[str, Any],
    replay: SessionLog | None = None,
) -> tuple[dict[str, bytes], dict[str, Any]]:
    """All files of the bundle and its manifest; the version is a hash of both, no clock.

    `replay` are the older sessions that a fine-tune read as well.
    """
    replayed = [] if replay is None else [replay]
    files = {
        **fitted.files,
        "golden.json": golden_answers(bundle, golden_batch(bundle, slices.valid)),
    }
    manifest = {
        **fitted.manifest,
        "files": file_table(files),
        "versions": {library: _version(library) for library in _LIBRARIES}
        | {"python": platform.python_version()},
        "data_window": {
            "from": int(slices.train.times.min()),
            "to": int(slices.valid.times.max()),
        },
        "counts": {
            "items": len(bundle.catalogue),
            "sessions": len(slices.train) + len(slices.valid),
            "events": len(slices.train.items) + len(slices.valid.items),
            "test_prefixes": measured["test_prefixes"],
            "replayed": sum(map(len, replayed)),
        },
        "metrics": dict(measured["metrics"]),
        "settings": settings,
        "seed": settings["fit"]["seed"],
        "made_from": {
            "data": data_hash(slices.train, slices.valid, *replayed),
            "settings": settings_hash(settings),
            "code": code_hash(FINETUNE_CODE if "parent" in fitted.manifest else CODE),
        },
    }
    digest = hashlib.sha256(manifest_text(manifest)).hexdigest()
    return files, {**manifest, "bundle_version": f"{name}-{digest[:10]}"}


def publish(
    path: Path, files: Mapping[str, bytes], manifest: Mapping[str, Any], replace: bool
) -> None:
    """Try the bundle out in memory, write it and load it as serving will."""
    assemble(manifest, files)
    write_files(path, files, manifest_text(manifest), replace)
    load_bundle(path)


def _version(library: str) -> str:
    try:
        return version(library)
    except ModuleNotFoundError:
        return "none"
