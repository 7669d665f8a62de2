"""The bundles tool: what it prints for people and programs, and how it refuses."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from jobs.__main__ import jobs
from models.bundle_files import FILES
from models.registry import Registry
from tests.bundles import versioned
from tests.shopping import STARTER

Tool = Callable[..., Result]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three bundles, v1 to v3, as `train` would have written them."""
    folder = tmp_path_factory.mktemp("bundles")
    metrics = {"served": {"hr20": 0.5, "mrr20": 0.25}, "popularity": {"hr20": 0.1}}
    return [versioned(STARTER, folder, f"v{n}", metrics=metrics) for n in (1, 2, 3)]


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tool:
    """Runs the tool on a registry of its own; a failure must not be a traceback."""
    monkeypatch.setenv("STREAMREC_REGISTRY", str(tmp_path / "registry"))
    monkeypatch.setenv("COLUMNS", "200")

    def run(*words: object) -> Result:
        done = CliRunner().invoke(jobs, ["bundles", *map(str, words)])
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done

    return run


def said(done: Result) -> Any:
    """What the tool told a program."""
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def shown(done: Result) -> str:
    assert done.exit_code == 0, done.output
    return done.stdout


def refused(done: Result, code: int = 1) -> str:
    assert done.exit_code == code, done.output
    return " ".join(done.stderr.split())


def test_a_bundle_is_published_promoted_and_taken_back(
    tool: Tool, folders: list[Path], tmp_path: Path
) -> None:
    for number, folder in enumerate(folders[:2], start=1):
        published = said(tool("publish", folder, "--json"))
        assert published["bundle_version"] == f"v{number}"
        decision = said(
            tool("promote", f"v{number}", "--active-from", number * 1000, "--why", "it", "--json")
        )
        assert (decision["sequence"], decision["active_from"]) == (number, number * 1000)
        assert (decision["decided"], decision["why"]) == ("promoted", "it")
        assert decision["sha256"] == published["sha256"]
        assert decision["uri"] == published["uri"]
        assert decision["metrics"]["served"]["hr20"] == 0.5
    before = time.time() * 1000
    back = said(tool("rollback", "--why", "worse", "--json"))
    assert (back["decided"], back["bundle_version"], back["parent"]) == ("rolled_back", "v1", "v2")
    assert before + 5000 <= back["active_from"] <= time.time() * 1000 + 5000  # lead_s
    again = said(tool("rollback", "--to", "v2", "--json"))
    assert again["active_from"] >= back["active_from"]
    tool("publish", folders[2])
    assert "5: v3 acts on events from " in shown(tool("--set", "lead_s=60", "promote", "v3"))
    assert Registry(tmp_path / "registry").bundle_at(round(before) + 50_000).bundle_version == "v2"


def test_the_list_shows_decisions_what_acts_and_what_is_not_decided(
    tool: Tool, folders: list[Path], tmp_path: Path
) -> None:
    for folder in folders:
        tool("publish", folder)
    later = round(time.time() * 1000) + 3_600_000
    tool("promote", "v1", "--active-from", 1_700_000_000_000, "--why", "the first")
    tool("promote", "v2", "--active-from", later)
    Registry(tmp_path / "registry").reject("worse", "0" * 64, later, "hr20 0.4, expected 0.5")
    lines = [line for line in shown(tool("list")).splitlines() if "│" in line]
    rows = {line.split("│")[2].strip(): line for line in lines}
    assert "promoted" in rows["v1"]
    assert "acts now" in rows["v1"]
    assert "2023-11-14 22:13:20+00:00" in rows["v1"]
    assert "the first" in rows["v1"]
    assert "acts now" not in rows["v2"]
    assert "not yet" in rows["v3"]
    assert "hr20 0.4, expected 0.5" in rows["worse"]
    told = said(tool("list", "--json"))
    assert told["acts_now"] == "v1"
    assert [each["decided"] for each in told["decisions"]] == ["promoted", "promoted", "rejected"]
    assert [each["bundle_version"] for each in told["published"]] == ["v1", "v2", "v3"]


