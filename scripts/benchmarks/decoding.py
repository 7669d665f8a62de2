"""What it costs to decode an event in three ways: SQL functions, the json format, Python.

Each way reads the same preloaded events to their end on 2 slots and throws the result away.
Seconds include the start of the job, which the way `raw` (nothing decoded) shows by itself.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from pathlib import Path

import click
from throughput import preload
from traffic import machine, process, say

from operators.broker import Broker

WAYS = ("raw", "json", "sql", "process", "thread")
PROGRAM = Path(__file__).parent / "decoding_job.py"


@click.command()
@click.option("--events", "total", default=300_000, show_default=True, help="preloaded events")
@click.option("--runs", default=5, show_default=True, help="runs of each; the median counts")
def decoding(total: int, runs: int) -> None:
    """Seconds to decode events by SQL, by the json format and by one Python stage."""
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory(prefix="streamrec-bench-") as name, Broker() as broker:
        folder = Path(name)
        preload(broker, "events", [f"item-{number}" for number in range(50_000)], total)
        for run in range(1, runs + 1):
            for way in WAYS:
                title = f"{way}-{run}"
                with process(folder, title, str(PROGRAM), way, broker.bootstrap) as child:
                    failed = child.wait(600)
                output = (folder / f"{title}.out").read_text("utf-8")
                if failed:
                    raise click.ClickException(output[-3000:])
                seconds[way].append(float(output.split()[-1]))
                say(f"run {run}: {way} {seconds[way][-1]:.1f} s")
    medians = {f"{way}_s": round(statistics.median(times), 2) for way, times in seconds.items()}
    click.echo(json.dumps(medians | {"events": total, "slots": 2, "machine": machine()}))
