"""What an evaluation says: a table for people, one JSON object for programs."""

from __future__ import annotations

from typing import Any

from rich.table import Table

COLUMNS = {
    "hr5": ("HR@5", ".4f"),
    "hr10": ("HR@10", ".4f"),
    "hr20": ("HR@20", ".4f"),
    "mrr20": ("MRR@20", ".4f"),
    "ndcg20": ("NDCG@20", ".4f"),
    "coverage": ("coverage", ".3f"),
    "popularity_bias": ("popularity", ".3f"),
    "train_s": ("train s", ".1f"),
    "list_us": ("µs a list", ".0f"),
    "mb": ("MB", ".1f"),
}
"""Keys of the figures → heading, format."""

WIDTH = 120  # characters that a table takes


def table(title: str, figures: dict[str, dict[str, float]]) -> Table:
    """One line a model."""
    out = Table(title=title)
    out.add_column("model")
    for heading, _ in COLUMNS.values():
        out.add_column(heading, justify="right")
    for model, values in figures.items():
        out.add_row(model, *(format(values[key], form) for key, (_, form) in COLUMNS.items()))
    return out


def of_period(number: int, figures: dict[str, dict[str, float]]) -> str:
    """One line on the period that was just judged."""
    blend = figures["blend"]
    return (
        f"period {number}: {blend['count']:,} predictions, blend HR@20 {blend['hr20']:.4f}, "
        f"MRR@20 {blend['mrr20']:.4f}"
    )


def as_json(figures: dict[str, dict[str, float]], **told: Any) -> dict[str, Any]:
    """The figures, rounded, a key for each model; and what else is to be told."""
    rounded = {
        model: {key: int(v) if key == "count" else round(v, 6) for key, v in values.items()}
        for model, values in figures.items()
    }
    return {**told, **rounded}
