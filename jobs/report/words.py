"""The verdict of a report in plain words: what a product manager should take away."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from models.bootstrap import Interval
from models.report_facts import Facts, Side

Outcome = Literal["first", "second", "mixed", "none", "single"]
_QUALITY = ("hit", "mrr")  # what decides: whether the item is in the list, and how far up


@dataclass(frozen=True)
class Verdict:
    """One headline, and sentences that say why."""

    outcome: Outcome
    headline: str
    sentences: list[str]


def verdict(facts: Facts) -> Verdict:
    """What the figures say, and what they do not."""
    return _of_one(facts) if len(facts.sides) == 1 else _of_two(facts)


def _of_one(facts: Facts) -> Verdict:
    (side,) = facts.sides
    hit, size = facts.metrics["hit"].sides[0], facts.judging.size
    return Verdict(
        "single",
        f"{_percent(hit.mean)} of the lists hold the item that the user turned to next.",
        [
            f"That is measured on {facts.judged:,} lists of {size} items, after which users went "
            f"on to another item; with other sessions of the same kind it would lie between "
            f"{_percent(hit.low)} and {_percent(hit.high)}.",
            f"In {_percent(facts.metrics['first'].sides[0].mean)} it was the very first item.",
            _breadth(facts, side),
            f"Half of the lists took {_time(side.took_us(0.5))} to compute, 95 of 100 at most "
            f"{_time(side.took_us(0.95))}.",
        ],
    )


def _of_two(facts: Facts) -> Verdict:
    first, second = (side.name for side in facts.sides)
    outcome = _outcome(facts)
    hit = facts.metrics["hit"]
    sentences = [
        f"{second} had the item that the user turned to next in {_percent(hit.sides[1].mean)} of "
        f"its lists, {first} in {_percent(hit.sides[0].mean)}: {_difference(hit.difference)}.",
        _how_far_up(facts),
        _alike(facts),
        *(f"{side.name}: {_breadth(facts, side)}" for side in facts.sides),
        _cost(facts),
    ]
    headlines = {
        "first": f"{first} is better than {second}.",
        "second": f"{second} is better than {first}.",
        "mixed": f"{second} is better in one way and worse in another: it is a matter of choice.",
        "none": f"Neither {first} nor {second} is better, as far as these {facts.judged:,} "
        "lists can tell.",
    }
    if outcome == "none" and hit.difference and hit.difference.high > hit.difference.low:
        half = (hit.difference.high - hit.difference.low) / 2
        sentences.insert(
            1, f"A difference of less than about {100 * half:.1f} points cannot be seen here."
        )
    return Verdict(outcome, headlines[outcome], sentences)


def _outcome(facts: Facts) -> Outcome:
    found = [facts.metrics[name].difference for name in _QUALITY]
    better = any(each is not None and each.low > 0 for each in found)
    worse = any(each is not None and each.high < 0 for each in found)
    if better and worse:
        return "mixed"
    return "second" if better else "first" if worse else "none"


def _difference(difference: Interval | None) -> str:
    assert difference is not None
    mean, low, high = (_signed(100 * each) for each in difference)
    chance = "more than chance" if difference.is_sure else "which may be chance"
    return f"a difference of {mean} points (95 %: {low} to {high}), {chance}"


def _how_far_up(facts: Facts) -> str:
    mrr = facts.metrics["mrr"]
    difference, second = mrr.difference, facts.sides[1].name
    assert difference is not None
    if not difference.is_sure:
        return f"It does not stand reliably higher or lower in the lists of {second}."
    place, change = ("higher up", "more") if difference.mean > 0 else ("further down", "less")
    share = abs(difference.mean) / max(mrr.sides[0].mean, 1e-9)
    return (
        f"In the lists of {second} it stands {place}: the mean reciprocal rank is "
        f"{_percent(share)} {change}."
    )


def _alike(facts: Facts) -> str:
    size = facts.judging.size
    share = facts.overlap[f"Jaccard@{size}"].mean
    both = round(size * 2 * share / (1 + share))  # of lists of equal length
    same = facts.overlap["first item the same"].mean
    return (
        f"Two lists for the same event have about {both} of {size} items in common, and in "
        f"{_percent(same)} of the cases the same first one."
    )


def _breadth(facts: Facts, side: Side) -> str:
    index = facts.sides.index(side)
    popular = facts.popularity.sides[index].mean
    average = 1000 / max(facts.items, 1)
    return (
        f"{_percent(facts.coverage(side))} of all {facts.items:,} items were in some list; an "
        f"item that is shown is {popular / average:.1f} times as popular as the average one."
    )


def _cost(facts: Facts) -> str:
    first, second = (side.took_us(0.5) for side in facts.sides)
    told = f"Half of the lists took {_time(second)} with {facts.sides[1].name} and {_time(first)} "
    told += f"with {facts.sides[0].name}"
    if max(first, second) > 1.1 * min(first, second):
        return f"{told}, on this machine, in batches."
    return f"{told}: no difference that matters."


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _signed(points: float) -> str:
    return f"{points:+.1f}".replace("-", "−")


def _time(microseconds: float) -> str:
    return f"{microseconds:,.0f} µs" if microseconds < 10_000 else f"{microseconds / 1000:,.1f} ms"
