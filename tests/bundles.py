"""Bundles that differ only in what their manifests say, and registries that nobody checked."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

from models.bundle_files import FILES, MANIFEST, file_table, manifest_text
from models.history import Decision, encoded
from models.registry import Registry


def versioned(bundle_path: Path, folder: Path, version: str, **changes: object) -> Path:
    """A sound copy of a bundle under another version."""
    path = Path(shutil.copytree(bundle_path, folder / version))
    manifest = json.loads((path / MANIFEST).read_text())
    (path / MANIFEST).write_bytes(
        manifest_text({**manifest, "bundle_version": version, "metrics": {}, **changes})
    )
    return path


def forced(registry: Registry, path: Path, active_from: int) -> None:
    """Publish and promote as somebody would who checks nothing."""
    root, version = registry.root.local, path.name
    assert root is not None
    sha256 = hashlib.sha256((path / MANIFEST).read_bytes()).hexdigest()
    shutil.copytree(path, root / "bundles" / f"{version}-forced")
    pointer = {"bundle_version": version, "sha256": sha256, "folder": f"{version}-forced"}
    (root / "published" / version).mkdir(parents=True)
    (root / "published" / version / "pointer.json").write_text(json.dumps({**pointer, "after": 0}))
    decide(registry, "promoted", version, active_from, sha256)


def decide(registry: Registry, decided: str, version: str, active_from: int, sha256: str) -> None:
    sequence = len(registry.history().decisions) + 1
    decision = Decision(
        sequence=sequence,
        bundle_version=version,
        active_from=active_from,
        sha256=sha256,
        decided=decided,  # type: ignore[arg-type]
    )
    assert registry.root.create(f"history/{sequence:08d}", "decision.json", encoded(decision))


def resigned(path: Path, **changes: object) -> None:
    """Write the manifest anew, so that only what is inside the files is wrong."""
    manifest = json.loads((path / MANIFEST).read_text())
    files = {name: (path / name).read_bytes() for name in FILES}
    (path / MANIFEST).write_bytes(
        manifest_text({**manifest, "files": file_table(files), **changes})
    )
