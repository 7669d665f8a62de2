"""Bundles that differ only in what their manifests say."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from models.bundle_files import MANIFEST, manifest_text


def versioned(bundle_path: Path, folder: Path, version: str, **changes: object) -> Path:
    """A sound copy of a bundle under another version."""
    path = Path(shutil.copytree(bundle_path, folder / version))
    manifest = json.loads((path / MANIFEST).read_text())
    (path / MANIFEST).write_bytes(
        manifest_text({**manifest, "bundle_version": version, "metrics": {}, **changes})
    )
    return path
