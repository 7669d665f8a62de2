"""The README is true: its commands run, its names exist, its figures are the bundle's.

Whoever adds a command to the README adds here which test runs it, or lets it be run here.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
import uuid
from itertools import pairwise
from pathlib import Path

import click
import pytest
from pydantic import BaseModel

from jobs.__main__ import JOBS, TOOLS
from jobs.__main__ import jobs as command_line
from jobs.bundles import BundlesSettings
from jobs.dead_letters import DeadLettersSettings
from jobs.feedback import FeedbackSettings
from jobs.finetune import FinetuneJobSettings
from jobs.recommend import RecommendSettings
from jobs.replay.settings import ReplaySettings
from jobs.sessions import SessionsSettings
from jobs.settings import described, keys, load
from jobs.simulate.settings import SimulateSettings
from jobs.train import TrainSettings, read
from models.registry import Registry
from operators.broker import Broker
from tests.bundles import versioned
from tests.kafka import Record, environment, send
from tests.kafka import read as read_topic
from udfs.events import EVENT_TYPES, TYPE_ALIASES, decode
from udfs.feedback import Feedback
from udfs.recommend import Recommendation, RecommendedItem
from udfs.sessions import Session, SessionEvent

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text("utf-8")
STARTER = ROOT / "models" / "starter" / "online-retail"
SETTINGS: dict[str, type[BaseModel]] = {
    "recommend": RecommendSettings,
    "sessions": SessionsSettings,
    "feedback": FeedbackSettings,
    "train": TrainSettings,
    "finetune": FinetuneJobSettings,
    "replay": ReplaySettings,
    "compare": ReplaySettings,
    "bundles": BundlesSettings,
    "dead-letters": DeadLettersSettings,
    "simulate": SimulateSettings,
}
PYTHON = ".venv/bin/python -m jobs"
DEMO = "tests/jobs/test_demo.py::test_the_demo_answers_real_shoppers_accounts_for_every_record_and"
KAFKA = "kafka.bootstrap=kafka-1:9092,kafka-2:9092"
RECOMMEND = "tests/jobs/test_recommend.py::test_the_job_decides_what_the_engine_free_function"
BROKER = "tests/scripts/test_brokerctl.py::test_the_broker_outlives_its_starter_and_ends_when_told"
TRAIN = "tests/jobs/test_train.py::test_training_ends_with_a_bundle_that_loads_and_its_metrics"
# CI sets up `dev`, which holds `train`.
SETUP = "tests/scripts/test_setup.py::test_a_larger_set_serves_for_a_smaller_one"
LIVE = "tests/jobs/simulate/test_simulate.py::def loop(broker: Broker"
CLUSTER = "tests/jobs/test_cluster.py::test_a_job_on_a_cluster_keeps_its_state_through_all"

FINETUNE = "tests/jobs/test_finetune.py::test_what_came_is_learned_judged_promoted_and_announced"
EVERY = "tests/jobs/test_finetune.py::test_how_often_is_an_option_that_must_be_a_time"
REPLAY = (
    "tests/jobs/test_replay.py::test_source_target_profile_slots_pace_and_a_kill_change_no_byte"
)
REPAIR = "tests/jobs/test_repair.py::test_sessions_that_should_be_there_are_written"
SCENARIO = "tests/test_faults.py::test_what_is_quick_to_break_holds"
COMPARE = "tests/jobs/test_replay.py::test_compare_replays_what_is_not_replayed"
OPEN_DATA = (
    "--set source.format=online_retail "
    "--set source.path=scripts/data/uci_online_retail.parquet --set since=2011-12-01"
)

LOOP = "tests/jobs/test_demo.py::test_a_loop_that_is_terminated_while_its_jobs_start_leaves_nothing"

EVALUATE = "tests/jobs/test_evaluate.py::"

RUN_BY = {
    "./scripts/demo": DEMO,
    "./scripts/demo --loop": LOOP,
    "./scripts/test": ".ci/run::exec ./scripts/test",
    "./scripts/setup train": SETUP,
    "./scripts/broker start --topic user-events:4 --topic recommendations:4 "
    "--topic dead-letters": BROKER,
    "./scripts/broker start": BROKER,
    "./scripts/broker status": BROKER,
    "./scripts/broker stop": BROKER,
    f"{PYTHON} recommend": RECOMMEND,
    f"{PYTHON} recommend --set {KAFKA}": RECOMMEND,
    f"STREAMREC_KAFKA__BOOTSTRAP=kafka-1:9092 {PYTHON} recommend "
    "--set engine.profile=throughput": RECOMMEND,
    f"{PYTHON} recommend --set bundle=bundles/bundle-0123456789": RECOMMEND,
    f"{PYTHON} recommend --set registry=registry": "tests/jobs/test_swap.py::registry=",
    "./scripts/cluster start --taskmanagers 2 --ha": CLUSTER,
    "./scripts/cluster status": CLUSTER,
    "./scripts/cluster stop": CLUSTER,
    f"{PYTHON} recommend --target cluster --set kafka.create_topics=true": CLUSTER,
    f"{PYTHON} cluster status": CLUSTER,
    f"{PYTHON} cluster rescale recommend 2": CLUSTER,
    f"{PYTHON} cluster stop recommend --savepoint": CLUSTER,
    f"{PYTHON} cluster resume recommend": CLUSTER,
    f"{PYTHON} recommend --target cluster --set engine.jobmanager=flink.example:8081 "
    "--set engine.checkpoint_dir=file:///mnt/checkpoints "
    "--set engine.send_code=true": CLUSTER,
    "FLINK_CONF_DIR=$PWD/flink-conf $FLINK/bin/flink run -d -m 127.0.0.1:8081 "
    "-pyexec $PWD/.venv/bin/python -pyclientexec $PWD/.venv/bin/python "
    "-pym jobs sessions --set kafka.create_topics=true": "tests/jobs/test_cluster.py::"
    "project.flink_run(rest",
    f"{PYTHON} sessions --set {KAFKA}": "tests/jobs/test_sessions.py::"
    "test_the_job_closes_the_sessions_that_the_rule_closes",
    f"{PYTHON} sessions --set kafka.create_topics=true": "tests/jobs/test_sessions.py::"
    "kafka.create_topics=true",
    f"{PYTHON} feedback --set kafka.create_topics=true": "tests/jobs/test_feedback.py::"
    "test_each_item_ends_with_the_one_final_record_that_the_contract_says",
    f"{PYTHON} feedback --set delivery=exactly-once --set horizon_s=3600": "tests/jobs/"
    "test_feedback.py::test_exactly_once_survives_a_killed_worker",
    f"{PYTHON} train --set source.format=csv --set source.path=clicks.csv "
    "--set source.time_unit=s --set source.columns.user=visitor --set source.columns.item=sku "
    "--set source.columns.time=at --set source.columns.title=name "
    "--set source.columns.price=price": TRAIN,
    f"{PYTHON} simulate --set rate=60 --set think_s=1 --set seconds=60 --json": LIVE,
    f"{PYTHON} simulate --set seconds=60 --set drift.after_s=30": LIVE,
    "./scripts/evaluate --train sessions.parquet": EVALUATE
    + "test_without_a_test_file_the_newest_sessions_are_judged_on",
    "./scripts/evaluate --train clicks.csv --test later.csv --columns visit,sku,at "
    "--bundle bundles/judged": EVALUATE
    + "test_the_last_line_tells_every_models_figures_and_the_bundle_is_written",
    "./scripts/evaluate --train weeks.parquet --continual --period week": EVALUATE
    + "test_periods_are_learned_and_judged_in_turn",
    f"{PYTHON} finetune": FINETUNE,
    f"{PYTHON} replay {OPEN_DATA} --set output=replay/december.jsonl "
    "--report replay/december.html": "tests/jobs/test_replay.py::"
    "test_the_report_of_a_replay_is_beside_it",
    f"{PYTHON} replay --set registry=registry --set source.format=kafka "
    "--set source.kafka.bootstrap=127.0.0.1:9092 --set source.kafka.start=2026-11-01T00:00:00Z "
    "--set output=replay/november.parquet": REPLAY,
    f"{PYTHON} replay --set source.format=messages --set source.path=events.jsonl "
    "--set speed=60 --set bootstrap=127.0.0.1:9092 --set create_topics=true "
    "--set output=null": REPLAY,
    f"{PYTHON} compare models/starter/online-retail bundles/bundle-0123456789 {OPEN_DATA}": COMPARE,
    f"{PYTHON} compare before.yaml after.yaml --report compare.html": "tests/jobs/"
    "test_compare.py::test_settings_files_are_sides",
    f"{PYTHON} finetune --every 15m": EVERY,
    f"{PYTHON} repair recommend": REPAIR,
    "./scripts/faults --list": 'tests/test_faults.py::faults, ["--list"]',
    "./scripts/faults taskmanager_kill broker_pause": SCENARIO,
}
"""Command as the README has it → FILE::TEXT, where FILE runs it and holds TEXT."""

LETTERS, BUNDLES = f"{PYTHON} dead-letters", f"{PYTHON} bundles"
RUN_HERE = {
    "./scripts/doctor": ("java", (0, 1)),  # 1: something is missing, for instance a free port
    PYTHON: ("dead-letters", (0, 2)),  # click shows the help and says that a name is missing
    f"{PYTHON} recommend --help": ("kafka.bootstrap", (0,)),
}
"""Command → what it prints, and its exit codes."""


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    """Every line of the README's sh blocks, and every inline command line of the jobs."""
    lines = "".join(blocks("sh")).replace("\\\n", " ").splitlines()
    inline = [text for text in code() if text.startswith(PYTHON)]
    return [" ".join(line.split()) for line in [*lines, *inline] if line.strip()]


