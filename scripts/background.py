"""What ./scripts/broker and ./scripts/cluster share: services in the background."""

from __future__ import annotations

import contextlib
import fcntl
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

NOT_RUNNING = 3  # as service scripts have it

as_json = click.option("--json", "as_json", is_flag=True, help="Answer with one JSON object.")


def directory_of(service: str, holds: str, default: Callable[[], Path]) -> Callable[[Any], Any]:
    """The option --dir: the service's folder, by default one in the user's state folder."""
    return click.option(
        "--dir",
        "directory",
        type=click.Path(file_okay=False, path_type=Path, resolve_path=True),
        default=default,
        show_default=f"~/.local/state/streamrec/{service}",
        help=f"The {service}'s folder: {holds}.",
    )


@contextlib.contextmanager
def only_one_process(directory: Path) -> Iterator[None]:
    """Make the folder, and wait until nobody else is starting the service in it."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / ".start.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def tell(in_json: bool, noted: dict[str, Any] | None, sentence: str) -> None:
    """Answer with what was noted of the service, None if it does not run, or with a sentence."""
    click.echo(json.dumps({"running": noted is not None, **(noted or {})}) if in_json else sentence)
