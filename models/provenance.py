"""What a bundle was made from: hashes of the sessions, of the settings and of the code."""

from __future__ import annotations

import ast
import hashlib
import json
from pathlib import Path
from typing import Any

from models.sessions import SessionLog

_ROOT = Path(__file__).resolve().parent.parent
CODE = (
    "models/batching.py",
    "models/candidates.py",
    "models/catalogue.py",
    "models/covisits.py",
    "models/datasets.py",
    "models/encoders.py",
    "models/export.py",
    "models/fitting.py",
    "models/golden.py",
    "models/kernels.py",
    "models/losses.py",
    "models/networks.py",
    "models/past_sessions.py",
    "models/ranker_training.py",
    "models/ranking.py",
    "models/recommender.py",
    "models/retrieval.py",
    "models/session_knn.py",
    "models/sessions.py",
    "models/training.py",
    "models/tuning.py",
    "udfs/session_features.py",
)
"""The modules whose behaviour decides what is in a bundle."""

FINETUNE_CODE = (
    *CODE,
    "models/adaptation.py",
    "models/finetuning.py",
    "models/warm_start.py",
)
"""The same of a bundle that was fine-tuned."""


def data_hash(*logs: SessionLog) -> str:
    """SHA-256 of the sessions a fit reads, with the facts about their items."""
    digest = hashlib.sha256()
    for log in logs:
        for column in (log.offsets, log.items, log.types, log.times, log.prices):
            digest.update(column.tobytes())
        facts = (log.facts.ids, log.facts.titles, log.facts.categories)
        digest.update(json.dumps(facts).encode())
    return digest.hexdigest()


def settings_hash(settings: dict[str, Any]) -> str:
    """SHA-256 of settings, in whatever order they are given."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def code_hash(modules: tuple[str, ...] = CODE) -> str:
    """SHA-256 of what the modules do: comments, docstrings and layout do not count."""
    digest = hashlib.sha256()
    for name in modules:
        tree = ast.parse((_ROOT / name).read_text("utf-8"))
        digest.update(repr(_shape(tree)).encode())
    return digest.hexdigest()


def _shape(node: Any) -> Any:
    """A syntax tree as nested tuples that all supported versions of Python agree upon."""
    if isinstance(node, list):
        return tuple(_shape(each) for each in node if not _is_text(each))
    if isinstance(node, ast.AST):
        fields = ((name, _shape(value)) for name, value in ast.iter_fields(node))
        kept = tuple((name, shape) for name, shape in fields if shape not in (None, (), ""))
        return (type(node).__name__, *(pair for pair in kept if pair[0] not in ("ctx", "kind")))
    return repr(node) if isinstance(node, bytes | float | complex) else node


def _is_text(node: Any) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )
