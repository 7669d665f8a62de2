import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LOCKS = ROOT / "scripts" / "locks"
sys.path.append(str(ROOT / "scripts"))

import preparation  # noqa: E402
from preparation import Preparation, SetUpError, uv_settings  # noqa: E402


def locked(name: str) -> dict[str, str]:
    """Requirement with its marker → its block of hashes."""
    text = (LOCKS / f"{name}.txt").read_text()
    blocks = re.split(r"\n(?=\S)", text.partition("\n")[2])
    return {block.split(" \\\n")[0]: block for block in blocks if block.strip()}


def versions(name: str) -> set[tuple[str, ...]]:
    """Each version of a lock with its hashes; a smaller set may need one on fewer Pythons."""
    return {
        (requirement.split(" ;")[0], *sorted(re.findall(r"sha256:\w+", block)))
        for requirement, block in locked(name).items()
    }


def names(requirements: dict[str, str]) -> set[str]:
    return {requirement.split("==")[0] for requirement in requirements}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what set-up needs, in a folder of its own, with nothing prepared."""
    root = tmp_path / "checkout"
    ignore = shutil.ignore_patterns("__pycache__", "data")
    shutil.copytree(ROOT / "scripts", root / "scripts", ignore=ignore)
    shutil.copytree(ROOT / "operators", root / "operators", ignore=ignore)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, root)
    return root


@pytest.fixture
def prepared(checkout: Path) -> Preparation:
    """A preparation whose venv exists and whose installers do nothing."""
    preparation = Preparation(checkout)
    preparation.python.parent.mkdir(parents=True)
    preparation.python.symlink_to(sys.executable)
    preparation._done("venv", str(preparation.venv))
    preparation._done("project", preparation._project_source())
    return preparation


def bare(tmp_path: Path, **programs: str) -> dict[str, str]:
    """The environment of a bare machine: an empty HOME; PATH with the shell and these scripts."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in ("bash", "env", "dirname"):
        (folder / tool).symlink_to(str(shutil.which(tool)))
    for name, script in programs.items():
        (folder / name).write_text(script)
        (folder / name).chmod(0o755)
    home = tmp_path / "home"
    home.mkdir()
    return {"HOME": str(home), "PATH": str(folder), "NO_PROXY": "127.0.0.1"}


