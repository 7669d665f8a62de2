"""The evaluate command on files of every form: what it prints, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from jobs.evaluate import data, evaluate
from models.list_files import read_lists
from models.metrics import hit_rate, ranks_from_lists, reciprocal_rank
from models.protocol import held_out
from tests.kafka import completed, job, last_words

HOUR_S = 3_600
SMALL = [
    *("--set", "encoder.dimension=32", "--set", "encoder.epochs=4", "--set", "encoder.batch=64"),
    *("--set", "encoder.learning_rate=0.02", "--set", "encoder.dropout=0.1"),
    *("--set", "ranker.samples=400", "--set", "ranker.epochs=10", "--threads", "1"),
]
MODELS = {"popularity", "item_knn", "vsknn", "gru", "transformer", "encoders", "blend"}


def cycles(sessions: int, seed: int, start_s: int = 1_700_000_000) -> dict[str, list]:
    """Sessions in which item i is followed by item i + 1 (of 20)."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, 7, sessions)
    first = rng.integers(0, 20, sessions)
    rows = [
        (f"s{seed}-{n}", f"i{(first[n] + step) % 20}", start_s + n * HOUR_S + step)
        for n in range(sessions)
        for step in range(lengths[n])
    ]
    session, item, time = (list(column) for column in zip(*rows, strict=True))
    return {"session": session, "item": item, "time": time}


def run(*words: str) -> Result:
    return CliRunner().invoke(evaluate, list(words))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sessions")
    train, test = cycles(300, 1), cycles(60, 2, start_s=1_702_000_000)
    test["item"][0] = "unseen"
    pq.write_table(pa.table(train), folder / "train.parquet")
    pyarrow.csv.write_csv(pa.table(test), folder / "test.csv")
    lines = [dict(zip(train, row, strict=True)) for row in zip(*train.values(), strict=True)]
    renamed = [{"who": r["session"], "what": r["item"], "when": r["time"] * 1000} for r in lines]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in renamed))
    return folder


def test_the_last_line_tells_every_models_figures_and_the_bundle_is_written(files: Path) -> None:
    words = ["--train", str(files / "train.parquet"), "--test", str(files / "test.csv")]
    done = run(*words, "--bundle", str(files / "bundle"), *SMALL)
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout.splitlines()[-1])
    test = cycles(60, 2)
    assert (told["left_out"], told["alone"]) == (1, 0)
    assert told["predictions"] == len(test["item"]) - 1 - len(set(test["session"]))
    assert set(told) >= MODELS
    for model in MODELS:
        assert told[model]["count"] == told["predictions"]
        assert {"hr5", "hr10", "hr20", "mrr20", "ndcg20", "coverage", "popularity_bias"} <= set(
            told[model]
        )
    assert told["blend"]["mrr20"] > 0.9 > told["popularity"]["mrr20"]
    assert told["gru"]["train_s"] > 0 < told["blend"]["list_us"]
    manifest = json.loads((files / "bundle" / "manifest.json").read_text())
    assert manifest["metrics"]["blend"]["mrr20"] == pytest.approx(told["blend"]["mrr20"], abs=1e-5)
    for word in ("V-SKNN", "vsknn", "MRR@20", f"{told['predictions']} predictions"):
        assert word in done.stderr


def test_what_was_judged_is_what_the_flink_job_serves(files: Path) -> None:
    """The bundle answers the test sessions in the job, and the ranks give the figures told."""
    words = ["--train", str(files / "train.parquet"), "--test", str(files / "test.csv")]
    done = run(*words, "--bundle", str(files / "served"), *SMALL, "--set", "ranker.epochs=1")
    told = json.loads(done.stdout.splitlines()[-1])["blend"]
    held = held_out(*data.split(data.Source(files / "train.parquet", files / "test.csv")))
    log, ids = held.log, held.log.facts.ids
    events = {
        "who": log.session_of_row(),
        "item": [ids[item] for item in log.items],
        "when": log.times,
        "event": [str(row) for row in range(len(log.items))],
    }
    pq.write_table(pa.table(events), files / "held.parquet")
    columns = {"user": "who", "item": "item", "time": "when", "event_id": "event"}
    replay = job(
        "replay",
        f"bundle={files / 'served'}",
        "exclude_seen=false",
        f"source.path={files / 'held.parquet'}",
        *(f"source.columns.{kind}={name}" for kind, name in columns.items()),
        f"output={files / 'lists.jsonl'}",
    )
    ended = completed(files, replay)
    assert ended.returncode == 0, ended.stderr[-3000:] + last_words(files)
    answers = {
        int(each["trigger_event_id"]): each["items"]
        for each in read_lists(str(files / "lists.jsonl"))
    }
    assert sorted(answers) == list(range(len(log.items)))
    ranks = ranks_from_lists(
        [[each["item_id"] for each in answers[row - 1]] for row in held.targets],
        [[each["score"] for each in answers[row - 1]] for row in held.targets],
        [ids[item] for item in log.items[held.targets]],
    )
    assert len(ranks) == told["count"]
    assert reciprocal_rank(ranks) == pytest.approx(told["mrr20"], abs=1e-6)
    assert hit_rate(ranks, 5) == pytest.approx(told["hr5"], abs=1e-6)
    assert told["mrr20"] < 1  # else any order would do


