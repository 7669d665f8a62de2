"""What acted from when: the decisions about bundles, and the rules by which one may be added.

    promoted      bundle_version acts on events from active_from on
    rolled_back   the same, for a version that acted before
    rejected      bundle_version never acts

Decisions are numbered without gaps and never change; each is a file of the registry, made once:
history/SEQUENCE/decision.json. A decision is also the message of the model-updates topic. Times
are event times in epoch milliseconds; there is no clock here.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, Literal

import msgspec

from models.storage import Folder

LATEST_MS = 4_102_444_800_000  # 2100-01-01: beyond it, milliseconds were mistaken for another unit

_FILE = "decision.json"
_MAX_DECISION = 1 << 16  # bytes
_READERS = 16  # decisions that are read at once

_VERSION = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z"  # also the name of a folder
Version = Annotated[str, msgspec.Meta(pattern=_VERSION)]
Sha256 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]


class RegistryError(ValueError):
    """Why the registry refuses something: what was expected, what came, what to do."""


class ConflictError(RegistryError):
    """Somebody else decided first; `winner` is their decision."""

    def __init__(self, winner: Decision) -> None:
        self.winner = winner
        super().__init__(
            f"sequence {winner.sequence} was taken by another publisher: {winner.bundle_version} "
            f"{winner.decided}, active from {winner.active_from}; look at it and decide again"
        )


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of the history; `parent` is the version that acted before it, if any."""

    sequence: Annotated[int, msgspec.Meta(ge=1)]
    bundle_version: Version
    active_from: Annotated[int, msgspec.Meta(ge=0, le=LATEST_MS)]
    sha256: Sha256  # of the manifest, which has the hashes of all other files
    decided: Literal["promoted", "rejected", "rolled_back"]
    why: Annotated[str, msgspec.Meta(max_length=2000)] = ""
    uri: str | None = None
    parent: Version | None = None
    metrics: dict[str, Any] = {}

    @property
    def acts(self) -> bool:
        return self.decided != "rejected"


# msgspec crashes where two threads are the first to decode a type: it is worked out here.
_decoder = msgspec.json.Decoder(Decision)


def is_version(text: str) -> bool:
    """Whether a text may be a bundle's version."""
    return re.fullmatch(_VERSION, text) is not None


def encoded(decision: Decision) -> bytes:
    """The decision as JSON; raises RegistryError if it breaks the rules of its fields."""
    data = msgspec.json.encode(decision)
    decoded(data)
    return data


def decoded(data: bytes) -> Decision:
    """The decision in JSON bytes; raises RegistryError that says which field is wrong."""
    if len(data) > _MAX_DECISION:
        limit = f"at most {_MAX_DECISION} bytes"
        raise RegistryError(f"expected a decision of {limit}; got {len(data)}")
    try:
        return _decoder.decode(data)
    except (msgspec.DecodeError, RecursionError) as error:
        raise RegistryError(f"expected a decision; {error}") from None


