"""Trains the starter bundle aside and says how far the shipped one gives the same lists."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

from models.bundle import Bundle
from models.evaluation import sampled_targets
from models.loading import load_bundle
from models.recommender import Recommender
from models.sessions import SessionLog
from udfs.session_features import session_features

STARTER = Path("models/starter/online-retail")
AGREEMENT = 0.95
"""Share of equal items in lists of two runs, at least; on one machine it is 1."""


def agreement(first: Bundle, second: Bundle, log: SessionLog, count: int = 2_000) -> float:
    """Mean share of items that lists of two bundles have in common, on prefixes of a log."""
    batch = log.prefixes(sampled_targets(log, count, seed=0))
    features = session_features(batch)
    one, other = (Recommender(each).recommend(batch, features) for each in (first, second))
    shares = [
        len(set(a.item_ids) & set(b.item_ids)) / max(len(a.item_ids), 1)
        for a, b in zip(one, other, strict=True)
    ]
    return float(np.mean(shares))


def main() -> int:
    """Compare the shipped bundle with a new one; the exit code says whether they agree."""
    from rich.console import Console

    from jobs.settings import load
    from jobs.train import TrainSettings, slices_of, train

    settings = load(TrainSettings, "train", Path("flink-conf/starter.yaml"))
    with tempfile.TemporaryDirectory() as folder:
        aside = settings.model_copy(update={"output": f"{folder}/made"})
        path, _ = train(aside, Console(stderr=True))
        made, shipped = load_bundle(path), load_bundle(STARTER)
    same = "the same bundle" if made.version == shipped.version else "another bundle"
    share = agreement(made, shipped, slices_of(settings)[0].test)
    print(f"{shipped.version} shipped, {made.version} made: {same}, {share:.1%} of items agree")
    return 0 if share >= AGREEMENT else 1


if __name__ == "__main__":
    sys.exit(main())
