"""Samples: what each bounded run read of sessions and feedback, as Parquet, everything once.

    samples/000001/sessions.parquet    rows of (session, user_id, item_id, event_type, event_time)
    samples/000001/feedback.parquet    what became of the items of lists
    samples/000001/part.json           where to read on, the watermark, how much was read

A part is written aside and renamed: its rows and its offsets are there together or not at all, so
that a run that dies leaves nothing, and the next one reads the same records.
"""

from __future__ import annotations

import os
import shutil
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from models.event_files import Columns, read_events
from models.replay import chosen, merged, session_keys
from models.sessions import SessionLog, sessions_from
from udfs.sessions import Closing, Session

T = TypeVar("T")
Kind = Literal["session", "late_event", "feedback"]
Offsets = dict[str, dict[int, int]]  # topic → partition → the first offset that was not read

_COLUMNS = Columns(
    item="item_id", time="event_time", user="user_id", session="session", type="event_type"
)
_SESSIONS, _FEEDBACK, _PART = "sessions.parquet", "feedback.parquet", "part.json"


class Sample(NamedTuple):
    """A record as Flink hands it over.

    A late event is the compact text of `udfs.events`, empty if it was no event.
    """

    kind: Kind
    user_id: str
    text: str


class Feedback(msgspec.Struct):
    """What is kept of a message on `feedback`."""

    recommendation_id: str
    item_id: str
    bundle_version: str
    label: dict[str, bool]
    position: int | None = None
    shown_at: int | None = None
    propensity: float | None = None
    final: bool = False
    revision: int = 0


class Part(msgspec.Struct):
    """What one bounded run read."""

    number: int
    offsets: Offsets
    watermark: int  # newest event time of all parts so far, epoch ms
    counts: dict[str, int]


_part = msgspec.json.Decoder(Part)
_session = msgspec.json.Decoder(Session)
_feedback = msgspec.json.Decoder(Feedback)


@dataclass(frozen=True)
class Learned:
    """What a bundle was fitted on: sessions of parts up to `part` that end before `before`."""

    part: int
    before: int  # epoch ms