def code() -> list[str]:
    """What stands in backticks outside of blocks."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", README, flags=re.M | re.S))


def table(first: str) -> list[list[str]]:
    """The rows of the table whose first header is `first`."""
    lines = README.partition(f"| {first} |")[2].splitlines()[2:]
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    assert rows, f"no table begins with {first}"
    return rows


def names(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def run(command: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable if w == ".venv/bin/python" else w for w in shlex.split(command)]
    return subprocess.run(
        words,
        cwd=ROOT,
        env={**environment(folder), "COLUMNS": "200", **variables},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("command", commands())
def test_somebody_runs_every_command(command: str) -> None:
    if command in RUN_HERE or command.startswith((LETTERS, BUNDLES)):
        return
    assert command in RUN_BY, "nobody runs this command; name the test that does in RUN_BY"
    file, _, text = RUN_BY[command].partition("::")
    assert text in (ROOT / file).read_text("utf-8")


def test_no_command_is_expected_that_the_readme_does_not_have() -> None:
    assert {*RUN_BY, *RUN_HERE} <= set(commands())


@pytest.mark.parametrize("command", RUN_HERE)
def test_what_is_cheap_is_run(command: str, tmp_path: Path) -> None:
    said, codes = RUN_HERE[command]
    done = run(command, tmp_path)
    assert done.returncode in codes, done.stderr
    assert said in done.stdout + done.stderr


@pytest.mark.parametrize("command", [c for c in commands() if " --set " in c])
def test_settings_of_commands_are_accepted(command: str) -> None:
    words = shlex.split(command)
    variables = dict(word.split("=", 1) for word in words if word.startswith("STREAMREC_"))
    name = words[words.index("jobs") + 1]
    overrides = [value for flag, value in pairwise(words) if flag == "--set"]
    load(SETTINGS[name], name, None, overrides, variables)


def test_the_columns_of_the_train_command_are_read(tmp_path: Path) -> None:
    (train,) = [command for command in commands() if f"{PYTHON} train" in command]
    words = shlex.split(train)
    overrides = [value for flag, value in pairwise(words) if flag == "--set"]
    (tmp_path / "clicks.csv").write_text("visitor,sku,at,name,price\nu,A,1700000000,a thing,2.5\n")
    overrides.append(f"source.path={tmp_path / 'clicks.csv'}")
    events, left_out = read(load(TrainSettings, "train", None, overrides, {}).source)
    assert (len(events), left_out) == (1, 0)
    assert events.facts.titles == ["a thing"]
    assert events.times.tolist() == [1_700_000_000_000]


@pytest.fixture
def letters(broker: Broker) -> dict[str, str]:
    """A topic with two dead letters, as settings in the environment."""
    origin, dead = f"readme-{uuid.uuid4()}", f"readme-dead-{uuid.uuid4()}"
    broker.create_topics({origin: 1, dead: 1})
    records = [
        Record(value, b"alice", [("__dead_letter.topic", origin.encode()), ("case", b"1")])
        for value in (b"{", b"{}")
    ]
    for record, reason in zip(records, (b"event_time is before the year 2000", b"x"), strict=True):
        record.headers.append(("__dead_letter.reason", reason))
    send(broker.bootstrap, dead, records)
    return {"STREAMREC_BOOTSTRAP": broker.bootstrap, "STREAMREC_TOPIC": dead, "ORIGIN": origin}


def test_the_commands_for_dead_letters_do_as_told(letters: dict[str, str], tmp_path: Path) -> None:
    found = [command for command in commands() if command.startswith(LETTERS)]
    kinds = [shlex.split(command)[4] for command in found]
    assert kinds == ["reasons", "list", "resend"]
    reasons, listed, resent = (run(command, tmp_path, **letters) for command in found)
    assert "event_time is before the year 2000" in reasons.stdout, reasons.stderr
    assert "1 dead letters, 1 shown" in listed.stdout, listed.stderr
    assert "sent 1 records back" in resent.stdout, resent.stderr
    (back,) = read_topic(letters["STREAMREC_BOOTSTRAP"], letters["ORIGIN"])
    assert (back.key, back.value, list(back.headers)) == (b"alice", b"{", [("case", b"1")])


def test_the_commands_for_bundles_do_as_told(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "registry")
    registry.publish(versioned(STARTER, tmp_path, "bundle-before"))
    registry.promote("bundle-before", 1)
    trained = versioned(STARTER, tmp_path, "bundle-0123456789")
    found = [command for command in commands() if command.startswith(BUNDLES)]
    verbs = ["publish", "promote", "list", "show", "verify", "rollback", "prune"]
    assert [shlex.split(command)[4] for command in found] == verbs
    said = {}
    for command, verb in zip(found, verbs, strict=True):
        command = command.replace(f"bundles/{trained.name}", str(trained))
        place = str(registry.root.local)
        done = run(command, tmp_path, STREAMREC_REGISTRY=place, STREAMREC_LEAD_S="0")
        assert done.returncode == 0, done.stderr
        said[verb] = done.stdout
    assert "published bundle-0123456789" in said["publish"]
    assert "bundle-0123456789 acts on events from" in said["promote"]
    assert "trained on autumn" in said["list"]
    assert "acts now" in said["list"]
    assert "bundle-0123456789" in said["show"]
    assert "bundle-before acts on events from" in said["rollback"]
    assert "deleted 0 bundles" in said["prune"]


def test_the_event_of_the_example_arrives_and_is_valid(broker: Broker, tmp_path: Path) -> None:
    (program,) = blocks("python")
    topic = f"readme-events-{uuid.uuid4()}"
    broker.create_topics({topic: 1})
    program = program.replace("127.0.0.1:9092", broker.bootstrap).replace("user-events", topic)
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120, env=os.environ)
    (record,) = read_topic(broker.bootstrap, topic)
    user, event = decode(record.value, int(time.time() * 1000))
    assert (record.key or b"").decode() == user == "alice"
    assert [(item.item_id, item.price) for item in event.items] == [("85123A", 2.55)]


def test_the_list_that_is_shown_has_the_fields_of_the_message() -> None:
    (shown,) = [json.loads(text) for text in blocks("json")]
    known = Recommendation.__struct_fields__
    assert list(shown) == [name for name in known if name in shown]
    assert set(known) - set(shown) <= {"session_id", "list_id"}
    assert [item["position"] for item in shown["items"]] == [0, 1]
    assert all(list(item) == list(RecommendedItem.__struct_fields__) for item in shown["items"])
    told = {name for row in table("field") for name in names(row[0])}
    of_item = {"position", "score", "item_id"}  # told with `items`
    wanted = {*known, *RecommendedItem.__struct_fields__} - of_item - {"schema_version", "user_id"}
    assert told - {"user_id"} == wanted


def test_the_fields_of_feedback_that_are_told_are_those_of_the_message() -> None:
    told = {name for row in table("field of `feedback`") for name in names(row[0])}
    keys = {"schema_version", "recommendation_id", "item_id", "user_id"}
    assert told | keys == set(Feedback.__struct_fields__)


def test_the_fields_of_sessions_that_are_told_are_those_of_the_message() -> None:
    rows = {tuple(names(field)): meaning for field, meaning in table("field of `sessions`")}
    told = [name for row in rows for name in row]
    assert told == [name for name in Session.__struct_fields__ if name != "schema_version"]
    assert {*names(rows[("events",)])} >= {*SessionEvent.__struct_fields__}


def test_every_job_is_in_the_table() -> None:
    assert {names(row[0])[0] for row in table("job")} == {*JOBS, *TOOLS}
    known = {*command_line.list_commands(click.Context(command_line))}
    assert known == {*JOBS, *TOOLS}


def test_the_event_types_are_those_of_the_code() -> None:
    triggers = RecommendSettings().triggers
    rows = {names(row[0])[0]: row for row in table("event type")}
    assert tuple(rows) == EVENT_TYPES
    for name, (_, aliases, answered) in rows.items():
        assert {TYPE_ALIASES[alias] for alias in names(aliases)} <= {name}
        assert answered == ("yes" if name in triggers else "no")


def test_the_settings_have_the_defaults_that_are_told() -> None:
    known = {key: default for key, default, _ in described(RecommendSettings)}
    for key, default, *_ in table("setting of `recommend`"):
        assert known[names(key)[0]] == default


def test_every_key_and_path_in_backticks_exists() -> None:
    known = {key for settings in SETTINGS.values() for key in keys(settings)}
    groups = {".".join(key.split(".")[:n]) for key in known for n in (1, 2)}
    for text in code():
        word = text.split("=")[0].split()[0]
        if "/" in word or word.endswith((".py", ".md", ".yaml", ".json", ".onnx", ".npy")):
            path = word.removeprefix("./")
            found = (ROOT / path).exists() or (STARTER / path).exists()
            assert found or path.startswith(".venv/"), f"there is no {word}"
        elif re.fullmatch(r"[a-z_]+(\.[a-z_]+)+", word):
            assert word in known | groups or (STARTER / word).exists(), f"{word} is no setting"


def test_links_lead_to_files() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_bundle_holds_the_files_that_are_told() -> None:
    told = {name for row in table("file of a bundle") for name in names(row[0])}
    assert told == {path.name for path in STARTER.iterdir()}


def test_the_quality_told_is_that_of_the_shipped_bundle() -> None:
    manifest = json.loads((STARTER / "manifest.json").read_text())
    assert f" {manifest['counts']['items']:,} items of its own shop" in README
    metrics = manifest["metrics"]
    told = {names(row[0])[0]: row[1:] for row in table("model")}
    columns = ("hr20", "mrr20", "ndcg20", "coverage")
    assert told == {
        model: [f"{values[name]:.3f}" for name in columns] for model, values in metrics.items()
    }, "the bundle was trained again: copy its metrics into the README"
