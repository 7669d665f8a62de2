"""Past sessions that are like this one, and what they held: VMIS-kNN (Kersbergen et al. 2022).

    recent items ─ newest sessions of each ─ similarity ─ the k nearest ─ their items, weighted

Similarity is that of V-SKNN (Ludewig & Jannach 2018): shared items, weighted by idf and by how
recently they were looked at. Everything runs in a fixed order and ties go to the newer session
and to the lower item, so the same question always gets the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from models.kernels import compiled

_DAY_MS = 86_400_000


class KnnSettings(BaseModel):
    """Which past sessions are kept and how they are asked."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    per_item: int = Field(default=500, ge=1, description="newest sessions of an item that are kept")
    longest: int = Field(default=30, ge=2, description="items of a past session, the last ones")
    nearest: int = Field(default=100, ge=1, description="most similar sessions that vote")
    items: int = Field(default=60, ge=1, description="candidates they may propose")
    decay: float = Field(default=0.75, gt=0, le=1, description="weight of an item, each step back")
    length_power: float = Field(
        default=0.5, ge=0, description="power of its length by which a past session weighs less"
    )
    half_life_days: float = Field(
        default=90.0, gt=0, description="age at which a past session counts half"
    )
    reach: float = Field(default=2.0, gt=0, description="items beside a match that still are near")


@dataclass(frozen=True)
class PastSessions:
    """S sessions by their end, each with its distinct items, and which of them hold an item."""

    offsets: np.ndarray  # int64 [S + 1], session s owns items[offsets[s]:offsets[s+1]]
    items: np.ndarray  # int32 [N], in the order in which they last occurred
    ends: np.ndarray  # int64 [S], epoch ms, ascending
    item_offsets: np.ndarray  # int64 [V + 1]
    item_sessions: np.ndarray  # int32 [M], newest first, at most `per_item` of an item

    def __len__(self) -> int:
        return len(self.ends)

    @property
    def catalogue(self) -> int:
        """How many items there are, with or without a session."""
        return len(self.item_offsets) - 1

    def appended(
        self, items: np.ndarray, session: np.ndarray, times: np.ndarray, settings: KnnSettings
    ) -> PastSessions:
        """These and newer sessions: what `past_sessions` makes of all of them together.

        The rows [N] are those of `past_sessions`. Memory stays bounded: a session leaves with the
        last item of which it is one of the newest.
        """
        fresh = _distinct(items, session, times, settings.longest)
        lengths = np.append(np.diff(self.offsets), np.diff(fresh[0]))
        return _indexed(
            np.append(0, np.cumsum(lengths)),
            np.append(self.items, fresh[1]),
            np.append(self.ends, fresh[2]),
            self.catalogue,
            settings.per_item,
        )

    def recoded(self, index: np.ndarray, size: int, settings: KnnSettings) -> PastSessions:
        """The same in a catalogue of `size` items; `index` [V] maps to it, -1 where gone."""
        codes = index[self.items]
        known = codes >= 0
        kept = np.append(0, np.cumsum(known))[self.offsets]
        some = np.diff(kept) > 0
        offsets = np.append(0, np.cumsum(np.diff(kept)[some]))
        return _indexed(offsets, codes[known], self.ends[some], size, settings.per_item)


def past_sessions(
    items: np.ndarray, session: np.ndarray, times: np.ndarray, size: int, settings: KnnSettings
) -> PastSessions:
    """Index rows of sessions: items below `size`, session (ascending) and times (ms) are [N]."""
    return _indexed(*_distinct(items, session, times, settings.longest), size, settings.per_item)


def restored(
    offsets: np.ndarray, items: np.ndarray, ends: np.ndarray, size: int, settings: KnnSettings
) -> PastSessions:
    """What was stored, indexed anew; raises ValueError for arrays that do not fit together."""
    sound = (
        len(offsets) == len(ends) + 1
        and offsets[0] == 0
        and offsets[-1] == len(items)
        and bool((np.diff(offsets) > 0).all())
        and bool((np.diff(ends) >= 0).all())
        and (not len(items) or bool(items.min() >= 0 and items.max() < size))
    )
    if not sound:
        raise ValueError(f"expected past sessions in order of time, of items below {size}")
    return _with_index(offsets, items, ends, size, settings.per_item)


