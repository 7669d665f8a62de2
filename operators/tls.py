"""Certificates by which a cluster, and who gives it jobs, know each other.

    streamrec, flink run ── REST ── JobManager ── RPC, code, data ── TaskManagers

Flink reads no PEM files: they are rewritten for it as key stores, with a password drawn for that.
"""

from __future__ import annotations

import secrets
import ssl
from pathlib import Path
from typing import Annotated

from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    load_pem_private_key,
    pkcs12,
)
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FilePath, model_validator


def _is_identity(file: Path) -> Path:
    _identity(file)
    return file


def _are_certificates(file: Path) -> Path:
    _certificates(file)
    return file


class Tls(BaseModel):
    """Whose certificates to trust and which to show; without them REST is spoken to in clear."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ca: Annotated[FilePath, AfterValidator(_are_certificates)] | None = Field(
        None, description="PEM file that says whose certificates to trust; null: no TLS"
    )
    certificate: Annotated[FilePath, AfterValidator(_is_identity)] | None = Field(
        None, description="PEM file with the own private key (PKCS #8) and its certificates"
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Tls:
        if self.certificate and not self.ca:
            raise ValueError("expected ca with certificate: each side checks the other; got none")
        return self

    @property
    def scheme(self) -> str:
        """Of the REST's address: http or https."""
        return "https" if self.ca else "http"

    def context(self) -> ssl.SSLContext | None:
        """For a client of this process; None where there is no TLS."""
        if not self.ca:
            return None
        context = ssl.create_default_context(cafile=self.ca)
        if self.certificate:
            context.load_cert_chain(self.certificate)
        return context

    def require_names(self, *names: str) -> None:
        """Raise ValueError unless the certificate, if there is one, is of all these hosts."""
        if not self.certificate:
            return
        found = _names(_identity(self.certificate)[1][0])
        if missing := [name for name in names if name not in found]:
            raise ValueError(
                f"expected the certificate in {self.certificate} to be of {' and '.join(names)}, "
                f"by which processes reach each other; {' and '.join(missing)} is not in its "
                f"subjectAltName ({', '.join(found) or 'it has none'})"
            )

    def options(self, folder: Path) -> dict[str, str]:
        """Flink's options for TLS; the key stores that they name are written to `folder`."""
        if not self.ca:
            return {}
        password = secrets.token_hex(16)
        hidden = BestAvailableEncryption(password.encode())
        trusted = [pkcs12.PKCS12Certificate(each, None) for each in _certificates(self.ca)]
        stores = {"truststore": pkcs12.serialize_java_truststore(trusted, hidden)}
        options = {
            # Flink's own choice is TLS 1.2 with suites for RSA keys alone.
            "protocol": "TLSv1.3",
            "algorithms": "TLS_AES_256_GCM_SHA384,TLS_AES_128_GCM_SHA256",
            "rest.enabled": "true",
        }
        if self.certificate:
            key, (own, *chain) = _identity(self.certificate)
            named = (b"flink", key, own, chain)
            stores["keystore"] = pkcs12.serialize_key_and_certificates(*named, hidden)
            options |= {
                "rest.authentication-enabled": "true",
                "internal.enabled": "true",  # and what the cluster's processes tell each other
                "key-password": password,
            }
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name, content in stores.items():
            (folder / f"{name}.p12").write_bytes(content)
            options |= {name: str(folder / f"{name}.p12"), f"{name}-password": password}
        return {f"security.ssl.{name}": text for name, text in options.items()}


PLAIN = Tls()


def _certificates(file: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(file.read_bytes())
    except ValueError as error:
        raise ValueError(f"expected certificates as PEM in {file}; {error}") from None


def _names(certificate: x509.Certificate) -> list[str]:
    """The hosts that a certificate is of."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    addresses = map(str, found.get_values_for_type(x509.IPAddress))
    return [*addresses, *found.get_values_for_type(x509.DNSName)]


def _identity(file: Path) -> tuple[pkcs12.PKCS12PrivateKeyTypes, list[x509.Certificate]]:
    try:
        key = load_pem_private_key(file.read_bytes(), password=None)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"expected a private key without a password as PEM in {file}; {type(error).__name__}"
        ) from None
    return key, _certificates(file)  # type: ignore[return-value]
