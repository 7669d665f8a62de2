"""A savepoint that an earlier version left is gone on from, on brokers that are others."""

from __future__ import annotations

from pathlib import Path

import pytest

from operators.broker import Broker
from tests.jobs.savepoints.kept import PARTITIONS, PROFILES, Kept, send_to_their_places
from tests.kafka import PATIENCE_S, read, running, wait_for


@pytest.mark.parametrize("job", PROFILES)
def test_what_was_open_in_an_earlier_version_ends_as_if_it_had_never_stopped(
    broker: Broker, tmp_path: Path, job: str
) -> None:
    kept = Kept(job)
    events, messages, *_ = kept.topics()
    broker.create_topics(dict.fromkeys(kept.topics(), PARTITIONS))
    send_to_their_places(broker, events, kept.before + kept.after)
    due = kept.due(kept.before + kept.after)
    rest = {name: made for name, made in due.items() if name not in kept.delivered}

    def found() -> dict:
        return kept.found(read(broker.bootstrap, messages))

    with running(tmp_path, job, *kept.settings(broker.bootstrap, kept.savepoint)):
        wait_for(lambda: found().keys() >= rest.keys(), PATIENCE_S, "what was due")
    assert found() == rest
    assert kept.delivered
    assert len(rest) > 10
