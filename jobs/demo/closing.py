"""How a demo ends: a table of its figures for people, one line of JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.rule import Rule
from rich.table import Table
from rich.text import Text


def tell(say: Console, told: Mapping[str, Any], closing: RenderableType, as_json: bool) -> None:
    """Print the closing table; with `as_json` also `told` as one line of JSON on stdout."""
    out = say if as_json else Console(highlight=False)
    out.print(closing)
    if as_json:
        print(json.dumps(told), flush=True)


def closing_table(
    figures: Iterable[tuple[str | Text, str | Text]], wrong: Iterable[str]
) -> RenderableType:
    """Figures and what they mean, one a row, and below them in red what is wrong."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(justify="right", style="bold", no_wrap=True)
    table.add_column()
    for figure, meaning in figures:
        table.add_row(figure, meaning)
    for sentence in wrong:
        table.add_row(Text("!", "red"), Text(sentence, "red"))
    return Group(Rule("summary", style="dim"), table)
