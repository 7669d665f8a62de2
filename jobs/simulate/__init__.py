"""A seeded population with hidden tastes: it browses, sees lists and clicks.

tastes ─ population ─ user-events ─ recommend ─ recommendations ─► seen, clicked with known chance

For demos, tests and benchmarks: these are no people.
"""

from __future__ import annotations

import json
import signal
import threading
import time
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from jobs.settings import SettingsError, described, load
from jobs.simulate.live import LiveRun, SimulateError
from jobs.simulate.settings import SimulateSettings, crowd
from jobs.simulate.summary import line, shown, summary
from operators.kafka import Kafka
from operators.topics import TopicsError, require_topics

SETTINGS = [f"  {key} = {default}  {text}" for key, default, text in described(SimulateSettings)]


@click.command(
    help="\b\n" + __doc__.replace("\n\n", "\n\n\b\n"),
    epilog="\b\nSettings (key = default):\n" + "\n".join(SETTINGS),
)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON, last on stdout.")
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="YAML settings instead of flink-conf/simulate.yaml",
)
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="override one setting; repeat"
)
def simulate(as_json: bool, config: Path | None, overrides: tuple[str, ...]) -> None:
    say = Console(stderr=True, highlight=False)
    try:
        result = perform(load(SimulateSettings, "simulate", config, overrides), say)
    except (SettingsError, SimulateError) as error:
        raise click.ClickException(str(error)) from None
    out = say if as_json else Console(highlight=False)
    out.print(shown(result))
    if as_json:
        print(json.dumps(result), flush=True)


def perform(settings: SimulateSettings, say: Console) -> dict[str, Any]:
    """Run to the end, or until Ctrl-C or SIGTERM; returns the summary."""
    broker = Kafka(**settings.kafka.model_dump())
    try:
        require_topics(broker, (settings.events_topic, settings.recommendations_topic))
    except TopicsError as error:
        raise SettingsError(f"simulate was not started: {error}") from None
    shoppers = crowd(settings, time.time_ns() // 1_000_000)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    say.print(
        f"{settings.rate:g} events a second to {settings.events_topic}, {settings.at_once:,} "
        f"shoppers at once; Ctrl-C ends it",
        markup=False,
    )
    LiveRun(settings, shoppers, stop).run(lambda s: say.print(line(shoppers, s), markup=False))
    return summary(shoppers)