class Samples:
    """The parts in a folder; one process at a time may add to them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def parts(self) -> list[Part]:
        """All parts, oldest first."""
        found = sorted(self.folder.glob(f"[0-9]*/{_PART}"))
        return [_part.decode(path.read_bytes()) for path in found]

    def add(
        self, samples: Iterable[Sample], offsets: Offsets, gap_ms: int, deleted_unread: int = 0
    ) -> Part:
        """Write what was read up to `offsets` as the next part.

        Late events are cut into sessions of their own. What is no session or feedback is counted
        as `invalid`, beside the records that were deleted before they could be read.
        """
        before = self.parts()
        texts: dict[Kind, list[tuple[str, str]]] = defaultdict(list)
        for kind, user_id, text in samples:
            texts[kind].append((user_id, text))
        sessions, bad = _decoded(texts["session"], _session)
        events = [(user_id, text) for user_id, text in texts["late_event"] if text]
        late = _late_sessions(events, gap_ms)
        feedback, worse = _decoded(texts["feedback"], _feedback)
        ends = [session.ended_at for session in (*sessions, *late)]
        part = Part(
            number=before[-1].number + 1 if before else 1,
            offsets=offsets,
            watermark=max([*ends, before[-1].watermark if before else 0]),
            counts={
                "sessions": len(sessions),
                "late_sessions": len(late),
                "feedback": len(feedback),
                "invalid": bad + worse + len(texts["late_event"]) - len(events),
                "deleted_unread": deleted_unread,
            },
        )
        self._write(part, _session_table([*sessions, *late]), _feedback_table(feedback))
        return part

    def unlearned(self, learned: Learned) -> SessionLog | None:
        """The sessions that a bundle was not fitted on, in order of their end, each once."""
        found: SessionLog | None = None
        for part in self.parts():
            log = self._sessions(part.number)
            if log is None:
                continue
            new = (log.ends >= learned.before) | (part.number > learned.part)
            if new.any():
                some = chosen(log, np.flatnonzero(new))
                found = some if found is None else merged(found, some)
        if found is None:
            return None
        _, first = np.unique(session_keys(found), return_index=True)
        return chosen(found, np.sort(first))

    def click_rates(self, part: Part) -> dict[str, dict[str, float]]:
        """Of each bundle version, by the final feedback of a part: items shown, share clicked."""
        table = pq.read_table(self._place(part.number) / _FEEDBACK)
        rows = table.filter(pa.compute.field("final") & pa.compute.field("impression"))
        clicked: dict[str, list[bool]] = defaultdict(list)
        columns = rows["bundle_version"].to_pylist(), rows["click"].to_pylist()
        for version, click in zip(*columns, strict=True):
            clicked[version].append(click)
        return {
            version: {"shown": len(clicks), "ctr": round(sum(clicks) / len(clicks), 4)}
            for version, clicks in sorted(clicked.items())
        }

    def _sessions(self, number: int) -> SessionLog | None:
        path = self._place(number) / _SESSIONS
        if pq.read_metadata(path).num_rows == 0:
            return None
        events, _ = read_events(str(path), "parquet", _COLUMNS, "ms", "view_item")
        return sessions_from(events, gap_ms=0)

    def _place(self, number: int) -> Path:
        return self.folder / f"{number:06d}"

    def _write(self, part: Part, sessions: pa.Table, feedback: pa.Table) -> None:
        aside = self.folder / ".new"
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        pq.write_table(sessions, aside / _SESSIONS)
        pq.write_table(feedback, aside / _FEEDBACK)
        (aside / _PART).write_bytes(msgspec.json.encode(part))
        for path in (*aside.iterdir(), aside):
            _sync(path)
        aside.rename(self._place(part.number))
        _sync(self.folder)


def _decoded(texts: list[tuple[str, str]], decoder: msgspec.json.Decoder[T]) -> tuple[list[T], int]:
    """The messages that are of a kind, and how many are not."""
    found: list[T] = []
    for _, text in texts:
        try:
            found.append(decoder.decode(text))
        except msgspec.DecodeError:
            continue
    return found, len(texts) - len(found)


def _late_sessions(texts: list[tuple[str, str]], gap_ms: int) -> list[Session]:
    closing = Closing(gap_ms, at_once_ms=-1)  # all that there will be is there
    by_user: dict[str, list[str]] = defaultdict(list)
    for user_id, text in texts:
        by_user[user_id].append(text)
    return [
        _session.decode(closed.value)
        for user_id, events in by_user.items()
        for closed in closing.by_silence(user_id, ",".join(events))
    ]


def _session_table(sessions: list[Session]) -> pa.Table:
    """One row for each event that has an item; equal ids of two sessions are kept apart."""
    rows = [
        (number, session.user_id, event.item_id, event.event_type, event.event_time)
        for number, session in enumerate(sessions)
        for event in session.events
        if event.item_id is not None
    ]
    names = ("session", "user_id", "item_id", "event_type", "event_time")
    kinds = (pa.int64(), pa.string(), pa.string(), pa.string(), pa.int64())
    columns = zip(*rows, strict=True) if rows else [()] * len(names)
    arrays = [pa.array(column, kind) for column, kind in zip(columns, kinds, strict=True)]
    return pa.table(dict(zip(names, arrays, strict=True)))


def _feedback_table(feedback: list[Feedback]) -> pa.Table:
    """One row for each item of a list, its newest revision; labels are columns."""
    oldest_first = sorted(feedback, key=lambda row: (row.final, row.revision))
    rows = {(row.recommendation_id, row.item_id): row for row in oldest_first}.values()
    columns = {
        "recommendation_id": pa.array([row.recommendation_id for row in rows], pa.string()),
        "item_id": pa.array([row.item_id for row in rows], pa.string()),
        "bundle_version": pa.array([row.bundle_version for row in rows], pa.string()),
        "position": pa.array([row.position for row in rows], pa.int32()),
        "shown_at": pa.array([row.shown_at for row in rows], pa.int64()),
        "propensity": pa.array([row.propensity for row in rows], pa.float64()),
        "final": pa.array([row.final for row in rows], pa.bool_()),
        "revision": pa.array([row.revision for row in rows], pa.int64()),
    }
    for label in ("impression", "click", "cart", "purchase"):
        columns[label] = pa.array([row.label.get(label, False) for row in rows], pa.bool_())
    return pa.table(columns)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
