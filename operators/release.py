"""The code of a job as what never changes, so that a restarted worker runs what it ran."""

from __future__ import annotations

import hashlib
import shutil
import tarfile
import tempfile
from contextlib import suppress
from pathlib import Path

from operators.configuration import ROOT

PARTS = ("flink-conf", "jobs", "models", "operators", "udfs")
_KINDS = (".py", ".txt", ".yaml", ".properties")  # a bundle is no code: the job is told its folder


def released(folder: Path, root: Path = ROOT) -> Path:
    """Copy the code to `folder`/<its hash>, unless it is there, and return that folder.

    What numba compiled goes along, with the times by which it knows its sources: a worker that
    compiles takes 7 s to start.
    """
    sources = [path for path in _files(root) if path.suffix in _KINDS]
    digest = hashlib.sha256()
    for path in sources:
        digest.update(f"{path.relative_to(root)}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    target = folder / digest.hexdigest()[:16]
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=".aside-", dir=folder))
        compiled = [path for path in _files(root) if path.suffix in (".nbi", ".nbc")]
        for path in [*sources, *compiled]:
            copy = aside / path.relative_to(root)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, copy)
        aside.chmod(0o755)  # workers may be another user's
        with suppress(OSError):  # another process was faster
            aside.rename(target)
        shutil.rmtree(aside, ignore_errors=True)
    return target.absolute()


def archived(folder: Path, root: Path = ROOT) -> Path:
    """The same as a tar archive, `folder`/<its hash>.tar, which Flink can send to its workers."""
    code = released(folder, root)
    archive = folder.absolute() / f"{code.name}.tar"
    if not archive.exists():
        with (
            tempfile.NamedTemporaryFile(dir=folder, delete=False) as aside,
            tarfile.open(fileobj=aside, mode="w", format=tarfile.PAX_FORMAT) as tar,
        ):
            for part in sorted(code.iterdir()):
                tar.add(part, part.name)
        Path(aside.name).replace(archive)
    return archive


def _files(root: Path) -> list[Path]:
    return sorted(path for part in PARTS for path in (root / part).rglob("*") if path.is_file())
