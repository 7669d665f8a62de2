"""Flink's YAML configuration: where it is, and its options as dotted keys."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
CONF = ROOT / "flink-conf"


def state_folder() -> Path:
    """${XDG_STATE_HOME:-~/.local/state}/streamrec"""
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "streamrec"


def overlay(name: str) -> dict[str, str]:
    """The options of `flink-conf/<name>.yaml`, flattened to dotted keys."""
    return flattened(yaml.safe_load((CONF / f"{name}.yaml").read_text("utf-8")))


def flattened(tree: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """A tree of options as {"dotted.key": "text"}, the form in which Flink takes them."""
    options: dict[str, str] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            options |= flattened(value, f"{prefix}{key}.")
        else:
            options[prefix + key] = str(value).lower() if isinstance(value, bool) else str(value)
    return options
