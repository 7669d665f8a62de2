"""Flink's YAML configuration: where it is, and its options as dotted keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CONF = ROOT / "flink-conf"


def flattened(tree: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """A tree of options as {"dotted.key": "text"}, the form in which Flink takes them."""
    options: dict[str, str] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            options |= flattened(value, f"{prefix}{key}.")
        else:
            options[prefix + key] = str(value).lower() if isinstance(value, bool) else str(value)
    return options
