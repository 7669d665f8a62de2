"""What the loop amounts to: one JSON object, and what is missing for it to have closed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jobs.simulate.crowd import Crowd
from jobs.simulate.summary import figures, summary
from models.history import Decision

LEAST_JOINED = 0.99


@dataclass(frozen=True)
class Closed:
    """What is there when the loop ends."""

    crowd: Crowd
    decisions: list[Decision]  # the first is the bundle that `train` made
    feedback: Mapping[str, int]  # counters of the feedback job
    sessions: int
    seconds: float


def result(loop: Closed) -> dict[str, Any]:
    """The summary; `shortcomings` says in sentences what did not happen."""
    seen = summary(loop.crowd)
    first = loop.decisions[0].bundle_version
    told = _told(loop, seen, first)
    return {**told, "shortcomings": shortcomings(told), "shoppers": seen}


def reasons(decision: Decision) -> list[str]:
    """Why it was decided: a sentence a check of the gate, each after the check's name."""
    return re.split(r"; (?=[a-z]+: )", decision.why)


def _told(loop: Closed, seen: dict[str, Any], first: str) -> dict[str, Any]:
    exposures = loop.crowd.exposures.items()
    before = figures(x for key, x in exposures if key == (first, True))
    after = figures(x for (version, drifted), x in exposures if drifted and version != first)
    shown, joined = seen["lists_seen"], loop.feedback.get("joined", 0)
    rounds = loop.decisions[1:]
    return {
        "bundles": [
            {
                "bundle_version": each.bundle_version,
                "decided": each.decided,
                "reasons": reasons(each),
                "active_from": each.active_from,
            }
            for each in loop.decisions
        ],
        "promoted": sum(each.acts for each in rounds),
        "refused": sum(not each.acts for each in rounds),
        "lists_by_bundle_version": {
            version: values["lists_seen"] for version, values in seen["by_bundle_version"].items()
        },
        "ctr_before_drift": seen["before_drift"]["ctr"],
        "ctr_before": before["ctr"],
        "ctr_after": after["ctr"],
        "expected_ctr_before": before["expected_ctr"],
        "expected_ctr_after": after["expected_ctr"],
        "lists_before": before["lists_seen"],
        "lists_after": after["lists_seen"],
        "sessions": loop.sessions,
        "exposures": shown,
        "joined": joined,
        "join_ratio": round(joined / shown, 5) if shown else 0.0,
        "feedback_revisions": loop.feedback.get("revisions", 0),
        "feedback_final": loop.feedback.get("finals", 0),
        "seconds": round(loop.seconds, 1),
    }


def shortcomings(told: Mapping[str, Any]) -> list[str]:
    """What did not happen although the loop is there for it; nothing if it closed."""
    before, after = told["ctr_before"] or 0.0, told["ctr_after"] or 0.0
    wanted = {
        "no final feedback": told["feedback_final"] > 0,
        f"only {told['join_ratio']:.4f} of the lists seen found their feedback": (
            told["join_ratio"] >= LEAST_JOINED
        ),
        "no fine-tuned bundle was promoted": told["promoted"] > 0,
        "no fine-tuned bundle was refused": told["refused"] > 0,
        "the lists are of one bundle": len(told["lists_by_bundle_version"]) > 1,
        f"CTR {after:.4f} of the fine-tuned bundle is not above the {before:.4f} before it": (
            after > before
        ),
    }
    return [sentence for sentence, met in wanted.items() if not met]
