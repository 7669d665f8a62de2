"""What a replay leaves: lists, dead letters and a report, as files."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from jobs.replay.settings import ReplaySettings
from jobs.report import verdict, write_report
from models.bundle_files import read_manifest
from models.list_files import Spool, created, write_lists
from models.loading import load_bundle
from models.past_events import PastRecord, events_of
from models.report_facts import Judging, facts
from models.storage import Folder
from operators.dead_letters import DeadLetter
from operators.environment import ROOT


@dataclass(frozen=True)
class Replayed:
    """What a replay that came to its end has found out, beside the lists."""

    dead: list[DeadLetter]
    other_bundle: int  # lists that another bundle made than the history of the registry says


def written(
    place: str,
    records: list[PastRecord],
    spool: Spool,
    found: Replayed,
    console: Console,
) -> dict[str, Any]:
    """Write lists and dead letters to files; returns what is to be told of them."""
    write_lists(place, spool)
    console.print(f"replay: {len(spool):,} lists in {place}", highlight=False)
    if found.dead:
        beside = f"{place.rpartition('.')[0]}.dead-letters.jsonl"
        write_dead(beside, records, found.dead)
        console.print(f"replay: {len(found.dead):,} dead letters in {beside}", highlight=False)
    if found.other_bundle:
        console.print(
            f"replay: {found.other_bundle:,} lists were made by another bundle than the history "
            "of the registry says: one was refused, or is pruned. The log says which",
            style="yellow",
        )
    return {
        "lists": len(spool),
        "dead_letters": len(found.dead),
        "repeated": spool.repeated,
        "other_bundle": found.other_bundle,
        "decisions_sha256": spool.decisions_sha256(),
        "output": place,
    }


def report(
    settings: ReplaySettings, records: list[PastRecord], spool: Spool, console: Console
) -> None:
    """Write the report of one replay."""
    rule = judging(settings, False, settings.list_size)
    lists = {side_name(settings): spool.messages()}
    found = facts(lists, [*events_of(records)], rule)
    write_report(str(settings.report), found, titles(settings))
    console.print(f"replay: {verdict(found).headline}", highlight=False)
    console.print(f"replay: the report is in {settings.report}", highlight=False)


def judging(settings: ReplaySettings, repeats: bool, size: int) -> Judging:
    """How the lists of a replay are judged."""
    return Judging(round(settings.session_gap_s * 1000), size, repeats)


def side_name(settings: ReplaySettings) -> str:
    """What to call a replay: the registry, or the version of the bundle."""
    if settings.registry:
        return Folder.at(settings.registry).name
    return str(read_manifest(Folder.at(ROOT / settings.bundle))[0]["bundle_version"])


def titles(*settings: ReplaySettings) -> dict[str, str]:
    """Titles of items out of the bundles."""
    catalogues = [load_bundle(ROOT / each.bundle).catalogue for each in settings]
    pairs = (zip(each.item_ids, each.titles, strict=True) for each in catalogues)
    return {item: title for some in pairs for item, title in some if title}


def write_dead(place: str, records: list[PastRecord], letters: list[DeadLetter]) -> None:
    """Write what is no event as JSON lines: which row, line or offset it was, why, its bytes."""
    by_partition: dict[int, list[PastRecord]] = {}
    for record in records:
        by_partition.setdefault(record.partition, []).append(record)
    with created(place) as file:
        for letter in letters:
            partition, offset = int(letter.origin["partition"]), int(letter.origin["offset"])
            record = by_partition[partition][offset]
            told = {"number": record.number, "reason": letter.origin["reason"]}
            if record.value is not None:
                told |= {"base64": base64.b64encode(record.value).decode()}
            file.write(json.dumps({"partition": partition, **told}).encode() + b"\n")
