"""Loading a bundle: every file is read once, and exactly the bytes that were verified are used."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from models.bundle import Bundle, assemble
from models.bundle_files import BundleError, read_files
from models.golden import check_golden
from models.storage import Folder


def load_bundle(place: Folder | Path | str, sha256: str | None = None) -> Bundle:
    """Read, verify and try out the bundle in a folder: a path, or a URI of any pyarrow.fs.

    `sha256` is what its manifest must hash to, where that is known. Raises BundleError with the
    reason if the bundle is not sound, UnreachableError if it cannot be read just now.
    """
    try:
        folder = Folder.at(place)
    except OSError as error:
        raise BundleError(str(error)) from None
    manifest, files = read_files(folder, sha256)
    try:
        return try_out(manifest, files)
    except BundleError as error:
        raise BundleError(f"bundle {folder.name}: {error}") from None


def try_out(manifest: Mapping[str, Any], files: Mapping[str, bytes]) -> Bundle:
    """The bundle of verified bytes, if it gives the answers of its golden batch."""
    bundle = assemble(manifest, files)
    check_golden(bundle, files["golden.json"])
    return bundle
