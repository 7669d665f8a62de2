"""Outages that are longer than what the brokers wait for."""

from __future__ import annotations

import json
import time

from operators.accounting import LOST
from operators.remote import cancel
from tests.faults.oracles import verified
from tests.faults.run import RESTARTS, Run, shoppers
from tests.faults.scenario import Figures, Ground, scenario
from tests.faults.stage import stage
from tests.kafka import PATIENCE_S, now_ms, wait_for
from tests.shopping import expected, starter

TIMEOUT_S = 20
# The broker looks for transactions that are over every second, not every ten.
IMPATIENT = {"transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000"}
# Nothing is committed but by the checkpoints that the scenario takes.
ONLY_BY_HAND = RESTARTS | {"execution.checkpointing.interval": "1 h"}


@scenario()
def outage_longer_than_transaction_timeout(ground: Ground) -> Figures:
    """A state is gone on from whose transactions the brokers gave up: it is told, and repaired."""
    with stage(ground, broker_options=IMPATIENT) as ours:
        recommend = Run(ours, "outage", "exactly-once", shoppers())
        try:
            return _outage(recommend)
        finally:
            recommend.close()


def _outage(recommend: Run) -> Figures:
    ours, say = recommend.stage, recommend.stage.ground.say
    started = recommend.settings("throughput", f"transaction_timeout_s={TIMEOUT_S}")
    ours.submit("recommend", *started, f"engine.options={json.dumps(ONLY_BY_HAND)}")
    _committed_by_hand(recommend)
    time.sleep(2)  # lists that only the savepoint has
    state = _savepoint(recommend)
    cancel(ours.rest, recommend.job_id)
    say(f"took a savepoint and ended the job; away for {2 * TIMEOUT_S} s")
    time.sleep(2 * TIMEOUT_S)
    options = RESTARTS | {"execution.state-recovery.path": state}
    ours.submit("recommend", *started, f"engine.options={json.dumps(options)}")
    recommend.goes_on()
    wait_for(lambda: LOST in recommend.counts(), PATIENCE_S, "it to tell of its loss")
    transactions, told = recommend.counts()[LOST], ours.jobs("cluster", "status")
    assert "python -m jobs repair recommend" in told, told
    sent = recommend.flow.stop()
    due = expected(starter(), sent, now_ms())
    last = {made["user_id"]: name for name, made in due.items()}
    recommend.wait_for_lists(set(last.values()))
    lost = due.keys() - recommend.found()
    assert lost, "expected lists to be lost"
    say(f"{len(lost)} of {len(due)} lists are lost; repairing")
    words = [word for each in started for word in ("--set", each)]
    repaired = json.loads(ours.jobs("repair", "recommend", *words).splitlines()[-1])
    assert repaired["missing"] == len(lost), f"{len(lost)} were lost; repaired {repaired}"
    recommend.wait_for_lists(lost)
    again = json.loads(ours.jobs("repair", "recommend", *words).splitlines()[-1])
    assert again["missing"] == 0, f"repaired once more: {again}"
    figures = verified(ours.broker.bootstrap, recommend.watch, due, "exactly-once", behind=lost)
    recommend.stop()
    return figures | {"transactions_lost": transactions, "repaired": len(lost)}


def _committed_by_hand(recommend: Run) -> None:
    """Take checkpoints until lists have come."""
    recommend.flow  # noqa: B018 (it begins)

    def come() -> bool:
        recommend.take_checkpoint()
        return bool(recommend.watch.records())

    wait_for(come, PATIENCE_S, "the first lists", 2)


def _savepoint(recommend: Run) -> str:
    """The URI of a savepoint of the job, which goes on; its transactions are not committed yet."""
    rest, path = recommend.stage.rest, f"/jobs/{recommend.job_id}/savepoints"
    folder = (recommend.stage.ground.folder / "savepoints").as_uri()
    asked = rest.send("POST", path, {"target-directory": folder})["request-id"]

    def taken() -> bool:
        return bool(rest.get(f"{path}/{asked}")["status"]["id"] == "COMPLETED")

    wait_for(taken, PATIENCE_S, "the savepoint", 0.1)
    return str(rest.get(f"{path}/{asked}")["operation"]["location"])
