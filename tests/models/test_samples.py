"""Samples: everything once, rows and offsets together, and what a bundle does not know yet."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from models.replay import session_keys
from models.samples import Learned, Sample, Samples
from udfs.events import decode, to_text

HOUR = 3_600_000
T0 = 1_750_000_000_000
NOTHING = Learned(part=0, before=0)


def session(name: str, ended: int, items: str = "abc") -> Sample:
    """A message of `sessions` that ends `ended` hours after T0, a view a second."""
    times = [T0 + ended * HOUR - (len(items) - 1 - n) * 1000 for n in range(len(items))]
    events = [
        {"item_id": item, "event_type": "view_item", "event_time": time}
        for item, time in zip(items, times, strict=True)
    ]
    events.append({"item_id": None, "event_type": "search", "event_time": times[-1]})
    told = {
        "schema_version": 1,
        "session_id": name,
        "user_id": "u",
        "started_at": times[0],
        "ended_at": times[-1],
        "closed_by": "gap",
        "events": events,
        "features": {},
    }
    return Sample("session", "", json.dumps(told))


def late(user: str, name: str, hour: int, item: str) -> Sample:
    value = {"event_id": name, "event_type": "view_item", "event_time": T0 + hour * HOUR}
    _, event = decode(json.dumps({**value, "user_id": user, "item_id": item}).encode(), 1 << 42)
    return Sample("late_event", user, to_text(event))


def feedback(item: str, version: str, click: bool, final: bool, revision: int = 1) -> Sample:
    label = {"impression": True, "click": click, "cart": False, "purchase": False}
    told = {"recommendation_id": "r", "item_id": item, "bundle_version": version, "label": label}
    return Sample("feedback", "", json.dumps({**told, "final": final, "revision": revision}))


def items_of(samples: Samples, learned: Learned) -> list[str]:
    """The items of each session that is new, joined, in order of the sessions' ends."""
    log = samples.unlearned(learned)
    if log is None:
        return []
    names = np.array(log.facts.ids)[log.items]
    return ["".join(names[a:b]) for a, b in zip(log.offsets, log.offsets[1:], strict=False)]


def test_what_was_read_is_there_with_its_offsets_and_watermark(tmp_path: Path) -> None:
    samples = Samples(tmp_path)
    assert samples.parts() == []
    read = [session("s1", 1), session("s2", 2, "bcd"), Sample("session", "", "{}")]
    offsets = {"sessions": {0: 2, 1: 1}, "feedback": {0: 0}}
    part = samples.add(read, offsets, HOUR)
    again = samples.add([session("s0", 0, "xyz")], offsets, HOUR, deleted_unread=3)
    assert samples.parts() == [part, again]
    assert part.offsets == offsets
    assert part.watermark == again.watermark == T0 + 2 * HOUR
    counts = {"sessions": 2, "late_sessions": 0, "feedback": 0, "invalid": 1, "deleted_unread": 0}
    assert part.counts == counts
    assert again.counts["deleted_unread"] == 3
    assert items_of(samples, NOTHING) == ["xyz", "abc", "bcd"]


def test_a_run_that_dies_leaves_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = Samples(tmp_path)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    for module, name in ((pq, "write_table"), (Path, "rename"), (Path, "write_bytes")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, killed)
            with pytest.raises(KeyboardInterrupt):
                samples.add([session("s1", 1)], {}, HOUR)
        assert samples.parts() == []
    assert samples.add([session("s1", 1)], {}, HOUR).number == 1
    assert items_of(samples, NOTHING) == ["abc"]


def test_late_events_become_sessions_of_their_own(tmp_path: Path) -> None:
    samples = Samples(tmp_path)
    read = [late("u", "2", 5, "b"), late("v", "3", 1, "x"), late("u", "1", 5, "a")]
    read += [late("u", "1", 5, "a"), late("u", "4", 9, "c"), Sample("late_event", "", "")]
    part = samples.add(read, {}, HOUR)
    assert part.counts["invalid"] == 1
    assert part.counts["late_sessions"] == 3
    assert sorted(items_of(samples, NOTHING)) == ["ba", "c", "x"]


def test_a_session_is_learned_once_however_late_it_comes(tmp_path: Path) -> None:
    samples = Samples(tmp_path)
    samples.add([session("s1", 1, "ab"), session("s2", 2, "cd"), session("s3", 3, "ef")], {}, HOUR)
    knows = Learned(part=1, before=T0 + 3 * HOUR)  # s3 was for the gate
    assert items_of(samples, knows) == ["ef"]
    samples.add([session("late", 0, "gh"), session("s4", 4, "ij")], {}, HOUR)
    assert items_of(samples, knows) == ["gh", "ef", "ij"]
    assert items_of(samples, Learned(part=2, before=T0 + 4 * HOUR)) == ["ij"]


def test_a_session_that_was_sent_twice_is_there_once(tmp_path: Path) -> None:
    samples = Samples(tmp_path)
    samples.add([session("s1", 1), session("s1", 1)], {}, HOUR)
    samples.add([session("s1", 1), session("s2", 2)], {}, HOUR)
    log = samples.unlearned(NOTHING)
    assert log is not None
    assert len(log) == len(set(session_keys(log).tolist())) == 2


def test_click_rates_are_those_of_final_feedback(tmp_path: Path) -> None:
    samples = Samples(tmp_path)
    read = [
        feedback("a", "one", click=False, final=False),
        feedback("a", "one", click=True, final=True, revision=2),
        feedback("b", "one", click=False, final=True),
        feedback("c", "one", click=True, final=False),
        feedback("d", "two", click=True, final=True),
        feedback("a", "one", click=False, final=False),
    ]
    part = samples.add(read, {}, HOUR)
    rates = {"one": {"shown": 2, "ctr": 0.5}, "two": {"shown": 1, "ctr": 1.0}}
    assert samples.click_rates(part) == rates
    assert samples.click_rates(samples.add([], {}, HOUR)) == {}
