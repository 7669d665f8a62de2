"""Which bundle answers which event, while new ones come in.

    registry ─ poll ─ verify, load, self-test ─┐ in the background
    time of an event ─ what acts from when ────┴─ Recommender

The history of the registry says which bundle acts on an event, by the event's own time: a replay
is answered by the bundles that answered then. A new bundle is loaded before it is looked at; until
it is ready, or if it is refused, the one before it answers. Workers see a decision at different
moments, so whoever decides lets it act a few seconds later than now: by then all have it ready,
and the first event at or after `active_from` finds it whichever worker gets the event.
"""

from __future__ import annotations

import gc
import logging
import threading
from bisect import bisect_right
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np

from models.bundle import Bundle, BundleError
from models.bundle_files import UnreachableError
from models.history import LATEST_MS, Decision
from models.loading import load_bundle
from models.recommender import Recommender, Settings
from models.registry import Follower
from udfs.events import TYPE_CODES
from udfs.session_features import SessionBatch, session_features

COUNTS = (
    "bundles_loaded",
    "bundles_refused",  # and histories that break the rules
    "other_bundle",  # events answered by an older bundle than the history says
)
_PROBED = 8  # items of the session that the latency of a bundle is measured with
_TRIES = 7  # the fastest counts: it is the bundle that is judged, not what else the machine does
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Served:
    """What answers: the bundle in a folder, and those of a registry from when they act."""

    bundle: Path | str  # answers events before the first decision, or all if there is no registry
    registry: str = ""  # path or URI
    poll_s: float = 2.0  # seconds between two looks at the registry
    budget_ms: float = 20.0  # a bundle whose list takes longer is refused
    kept: int = 3  # bundles of the registry in memory; others are loaded when an event needs them


