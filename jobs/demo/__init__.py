"""Real shoppers' events become ranked lists: a broker, the recommend job, and a replay.

Online Retail (December 2011), OTTO ─ paced replay ─ user-events ─ recommend ─ lists ─ this screen
"""

from __future__ import annotations

import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType

import click
from rich.console import Console

from jobs.demo.data import read_data
from jobs.demo.run import Choices, DemoRun
from jobs.demo.services import ROOT, DemoError, Services
from operators.broker import BrokerError
from operators.jars import JarError
from operators.java import JavaMissingError

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
    say = Console(stderr=True, highlight=False)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        code = perform(say, Choices(as_json, keep, seconds, rate, profile, bundle))
    except (DemoError, BrokerError, JarError, JavaMissingError) as error:
        say.print(f"streamrec: {error}", markup=False)
        code = 1
    except KeyboardInterrupt:
        say.print("streamrec: stopped; nothing of the demo is left running.")
        code = 130
    sys.exit(code)


def perform(say: Console, choices: Choices) -> int:
    """Start everything, replay, judge, and stop everything; returns the exit code."""
    began = time.perf_counter() - seconds_since_process_start()
    if not (choices.bundle / "manifest.json").is_file():
        raise DemoError(
            f"no bundle in {choices.bundle}. Train one with `python -m jobs train`, "
            "or give the folder of another with --bundle."
        )
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read_data, choices.bundle, choices.size)
        services = Services(choices.profile, choices.bundle)
        say.print(
            f"Starting a Kafka broker and, as another process, the recommend job (profile "
            f"{choices.profile}, bundle {choices.bundle.name}) …"
        )
        try:
            services.start()
            seconds = time.perf_counter() - began
            say.print(f"The broker answers on {services.broker.bootstrap} after {seconds:.1f} s.")
            return DemoRun(say, choices, services, reading.result(), began).run()
        finally:
            _ignore_stop_signals()
            services.close()


def seconds_since_process_start() -> float:
    """Age of this process, the shell that became it (scripts/demo) and its set-up included."""
    after_name = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    started = int(after_name[19]) / os.sysconf("SC_CLK_TCK")  # field 22, since boot
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _ignore_stop_signals() -> None:
    """A second Ctrl-C must not interrupt the cleaning up that the first one began."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
