"""What a scenario is, and the list of them all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Figures = dict[str, Any]
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Ground:
    """What a scenario is given: a folder of its own, and whom to tell how it goes on."""

    folder: Path
    say: Say


@dataclass(frozen=True, slots=True)
class Scenario:
    """A fault, what must hold then, and whether the tests run it too."""

    name: str
    run: Callable[[Ground], Figures]
    quick: bool
    long: bool

    @property
    def purpose(self) -> str:
        return (self.run.__doc__ or "").partition("\n")[0]


SCENARIOS: dict[str, Scenario] = {}


def scenario(
    *, quick: bool = False, long: bool = False
) -> Callable[[Callable[[Ground], Figures]], Callable[[Ground], Figures]]:
    """Enlist a function by its name: it returns figures, and raises AssertionError if it fails.

    The tests run what is `quick`; what is `long` runs only by name or with --long.
    """

    def enlist(run: Callable[[Ground], Figures]) -> Callable[[Ground], Figures]:
        SCENARIOS[run.__name__] = Scenario(run.__name__, run, quick, long)
        return run

    return enlist