def test_an_empty_registry_is_listed(tool: Tool) -> None:
    told = said(tool("list", "--json"))
    assert (told["acts_now"], told["decisions"], told["published"]) == (None, [], [])
    assert "no bundle acts now" in refused(tool("show"))


def test_a_bundle_is_shown_with_its_metrics_and_decisions(tool: Tool, folders: list[Path]) -> None:
    tool("publish", folders[0])
    tool("promote", "v1", "--active-from", 1000, "--why", "the first")
    for words in (("show",), ("show", "v1")):
        text = shown(tool(*words))
        for part in ("v1", "0.5000", "the first", "3,398", "2010-12-01 08:26:00+00:00 to 2011"):
            assert part in text
    told = said(tool("show", "v1", "--json"))
    assert set(told["manifest"]["files"]) == set(FILES)
    assert [each["sequence"] for each in told["decisions"]] == [1]


def test_damage_is_found_and_told(tool: Tool, folders: list[Path], tmp_path: Path) -> None:
    for folder in folders[:2]:
        tool("publish", folder)
    assert [each["sound"] for each in said(tool("verify", "--json"))] == [True, True]
    (damaged,) = (tmp_path / "registry" / "bundles").glob("v2-*")
    whole = (damaged / "ranker.onnx").stat().st_size
    (damaged / "ranker.onnx").write_bytes(b"x")
    found = tool("verify")
    assert found.exit_code == 1
    assert f"expected {whole} bytes in ranker.onnx; got 1" in found.stdout
    assert said(tool("verify", "v1", "--json"))[0]["sound"]
    told = json.loads(tool("verify", "v1", "v2", "none", "--json").stdout)
    assert [each["sound"] for each in told] == [True, False, False]
    assert f"expected {whole} bytes in ranker.onnx" in refused(tool("promote", "v2"))


def test_what_is_not_needed_is_pruned(tool: Tool, folders: list[Path]) -> None:
    for number, folder in enumerate(folders, start=1):
        tool("publish", folder)
        tool("promote", f"v{number}", "--active-from", number * 1000)
    assert said(tool("prune", "--keep", 3, "--json")) == []
    assert shown(tool("prune", "--keep", 1)).splitlines() == ["deleted 1 bundles", "  v1"]
    assert "pruned" in shown(tool("list"))
    assert "there is no v1" in refused(tool("rollback", "--to", "v1"))


def test_what_is_refused_is_said_in_a_sentence(tool: Tool, folders: list[Path]) -> None:
    assert "there is no v1" in refused(tool("promote", "v1"))
    assert "there is none" in refused(tool("rollback"))
    assert "expected a plain file manifest.json" in refused(tool("publish", "no/such/folder"))
    tool("publish", folders[0])
    later = round(time.time() * 1000) + 3_600_000
    tool("promote", "v1", "--active-from", later)
    assert "announced at sequence 1 already" in refused(tool("promote", "v1"))
    tool("publish", folders[1])
    early = tool("promote", "v2", "--active-from", "now")
    assert f"expected active_from at or after {later}" in refused(early)
    for wrong in ("tomorrow", "-5", "1700000000.5", 1_700_000_000_000_000, later + 32 * 86_400_000):
        assert "at most 31 days ahead" in refused(tool("promote", "v2", "--active-from", wrong), 2)
    assert "Missing option '--keep'" in refused(tool("prune"), 2)


def test_a_rollback_takes_back_what_is_announced_for_later(tool: Tool, folders: list[Path]) -> None:
    later = round(time.time() * 1000) + 3_600_000
    for folder, active_from in zip(folders[:2], (1000, later), strict=True):
        tool("publish", folder)
        tool("promote", folder.name, "--active-from", active_from)
    decision = said(tool("rollback", "--json"))
    assert (decision["bundle_version"], decision["active_from"]) == ("v1", later)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--set", "registri=x", "list"), "did you mean registry?"),
        (("--set", "registry=ftp://a/b", "list"), "expected a path or file://"),
        (("--config", "none.yaml", "list"), "no settings file at none.yaml"),
    ],
)
def test_wrong_settings_are_told(tool: Tool, words: tuple[str, ...], reason: str) -> None:
    assert reason in refused(tool(*words))
