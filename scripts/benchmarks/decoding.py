"""What it costs to decode an event in three ways: SQL functions, the json format, Python.

Each way reads the same preloaded events to their end on 2 slots and throws the result away, and
a tenth of them too: the difference is what the events cost, without the start of the job and of its
Python workers. The way `raw` (nothing decoded) shows what reading alone costs.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from collections import defaultdict
from itertools import product
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
    """Time to decode events by SQL, by the json format and by one Python stage."""
    topics = {"all": total, "few": total // 10}
    seconds: dict[tuple[str, str], list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="streamrec-bench-") as name, Broker() as broker:
        for topic, events in topics.items():
            preload(broker, topic, [f"item-{number}" for number in range(50_000)], events)
        for run, way, topic in product(range(1, runs + 1), WAYS, topics):
            took = timed(Path(name), f"{way}-{topic}-{run}", way, broker.bootstrap, topic)
            seconds[way, topic].append(took)
            say(f"run {run}: {way}, {topics[topic]:,} events: {took:.1f} s")
    medians = {key: statistics.median(times) for key, times in seconds.items()}
    result: dict[str, object] = {}
    for way in WAYS:
        result[f"{way}_s"] = round(medians[way, "all"], 2)
        more = medians[way, "all"] - medians[way, "few"]
        result[f"{way}_us"] = round(more / (total - topics["few"]) * 1e6, 1)  # an event
    click.echo(json.dumps(result | {"events": total, "slots": 2, "machine": machine()}))


def timed(folder: Path, title: str, *arguments: str) -> float:
    """The seconds that the job says it took."""
    with process(folder, title, str(PROGRAM), *arguments) as child:
        failed = child.wait(600)
    output = (folder / f"{title}.out").read_text("utf-8")
    if failed:
        raise click.ClickException(output[-3000:])
    return float(output.split()[-1])
