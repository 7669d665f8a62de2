"""The registry: immutable bundles, and the history of which acted from when.

    bundles/, published/     models/bundle_store.py
    history/                 models/history.py

It is a folder of any file system that `models.storage` opens. Nothing in it is ever changed, only
added, or deleted by `prune`; `Folder.create` lets exactly one of many publishers add a name.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from models.bundle import Bundle
from models.bundle_store import BundleStore, Published
from models.history import ConflictError, Decision, History, HistoryLog, RegistryError
from models.storage import Folder


class Registry:
    """Publishes bundles and decides about them; give every thread one of its own."""

    def __init__(self, place: Folder | Path | str) -> None:
        self.root = Folder.at(place)
        self.bundles = BundleStore(self.root)
        self._log = HistoryLog(self.root)

    def history(self) -> History:
        """All decisions so far."""
        return self._log.read()

    def bundle_at(self, event_time_ms: int) -> Decision | None:
        """The decision that says which bundle acts on an event; None before the first one."""
        return self.history().at(event_time_ms)

    def publish(self, place: Folder | Path | str) -> Published:
        """Copy a bundle into the registry, where it may be decided about; see `BundleStore.add`."""
        return self.bundles.add(place, after=len(self.history().decisions))

    def promote(
        self,
        version: str,
        active_from: int,
        why: str = "",
        metrics: Mapping[str, Any] | None = None,
        after: int | None = None,
    ) -> Decision:
        """Let a published bundle act on events from `active_from` (epoch ms) on.

        It is verified and tried out first. Without `metrics` those of its manifest are recorded.
        `after` is the newest sequence that the caller has seen. Raises ConflictError if others
        decided since, RegistryError if the history forbids it, BundleError if it is not sound.
        """
        return self._let_act("promoted", version, active_from, why, metrics, self._seen(after))

    def rollback(
        self, active_from: int, to: str | None = None, why: str = "", after: int | None = None
    ) -> Decision:
        """Let an older bundle act again from `active_from` (epoch ms) on; raises like `promote`.

        Without `to` it is the one that acted before the one that acts now.
        """
        history = self._seen(after)
        return self._let_act("rolled_back", to or history.before(), active_from, why, None, history)

    def reject(
        self,
        version: str,
        sha256: str,
        active_from: int,
        why: str,
        metrics: Mapping[str, Any] | None = None,
        after: int | None = None,
    ) -> Decision:
        """Record that a bundle, published or not, is never to act, and why."""
        decision = self._seen(after).next(
            decided="rejected",
            bundle_version=version,
            sha256=sha256,
            active_from=active_from,
            why=why,
            metrics=metrics or {},
        )
        with self.root.lock(exclusive=False):
            self._log.append(decision)
        return decision

    def prune(self, keep: int, now_ms: int) -> list[str]:
        """Delete bundles that nothing needs any more; returns their versions. History stays.

        What stays say `History.kept` and: bundles not decided about, unless all of the kept
        decisions are newer. Raises RegistryError while others write (which only a local file
        system can tell: elsewhere, do not roll back at the same time).
        """
        if keep < 1:
            raise RegistryError(f"expected to keep at least 1 decision; got {keep}")
        with self.root.lock(exclusive=True) as alone:
            if self.root.local and not alone:
                raise RegistryError("expected no other publisher at work; try again later")
            history = self.history()
            first, needed = history.kept(keep, now_ms)
            removed = [
                published
                for version, published in self.bundles.all().items()
                if version not in needed and (history.about(version) or published.after < first)
            ]
            self.bundles.delete(removed)
        self.bundles.remove_abandoned()
        return [published.bundle_version for published in removed]

    def _seen(self, after: int | None) -> History:
        """The history, if the caller has seen all of it."""
        history = self.history()
        if after is not None and after < len(history.decisions):
            raise ConflictError(history.decisions[after])
        return history

    def _let_act(
        self,
        decided: str,
        version: str,
        active_from: int,
        why: str,
        metrics: Mapping[str, Any] | None,
        history: History,
    ) -> Decision:
        with self.root.lock(exclusive=False):  # so that it is not pruned meanwhile
            published = self.bundles.find(version)
            manifest = self.bundles.load(published).manifest
            decision = history.next(
                decided=decided,
                bundle_version=version,
                sha256=published.sha256,
                active_from=active_from,
                why=why,
                uri=self.bundles.place(published).uri,
                metrics=manifest.get("metrics", {}) if metrics is None else metrics,
            )
            self._log.append(decision)
        return decision


class Follower:
    """Follows a registry that others write to: what a worker asks which bundle acts."""

    def __init__(self, place: Folder | Path | str) -> None:
        root = Folder.at(place)
        self._bundles, self._log = BundleStore(root), HistoryLog(root)
        self._given = 0

    def poll(self) -> list[Decision]:
        """The decisions made since the last poll, in order: one small read when there are none.

        Raises OSError if the file system does not answer, RegistryError at a decision that breaks
        the rules; the sound ones before it are given first.
        """
        known = self._log.known
        try:
            self._log.read()
        except (OSError, RegistryError):
            if len(known.decisions) == self._given:
                raise
        new = known.decisions[self._given :]
        self._given += len(new)
        return new

    def at(self, event_time_ms: int) -> Decision | None:
        """What acts on an event, by what was polled so far; None before the first decision."""
        return self._log.known.at(event_time_ms)

    def load(self, decision: Decision) -> Bundle:
        """The bundle of a decision, verified and tried out; raises like `BundleStore.load`."""
        return self._bundles.load(decision)
