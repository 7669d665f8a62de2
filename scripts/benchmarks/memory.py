"""What a Python process takes in memory with bundles of several sizes, and how fast it answers.

Each process loads a bundle of so many items and answers sessions; one with the smallest bundle
tells what Python, its libraries and the code take.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import numpy as np
from traffic import ROOT, SEED, machine, say

from models.loading import load_bundle
from models.recommender import Recommender
from models.synthetic import synthetic_sessions, write_synthetic_bundle
from udfs.session_features import session_features

SMALLEST = 1_000
SESSIONS, WARM_UP, BATCHES = 256, 3, 5
_MIB = 1 << 20


@click.command()
@click.option("--items", "sizes", multiple=True, default=(50_000, 200_000, 800_000))
@click.option("--dimension", default=64, show_default=True, help="of the item vectors")
def memory(sizes: tuple[int, ...], dimension: int) -> None:
    """Memory and speed of a Python process, by the size of its bundle (mib, list_us)."""
    process = _measured(SMALLEST, dimension)["mib"]
    found = {items: _measured(items, dimension) for items in sizes}
    more = [(each["mib"] - process) * _MIB for each in found.values()]
    figures = {
        "process_mib": round(process),
        "mib": {str(items): round(each["mib"]) for items, each in found.items()},
        "bytes_an_item": round(np.polyfit([*found], more, 1)[0]),
        "list_us": {str(items): round(each["list_us"]) for items, each in found.items()},
        "dimension": dimension,
        "machine": machine(),
    }
    click.echo(json.dumps(figures))


def _measured(items: int, dimension: int) -> dict[str, float]:
    """What a process of its own tells of a bundle of so many items."""
    with tempfile.TemporaryDirectory(prefix="streamrec-bench-") as folder:
        path = write_synthetic_bundle(Path(folder) / "b", items, SEED, dimension)
        command = [sys.executable, __file__, str(path)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise click.ClickException(done.stderr[-3000:])
    say(f"{items:,} items: {done.stdout.strip()}")
    return dict(json.loads(done.stdout))


def answered(path: Path) -> dict[str, float]:
    """MiB of this process, and median microseconds a list in batches, when it has answered."""
    bundle = load_bundle(path)
    recommender, times = Recommender(bundle), []
    for seed in range(WARM_UP + BATCHES):
        batch = synthetic_sessions(bundle, SESSIONS, seed)
        features = session_features(batch)
        began = time.perf_counter()
        recommender.recommend(batch, features)
        times.append((time.perf_counter() - began) / SESSIONS * 1e6)
    mapped = [line.split() for line in Path("/proc/self/smaps_rollup").read_text().splitlines()]
    own = sum(int(line[1]) for line in mapped if line[0].startswith("Private_"))  # kB
    return {"mib": own / 1024, "list_us": statistics.median(times[WARM_UP:])}


if __name__ == "__main__":
    print(json.dumps(answered(Path(sys.argv[1]))))
