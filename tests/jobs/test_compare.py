"""What two sides of a comparison may be."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.compare import named, one_history
from jobs.replay import ReplayError
from jobs.replay.settings import ReplaySettings
from tests.bundles import versioned
from tests.shopping import STARTER

SOURCE = ["source.path=events.parquet"]


def test_settings_files_are_sides(tmp_path: Path) -> None:
    (tmp_path / "before.yaml").write_text("window: 5\nsource: {time_unit: s}\n")
    (tmp_path / "after.yaml").write_text("exclude_seen: false\nsource: {time_unit: s}\n")
    names = [str(tmp_path / f"{name}.yaml") for name in ("before", "after")]
    sides = named(*names, None, SOURCE)
    before, after = sides["before"], sides["after"]
    assert isinstance(before, ReplaySettings)
    assert isinstance(after, ReplaySettings)
    assert (before.window, after.window) == (5, 20)
    assert (before.exclude_seen, after.exclude_seen) == (True, False)
    assert one_history(sides, None, SOURCE).source.path == "events.parquet"


def test_bundles_are_sides_under_their_versions_whatever_acts(tmp_path: Path) -> None:
    other = versioned(STARTER, tmp_path, "other")
    sides = named(str(STARTER), str(other), None, [*SOURCE, "registry=somewhere"])
    assert [*sides][1] == "other"
    assert [side.registry for side in sides.values() if isinstance(side, ReplaySettings)] == [
        "",
        "",
    ]


def test_sides_of_one_name_can_be_told_apart() -> None:
    sides = named("a/lists.jsonl", "b/lists.parquet", None, SOURCE)
    assert sides == {"A: lists": "a/lists.jsonl", "B: lists": "b/lists.parquet"}


def test_two_histories_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("since: 2011-12-01\n")
    (tmp_path / "b.yaml").write_text("since: 2011-12-02\n")
    sides = named(str(tmp_path / "a.yaml"), str(tmp_path / "b.yaml"), None, SOURCE)
    with pytest.raises(ReplayError, match="`since` differs"):
        one_history(sides, None, SOURCE)


def test_what_is_nothing_of_the_kind_is_refused() -> None:
    with pytest.raises(ReplayError, match="expected a bundle's folder"):
        named("models/none", "lists.jsonl", None, SOURCE)
