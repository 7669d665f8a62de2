"""The command line of the benchmarks: ./scripts/bench NAME."""

from __future__ import annotations

import signal
import sys

import click
from decoding import decoding
from exactly_once import exactly_once
from finetune import finetune_week
from latency import latency
from memory import memory
from session_knn import session_knn
from swap import swap
from throughput import throughput


@click.group()
def bench() -> None:
    """Measure streamrec on this machine; the last line on stdout is one JSON object."""


bench.add_command(throughput)
bench.add_command(latency)
bench.add_command(decoding)
bench.add_command(swap)
bench.add_command(exactly_once)
bench.add_command(memory)
bench.add_command(session_knn)
bench.add_command(finetune_week, "finetune")

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that children are ended too
    bench(prog_name="./scripts/bench")
