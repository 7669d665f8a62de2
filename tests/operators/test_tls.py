from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import pkcs12

from jobs.sessions import SessionsSettings
from jobs.settings import SettingsError, load
from operators.standalone import ClusterError, prepare
from operators.tls import PLAIN, Tls
from tests.certificates import Authority


@pytest.fixture
def trusted(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "trusted")


def test_without_certificates_there_is_no_tls_and_no_file(tmp_path: Path) -> None:
    assert (PLAIN.scheme, PLAIN.context(), PLAIN.options(tmp_path / "tls")) == ("http", None, {})
    assert not (tmp_path / "tls").exists()


def test_flinks_stores_hold_what_the_pem_files_do_and_only_their_owner_reads_them(
    trusted: Authority, tmp_path: Path
) -> None:
    tls = Tls(ca=trusted.ca, certificate=trusted.identity("flink"))
    options = tls.options(tmp_path / "tls")
    assert (tmp_path / "tls").stat().st_mode & 0o077 == 0
    password = options["security.ssl.keystore-password"].encode()
    store = Path(options["security.ssl.keystore"]).read_bytes()
    key, certificate, _ = pkcs12.load_key_and_certificates(store, password)
    assert key is not None
    assert certificate is not None
    assert certificate.public_key() == key.public_key()
    assert options["security.ssl.rest.authentication-enabled"] == "true"
    assert options["security.ssl.internal.enabled"] == "true"


def test_an_authority_alone_encrypts_without_showing_a_certificate(
    trusted: Authority, tmp_path: Path
) -> None:
    options = Tls(ca=trusted.ca).options(tmp_path / "tls")
    assert options["security.ssl.rest.enabled"] == "true"
    assert not {"security.ssl.rest.authentication-enabled", "security.ssl.keystore"} & {*options}


def test_a_cluster_is_refused_a_certificate_by_which_its_processes_would_not_find_each_other(
    trusted: Authority, tmp_path: Path
) -> None:
    own = trusted.identity("flink", "elsewhere")
    said = r"localhost is not in its subjectAltName \(127.0.0.1, elsewhere\)"
    with pytest.raises(ClusterError, match=said):
        prepare(tmp_path / "cluster", 1, {}, Tls(ca=trusted.ca, certificate=own))
    assert not (tmp_path / "cluster").exists()


@pytest.mark.parametrize(
    ("ca", "certificate", "said"),
    [
        ("none.pem", None, "engine.tls.ca: "),
        ("empty", None, "expected certificates as PEM in "),
        (None, "own", "expected ca with certificate"),
        ("ca", "ca", "expected a private key without a password as PEM in "),
    ],
)
def test_certificates_are_refused_before_the_job_starts(
    ca: str | None, certificate: str | None, said: str, trusted: Authority, tmp_path: Path
) -> None:
    (tmp_path / "empty").touch()
    files = {"ca": trusted.ca, "own": trusted.identity("own"), "empty": tmp_path / "empty"}
    names = {"ca": ca, "certificate": certificate}
    given = {key: files.get(name, tmp_path / name) for key, name in names.items() if name}
    overrides = [f"engine.tls.{key}={file}" for key, file in given.items()]
    with pytest.raises(SettingsError, match=said):
        load(SessionsSettings, "sessions", overrides=overrides, environ={})
