"""The streaming jobs against brokers that encrypt, ask who comes and authorise; nothing leaks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
from confluent_kafka import KafkaError, KafkaException, Producer

from jobs.recommend import RecommendSettings, main
from jobs.settings import SettingsError, load
from models.event_range import messages
from operators.ports import HOST, free_port
from tests.canaries import shown
from tests.kafka import PATIENCE_S, Record, completed, environment, job, running, send, wait_for
from tests.secured import Secured, secured
from tests.shopping import START_MS

JOBS = ("recommend", "sessions", "feedback")  # the last comes with a certificate
VARIABLE = "KAFKA_PASSWORD_OF_SESSIONS"
ONCE = ("delivery=exactly-once", "transaction_timeout_s=60", "engine.checkpoint_interval_s=2")
JVM = "-Xmx1g -XX:+UseSerialGC -XX:TieredStopAtLevel=1"  # three at once: soon up, not fast

pytestmark = pytest.mark.slow  # whichever test is the first waits for all three jobs


@dataclass
class Run:
    """What a run of the three jobs left: messages by topic, and everything that may be read."""

    sent: list[Record]
    topics: dict[str, list[dict]] = field(default_factory=dict)
    readable: dict[str, str] = field(default_factory=dict)  # where → text


@pytest.fixture(scope="module")
def brokers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    with secured(tmp_path_factory.mktemp("secured"), [*JOBS], {}) as broker:
        yield broker


@pytest.fixture(scope="module")
def run(brokers: Secured, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """All three jobs at once, each with its own rights alone, exactly once."""
    settings, state = {name: identity(brokers, name) for name in JOBS}, {}
    sent = [event("a", 0), event("b", 20, user="v"), event("end", 30, "session_end", "v")]
    sent += [event("c", 60), Record(b"no event", b"u")]
    done = Run(sent)
    ports = {name: free_port() for name in JOBS}
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("JVM_ARGS", JVM)
        patch.setenv(VARIABLE, brokers.passwords["streamrec-sessions"])
        processes = {}
        for name in JOBS:
            state[name] = tmp_path_factory.mktemp(name)
            rest = f"engine.rest_port={ports[name]}"
            started = running(state[name], name, rest, *ONCE, *settings[name])
            processes[name] = stack.enter_context(started)
        send(brokers.bootstrap, "user-events", sent)
        wait_for(lambda: len(written(brokers, "recommendations")) == 3, 600, "the lists")
        act(brokers, written(brokers, "recommendations")[0])
        for topic in ("feedback", "sessions", "dead-letters"):
            wait_for(lambda t=topic: written(brokers, t) != [], PATIENCE_S, f"a record of {topic}")
        for name, process in processes.items():
            done.readable |= shown(f"http://{HOST}:{ports[name]}")
            family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(True)]
            done.readable |= {f"{name} {each.pid}": " ".join(each.cmdline()) for each in family}
    for name in JOBS:
        files = [path for path in state[name].rglob("*") if path.is_file()]
        done.readable |= {str(path): path.read_bytes().decode("latin-1") for path in files}
    for topic in ("recommendations", "feedback", "sessions", "dead-letters", "late-events"):
        found = messages(client(brokers), topic, "earliest", "latest")
        done.topics[topic] = [{"value": m.value(), "headers": m.headers()} for m in found]
        done.readable[topic] = str(done.topics[topic])
    return done


def identity(brokers: Secured, name: str) -> list[str]:
    """Settings that make the job known: by a file, by a variable, by a certificate."""
    user = f"streamrec-{name}"
    if name == "feedback":
        return [
            f"kafka.bootstrap={brokers.ssl}",
            "kafka.security.protocol=SSL",
            f"kafka.security.ca={brokers.ca}",
            f"kafka.security.certificate={brokers.folder / user}.identity.pem",
        ]
    variable = f"env:{VARIABLE}"
    place = variable if name == "sessions" else f"file:{brokers.password_file(user)}"
    return brokers.sasl_settings(user, place)


def event(name: str, seconds: int, kind: str = "view_item", user: str = "u") -> Record:
    value = {"event_id": name, "event_type": kind, "user_id": user, "item_id": "85123A"}
    return Record(json.dumps(value | {"event_time": START_MS + seconds * 1000}).encode(), b"k")


def act(brokers: Secured, made: dict) -> None:
    """The user chooses what stands first."""
    chosen = {key: made[key] for key in ("user_id", "recommendation_id")}
    chosen |= {"event_id": "act", "event_type": "select_item", "event_time": START_MS + 61_000}
    chosen["item_id"] = made["items"][0]["item_id"]
    send(brokers.bootstrap, "user-events", [Record(json.dumps(chosen).encode(), b"u")])


def client(brokers: Secured) -> dict[str, str]:
    return {"bootstrap.servers": brokers.bootstrap}


def written(brokers: Secured, topic: str) -> list[dict]:
    """The committed messages of the topic so far."""
    found = [m.value() for m in messages(client(brokers), topic, "earliest", "latest")]
    return [json.loads(value) if value.startswith(b"{") else {} for value in found]


def test_each_job_needs_no_more_than_the_rights_it_is_granted(run: Run) -> None:
    lists = [
        json.loads(each["value"])["trigger_event_id"] for each in run.topics["recommendations"]
    ]
    assert {"a", "b", "c"} <= set(lists)
    assert len(lists) == len(set(lists))
    assert [json.loads(each["value"])["closed_by"] for each in run.topics["sessions"]] == ["event"]
    assert {each["value"] for each in run.topics["dead-letters"]} == {b"no event"}
    told = [json.loads(each["value"]) for each in run.topics["feedback"]]
    assert [(each["label"]["click"], each["final"]) for each in told] == [(True, False)]
    assert not [text for place, text in run.readable.items() if "restarts:" in text]


def test_no_password_is_in_logs_rest_arguments_or_messages(brokers: Secured, run: Run) -> None:
    found = run.readable
    key = (brokers.folder / "streamrec-feedback.identity.pem").read_text().splitlines()[1]
    for secret in (*brokers.passwords.values(), key):
        assert [place for place, text in found.items() if secret in text] == []
    # That it was looked at where they would be: what stands beside them is there.
    for sign in ("kafka.security.password=file:", "streamrec recommend"):
        assert [place for place, text in found.items() if sign in text] != [], sign


def test_a_job_may_not_write_what_only_another_writes(brokers: Secured, run: Run) -> None:
    settings = load(
        RecommendSettings, "recommend", overrides=identity(brokers, "recommend"), environ={}
    )
    refused: list[KafkaError] = []
    producer = Producer(settings.kafka.client())
    producer.produce("sessions", b"x", on_delivery=lambda error, _: refused.append(error))
    producer.flush(10)
    assert [error.code() for error in refused] == [KafkaError.TOPIC_AUTHORIZATION_FAILED]
    other = {"transactional.id": "streamrec-sessions-start", "log_level": 0}
    producer = Producer(settings.kafka.client() | other)
    with pytest.raises(KafkaException, match="TRANSACTIONAL_ID_AUTHORIZATION_FAILED"):
        producer.init_transactions(10)


def test_a_wrong_password_is_told_before_the_start_and_not_shown(
    brokers: Secured, tmp_path: Path
) -> None:
    wrong = tmp_path / "password"
    wrong.write_text("canary-wrong")
    overrides = brokers.sasl_settings("streamrec-recommend", f"file:{wrong}")
    with pytest.raises(SettingsError, match="invalid credentials") as refusal:
        main(load(RecommendSettings, "recommend", overrides=overrides, environ={}))
    assert "recommend was not started" in str(refusal.value)
    assert "canary" not in str(refusal.value)


def test_a_password_on_the_command_line_is_refused_and_not_repeated(
    brokers: Secured, tmp_path: Path
) -> None:
    settings = brokers.sasl_settings("streamrec-recommend", "canary-plain")
    done = completed(tmp_path, job("recommend", *settings))
    assert done.returncode != 0
    assert "kafka.security.password: expected where the secret is" in done.stderr
    assert "canary" not in done.stderr + done.stdout
    assert "canary" not in " ".join(environment(tmp_path).values())
