"""What a connection takes and refuses, and what it gives each kind of client."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path

import pytest
import yaml
from confluent_kafka import Consumer, Producer
from pydantic import ValidationError

from jobs.__main__ import JOBS
from jobs.dead_letters import DeadLettersSettings
from jobs.recommend import RecommendSettings
from jobs.settings import SettingsError, keys, load
from operators.configuration import ROOT
from operators.connection import PROPERTIES, Connection, Security, read_secret
from operators.kafka import Kafka

CANARY = "canary-in-a-file"
KNOWN = {"client.dns.lookup": "use_all_dns_ips", "client.rack": "a"}


@pytest.fixture
def secret(tmp_path: Path) -> str:
    path = tmp_path / "password"
    path.write_text(CANARY)
    return f"file:{path}"


def scram(password: str) -> Connection:
    security = Security(protocol="SASL_SSL", username="shop", password=password)
    return Connection(bootstrap="kafka:9093", security=security)


def test_the_connector_is_told_where_the_password_is_and_never_the_password(secret: str) -> None:
    connection = scram(secret)
    settings = connection.connector()
    folder = str(Path(secret.removeprefix("file:")).parent)
    assert f'username="shop" password="${{secrets:{folder}:password}}"' in str(settings)
    assert settings["config.providers.secrets.param.allowed.paths"] == folder
    assert CANARY not in json.dumps(settings) + repr(connection) + connection.model_dump_json()
    assert connection.client()["sasl.password"] == CANARY


def test_a_variable_holds_a_password_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_PASSWORD", CANARY)
    connection = scram("env:SHOP_PASSWORD")
    assert 'password="${secrets:SHOP_PASSWORD}"' in connection.connector()["sasl.jaas.config"]
    assert connection.client()["sasl.password"] == CANARY


@pytest.mark.parametrize("place", ["env:STREAMREC_KAFKA__SECURITY__PASSWORD", "--set", "file"])
def test_a_password_itself_is_refused_wherever_it_comes_from(place: str, tmp_path: Path) -> None:
    file, overrides, environ = tmp_path / "mine.yaml", [], {}
    file.write_text("window: 5\n")
    if place == "file":
        file.write_text(f"kafka: {{security: {{password: {CANARY}}}}}\n")
    elif place == "--set":
        overrides = [f"kafka.security.password={CANARY}"]
    else:
        environ = {place.removeprefix("env:"): CANARY}
    with pytest.raises(
        SettingsError, match=r"kafka\.security\.password: expected where"
    ) as refusal:
        load(RecommendSettings, "recommend", file, overrides, environ)
    assert CANARY not in str(refusal.value)


@pytest.mark.parametrize(
    "name", ["sasl.jaas.config", "sasl.password", "ssl.key.password", "enable.auto.commit"]
)
@pytest.mark.parametrize("form", ["kafka.properties={{{}: {}}}", "kafka.properties.{}={}"])
def test_other_client_properties_are_refused_by_name(name: str, form: str) -> None:
    with pytest.raises(SettingsError, match=f"{name} cannot be set here") as refusal:
        load(RecommendSettings, "recommend", overrides=[form.format(name, CANARY)], environ={})
    assert CANARY not in str(refusal.value)


def test_both_kinds_of_client_know_the_properties_that_may_be_set() -> None:
    for name in PROPERTIES:
        value = KNOWN.get(name, "1000")
        given = [f"kafka.properties.{name}={value}"]
        kafka = load(RecommendSettings, "recommend", overrides=given, environ={}).kafka
        assert kafka.connector()[name] == value
        Producer(kafka.client())
        Consumer(kafka.client() | {"group.id": "tests"}).close()


@pytest.mark.parametrize("text", ["", "two\nlines", "ends\n", 'a"quote', "a\\slash"])
def test_what_is_no_password_for_both_kinds_of_client_is_refused_unseen(
    text: str, tmp_path: Path
) -> None:
    path = tmp_path / "password"
    path.write_text(text)
    with pytest.raises(ValueError, match="printable characters") as refusal:
        read_secret(f"file:{path}")
    assert not text or text not in str(refusal.value)


def test_a_secret_that_is_not_there_is_told_by_its_place(tmp_path: Path) -> None:
    place = f"file:{tmp_path}/none"
    overrides = [f"security.password={place}", "security.username=me", "security.protocol=SASL_SSL"]
    with pytest.raises(SettingsError, match=f"expected a secret at {place}; FileNotFoundError"):
        load(DeadLettersSettings, "dead-letters", overrides=overrides, environ={})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"protocol": "SASL_SSL"}, "expected username and password with SASL"),
        ({"username": "me"}, "expected username and password with SASL and only then"),
        ({"protocol": "PLAINTEXT", "ca": __file__}, "expected protocol SSL or SASL_SSL with ca"),
        ({"protocol": "SSL", "ca": "/none.pem"}, "does not point to a file"),
        ({"username": 'me" password="x'}, "should match pattern"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(given: dict, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Security(**given)


def test_the_settings_that_are_told_are_taken(secret: str) -> None:
    folder = Path(secret.removeprefix("file:")).parent
    (folder / "ca.pem").write_text("")
    for file in ("README.md", "docs/kafka.md"):
        (told,) = re.findall(r"^```yaml\n(kafka:.*?)^```$", (ROOT / file).read_text(), re.M | re.S)
        told = told.replace("/run/secrets/kafka", str(folder))
        kafka = Kafka(**yaml.safe_load(told.replace("/etc/streamrec", str(folder)))["kafka"])
        assert kafka.client()["sasl.password"] == CANARY


def test_every_job_that_reads_kafka_takes_a_connection() -> None:
    for name, (settings, _) in JOBS.items():
        known = [*keys(getattr(importlib.import_module(f"jobs.{name}"), settings))]
        for key in [key for key in known if key.rpartition(".")[2] == "bootstrap"]:
            assert key.replace("bootstrap", "security.password") in known
        assert any(key.endswith("security.password") for key in known)