def run(command: list[str | Path], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def test_what_is_excluded_is_in_no_lock() -> None:
    lines = (LOCKS / "excludes.in").read_text().splitlines()
    excluded = {line for line in lines if not line.startswith("#")}
    assert excluded
    for name in preparation.SETS:
        assert excluded.isdisjoint(names(locked(name)))


@pytest.mark.parametrize("name", ["uv", "serve", "train", "dev"])
def test_every_locked_requirement_has_one_version_and_hashes(name: str) -> None:
    for requirement, block in locked(name).items():
        assert "==" in requirement
        assert "--hash=sha256:" in block


def test_the_locks_agree_and_each_holds_the_smaller_ones() -> None:
    assert versions("serve") < versions("train") < versions("dev")
    differing = {name.split("==")[0] for name, *_ in versions("uv") - versions("dev")}
    assert not differing & names(locked("dev"))


def test_serving_needs_neither_torch_nor_cuda() -> None:
    assert not {name for name in names(locked("serve")) if re.match(r"torch|nvidia|triton", name)}
    assert "torch" in names(locked("train"))


def test_what_setup_py_asks_for_is_locked() -> None:
    distribution = importlib.metadata.metadata("streamrec")
    asked = distribution.get_all("Requires-Dist") or []
    plain = {re.split(r"[<>=;\s]", one)[0].lower() for one in asked if "extra ==" not in one}
    assert plain <= names(locked("serve"))
    assert "apache-flink" in plain


def test_no_file_of_set_up_names_a_registry() -> None:
    files = [*LOCKS.iterdir(), *(ROOT / "scripts").glob("*"), ROOT / "setup.py"]
    files += [ROOT / "pyproject.toml", *(ROOT / "operators").glob("jars.*")]
    named = [path for path in files if path.is_file() and b"https://" in path.read_bytes()]
    assert named == []


def test_the_four_packages_belong_to_this_distribution_alone() -> None:
    owners = importlib.metadata.packages_distributions()
    for package in ("jobs", "operators", "models", "udfs"):
        assert set(owners[package]) == {"streamrec"}


def test_a_fresh_checkout_is_not_ready(checkout: Path) -> None:
    assert not Preparation(checkout).is_ready("serve")


def test_a_larger_set_serves_for_a_smaller_one_but_not_the_other_way(prepared: Preparation) -> None:
    prepared._done("train", prepared._lock_source("train"))
    assert prepared.is_ready("serve")
    assert prepared.is_ready("train")
    assert not prepared.is_ready("dev")


@pytest.mark.parametrize("changed", ["scripts/locks/serve.txt", "setup.py"])
def test_a_changed_lock_is_installed_again(prepared: Preparation, changed: str) -> None:
    prepared._done("serve", prepared._lock_source("serve"))
    assert prepared.is_ready("serve")
    with (prepared.root / changed).open("a") as file:
        file.write("# changed\n")
    assert not prepared.is_ready("serve")


def test_a_venv_whose_making_was_interrupted_is_not_used(prepared: Preparation) -> None:
    assert prepared.venv_works()
    prepared._half_made.touch()
    assert not prepared.venv_works()


def test_an_interrupted_installation_is_repeated_from_scratch(
    prepared: Preparation, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []

    def interrupted(arguments: list[str], purpose: str) -> None:
        commands.append(arguments)
        if len(commands) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(prepared, "_uv", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepared.install_packages("serve")
    assert not prepared.has_packages("serve")
    prepared.install_packages("serve")
    prepared.install_packages("serve")
    assert ["--reinstall" in command for command in commands] == [False, True]
    assert prepared.has_packages("serve")


def test_what_uv_writes_on_its_way_goes_to_a_folder_that_is_removed(
    prepared: Preparation, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders: list[Path] = []

    def run(_command: list[str], _purpose: str, environment: dict[str, str]) -> None:
        folders.append(Path(environment["TMPDIR"]))
        (folders[-1] / "uv-setuptools-1.lock").touch()

    monkeypatch.setattr(prepared, "_run", run)
    prepared.install_packages("serve")
    (folder,) = folders
    assert folder.parent == prepared.venv
    assert not folder.exists()


@pytest.mark.parametrize("there", preparation.SETS)
def test_uv_is_removed_where_nothing_but_serving_is_installed(
    prepared: Preparation, monkeypatch: pytest.MonkeyPatch, there: str
) -> None:
    prepared._done(there, prepared._lock_source(there))
    prepared._done("project", "of another setup.py")
    for step in ("make_venv", "install_uv", "install_project", "fetch_jars"):
        monkeypatch.setattr(prepared, step, lambda: None)
    removed: list[bool] = []
    monkeypatch.setattr(prepared, "remove_uv", lambda: removed.append(True))
    prepared.prepare("serve")
    assert removed == [True] * (there == "serve")


def test_a_python_without_venv_is_refused_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "ensurepip", None)
    with pytest.raises(SetUpError, match=r"apt install python3\.1\d-venv"):
        preparation._refuse_python_without_venv()


def test_what_pip_is_configured_with_is_told_to_uv() -> None:
    configured = (
        ":env:.index-url='https://first.example/simple'\n"
        "global.cert='/certificates.pem'\n"
        "global.index-url='https://second.example/simple'\n"
        "global.find-links='/a /b'\n"
        "global.progress-bar='off'\n"
    )
    assert uv_settings(configured) == {
        "UV_DEFAULT_INDEX": "https://first.example/simple",
        "SSL_CERT_FILE": "/certificates.pem",
        "UV_FIND_LINKS": "/a,/b",
    }


def test_a_python_that_exists_but_does_not_run_is_passed_over(tmp_path: Path) -> None:
    works = f'#!{shutil.which("bash")}\nexec "{sys.executable}" "$@"\n'
    environment = bare(tmp_path, **{"python3.11": "#!/bin/sh\nexit 127\n", "python3.10": works})
    found = run([ROOT / "scripts" / "find-python"], environment)
    assert found.returncode == 0
    assert Path(found.stdout.strip()).exists()


def test_without_a_python_set_up_says_which_it_needs(tmp_path: Path) -> None:
    other = "#!/bin/sh\nexit 1\n"  # as a Python 3.13 or 3.9 answers
    environment = bare(tmp_path, python3=other)
    done = run([ROOT / "scripts" / "setup", "serve"], environment)
    assert done.returncode == 1
    assert "expected Python 3.10, 3.11 or 3.12 on PATH; found none" in done.stderr


def test_offline_with_an_empty_cache_set_up_says_what_is_missing_and_resumes(
    tmp_path: Path, checkout: Path
) -> None:
    environment = bare(tmp_path)
    environment |= {"SETUP_PYTHON": os.path.realpath(sys.executable), "PIP_RETRIES": "0"}
    environment |= {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_CONFIG_FILE": os.devnull}
    first, second = (run([checkout / "scripts" / "setup"], environment) for _ in range(2))
    for done in (first, second):
        assert done.returncode == 1
        assert "streamrec: could not fetch uv" in done.stderr
        assert "connect this machine to the network" in done.stderr
    assert "making .venv" in first.stderr
    assert "making .venv" not in second.stderr
