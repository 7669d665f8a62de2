import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


def examined(root: Path, environment: dict[str, str] | None = None) -> tuple[int, dict[str, Any]]:
    command = [root / "scripts" / "doctor", "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    answer = json.loads(done.stdout)
    states = {finding["name"]: finding for finding in answer["findings"]}
    return done.returncode, {"ready": answer["ready"], **states}


@pytest.fixture
def bare_checkout(tmp_path: Path) -> Path:
    ignore = shutil.ignore_patterns("__pycache__", "data")
    for folder in ("scripts", "operators"):
        shutil.copytree(ROOT / folder, tmp_path / "checkout" / folder, ignore=ignore)
    for name in ("setup.py", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / "checkout")
    return tmp_path / "checkout"


def test_on_a_bare_machine_the_doctor_names_what_is_missing(
    bare_checkout: Path, tmp_path: Path
) -> None:
    base = str(Path(sys.executable).resolve())  # the Python that .venv was made with
    (tmp_path / "bin").mkdir()
    for tool in ("bash", "env", "dirname"):
        (tmp_path / "bin" / tool).symlink_to(str(shutil.which(tool)))
    environment = {"HOME": str(tmp_path), "PATH": str(tmp_path / "bin"), "SETUP_PYTHON": base}
    code, found = examined(bare_checkout, environment)
    assert code == 1
    assert found["ready"] is False
    for name in ("packages", "java", "jars"):
        assert found[name]["state"] == "missing"
        assert "./scripts/setup" in found[name]["mend"]
    assert found["python"]["state"] == "ok"
    assert not (bare_checkout / ".venv").exists()


def test_the_doctor_names_a_jar_with_a_wrong_hash(
    bare_checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    jar = tmp_path / "streamrec" / "jars" / "flink-sql-connector-kafka-5.0.0-2.2.jar"
    jar.parent.mkdir(parents=True)
    jar.write_bytes(b"not the pinned bytes")
    code, found = examined(bare_checkout)
    assert code == 1
    assert "wrong hash: flink-sql-connector-kafka-5.0.0-2.2.jar" in found["jars"]["found"]


def test_after_set_up_the_doctor_finds_java_and_every_jar() -> None:
    _, found = examined(ROOT)
    for name in ("python", "java", "jars", "loopback"):
        assert found[name]["state"] == "ok"
