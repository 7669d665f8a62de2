"""Week by week: learn what has come, then predict the next week, as in ADER (Mi et al. 2020).

week 0 ─ fit ─ bundle ─ judged on week 1 ─ fine-tuned on week 1 ─ judged on week 2 ─ …
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from jobs.evaluate.run import Judged, Stopwatch, judged, slices_of
from models.finetuning import FinetuneSettings, finetune
from models.fitting import FitSettings, fit
from models.protocol import Progress, held_out
from models.replay import refreshed
from models.sessions import SessionLog
from models.warm_start import parent_of

VALID = 0.15  # newest sessions of a week, by which its fine-tune is stopped and its ranker fitted
REPLAYED = 40_000  # sessions of earlier weeks at most


def judge_weeks(
    weeks: list[SessionLog], settings: FitSettings, valid_share: float, progress: Progress
) -> Iterator[Judged]:
    """The standings of every model in each week but the first, learned on all weeks before it."""
    if len(weeks) < 2:
        raise ValueError(f"expected at least 2 periods; got {len(weeks)}")
    tuning = FinetuneSettings(min_count=1, seed=settings.seed)
    past, buffer, parent = weeks[0], None, None
    for week, later in pairwise(weeks):
        watch = Stopwatch(progress)
        if parent is None:
            fitted, bundle = fit(slices_of(week, later, valid_share), settings, watch)
        else:
            past = past.joined(week)
            slices = slices_of(week, later, VALID)
            fitted, bundle = finetune(parent, slices, buffer, tuning, watch)
        parent = parent_of(bundle, fitted.files, int(week.times.max()), settings)
        buffer = refreshed(buffer, week, REPLAYED)
        yield judged(bundle, fitted, past, held_out(past, later), watch, progress)
