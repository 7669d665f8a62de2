"""Real shoppers' events become ranked lists: a broker, the recommend job, and a replay.

Online Retail (December 2011), OTTO ─ paced replay ─ user-events ─ recommend ─ lists ─ this screen
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click
from rich.console import Console

from jobs.demo.data import read_data
from jobs.demo.processes import ROOT, DemoError, FlinkJob
from jobs.demo.run import TOPICS, Choices, DemoRun
from jobs.demo.services import Services, conduct, seconds_since_process_start

STARTER = ROOT / "models" / "starter" / "online-retail"


@click.command(help=__doc__)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON, last on stdout.")
@click.option("--keep", is_flag=True, help="Leave broker and job running until Ctrl-C.")
@click.option(
    "--seconds", default=60.0, show_default=True, type=click.FloatRange(1), help="Length of replay."
)
@click.option(
    "--rate", default=200.0, show_default=True, type=click.FloatRange(1, 5000), help="Events/s."
)
@click.option(
    "--profile",
    default="latency",
    show_default=True,
    type=click.Choice(["latency", "throughput"]),
    help="How Flink runs Python.",
)
@click.option(
    "--bundle",
    default=STARTER,
    show_default="models/starter/online-retail",
    type=click.Path(path_type=Path, file_okay=False),
    help="What answers.",
)
def demo(
    as_json: bool, keep: bool, seconds: float, rate: float, profile: str, bundle: Path
) -> None:
    choices = Choices(as_json, keep, seconds, rate, profile, bundle)
    conduct(lambda say: perform(say, choices))


def perform(say: Console, choices: Choices) -> int:
    """Start everything, replay, judge, and stop everything; returns the exit code."""
    began = time.perf_counter() - seconds_since_process_start()
    if not (choices.bundle / "manifest.json").is_file():
        raise DemoError(
            f"no bundle in {choices.bundle}. Train one with `python -m jobs train`, "
            "or give the folder of another with --bundle."
        )
    with ThreadPoolExecutor(1) as pool, Services() as services:
        reading = pool.submit(read_data, choices.bundle, choices.size)
        say.print(
            f"Starting a Kafka broker and, as another process, the recommend job (profile "
            f"{choices.profile}, bundle {choices.bundle.name}) …"
        )
        services.start_broker(TOPICS)
        bootstrap, bundle = services.broker.bootstrap, {"bundle": str(choices.bundle.resolve())}
        job = services.start(FlinkJob("recommend", bootstrap, choices.profile, bundle))
        seconds = time.perf_counter() - began
        say.print(f"The broker answers on {bootstrap} after {seconds:.1f} s.")
        return DemoRun(say, choices, services, job, reading.result(), began).run()
