"""Past sessions that are like this one, and what they held: VMIS-kNN (Kersbergen et al. 2022).

    recent items ─ newest sessions of each ─ similarity ─ the k nearest ─ their items, weighted

Similarity is that of V-SKNN (Ludewig & Jannach 2018): shared items, weighted by idf and by how
recently they were looked at. Everything runs in a fixed order and ties go to the newer session
and to the lower item, so the same question always gets the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models.kernels import compiled
from models.past_sessions import KnnSettings, PastSessions

_DAY_MS = 86_400_000


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

    def __init__(self, past: PastSessions, settings: KnnSettings) -> None:
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
            (settings.decay ** np.arange(settings.recent)).astype(np.float32),  # [L]
            np.exp(-np.arange(settings.longest) / settings.reach).astype(np.float32),
        )
        self._most = (settings.nearest, settings.items)
        self._memory = (
            np.zeros(len(past), np.float32),
            np.zeros(len(past), np.int32),
            np.full(past.catalogue, -1, np.int32),
        )

    def ask(self, recent: np.ndarray, lengths: np.ndarray) -> Alike:
        """What the nearest past sessions of B sessions hold: recent [B, L] newest first, [B].

        The first `settings.recent` of the L are looked up.
        """
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
    decay: np.ndarray,  # float32 [R], of as many items as are looked up
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
        for back in range(min(lengths[b], len(decay))):
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
