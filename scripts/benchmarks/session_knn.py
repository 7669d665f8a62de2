"""What the nearest past sessions cost a list: sessions asked in one call, one thread."""

from __future__ import annotations

import json
import statistics
import time

import click
import numpy as np
from traffic import SEED, machine, say

from models.past_sessions import KnnSettings, past_sessions
from models.session_knn import SessionKnn

ITEMS, RECENT = 20_000, 10


@click.command("session-knn")
@click.option("--sessions", default=100_000, show_default=True, help="past ones, of 5 items each")
@click.option("--asked", default=2_000, show_default=True, help="at once")
@click.option("--runs", default=5, show_default=True, type=click.IntRange(min=1))
def session_knn(sessions: int, asked: int, runs: int) -> None:
    """Microseconds in which a session finds its nearest past sessions (answer_us)."""
    rng = np.random.default_rng(SEED)
    lengths = rng.geometric(0.25, sessions) + 1
    popular = np.minimum(rng.zipf(1.4, lengths.sum()) - 1, ITEMS - 1)
    rare = rng.integers(0, ITEMS, lengths.sum())
    items = np.where(rng.random(lengths.sum()) < 0.5, popular, rare)
    session = np.repeat(np.arange(sessions), lengths)
    how = KnnSettings()
    knn = SessionKnn(past_sessions(items, session, session * 1000, ITEMS, how), how)
    ends = np.cumsum(lengths)[rng.integers(sessions // 2, sessions, asked)]
    recent = np.stack([items[end - RECENT : end][::-1] for end in ends]).astype(np.int32)
    recent_lengths = rng.integers(1, RECENT + 1, asked)
    knn.ask(recent[:5], recent_lengths[:5])  # compiles, allocates
    times = []
    for run in range(runs):
        began = time.perf_counter()
        knn.ask(recent, recent_lengths)
        times.append((time.perf_counter() - began) / asked * 1e6)
        say(f"run {run + 1}: {times[-1]:.0f} µs an answer")
    figures = {
        "answer_us": round(statistics.median(times), 1),
        "answer_us_of_runs": [round(each, 1) for each in times],
        "sessions": sessions,
        "machine": machine(),
    }
    click.echo(json.dumps(figures))
