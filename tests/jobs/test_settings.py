from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from jobs.__main__ import JOBS, TOOLS, jobs
from jobs.recommend import RecommendSettings
from jobs.settings import SettingsError, keys, load


def test_the_command_line_wins_over_the_environment_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("window: 5\nlist_size: 6\nkafka: {group: from-file}\n")
    environ = {"STREAMREC_LIST_SIZE": "7", "STREAMREC_KAFKA__GROUP": "from-env", "HOME": "/x"}
    settings = load(RecommendSettings, "recommend", file, ["kafka.group=from-set"], environ)
    assert (settings.window, settings.list_size, settings.kafka.group) == (5, 7, "from-set")


def test_the_shipped_files_are_valid() -> None:
    assert load(RecommendSettings, "recommend", environ={}).kafka.group == "streamrec-recommend"


@pytest.mark.parametrize("job", JOBS)
def test_a_file_that_sets_a_part_of_a_group_keeps_the_jobs_own_defaults_of_the_rest(
    job: str, tmp_path: Path
) -> None:
    kind = getattr(import_module(f"jobs.{job}"), JOBS[job][0])
    file = tmp_path / "mine.yaml"
    required = {name: "x" for name, field in kind.model_fields.items() if field.is_required()}
    groups = {"kafka": {"bootstrap": "elsewhere:9092"}, "engine": {"parallelism": 3}}
    own = {name: tree for name, tree in groups.items() if name in kind.model_fields}
    file.write_text(yaml.safe_dump(required | own))
    settings = load(kind, job, file, environ={})
    for name, changed in own.items():
        default = kind.model_fields[name].get_default(call_default_factory=True)
        assert getattr(settings, name) == default.model_copy(update=changed)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("widow=3", "widow is not a setting; did you mean window?"),
        ("kafka.bootstap=x", "kafka.bootstap is not a setting; did you mean kafka.bootstrap?"),
        ("window=many", "window: "),
        ("window=0", "window: "),
        ("window=", "window: "),
        ("triggers=[view_item,buy_it]", "triggers: "),
        ("engine.profile=fast", "'latency' or 'throughput'"),
        ("window.size=3", "window: "),
        ("window", "--set takes key=value"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(override: str, said: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        load(RecommendSettings, "recommend", overrides=[override], environ={})
    assert said in str(refusal.value)
    assert "--set takes" in said or "known: " in str(refusal.value)


def test_an_unknown_key_in_the_environment_is_refused_too() -> None:
    with pytest.raises(SettingsError, match="widow is not a setting"):
        load(RecommendSettings, "recommend", environ={"STREAMREC_WIDOW": "3"})


def test_lists_are_given_in_brackets() -> None:
    settings = load(
        RecommendSettings, "recommend", overrides=["triggers=[purchase, search]"], environ={}
    )
    assert settings.triggers == ("purchase", "search")


def test_every_setting_is_explained() -> None:
    result = CliRunner().invoke(jobs, ["recommend", "--help"])
    assert result.exit_code == 0
    for key in keys(RecommendSettings):
        assert f"{key} = " in result.output
    assert "kafka.group = streamrec-recommend " in result.output  # the job's, not the class's


def test_jobs_are_listed_without_importing_them() -> None:
    result = CliRunner().invoke(jobs, ["--help"])
    for name in (*JOBS, *TOOLS):
        assert name in result.output


def test_a_missing_file_and_a_file_that_is_no_map_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no settings file"):
        load(RecommendSettings, "recommend", tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(SettingsError, match="expected key: value lines; got list"):
        load(RecommendSettings, "recommend", tmp_path / "list.yaml")
