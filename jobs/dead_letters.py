"""List dead letters, group them by reason, send them back to where they came from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import click
from confluent_kafka import KafkaException
from pydantic import Field
from rich.console import Console
from rich.table import Table

from jobs.settings import Settings, SettingsError, load
from operators.connection import Connection
from operators.dead_letters import DeadLetter, read, resend


class DeadLettersSettings(Settings, Connection):
    """Settings of the dead-letters tool."""

    topic: str = Field(
        "dead-letters", description="topic to look at; late-events has the same form"
    )


Selection = Iterator[DeadLetter]


@click.group(name="dead-letters", help=__doc__)
@click.option("--config", type=click.Path(path_type=Path), metavar="FILE", help="YAML settings")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="bootstrap, topic")
@click.pass_context
def dead_letters(context: click.Context, config: Path | None, overrides: tuple[str, ...]) -> None:
    try:
        context.obj = load(DeadLettersSettings, "dead-letters", config, overrides)
    except SettingsError as error:
        raise click.ClickException(str(error)) from None


@dead_letters.command("list")
@click.option("--reason", default="", metavar="TEXT", help="only reasons that contain TEXT")
@click.option("--limit", default=20, show_default=True, help="how many are shown at most")
@click.pass_obj
def list_letters(settings: DeadLettersSettings, reason: str, limit: int) -> None:
    """Show the first dead letters: where each came from, why, and how it begins."""
    table = Table("place", "origin", "stage", "reason", "begins with")
    count = 0
    for letter in _chosen(settings, reason):
        count += 1
        if count <= limit:
            origin = letter.origin
            table.add_row(
                f"{letter.partition}:{letter.offset}",
                f"{origin.get('topic')}:{origin.get('partition')}:{origin.get('offset')}",
                origin.get("stage", ""),
                origin.get("reason", ""),
                "null" if letter.value is None else repr(letter.value[:40])[2:-1],
            )
    Console().print(table)
    click.echo(f"{count} dead letters, {min(count, limit)} shown")


@dead_letters.command()
@click.pass_obj
def reasons(settings: DeadLettersSettings) -> None:
    """Count the dead letters by stage and reason."""
    counts = Counter(
        (letter.origin.get("stage", ""), letter.origin.get("reason", ""))
        for letter in _chosen(settings, "")
    )
    table = Table("count", "stage", "reason")
    for (stage, reason), count in counts.most_common():
        table.add_row(f"{count:,}", stage, reason)
    Console().print(table)


@dead_letters.command("resend")
@click.option("--reason", default="", metavar="TEXT", help="only reasons that contain TEXT")
@click.option("--all", "everything", is_flag=True, help="send all of them")
@click.pass_obj
def resend_letters(settings: DeadLettersSettings, reason: str, everything: bool) -> None:
    """Send dead letters to their original topic with their original key, value and headers."""
    if not reason and not everything:
        raise click.UsageError("choose which: --reason TEXT or --all")
    try:
        sent = resend(settings, _chosen(settings, reason))
    except KafkaException as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"sent {sent} records back")


def _chosen(settings: DeadLettersSettings, reason: str) -> Selection:
    try:
        for letter in read(settings, settings.topic):
            if reason in letter.origin.get("reason", ""):
                yield letter
    except KafkaException as error:
        raise click.ClickException(f"cannot read {settings.topic}: {error}") from None
