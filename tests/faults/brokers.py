"""The one broker is killed, or stands still, and comes back."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

from operators.broker import Broker
from tests.faults.run import RUNS, Run, run
from tests.faults.scenario import Figures, Ground, scenario
from tests.faults.stage import stage

AWAY_S = (0, 5)  # how long the broker is away, beside the time in which it starts: two kills
PAUSE_S = 20


@scenario()
def broker_kill(ground: Ground) -> Figures:
    """The broker is killed and started again: the job goes on by itself, nothing hangs."""

    def kill(away_s: int) -> Callable[[Broker], None]:
        def fault(broker: Broker) -> None:
            broker.kill()
            time.sleep(away_s)
            broker.start()

        return fault

    return _all_runs(ground, [kill(away_s) for away_s in AWAY_S])


@scenario()
def broker_pause(ground: Ground) -> Figures:
    """The broker stands still for 20 s, in the middle of transactions: nobody loses anything."""
    return _all_runs(ground, [_pause])


def _pause(broker: Broker) -> None:
    assert broker.pid is not None
    os.kill(broker.pid, signal.SIGSTOP)
    try:
        time.sleep(PAUSE_S)
    finally:
        os.kill(broker.pid, signal.SIGCONT)


def _all_runs(ground: Ground, faults: list[Callable[[Broker], None]]) -> Figures:
    figures: Figures = {}
    with stage(ground) as ours:
        for profile, delivery in RUNS:
            with run(ours, f"broker-{profile}", profile, delivery) as recommend:
                back = [_through(recommend, fault) for fault in faults]
                told = {"slowest_s": round(max(back), 1), "restarts": recommend.failures()}
                figures[profile] = recommend.verify() | told
                recommend.stop()
    return figures


def _through(recommend: Run, fault: Callable[[Broker], None]) -> float:
    """Let the fault happen during a checkpoint; seconds from its end until lists come again."""
    recommend.take_checkpoint()
    fault(recommend.stage.broker)
    seconds = recommend.goes_on()
    recommend.stage.ground.say(f"lists again {seconds:.1f} s after the broker was back")
    return seconds
