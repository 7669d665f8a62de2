"""Records that are no events, among those that are."""

from __future__ import annotations

import random
from collections import Counter

from tests.faults.readers import committed
from tests.faults.run import RUNS, Run, run, shoppers
from tests.faults.scenario import Figures, Ground, scenario
from tests.faults.stage import stage
from tests.kafka import PATIENCE_S, Record, now_ms, wait_for
from tests.malformed import malformed
from tests.mutants import mutants
from tests.shopping import outcomes, starter
from udfs.events import InvalidEventError, decode

BAD, GOOD = 10_000, 2_000
RATE = 300  # records a second


@scenario()
def poison(ground: Ground) -> Figures:
    """Ten thousand malformed records: no restart, and each is a dead letter once, as it was."""
    records = poisoned()
    figures: Figures = {}
    with stage(ground) as ours:
        for profile, delivery in RUNS:
            name = f"poison-{profile}"
            with run(ours, name, profile, delivery, records=records, rate=RATE) as recommend:
                recommend.flow.finish()
                told = recommend.verify() | {"dead_letters": dead_letters(recommend, records)}
                told |= {"counted": balanced(recommend, records), "restarts": recommend.failures()}
                assert told["restarts"] == 0, recommend.why_it_ended()
                figures[profile] = told
    return figures


def poisoned(seed: int = 11) -> list[Record]:
    """Events of shoppers, and among them BAD records that are none and mutants that still are."""
    draw = random.Random(seed)
    bad: list[bytes | None] = [value for _, value in malformed()]
    strange: dict[tuple[str, str], Record] = {}  # what two lists would share an id for is left out
    models = (record.value or b"" for record in shoppers(seed=seed))
    for value in mutants(seed, models):
        if len(bad) == BAD:
            break
        try:
            user, event = decode(value, now_ms())
            strange[user, event.event_id] = Record(value, user.encode())
        except InvalidEventError:
            bad.append(value)
    assert len(bad) == BAD, f"expected {BAD} bad records; got {len(bad)}"
    added = [Record(value, b"bad-%d" % number, [("n", b"1")]) for number, value in enumerate(bad)]
    added += strange.values()
    good = shoppers(events=GOOD)
    place = {id(record): draw.random() * GOOD for record in added}
    place |= {id(record): number for number, record in enumerate(good)}
    return sorted(good + added, key=lambda record: place[id(record)])


def dead_letters(recommend: Run, records: list[Record]) -> int:
    """Hold the dead letters against the records that are no events: the same bytes, each once."""
    sent = [each for each in records if (each.key or b"").startswith(b"bad-")]
    bootstrap, topic = recommend.stage.broker.bootstrap, recommend.dead
    wait_for(
        lambda: len(committed(bootstrap, topic)) >= len(sent), PATIENCE_S, "every dead letter", 2
    )
    found = committed(bootstrap, topic)
    due, came = (Counter((each.key, each.value) for each in side) for side in (sent, found))
    assert came == due, (
        f"{(due - came).total()} dead letters are missing: {list(due - came)[:2]}; "
        f"{(came - due).total()} are too many: {list(came - due)[:2]}"
    )
    assert all(("n", b"1") in each.headers for each in found), "a header of a dead letter is lost"
    return len(found)


def balanced(recommend: Run, records: list[Record]) -> dict[str, int]:
    """Wait until the job's counters are what the engine-free function makes of the records."""
    due = outcomes(starter(), records, now_ms())
    try:
        wait_for(lambda: due.items() <= recommend.counts().items(), PATIENCE_S, "the counters", 2)
    except AssertionError as error:
        raise AssertionError(f"{error}: expected {due}; got {recommend.counts()}") from None
    return due
