"""The command line of the benchmarks: ./scripts/bench NAME."""

from __future__ import annotations

import click
from decoding import decoding
from latency import latency
from throughput import throughput


@click.group()
def bench() -> None:
    """Measure streamrec on this machine; the last line on stdout is one JSON object."""


bench.add_command(throughput)
bench.add_command(latency)
bench.add_command(decoding)

if __name__ == "__main__":
    bench(prog_name="./scripts/bench")
