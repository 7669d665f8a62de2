"""How every Kafka client reaches the brokers, proves who it is and knows who they are.

One `Connection` gives the settings of both kinds: Flink's connector (Java, wherever the tasks run)
and the clients of this process (librdkafka). A secret is never a setting, only where it is: the
connector is told the same, and its Kafka client looks there, so that neither the job's plan nor
Flink's REST and logs can hold it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, FilePath, model_validator
from pydantic_core import PydanticCustomError

from operators.configuration import flattened

PROPERTIES = (
    "client.dns.lookup",
    "client.rack",
    "connections.max.idle.ms",
    "metadata.max.age.ms",
    "reconnect.backoff.max.ms",
    "reconnect.backoff.ms",
    "retry.backoff.ms",
    "socket.connection.setup.timeout.ms",
)
"""What may be set of Kafka's own client properties: both kinds know these, none is a secret."""
SECRET = "secret"
"""Type of the validation errors whose input must not be shown."""

_REFERENCE = re.compile(r"file:(?P<file>/.+)|env:(?P<env>[A-Za-z_]\w*)")
_SHADED = "org.apache.flink.kafka.shaded.org.apache.kafka.common"  # as the connector's jar has it
_PROVIDERS = f"{_SHADED}.config.provider"


def _is_reference(given: Any) -> str:
    if isinstance(given, str) and _REFERENCE.fullmatch(given):
        return given
    raise PydanticCustomError(
        SECRET,
        "expected where the secret is, file:/path or env:NAME, and never the secret itself; "
        "what came is not shown",
    )


Secret = Annotated[str, BeforeValidator(_is_reference)]
"""Where a secret is: `file:/path`, a file that holds nothing else, or `env:NAME`, a variable."""


def read_secret(place: Secret) -> str:
    """The secret that lies there; raises ValueError, without it, where it is none for Kafka."""
    kind, _, name = place.partition(":")
    try:
        found = os.environ[name] if kind == "env" else Path(name).read_text("utf-8")
    except (KeyError, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"expected a secret at {place}; {type(error).__name__}") from None
    if not found or not found.isprintable() or set(found) & set('"\\'):
        raise ValueError(
            f"expected the secret at {place} to be one or more printable characters other than "
            "a double quote and a backslash; there is another, or none. Does it end with a line "
            "break? printf writes none, echo does"
        )
    return found


class Security(BaseModel):
    """Encryption and identity; files and variables must be there on every TaskManager too."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="of the brokers' listener"
    )
    ca: FilePath | None = Field(
        None, description="PEM file that says whose certificates to trust; null: the system's"
    )
    certificate: FilePath | None = Field(
        None, description="PEM file with the own private key (PKCS #8) and its certificates"
    )
    mechanism: Literal["SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        "SCRAM-SHA-512", description="of SASL"
    )
    username: str | None = Field(None, pattern=r'^[^"\\$\s]+$', description="of SASL")
    password: Secret | None = Field(
        None, description="of SASL: where it is, file:/path or env:NAME; it cannot be given itself"
    )

    @property
    def sasl(self) -> bool:
        """Whether clients tell a name and a password."""
        return self.protocol.startswith("SASL_")

    @model_validator(mode="after")
    def _fits_together(self) -> Security:
        if self.sasl != (self.username is not None) or self.sasl != (self.password is not None):
            raise ValueError(
                f"expected username and password with SASL and only then; got protocol "
                f"{self.protocol}"
            )
        if (self.ca or self.certificate) and not self.protocol.endswith("SSL"):
            raise ValueError(
                f"expected protocol SSL or SASL_SSL with ca or certificate; got {self.protocol}"
            )
        if self.password is not None:
            read_secret(self.password)
        return self

    def client(self) -> dict[str, str]:
        """Settings of librdkafka; they hold the password."""
        settings: dict[str, str] = {"security.protocol": self.protocol}
        if self.ca:
            settings["ssl.ca.location"] = str(self.ca.absolute())
        if self.certificate:
            pem = str(self.certificate.absolute())
            settings |= {"ssl.certificate.location": pem, "ssl.key.location": pem}
        if self.username is not None and self.password is not None:
            settings |= {
                "sasl.mechanism": self.mechanism,
                "sasl.username": self.username,
                "sasl.password": read_secret(self.password),
            }
        return settings

    def connector(self) -> dict[str, str]:
        """Settings of Flink's connector; they say where the password is."""
        settings: dict[str, str] = {"security.protocol": self.protocol}
        if self.ca:
            settings |= _pem("truststore", self.ca)
        if self.certificate:
            settings |= _pem("keystore", self.certificate)
        if self.password is not None:
            reference, provider = _provided(self.password)
            settings |= {
                "sasl.mechanism": self.mechanism,
                "sasl.jaas.config": f"{_SHADED}.security.scram.ScramLoginModule required "
                f'username="{self.username}" password="{reference}";',
                "config.providers": "secrets",
                **{f"config.providers.secrets.{key}": value for key, value in provider.items()},
            }
        return settings


def _pem(store: str, file: Path) -> dict[str, str]:
    return {f"ssl.{store}.type": "PEM", f"ssl.{store}.location": str(file.absolute())}


def _provided(place: Secret) -> tuple[str, dict[str, str]]:
    """How Kafka's Java client refers to a secret, and the provider that may look only there."""
    kind, _, name = place.partition(":")
    if kind == "env":
        allowed = {"class": f"{_PROVIDERS}.EnvVarConfigProvider", "param.allowlist.pattern": name}
        return f"${{secrets:{name}}}", allowed
    file = Path(name)
    allowed = {
        "class": f"{_PROVIDERS}.DirectoryConfigProvider",
        "param.allowed.paths": str(file.parent),
    }
    return f"${{secrets:{file.parent}:{file.name}}}", allowed


def _are_allowed(given: Any) -> Any:
    if not isinstance(given, dict):
        return given
    properties = flattened(given)
    for name in properties:
        if name not in PROPERTIES:
            raise PydanticCustomError(
                SECRET,
                "{name} cannot be set here; expected one of {known}, or a setting of security",
                {"name": name, "known": ", ".join(PROPERTIES)},
            )
    return properties


class Connection(BaseModel):
    """Where the brokers are and how to talk to them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bootstrap: str = Field("127.0.0.1:9092", description="host:port[,host:port…] of the brokers")
    security: Security = Security()
    properties: Annotated[dict[str, str], BeforeValidator(_are_allowed)] = Field(
        {}, description=f"of every Kafka client; any of {', '.join(PROPERTIES)}"
    )

    def client(self) -> dict[str, str]:
        """The settings of a librdkafka client; they hold the password."""
        return {
            "bootstrap.servers": self.bootstrap,
            **self.security.client(),
            **self.properties,
        }

    def connector(self) -> dict[str, str]:
        """The properties of Flink's Kafka connector; they hold no secret."""
        return {
            "bootstrap.servers": self.bootstrap,
            **self.security.connector(),
            **self.properties,
        }
