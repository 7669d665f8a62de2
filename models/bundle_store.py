"""The bundles of a registry: each is there whole and verified, or not at all, and never changes.

    bundles/VERSION-TOKEN/…            what one publisher wrote; nobody looks at it until there is
    published/VERSION/pointer.json     made once: where the bundle is and what it hashes to

A publisher that dies leaves at most a folder of its own, which the next one removes.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Annotated, Any, Protocol

import msgspec

from models.bundle import Bundle, BundleError
from models.bundle_files import MANIFEST, read_files, read_manifest
from models.history import RegistryError, Sha256, Version, is_version
from models.loading import load_bundle, try_out
from models.storage import ASIDE, Folder, StorageError

_POINTER = "pointer.json"
_MAX_POINTER = 1 << 12  # bytes
_READERS = 16  # pointers that are read at once
_ABANDONED = timedelta(days=1)  # no publisher takes so long


class Published(msgspec.Struct, frozen=True):
    """A bundle of the registry; `after` is the newest sequence when it was published, or 0."""

    bundle_version: Version
    sha256: Sha256  # of the manifest, which has the hashes of all other files
    folder: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,180}\Z")]
    after: Annotated[int, msgspec.Meta(ge=0)]


_decoder = msgspec.json.Decoder(Published)  # once, before threads decode; see models/history.py


class Chosen(Protocol):
    """What says which bundle, and of which bytes: a Decision, or Published."""

    @property
    def bundle_version(self) -> str: ...
    @property
    def sha256(self) -> str: ...


class BundleStore:
    """Adds, finds, loads and deletes the bundles below `root`."""

    def __init__(self, root: Folder) -> None:
        self._root = root

    def all(self) -> dict[str, Published]:
        """All bundles by version, decided about or not."""
        versions = [info.base_name for info in (self._root / "published").infos()]
        with ThreadPoolExecutor(_READERS) as pool:
            found = zip(versions, pool.map(self._pointer, versions), strict=True)
            return {version: pointer for version, pointer in found if pointer}

    def find(self, version: str) -> Published:
        """The bundle of a version; raises RegistryError if it was not published, or was pruned."""
        pointer = self._pointer(version) if is_version(version) else None
        if pointer is None:
            raise RegistryError(
                f"expected a bundle of the registry {self._root.uri}; there is no {version}: "
                "publish it, or look at the list"
            )
        return pointer

    def place(self, published: Published) -> Folder:
        """The folder of a bundle."""
        return self._root / "bundles" / published.folder

    def load(self, chosen: Chosen) -> Bundle:
        """Read, verify and try out a bundle; its manifest must have the hash of what was chosen.

        Raises RegistryError if it is not there, BundleError if it is not sound, OSError or
        UnreachableError if the file system does not answer.
        """
        folder = self.place(self.find(chosen.bundle_version))
        if folder.local and folder.local.is_symlink():
            raise BundleError(f"expected a plain folder at {folder.uri}; it is a link")
        bundle = load_bundle(folder, chosen.sha256)
        if bundle.version != chosen.bundle_version:
            wanted = chosen.bundle_version
            raise BundleError(f"expected {wanted}; {folder.name} is {bundle.version}")
        return bundle

    def manifest(self, published: Published) -> dict[str, Any]:
        """The manifest of a bundle, verified, but none of its files; raises like `load`."""
        return read_manifest(self.place(published), published.sha256)[0]

    def add(self, place: Folder | Path | str, after: int) -> Published:
        """Copy a bundle into the registry; the same one again changes nothing.

        Raises BundleError if it is not sound, RegistryError if another bundle has its version.
        """
        source = Folder.at(place)
        _, manifest_bytes = read_manifest(source)
        sha256 = hashlib.sha256(manifest_bytes).hexdigest()
        manifest, files = read_files(source, sha256)
        try_out(manifest, files)
        wanted = _pointer_to(manifest, sha256, after)
        self.remove_abandoned()
        with self._root.lock(exclusive=False):
            there = self._pointer(wanted.bundle_version)
            if there is None and self._stored(wanted, {**files, MANIFEST: manifest_bytes}):
                return wanted
            return _same(there or self.find(wanted.bundle_version), sha256)

    def delete(self, bundles: Iterable[Published]) -> None:
        """Delete bundles: first nobody finds them any more, then they are gone."""
        for published in bundles:
            (self._root / "published" / published.bundle_version).delete()
            self.place(published).delete()

    def remove_abandoned(self) -> None:
        """Remove what dead publishers left: what no pointer names and nobody can be writing.

        Whoever has the lock alone knows; where there is no lock, a day without a write tells.
        """
        with self._root.lock(exclusive=True) as alone:
            named = {published.folder for published in self.all().values()}
            for parent in (self._root / "bundles", self._root / ASIDE):
                for info in parent.infos():
                    folder = parent / info.base_name
                    if info.base_name not in named and (alone or _untouched(folder)):
                        folder.delete()

    def _stored(self, wanted: Published, files: Mapping[str, bytes]) -> bool:
        """Write a bundle, read it back, point to it; False if another publisher was faster."""
        folder = self.place(wanted)
        for name, data in files.items():
            folder.write(name, data)
        for name, data in files.items():
            if folder.read(name, len(data)) != data:
                raise StorageError(f"expected {name} as it was written to {folder.uri}; it differs")
        pointer = msgspec.json.encode(wanted)
        if self._root.create(f"published/{wanted.bundle_version}", _POINTER, pointer):
            return True
        folder.delete()
        return False

    def _pointer(self, version: str) -> Published | None:
        try:
            data = (self._root / "published" / version).read(_POINTER, _MAX_POINTER)
            pointer = _decoder.decode(data)
        except FileNotFoundError:
            return None
        except msgspec.DecodeError as error:
            raise RegistryError(f"expected a pointer to {version}; {error}") from None
        if pointer.bundle_version != version:
            raise RegistryError(f"expected a pointer to {version}; got {pointer.bundle_version}")
        return pointer


def _pointer_to(manifest: Mapping[str, Any], sha256: str, after: int) -> Published:
    version = manifest.get("bundle_version")
    folder = f"{version}-{uuid.uuid4().hex[:8]}"  # of this publisher alone
    wanted = {"bundle_version": version, "sha256": sha256, "folder": folder, "after": after}
    try:
        return msgspec.convert(wanted, Published)
    except msgspec.ValidationError as error:
        raise BundleError(f"expected a bundle_version in {MANIFEST}; {error}") from None


def _same(there: Published, sha256: str) -> Published:
    if there.sha256 != sha256:
        raise RegistryError(
            f"expected no other bundle of version {there.bundle_version}; the registry has one of "
            "other bytes, and bundles do not change: give this one another version"
        )
    return there


def _untouched(folder: Folder) -> bool:
    """Whether nothing in a folder was written for longer than any publisher takes."""
    times = [info.mtime for info in folder.infos(recursive=True) if info.mtime is not None]
    return bool(times) and datetime.now(timezone.utc) - max(times) > _ABANDONED