class History:
    """All decisions, oldest first; it only grows, and only by what the rules allow."""

    def __init__(self) -> None:
        self.decisions: list[Decision] = []
        self.acting: list[Decision] = []  # those that are not rejections
        self._starts: list[int] = []  # their active_from, which never decreases
        self._first: dict[str, Decision] = {}  # the first decision about each version
        self._way_back: list[str] = []  # what acts, after what rolling back leads to in turn

    def at(self, event_time_ms: int) -> Decision | None:
        """What acts on an event: the newest decision with active_from at or before its time."""
        place = bisect_right(self._starts, event_time_ms)
        return self.acting[place - 1] if place else None

    @property
    def newest(self) -> Decision | None:
        """What acts last; it may be announced for a time that is yet to come."""
        return self.acting[-1] if self.acting else None

    def about(self, version: str) -> Decision | None:
        """The first decision about a version; all others go back to it."""
        return self._first.get(version)

    def before(self) -> str:
        """The version that a rollback leads to; raises RegistryError if there is none."""
        if len(self._way_back) < 2:
            raise RegistryError("expected an older bundle to roll back to; there is none")
        return self._way_back[-2]

    def kept(self, keep: int, now_ms: int) -> tuple[int, set[str]]:
        """What must stay: the first sequence of the kept range, and the versions it needs.

        The range are the last `keep` decisions that act, and at any rate what acts at `now_ms`
        and what acted before it, since late events are still to be answered by that.
        """
        now = bisect_right(self._starts, now_ms) - 1
        place = min(len(self.acting) - keep, now - 1)
        kept = self.acting[max(place, 0) :]
        first = kept[0].sequence if place >= 0 else 0  # 0: it goes back further than the history
        return first, {each.bundle_version for each in kept} | set(self._way_back[-max(keep, 2) :])

    def next(self, **fields: Any) -> Decision:
        """The decision that may be added now, numbered; raises RegistryError if it may not."""
        parent = self.newest.bundle_version if self.newest else None
        try:
            wanted = {"sequence": len(self.decisions) + 1, "parent": parent, **fields}
            decision = msgspec.convert(wanted, Decision)
        except msgspec.ValidationError as error:
            raise RegistryError(f"expected a decision; {error}") from None
        self._check(decision)
        return decision

    def add(self, decision: Decision) -> None:
        """Add a decision that was made; raises RegistryError if the rules do not allow it."""
        self._check(decision)
        self.decisions.append(decision)
        version = decision.bundle_version
        self._first.setdefault(version, decision)
        if not decision.acts:
            return
        if version in self._way_back:
            del self._way_back[self._way_back.index(version) :]
        self._way_back.append(version)
        self.acting.append(decision)
        self._starts.append(decision.active_from)

    def _check(self, decision: Decision) -> None:
        version, before = decision.bundle_version, self._first.get(decision.bundle_version)
        if decision.sequence != len(self.decisions) + 1:
            raise RegistryError(
                f"expected sequence {len(self.decisions) + 1}; got {decision.sequence}"
            )
        if before and before.sha256 != decision.sha256:
            raise RegistryError(
                f"expected the {version} of sequence {before.sequence}; it has another hash now: "
                "give another bundle another version"
            )
        if decision.decided == "rolled_back":
            self._check_rollback(version, before)
        elif before and (before.acts or decision.acts):
            raise RegistryError(_again(version, before, decision.decided))
        newest = self.newest
        if decision.acts and newest and decision.active_from < newest.active_from:
            raise RegistryError(
                f"expected active_from at or after {newest.active_from}, from which "
                f"{newest.bundle_version} acts; got {decision.active_from}: what acted on past "
                "events is not changed"
            )

    def _check_rollback(self, version: str, before: Decision | None) -> None:
        if before is None or not before.acts:
            raise RegistryError(f"expected a version that acted before; {version} never did")
        if self.newest and self.newest.bundle_version == version:
            raise RegistryError(f"expected another version than {version}, which acts already")


class HistoryLog:
    """Reads decisions in order and adds new ones; `known` is what was read so far."""

    def __init__(self, root: Folder) -> None:
        self.known = History()
        self._root = root

    def read(self) -> History:
        """All decisions so far; those read before are not read again, since they never change.

        When there is nothing new this is one attempt to open one small file. Raises
        RegistryError at a decision that breaks the rules; those before it are known then.
        """
        if not self.known.decisions:
            with ThreadPoolExecutor(_READERS) as pool:
                for decision in pool.map(self._decision, range(1, self._count() + 1)):
                    self._know(decision)
        while decision := self._decision(len(self.known.decisions) + 1):
            self._know(decision)
        return self.known

    def append(self, decision: Decision) -> None:
        """Add a decision of `History.next`; raises ConflictError if its sequence was taken."""
        if not self._root.create(_place(decision.sequence), _FILE, encoded(decision)):
            raise ConflictError(self.read().decisions[decision.sequence - 1])
        self._know(decision)

    def _know(self, decision: Decision | None) -> None:
        place = _place(len(self.known.decisions) + 1)
        try:
            if decision is None:
                raise RegistryError("expected a decision; it is gone")
            self.known.add(decision)
        except RegistryError as error:
            raise RegistryError(f"{place} in {self._root.uri}: {error}") from None

    def _count(self) -> int:
        """How many decisions there are; raises RegistryError if one is missing among them."""
        names = [info.base_name for info in (self._root / "history").infos()]
        for sequence, name in enumerate(names, start=1):
            if _place(sequence) != f"history/{name}":
                raise RegistryError(
                    f"expected {_place(sequence)} in {self._root.uri}; got {name}: decisions are "
                    "never deleted, and nothing else belongs there"
                )
        return len(names)

    def _decision(self, sequence: int) -> Decision | None:
        try:
            return decoded((self._root / _place(sequence)).read(_FILE, _MAX_DECISION))
        except FileNotFoundError:
            return None
        except RegistryError as error:
            raise RegistryError(f"{_place(sequence)} in {self._root.uri}: {error}") from None


def _again(version: str, before: Decision, decided: str) -> str:
    if not before.acts:
        return f"{version} was rejected at sequence {before.sequence} and stays out: {before.why}"
    if decided == "rejected":
        return f"{version} acted from sequence {before.sequence}; to take it back, roll back"
    return (
        f"{version} was announced at sequence {before.sequence} already and is no new bundle; "
        f"to let it act again, roll back to it"
    )


def _place(sequence: int) -> str:
    return f"history/{sequence:08d}"
