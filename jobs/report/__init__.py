"""The report of one replay, or of two that are compared: one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from jobs.report.page import page
from jobs.report.plots import NoMatplotlibError, plots, require_matplotlib
from jobs.report.words import verdict
from models.list_files import created
from models.report_facts import Facts

__all__ = ["NoMatplotlibError", "require_matplotlib", "verdict", "write_report"]


def write_report(path: Path | str, facts: Facts, titles: Mapping[str, str]) -> None:
    """Write the report to a path or URI; `titles` are names of items, where there are any."""
    with created(str(path)) as file:
        file.write(page(facts, verdict(facts), plots(facts), titles).encode())
