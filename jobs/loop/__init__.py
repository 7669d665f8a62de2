"""The loop closes: what shoppers do becomes a better bundle under the running job.

shoppers ─ user-events ─┬─ recommend ◄──────────────────────────── registry ◄─┐
   ▲                    │      └─ lists ─┬─► shoppers                        gate
   │                    ├─ sessions ─────│─────────┐                          │
   └── tastes drift     └─ feedback ◄────┘─────────┴─ finetune, now and then ─┘

The shoppers are simulated (jobs/simulate), everything else is real: a Kafka broker, Flink jobs as
processes of their own, torch.
"""

from __future__ import annotations

import time

import click
from rich.console import Console

from jobs.demo.closing import tell
from jobs.demo.services import Services, conduct, seconds_since_process_start
from jobs.loop.display import summary
from jobs.loop.result import result
from jobs.loop.run import LoopRun


@click.command(help="\b\n" + __doc__.replace("\n\n", "\n\n\b\n"))
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON, last on stdout.")
def loop(as_json: bool) -> None:
    conduct(lambda say: perform(say, as_json))


def perform(say: Console, as_json: bool) -> int:
    """Start everything, let the loop close, stop everything; returns the exit code."""
    began = time.perf_counter() - seconds_since_process_start()
    with Services() as services:
        told = result(LoopRun(say, services, began).run())
    tell(say, told, summary(told), as_json)
    return 1 if told["shortcomings"] else 0