def _distinct(
    items: np.ndarray, session: np.ndarray, times: np.ndarray, longest: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Offsets, distinct items by their last occurrence (at most `longest`), ends of sessions."""
    if len(items) == 0:
        return np.zeros(1, np.int64), np.empty(0, np.int32), np.empty(0, np.int64)
    last = np.flatnonzero(np.append(np.diff(session) != 0, True))
    number = np.repeat(np.arange(len(last)), np.diff(np.append(-1, last)))
    order = np.lexsort((items, number))
    final = np.append((np.diff(items[order]) != 0) | (np.diff(number[order]) != 0), True)
    rows = np.sort(order[final])  # the last row of each item of each session
    counts = np.bincount(number[rows], minlength=len(last))
    ends = np.cumsum(counts)
    kept = np.repeat(ends, counts) - np.arange(len(rows)) <= longest
    counts = np.minimum(counts, longest)
    return np.append(0, np.cumsum(counts)), items[rows[kept]].astype(np.int32), times[last]


def _indexed(
    offsets: np.ndarray, items: np.ndarray, ends: np.ndarray, size: int, per_item: int
) -> PastSessions:
    """Sessions by their end (equal ones as they came), without those that no item lists."""
    order = np.argsort(ends, kind="stable")
    offsets, items = _chosen(offsets, items, order)
    found = _with_index(offsets, items, ends[order], size, per_item)
    listed = np.unique(found.item_sessions)
    if len(listed) == len(found):
        return found
    offsets, items = _chosen(offsets, items, listed)
    return _with_index(offsets, items, found.ends[listed], size, per_item)


def _chosen(
    offsets: np.ndarray, items: np.ndarray, sessions: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    lengths = np.diff(offsets)[sessions]
    kept = np.append(0, np.cumsum(lengths))
    rows = np.arange(kept[-1]) + np.repeat(offsets[sessions] - kept[:-1], lengths)
    return kept, items[rows]


def _with_index(
    offsets: np.ndarray, items: np.ndarray, ends: np.ndarray, size: int, per_item: int
) -> PastSessions:
    owner = np.repeat(np.arange(len(ends)), np.diff(offsets))
    order = np.lexsort((-owner, items))
    first = np.searchsorted(items[order], np.arange(size))
    kept = order[np.arange(len(order)) - first[items[order]] < per_item]
    return PastSessions(
        offsets.astype(np.int64),
        items.astype(np.int32),
        ends.astype(np.int64),
        np.searchsorted(items[kept], np.arange(size + 1)).astype(np.int64),
        owner[kept].astype(np.int32),
    )


@dataclass(frozen=True, slots=True)
class Alike:
    """Items of the nearest past sessions of B sessions: K in all, best first."""

    starts: np.ndarray  # int64 [B + 1], session b owns items[starts[b]:starts[b+1]]
    items: np.ndarray  # int64 [K]
    scores: np.ndarray  # float32 [K, 2]: similarity of the sessions that hold it, times its idf;
    # the same without idf, by how near behind or before the shared item it stood there
    because: np.ndarray  # int64 [K], the item that the most similar of them shares with this one


class SessionKnn:
    """Answers from past sessions; it keeps working memory: give every thread one of its own."""

    def __init__(self, past: PastSessions, settings: KnnSettings, recent: int) -> None:
        held = np.bincount(past.items, minlength=past.catalogue)
        newest = past.ends.max(initial=0)
        age = (newest - past.ends) / _DAY_MS
        weight = 0.5 ** (age / settings.half_life_days) / (
            np.maximum(np.diff(past.offsets), 1) ** settings.length_power
        )
        self._past = (past.offsets, past.items, past.item_offsets, past.item_sessions)
        self._weights = (
            weight.astype(np.float32),  # [S]
            np.log((len(past) + 1.0) / (held + 1.0)).astype(np.float32) + np.float32(0.1),  # [V]
            (settings.decay ** np.arange(recent)).astype(np.float32),  # [L]
            np.exp(-np.arange(settings.longest) / settings.reach).astype(np.float32),
        )
        self._most = (settings.nearest, settings.items)
        self._memory = (
            np.zeros(len(past), np.float32),
            np.zeros(len(past), np.int32),
            np.full(past.catalogue, -1, np.int32),
        )

    def ask(self, recent: np.ndarray, lengths: np.ndarray) -> Alike:
        """What the nearest past sessions of B sessions hold: recent [B, L] newest first, [B]."""
        return Alike(
            *_ask(recent, lengths, *self._past, *self._weights, *self._most, *self._memory)
        )


@compiled
def _ask(
    recent: np.ndarray,  # int32 [B, L], newest first
    lengths: np.ndarray,  # int64 [B]
    offsets: np.ndarray,  # int64 [S + 1]
    items: np.ndarray,  # int32 [N]
    item_offsets: np.ndarray,  # int64 [V + 1]
    item_sessions: np.ndarray,  # int32 [M], newest first
    weight: np.ndarray,  # float32 [S], of a past session
    idf: np.ndarray,  # float32 [V]
    decay: np.ndarray,  # float32 [L]
    nearness: np.ndarray,  # float32 [longest], by distance from the match
    nearest: int,
    most: int,
    similarity: np.ndarray,  # float32 [S], all 0: working memory, left as it was found
    match: np.ndarray,  # int32 [S]: working memory
    place: np.ndarray,  # int32 [V], all -1: working memory, left as it was found
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    size = len(recent)
    starts = np.zeros(size + 1, np.int64)
    out_items = np.empty(size * most, np.int64)
    out_scores, out_shared = np.empty((size * most, 2), np.float32), np.empty(size * most, np.int64)
    touched = np.empty(len(similarity), np.int32)
    near, how_near = np.empty(nearest, np.int32), np.empty(nearest, np.float32)
    room = nearest * len(nearness)
    held, scores = np.empty(room, np.int64), np.empty((room, 2), np.float32)
    shared, closest = np.empty(room, np.int64), np.empty(room, np.float32)
    best, how_good = np.empty(most, np.int32), np.empty(most, np.float32)
    end = 0
    for b in range(size):
        count = 0
        for back in range(lengths[b]):
            item, repeated = recent[b, back], False
            for newer in range(back):
                repeated |= recent[b, newer] == item
            if repeated:
                continue
            told = decay[back] * idf[item]
            for at in range(item_offsets[item], item_offsets[item + 1]):
                s = item_sessions[at]
                if similarity[s] == 0:
                    touched[count], match[s] = s, item
                    count += 1
                similarity[s] += told
        kept = 0
        for n in range(count):
            s = touched[n]
            kept = _offer(near, how_near, kept, s, similarity[s] * weight[s])
            similarity[s] = 0
        slots = 0
        for n in range(kept):
            s, alike = near[n], how_near[n]
            first = offsets[s]
            matched = first
            while items[matched] != match[s]:
                matched += 1
            for at in range(first, offsets[s + 1]):
                item = items[at]
                slot = place[item]
                if slot < 0:
                    slot = slots
                    place[item], held[slot] = slot, item
                    scores[slot, 0] = scores[slot, 1] = 0
                    closest[slot] = -1  # a very old session weighs nothing, and is a reason still
                    slots += 1
                if alike > closest[slot]:
                    closest[slot], shared[slot] = alike, match[s]
                scores[slot, 0] += alike * idf[item]
                if at > matched:
                    scores[slot, 1] += alike * nearness[at - matched - 1]
                elif at < matched:
                    scores[slot, 1] += np.float32(0.5) * alike * nearness[matched - at - 1]
        chosen = 0
        for slot in range(slots):
            chosen = _offer(best, how_good, chosen, -held[slot], scores[slot, 0])
        for n in range(chosen - 1, -1, -1):  # the heap gives the worst first
            item = -best[0]
            out_items[end + n] = item
            out_scores[end + n], out_shared[end + n] = scores[place[item]], shared[place[item]]
            best[0], how_good[0] = best[n], how_good[n]
            _sink(best, how_good, n)
        for n in range(slots):
            place[held[n]] = -1
        end += chosen
        starts[b + 1] = end
    return starts, out_items[:end], out_scores[:end], out_shared[:end]


@compiled
def _offer(keys: np.ndarray, values: np.ndarray, count: int, key: int, value: float) -> int:
    """Keep the largest values in a heap, the worst on top; of equal ones the larger key stays.

    Returns how many of the heap's places are taken.
    """
    if count < len(keys):
        at = count
        while at > 0:
            above = (at - 1) >> 1
            if values[above] < value or (values[above] == value and keys[above] < key):
                break
            keys[at], values[at] = keys[above], values[above]
            at = above
        keys[at], values[at] = key, value
        return count + 1
    if value > values[0] or (value == values[0] and key > keys[0]):
        keys[0], values[0] = key, value
        _sink(keys, values, count)
    return count


@compiled
def _sink(keys: np.ndarray, values: np.ndarray, count: int) -> None:
    """Put what is on top of a heap of `count` where it belongs."""
    if count == 0:
        return
    at, key, value = 0, keys[0], values[0]
    while True:
        below = 2 * at + 1
        if below >= count:
            break
        other = below + 1
        if other < count and (
            values[other] < values[below]
            or (values[other] == values[below] and keys[other] < keys[below])
        ):
            below = other
        if values[below] > value or (values[below] == value and keys[below] > key):
            break
        keys[at], values[at] = keys[below], values[below]
        at = below
    keys[at], values[at] = key, value
