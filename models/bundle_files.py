"""Bundle directories, wherever they are: written aside and renamed, read once and verified."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from models.storage import Folder, StorageError

MANIFEST = "manifest.json"
FILES = (
    "encoder.onnx",
    "golden.json",
    "index.faiss",
    "items.arrow",
    "neighbour_items.npy",
    "neighbour_weights.npy",
    "ranker.onnx",
    "session_ends.npy",
    "session_items.npy",
    "session_offsets.npy",
    "vectors.npy",
)
_MAX_MANIFEST = 1 << 20
_MAX_BUNDLE = 32 << 30  # bytes of all files together; nothing is read beyond what is listed
_NO_PLAIN_FILE = (errno.ENOENT, errno.ELOOP, errno.EISDIR, errno.ENXIO)


class BundleError(ValueError):
    """Why a bundle is refused: what was expected, what came, what to do."""


class UnreachableError(BundleError):
    """The bundle could not be read just now; what is wrong is not the bundle: try again."""


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
            Folder.at(aside).write(name, data)
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


def read_files(
    folder: Folder, sha256: str | None = None
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The manifest and the bytes of every file it lists, each verified by size and hash.

    `sha256` is what the manifest itself must hash to, where the caller knows it. Raises
    BundleError; UnreachableError where a file system does not answer.
    """
    there = _names(folder)
    if MANIFEST not in there:
        raise BundleError(f"expected {MANIFEST} in {folder.name}; it is missing")
    manifest, _ = read_manifest(folder, sha256)
    listed = _listed(folder, manifest)
    for names, what in ((set(listed) - there, "missing"), (there - {*listed, MANIFEST}, "unknown")):
        if names:
            raise BundleError(
                f"bundle {folder.name}: expected only the files of its manifest; "
                f"{what}: {', '.join(sorted(names))}; fetch the bundle again"
            )
    return manifest, {name: _verified(folder, name, entry) for name, entry in listed.items()}


def read_manifest(folder: Folder, sha256: str | None = None) -> tuple[dict[str, Any], bytes]:
    """The manifest, and the bytes it was read from; raises like `read_files`."""
    data = _read(folder, MANIFEST, _MAX_MANIFEST)
    if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
        raise BundleError(
            f"bundle {folder.name}: expected the {MANIFEST} that was announced; it has another "
            "hash; publish the bundle again"
        )
    try:
        manifest = json.loads(data)
    except (ValueError, RecursionError):
        raise BundleError(f"bundle {folder.name}: {MANIFEST} is not valid JSON") from None
    if not isinstance(manifest, dict):
        raise BundleError(f"bundle {folder.name}: expected an object in {MANIFEST}")
    return manifest, data


def _names(folder: Folder) -> set[str]:
    try:
        found = {info.base_name for info in folder.infos()}
    except NotADirectoryError:
        found = set()
    except OSError as error:
        raise UnreachableError(f"bundle {folder.name}: cannot be listed; {error}") from None
    if not found:
        raise BundleError(f"expected a bundle directory at {folder.uri}; there is none")
    return found


def _listed(folder: Folder, manifest: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The manifest's table of files, of the right names and of sizes that are sane."""
    listed = manifest.get("files")
    if not isinstance(listed, dict) or sorted(listed) != sorted(FILES):
        raise BundleError(f"bundle {folder.name}: expected the files {', '.join(FILES)}")
    for name, entry in listed.items():
        size = entry.get("bytes") if isinstance(entry, dict) else None
        if not isinstance(size, int) or size < 0:
            raise BundleError(
                f"bundle {folder.name}: expected hash and size of {name} in {MANIFEST}"
            )
    total = sum(entry["bytes"] for entry in listed.values())
    if total > _MAX_BUNDLE:
        raise BundleError(
            f"bundle {folder.name}: expected at most {_MAX_BUNDLE >> 30} GiB; got {total} bytes"
        )
    return listed


def _verified(folder: Folder, name: str, entry: Mapping[str, Any]) -> bytes:
    data = _read(folder, name, entry["bytes"])
    if len(data) != entry["bytes"]:
        raise BundleError(
            f"bundle {folder.name}: expected {entry['bytes']} bytes in {name}; got "
            f"{'more' if len(data) > entry['bytes'] else len(data)}; fetch the bundle again"
        )
    if hashlib.sha256(data).hexdigest() != entry.get("sha256"):
        raise BundleError(
            f"bundle {folder.name}: {name} does not have the hash that {MANIFEST} states; "
            "fetch the bundle again"
        )
    return data


def _read(folder: Folder, name: str, limit: int) -> bytes:
    try:
        return folder.read(name, limit)
    except OSError as error:
        if isinstance(error, StorageError) or error.errno in _NO_PLAIN_FILE:
            why = f"expected a plain file {name}; {error.strerror or error}"
            raise BundleError(f"bundle {folder.name}: {why}") from None
        raise UnreachableError(f"bundle {folder.name}: {name} cannot be read; {error}") from None
