"""The open data and the bundle's catalogue, read while broker and job are starting."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from jobs.demo.stream import (
    LANES,
    Record,
    expected,
    interleave,
    plan,
    record_of,
)
from jobs.demo.visits import otto_visits, retail_visits
from models.catalogue import Catalogue
from models.datasets import online_retail_lines

DATA = Path(__file__).resolve().parents[2] / "scripts" / "data"
DECEMBER_MS = round(datetime(2011, 12, 1, tzinfo=timezone.utc).timestamp() * 1000)
WARM_UP = 1000  # events
WARM_UP_FROM_MS = DECEMBER_MS - 3 * 86_400_000
WARM_UP_PREFIX = "warm-up-"


@dataclass(frozen=True, slots=True)
class DemoData:
    """Everything that is decided before the first measured event is sent."""

    warm_up: list[Record]  # real events of November, under other names; not judged
    records: list[Record]
    titles: dict[str, str]
    bundle_version: str

    @property
    def expected(self) -> dict[str, int]:
        """How many records should meet each outcome, those of the warm-up included."""
        return expected([*self.warm_up, *self.records])


def read_data(bundle: Path, size: int) -> DemoData:
    """Plan `size` records of what happened after the bundle's data ended."""
    manifest = json.loads((bundle / "manifest.json").read_bytes())
    known_until = int(manifest.get("data_window", {}).get("to", 0))
    lines = online_retail_lines(DATA / "uci_online_retail.parquet")
    times = lines["event_time"]
    new = pc.and_(pc.greater_equal(times, DECEMBER_MS), pc.greater(times, known_until))
    december = retail_visits(lines.filter(new).to_pylist())
    before = lines.filter(pc.less(times, DECEMBER_MS))
    with (DATA / "otto_sample.jsonl").open("rb") as sessions:
        otto = otto_visits(json.loads(line) for line in sessions)
    return DemoData(
        warm_up(before),
        plan(december, otto, by_popularity(before), size),
        {**_titles(lines.filter(new)), **_bundle_titles(bundle)},
        str(manifest.get("bundle_version", "")),
    )


def by_popularity(lines: pa.Table) -> list[str]:
    """Item ids by how often they were bought, the most popular first."""
    counts = lines.group_by("item_id", use_threads=False).aggregate([([], "count_all")])
    pairs = zip(counts["item_id"].to_pylist(), counts["count_all"].to_pylist(), strict=True)
    return [item for item, _ in Counter(dict(pairs)).most_common()]


def warm_up(lines: pa.Table) -> list[Record]:
    """Events of the last days before December, for users that do not count."""
    last = lines.filter(pc.greater_equal(lines["event_time"], WARM_UP_FROM_MS))
    visits = retail_visits(last.to_pylist(), WARM_UP_PREFIX)
    steps = itertools.chain.from_iterable(interleave(visits, LANES))
    return [record_of(visits[visit], step) for visit, step in itertools.islice(steps, WARM_UP)]


def _bundle_titles(bundle: Path) -> dict[str, str]:
    """Titles for display only: the job verifies the bundle's files before it answers with them."""
    with pa.ipc.open_file(pa.BufferReader((bundle / "items.arrow").read_bytes())) as reader:
        catalogue = Catalogue.from_table(reader.read_all())
    pairs = zip(catalogue.item_ids, catalogue.titles, strict=True)
    return {item: title for item, title in pairs if title}


def _titles(lines: pa.Table) -> dict[str, str]:
    pairs = zip(lines["item_id"].to_pylist(), lines["title"].to_pylist(), strict=True)
    return {item: title for item, title in pairs if title}
