"""A broker that encrypts, asks who comes, and lets each job do what docs/kafka.md grants it.

The listener at `bootstrap` stays open: who comes there may do everything, as tests do.
"""

from __future__ import annotations

import re
import secrets
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from operators.broker import Broker
from operators.java import java_home
from operators.ports import HOST, free_port
from tests.canaries import CANARY
from tests.kafka import ROOT

STORE_PASSWORD = "of-the-test-broker"
RIGHT = re.compile(r"^\| `(.+)` \| (topic|group|transactional id) \| `(.+)` \| (read|write) \|$")
RESOURCES = {
    "topic": ResourceType.TOPIC,
    "group": ResourceType.GROUP,
    "transactional id": ResourceType.TRANSACTIONAL_ID,
}


@dataclass(frozen=True)
class Secured:
    """The broker, its further listeners and what proves an identity to them."""

    broker: Broker
    sasl: str  # host:port of the SASL_SSL listener
    ssl: str  # host:port of the listener that asks for a certificate
    folder: Path
    passwords: Mapping[str, str]  # by user; the user `streamrec-<job>` has the rights of the job

    @property
    def bootstrap(self) -> str:
        return self.broker.bootstrap

    @property
    def ca(self) -> Path:
        """The certificate of the broker."""
        return self.folder / "broker.pem"

    def password_file(self, user: str) -> Path:
        """A file with the user's password, as a Kubernetes Secret would be mounted."""
        path = self.folder / user / "password"
        path.parent.mkdir(exist_ok=True)
        path.write_text(self.passwords[user])
        return path

    def sasl_settings(self, user: str, password: str) -> list[str]:
        """Settings of a job that comes as `user`; `password` says where it is."""
        return [
            f"kafka.bootstrap={self.sasl}",
            "kafka.security.protocol=SASL_SSL",
            f"kafka.security.ca={self.ca}",
            f"kafka.security.username={user}",
            f"kafka.security.password={password}",
        ]


@contextmanager
def secured(folder: Path, jobs: list[str], options: Mapping[str, str]) -> Iterator[Secured]:
    """Such a broker with the topics, a user and the rights of each job, until the block ends.

    The users of the last job come with the certificate `folder`/<user>.identity.pem as well.
    """
    users = [f"streamrec-{job}" for job in jobs]
    for name in ("broker", users[-1]):
        make_certificate(folder, name)
    trust(folder, users[-1])
    sasl, ssl = free_port(), free_port()
    with Broker(options=listening(folder, sasl, ssl) | options) as broker:
        passwords = {user: f"{CANARY}{secrets.token_hex(12)}" for user in users}
        admin = AdminClient({"bootstrap.servers": broker.bootstrap})
        rights = [binding for job in jobs for binding in rights_of(job)]
        names = {each.name for each in rights if each.restype is ResourceType.TOPIC}
        broker.create_topics(dict.fromkeys(sorted(names), 1))
        changes = [*admin.create_acls(rights).values()]
        wanted = [credential(*each) for each in passwords.items()]
        changes += admin.alter_user_scram_credentials(wanted).values()
        for change in changes:
            change.result(timeout=30)
        yield Secured(broker, f"{HOST}:{sasl}", f"{HOST}:{ssl}", folder, passwords)


def credential(user: str, password: str) -> UserScramCredentialUpsertion:
    how = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
    return UserScramCredentialUpsertion(user, how, password.encode())


def rights_of(job: str) -> list[AclBinding]:
    """The rights that docs/kafka.md grants the job, for the user `streamrec-<job>`."""
    lines = (ROOT / "docs" / "kafka.md").read_text("utf-8").splitlines()
    found = [match.groups() for line in lines if (match := RIGHT.match(line))]
    return [
        AclBinding(
            RESOURCES[resource],
            name.removesuffix("*"),
            ResourcePatternType.PREFIXED if name.endswith("*") else ResourcePatternType.LITERAL,
            f"User:streamrec-{job}",
            "*",
            AclOperation[operation.upper()],
            AclPermissionType.ALLOW,
        )
        for owner, resource, name, operation in found
        if owner == job
    ]


def listening(folder: Path, sasl: int, ssl: int) -> dict[str, str]:
    """The broker's settings for the two listeners, and for who may do what."""
    places = f"SASL_SSL://{HOST}:{sasl},SSL://{HOST}:{ssl}"
    scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
    return {
        "listeners": places,
        "advertised.listeners": places,
        "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,"
        + ",".join(f"{name}:{name}" for name in ("PLAINTEXT", "SASL_SSL", "SSL")),
        "sasl.enabled.mechanisms": "SCRAM-SHA-512",
        "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config": scram,
        "listener.name.ssl.ssl.client.auth": "required",
        "ssl.keystore.location": str(folder / "broker.p12"),
        "ssl.keystore.password": STORE_PASSWORD,
        "ssl.truststore.location": str(folder / "trusted.p12"),
        "ssl.truststore.password": STORE_PASSWORD,
        "ssl.principal.mapping.rules": "RULE:^CN=(.*)$/$1/",
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
    }


def make_certificate(folder: Path, name: str) -> None:
    """`name`.p12 with a key, and its self-signed certificate as `name`.pem."""
    store = ["-keystore", str(folder / f"{name}.p12"), "-alias", name]
    person = ["-keyalg", "EC", "-dname", f"CN={name}", "-ext", f"SAN=ip:{HOST}", "-validity", "9"]
    keytool("-genkeypair", *store, *person)
    keytool("-exportcert", "-rfc", *store, "-file", str(folder / f"{name}.pem"))


def trust(folder: Path, name: str) -> None:
    """trusted.p12 with the certificate, and `name`.identity.pem with its key in front."""
    pem = folder / f"{name}.pem"
    store = ["-keystore", str(folder / "trusted.p12"), "-alias", name]
    keytool("-importcert", "-noprompt", *store, "-file", str(pem))
    command = [
        sys.executable,
        "-m",
        "tests.private_key",
        str(folder / f"{name}.p12"),
        STORE_PASSWORD,
    ]
    key = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    (folder / f"{name}.identity.pem").write_text(key + pem.read_text())


def keytool(*words: str) -> None:
    command = [str(java_home() / "bin" / "keytool"), *words, "-storepass", STORE_PASSWORD]
    subprocess.run(command, capture_output=True, check=True, timeout=60)
