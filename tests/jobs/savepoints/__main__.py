"""Makes the savepoints anew, with the present code: python -m tests.jobs.savepoints [JOB…]."""

from __future__ import annotations

import json
import random
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path
from urllib.parse import urlparse

from tests.faults.readers import committed
from tests.faults.scenario import Ground
from tests.faults.stage import Stage, stage
from tests.jobs.savepoints.kept import PARTITIONS, PROFILES, Kept, send_to_their_places
from tests.kafka import PATIENCE_S, Record, wait_for
from tests.shopping import START_MS, starter

SHOPPERS, SHIFTS = 10, 5  # each shopper is there in every fifth shift, and else silent
SHIFT, STEP_S = 30, 20  # events of a shift, and seconds between two
BEFORE, ALL = 195, 300  # events: the savepoint is taken in the middle of a shift


def shoppers() -> list[Record]:
    """Events in order of time, and one long after them in each partition: no session stays open."""
    draw, items = random.Random(8), starter().catalogue.item_ids[:50]
    kinds = ("view_item", "view_item", "add_to_cart", "purchase", "search", "session_end")
    told = []
    for number in range(ALL):
        shift = number // SHIFT % SHIFTS
        user = draw.choice([each for each in range(SHOPPERS) if each % SHIFTS == shift])
        kind = draw.choices(kinds, [6, 6, 4, 2, 1, 1])[0]
        told.append((user, kind, draw.choice(items), number * STEP_S))
    told += [(1000 + each, "view_item", items[0], 86_400) for each in range(PARTITIONS)]
    ends: Counter[int] = Counter()
    records = []
    for number, (user, kind, item, seconds) in enumerate(told):
        event = {
            "event_id": f"kept-{number}",
            "event_type": kind,
            "event_time": START_MS + seconds * 1000,
            "user_id": f"user-{user}",
            "items": [{"item_id": item}],
        }
        key, partition = event["user_id"].encode(), user % PARTITIONS
        value = json.dumps(event).encode()
        records.append(Record(value, key, [], partition, ends[partition]))
        ends[partition] += 1
    return records


def make(ours: Stage, kept: Kept) -> None:
    """Run the job over what is before, stop it with a savepoint, and keep all of it."""
    records, (events, messages, *_) = shoppers(), kept.topics()
    before, after = records[:BEFORE], records[BEFORE:]
    bootstrap = ours.broker.bootstrap
    ours.broker.create_topics(dict.fromkeys(kept.topics(), PARTITIONS))
    send_to_their_places(ours.broker, events, before)
    ours.submit(kept.job, *kept.settings(bootstrap, None))
    due = kept.due(before).keys()
    wait_for(
        lambda: kept.found(committed(bootstrap, messages)).keys() >= due, PATIENCE_S, "messages"
    )
    told = ours.jobs("cluster", "stop", kept.job, "--savepoint")
    made = Path(urlparse(told.split()[-1].rstrip(".")).path)
    shutil.rmtree(kept.folder, ignore_errors=True)
    shutil.copytree(made, kept.folder / "savepoint")
    kept.write(before, after, sorted(kept.found(committed(bootstrap, messages))))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder, stage(Ground(Path(folder), print), 1) as place:
        for name in sys.argv[1:] or PROFILES:
            make(place, Kept(name))
