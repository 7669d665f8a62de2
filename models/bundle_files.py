"""Bundle directories on disk: written aside and renamed, read once and verified."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"
FILES = (
    "encoder.onnx",
    "golden.json",
    "index.faiss",
    "items.arrow",
    "neighbour_items.npy",
    "neighbour_weights.npy",
    "ranker.onnx",
    "vectors.npy",
)
_MAX_MANIFEST = 1 << 20


class BundleError(ValueError):
    """Why a bundle is refused: what was expected, what came, what to do."""


def file_table(files: Mapping[str, bytes]) -> dict[str, dict[str, Any]]:
    """Hash and size of every file, as the manifest records them."""
    return {
        name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
        for name, data in sorted(files.items())
    }


def manifest_text(manifest: Mapping[str, Any]) -> bytes:
    """The manifest as the bytes that are written: sorted, indented, one line feed at the end."""
    return (json.dumps(manifest, indent=1, sort_keys=True) + "\n").encode()


def write_files(path: Path, files: Mapping[str, bytes], manifest: bytes, replace: bool) -> None:
    """Write a bundle aside and rename it to `path`; the same bundle again changes nothing.

    Raises BundleError if another one is there already and `replace` is not set.
    """
    if path.exists():
        if (path / MANIFEST).is_file() and (path / MANIFEST).read_bytes() == manifest:
            return
        if not replace:
            raise BundleError(f"expected no other bundle at {path}; choose another output")
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        aside.chmod(0o755)
        for name, data in {**files, MANIFEST: manifest}.items():
            _write(aside / name, data)
        if path.exists():
            old = path.with_name(f"{aside.name}.old")
            path.rename(old)
            aside.rename(path)
            shutil.rmtree(old)
        else:
            aside.rename(path)
    finally:
        if aside.exists():
            shutil.rmtree(aside)


def read_files(path: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The manifest and the bytes of every file it lists, each verified by size and hash."""
    if not path.is_dir():
        raise BundleError(f"expected a bundle directory at {path}; there is none")
    manifest = _manifest(path)
    listed = manifest.get("files")
    if not isinstance(listed, dict) or sorted(listed) != sorted(FILES):
        raise BundleError(f"bundle {path.name}: expected the files {', '.join(FILES)}")
    there = {each.name for each in path.iterdir()} - {MANIFEST}
    for names, what in ((set(listed) - there, "missing"), (there - set(listed), "unknown")):
        if names:
            raise BundleError(
                f"bundle {path.name}: expected only the files of its manifest; "
                f"{what}: {', '.join(sorted(names))}; fetch the bundle again"
            )
    return manifest, {name: _verified(path, name, entry) for name, entry in listed.items()}


def _manifest(path: Path) -> dict[str, Any]:
    if not (path / MANIFEST).exists():
        raise BundleError(f"expected {MANIFEST} in {path.name}; it is missing")
    try:
        manifest = json.loads(_read(path, MANIFEST, _MAX_MANIFEST))
    except (ValueError, RecursionError) as error:
        if isinstance(error, BundleError):
            raise
        raise BundleError(f"bundle {path.name}: {MANIFEST} is not valid JSON") from None
    if not isinstance(manifest, dict):
        raise BundleError(f"bundle {path.name}: expected an object in {MANIFEST}")
    return manifest


def _verified(path: Path, name: str, entry: Any) -> bytes:
    if not isinstance(entry, dict) or not isinstance(entry.get("bytes"), int):
        raise BundleError(f"bundle {path.name}: expected hash and size of {name} in {MANIFEST}")
    data = _read(path, name, entry["bytes"])
    if len(data) != entry["bytes"]:
        raise BundleError(
            f"bundle {path.name}: expected {entry['bytes']} bytes in {name}; got "
            f"{'more' if len(data) > entry['bytes'] else len(data)}; fetch the bundle again"
        )
    if hashlib.sha256(data).hexdigest() != entry.get("sha256"):
        raise BundleError(
            f"bundle {path.name}: {name} does not have the hash that {MANIFEST} states; "
            "fetch the bundle again"
        )
    return data


def _read(path: Path, name: str, limit: int) -> bytes:
    """At most limit + 1 bytes of a plain file, never through a link."""
    try:
        handle = os.open(path / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise BundleError(
            f"bundle {path.name}: expected a plain file {name}; {error.strerror}"
        ) from None
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise BundleError(f"bundle {path.name}: expected a plain file {name}")
        return file.read(limit + 1)


def _write(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
