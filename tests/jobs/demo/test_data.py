"""What is planned comes from the open data and the bundle alone."""

from __future__ import annotations

import json

from jobs.demo.data import read_data
from jobs.demo.processes import ROOT

STARTER = ROOT / "models" / "starter" / "online-retail"


def test_the_planned_records_are_new_to_the_bundle_and_always_the_same() -> None:
    data = read_data(STARTER, 2000)
    known_until = json.loads((STARTER / "manifest.json").read_text())["data_window"]["to"]
    assert 1990 <= len(data.records) <= 2000
    for record in data.records:
        if record.outcome == "answered" and record.visit and record.visit.known:
            assert record.step is not None
            assert record.step.event["event_time"] > known_until
    assert all((record.key or b"").startswith(b"warm-up-") for record in data.warm_up)
    assert [r.value for r in read_data(STARTER, 2000).records] == [r.value for r in data.records]