class Serving:
    """The recommender for each event. One thread answers; another one brings in new bundles.

    Loading shares the interpreter with answering. It is a chain of short steps, between which
    the interpreter changes threads; a lower priority would only make it hold the interpreter for
    longer while others run.
    """

    def __init__(self, served: Served, ranking: Settings) -> None:
        """Load what acts last. Raises BundleError, RegistryError or OSError if that cannot be."""
        self.counts = dict.fromkeys(COUNTS, 0)
        self._served, self._ranking = served, ranking
        self._base = Recommender(load_bundle(served.bundle), ranking)
        self._follower = Follower(served.registry) if served.registry else None
        self._ready: OrderedDict[str, Recommender] = OrderedDict()  # the last used one is last
        self._errors: dict[int, Exception] = {}  # sequence → why its bundle is not used
        self._again: set[int] = set()  # of these, to be tried again
        self._new: list[Decision] = []  # to be loaded
        self._lock = threading.Lock()  # of _ready
        self._stop = threading.Event()
        self._trouble = ""
        # Decisions whose bundle was tried, by sequence, and their times; replaced, never changed.
        self._acting: tuple[list[int], list[Decision]] = ([], [])
        if self._follower:
            self._adopt([decision for decision in self._follower.poll() if decision.acts])
            self.at(LATEST_MS)

    def start(self) -> None:
        """Look at the registry in the background from now on."""
        if self._follower:
            threading.Thread(target=self._follow, name="bundles", daemon=True).start()

    def close(self) -> None:
        """Look no more; a bundle that is being loaded is dropped when it is."""
        self._stop.set()

    def at(self, event_time_ms: int) -> Recommender:
        """What answers an event of this time.

        A bundle that is in memory no more (an event from long ago, a replay) is loaded here.
        """
        starts, decisions = self._acting
        newest = bisect_right(starts, event_time_ms) - 1
        for place in range(newest, -1, -1):
            found = self._found(decisions[place])
            if found:
                self.counts["other_bundle"] += place < newest
                return found
        self.counts["other_bundle"] += newest >= 0
        return self._base

    def refresh(self) -> None:
        """Look at the registry once, and load what is new; what fails is told and counted."""
        assert self._follower is not None
        try:
            self._new += [decision for decision in self._follower.poll() if decision.acts]
            self._trouble = ""
        except Exception as error:  # whatever it is, what answers goes on
            self._tell(error)
        self._again = {number for number, error in [*self._errors.items()] if _may_pass(error)}
        for decision in self._new:
            self._found(decision)
        waiting = [each for each in self._new if _may_pass(self._errors.get(each.sequence))]
        self._adopt([each for each in self._new if each not in waiting])
        self._new = waiting

    def _follow(self) -> None:
        while not self._stop.wait(self._served.poll_s):
            self.refresh()

    def _adopt(self, decisions: list[Decision]) -> None:
        """Let decisions be looked at by `at`."""
        if decisions:
            acting = sorted([*self._acting[1], *decisions], key=lambda each: each.sequence)
            self._acting = ([each.active_from for each in acting], acting)

    def _found(self, decision: Decision) -> Recommender | None:
        """The decision's recommender, from memory if it is there; None if it is refused."""
        version = decision.bundle_version
        with self._lock:
            if version in self._ready:
                self._ready.move_to_end(version)
                return self._ready[version]
        if decision.sequence in self._errors and decision.sequence not in self._again:
            return None
        return self._load(decision)

    def _load(self, decision: Decision) -> Recommender | None:
        """Load and try out a decision's bundle; None if it is refused, which is told."""
        assert self._follower is not None
        self._again.discard(decision.sequence)
        try:
            bundle = self._follower.load(decision)
            recommender = Recommender(bundle, self._ranking)
            check_latency(bundle, recommender, self._served.budget_ms)
        except Exception as error:  # whatever is wrong with it, the one before it answers
            self._refuse(decision, error)
            return None
        gc.freeze()  # a full collection would look at all of the bundle, and stop who answers
        self._errors.pop(decision.sequence, None)
        with self._lock:
            self._ready[decision.bundle_version] = recommender
            while len(self._ready) > self._served.kept:
                self._ready.popitem(last=False)
        self.counts["bundles_loaded"] += 1
        _log.info("loaded bundle %s", decision.bundle_version)
        return recommender

    def _refuse(self, decision: Decision, error: Exception) -> None:
        before, self._errors[decision.sequence] = self._errors.get(decision.sequence), error
        if str(error) == str(before):
            return
        self.counts["bundles_refused"] += 1
        _log.warning(
            "refused bundle %s of decision %d, the one before it goes on: %s",
            decision.bundle_version,
            decision.sequence,
            error,
        )

    def _tell(self, error: Exception) -> None:
        """Say once what is wrong with the registry."""
        if str(error) != self._trouble:
            self._trouble = str(error)
            self.counts["bundles_refused"] += not _may_pass(error)
            _log.warning("cannot follow the registry, what answers goes on: %s", error)


def _may_pass(error: Exception | None) -> bool:
    """Whether what went wrong is not the bundle, so that it is tried again."""
    return isinstance(error, OSError | UnreachableError)


def check_latency(bundle: Bundle, recommender: Recommender, budget_ms: float) -> None:
    """Raise BundleError if a list for a session of popular items takes longer than the budget."""
    items = [bundle.catalogue.item_ids[place] for place in bundle.popular[:_PROBED]]
    size = len(items)
    batch = SessionBatch(
        np.array([0, size], np.int64),
        items,
        np.full(size, TYPE_CODES["view_item"], np.int8),
        np.arange(size, dtype=np.int64) * 1000,
        np.full(size, np.nan),
    )
    features = session_features(batch)
    times = []
    for _ in range(_TRIES):
        started = perf_counter()
        recommender.recommend(batch, features)
        times.append(1000 * (perf_counter() - started))
    if min(times) > budget_ms:
        raise BundleError(
            f"expected a list in at most {budget_ms:g} ms; bundle {bundle.version} takes "
            f"{min(times):.1f}: make it smaller, or raise the budget"
        )