def test_without_a_test_file_the_newest_sessions_are_judged_on(files: Path) -> None:
    columns = "session=who,item=what,time=when"
    done = run("--train", str(files / "train.jsonl"), "--columns", columns, *SMALL)
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout.splitlines()[-1])
    train, test = data.split(data.Source(files / "train.jsonl", columns=data.columns_of(columns)))
    assert (len(train), len(test)) == (255, 45)
    assert train.ends.max() < test.ends.min()
    assert told["predictions"] == len(test.target_rows())


def test_periods_are_learned_and_judged_in_turn(tmp_path: Path) -> None:
    parts = [cycles(200, seed) for seed in (3, 4, 5)]
    rows = {"session_id": [], "item_id": [], "week": []}
    for week, part in enumerate(parts):
        rows["session_id"] += part["session"]
        rows["item_id"] += part["item"]
        rows["week"] += [week] * len(part["item"])
    pq.write_table(pa.table(rows), tmp_path / "weeks.parquet")
    words = ["--train", str(tmp_path / "weeks.parquet"), "--continual", "--period", "week"]
    done = run(*words, *SMALL)
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["periods"] == 2
    sessions = len({*parts[1]["session"], *parts[2]["session"]})
    assert told["predictions"] == len(parts[1]["item"]) + len(parts[2]["item"]) - sessions
    assert told["blend"]["hr20"] > 0.9


def test_a_session_that_goes_on_in_the_next_period_is_another_one(tmp_path: Path) -> None:
    table = pa.table({"session": [1, 2, 1, 2], "item": [1, 2, 3, 4], "p": [0, 0, 0, 1]})
    pq.write_table(table, tmp_path / "p.parquet")
    weeks = data.periods(data.Source(tmp_path / "p.parquet", period="p"))
    assert [[week.facts.ids[i] for i in week.items] for week in weeks] == [["2", "1", "3"], ["4"]]
    days = (weeks[1].times - weeks[0].times[0]) / 86_400_000
    assert days.tolist() == [pytest.approx(7 * (1 - 1 / 3))]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "give one of rsc15_64, serenade, diginetica"),
        (["rsc15_64", "--train", "x.csv"], "give one of rsc15_64"),
        (["rsc15_64", "--data", "/nowhere"], "expected rsc15_64 at /nowhere"),
        (["--train", "/nowhere.csv"], "expected a file with sessions at /nowhere.csv"),
        (["--train", "a.xlsx"], "expected a file that ends with .parquet"),
        (["--train", "a.csv", "--continual"], "--continual and --period COLUMN belong together"),
        (["--train", "a.csv", "--columns", "a,b"], "expected --columns SESSION,ITEM,TIME"),
        (["--train", "a.csv", "--set", "encoder.depth=2"], "encoder.depth is not a setting"),
    ],
)
def test_what_cannot_be_judged_is_refused_by_name(words: list[str], said: str) -> None:
    done = run(*words)
    assert done.exit_code != 0
    assert said in " ".join(done.output.split())


def test_columns_that_are_not_there_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("who,item_id\nu,A\n")
    done = run("--train", str(tmp_path / "a.csv"))
    assert "expected columns for session, time; the file has who, item_id" in done.output


@pytest.mark.parametrize("unit", [1, 1_000, 1_000_000, 1_000_000_000])
def test_the_unit_of_times_is_seen(tmp_path: Path, unit: int) -> None:
    (tmp_path / "a.csv").write_text(f"session,item,time\nu,A,{1_700_000_000 * unit}\n")
    log, _ = data.split(data.Source(tmp_path / "a.csv", tmp_path / "a.csv"))
    assert log.times.tolist() == [1_700_000_000_000]
