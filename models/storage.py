"""Folders by path or URI: a path, file://, s3://, gs://, hdfs://, read and written by pyarrow.fs.

What pyarrow.fs leaves open is decided here: no link is followed, a local file is on the disk when
`write` returns, and of many writers exactly one can `create` a name.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from pyarrow import fs

ASIDE = "aside"
_RENAMING = ("local", "hdfs")  # they rename a folder in one step, never onto one with files in it
_BLOCK = 1 << 24


class StorageError(OSError):
    """What a file system cannot do or must not be asked to do, and what to do instead."""


@dataclass(frozen=True)
class Folder:
    """A folder of some file system; `given` is the URI it was opened by, with its secrets."""

    files: fs.FileSystem
    path: str
    given: str = field(default="", repr=False)

    @classmethod
    def at(cls, place: Folder | Path | str) -> Folder:
        """The folder at a path or URI; raises StorageError if the URI cannot be understood."""
        if isinstance(place, Folder):
            return place
        given = str(place)
        if "://" not in given:
            return cls(fs.LocalFileSystem(), str(Path(given).absolute()))
        try:
            files, path = fs.FileSystem.from_uri(given)
            if not path.strip("/"):
                raise ValueError(f"there is no bucket or folder in '{given}'")
        except (ValueError, OSError) as error:
            first = re.sub(r"//[^/\s]*@", "//", str(error).partition("\n")[0])  # no secrets
            raise StorageError(
                f"expected a path or file://, s3://, gs://, hdfs://; {first}"
            ) from None
        return cls(files, path.rstrip("/"), given)

    def __truediv__(self, name: str) -> Folder:
        return Folder(self.files, f"{self.path}/{name}", self.given)

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def local(self) -> Path | None:
        """The folder as a path, None where it is on no local disk."""
        return Path(self.path) if self.files.type_name == "local" else None

    @property
    def uri(self) -> str:
        """Where it is, for people and other programs, without user and password."""
        if self.local:
            return self.local.as_uri()
        parts = urlsplit(self.given or f"{self.files.type_name}://")
        host = parts.netloc.rpartition("@")[2] if self.path.startswith("/") else ""
        return parts._replace(netloc=host + self.path, path="").geturl()

    def infos(self, recursive: bool = False) -> list[fs.FileInfo]:
        """What is in the folder, by name; nothing if there is no such folder."""
        selector = fs.FileSelector(self.path, allow_not_found=True, recursive=recursive)
        try:
            found = self.files.get_file_info(selector)
        except FileNotFoundError:  # made or removed just while it was looked at
            return []
        return sorted(found, key=lambda info: info.path)

    def read(self, name: str, limit: int) -> bytes:
        """At most `limit` + 1 bytes of a plain file, never through a link; raises OSError."""
        with self._opened(name) as file:
            blocks, size = [], 0
            while block := file.read(min(_BLOCK, limit + 1 - size)):
                blocks.append(block)
                size += len(block)
            return b"".join(blocks)

    def _opened(self, name: str) -> fs.NativeFile:
        if not self.local:
            place = f"{self.path}/{name}"
            if self.files.type_name == "hdfs":  # which prints a stack trace where nothing is
                self._require(place)
            return self.files.open_input_stream(place, compression=None)
        handle = os.open(self.local / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise StorageError(f"expected a plain file at {self.local / name}")
        return os.fdopen(handle, "rb")

    def _require(self, place: str) -> None:
        if self.files.get_file_info(place).type == fs.FileType.NotFound:
            raise FileNotFoundError(errno.ENOENT, "there is no such file", place)

    def write(self, name: str, data: bytes) -> None:
        """Write a file that is not there yet, and the folders above it."""
        if not self.local:
            with self.files.open_output_stream(f"{self.path}/{name}", compression=None) as stream:
                stream.write(data)
            return
        self.local.mkdir(parents=True, exist_ok=True)
        with (self.local / name).open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        _sync(self.local)

    def create(self, name: str, file: str, data: bytes) -> bool:
        """Make the folder `name` with one file in it, in one step; False if it was there.

        Of many that try at the same time, on whatever machines, one gets True. Raises
        StorageError where the file system has no such step.
        """
        if self.files.type_name in _RENAMING:
            return self._create_by_renaming(name, file, data)
        return _put_new(self / name, file, data)

    def _create_by_renaming(self, name: str, file: str, data: bytes) -> bool:
        # HDFS moves a folder into one that is there: `file` twice makes that fail, for it is taken.
        token, target = self / ASIDE / uuid.uuid4().hex, self / name
        try:
            (token / file).write(file, data)
            self.files.create_dir(target.path.rpartition("/")[0])
            self.files.move((token / file).path, target.path)
        except OSError:
            if not target.infos():
                raise
            return False
        finally:
            token.delete()
        if target.local:
            _sync(target.local.parent)
        return True

    def delete(self) -> None:
        """Remove the folder and all that is in it; it may be gone already."""
        with suppress(FileNotFoundError):
            self.files.delete_dir(self.path)

    @contextmanager
    def lock(self, exclusive: bool) -> Iterator[bool]:
        """Hold the folder's lock, if it is local: shared, or exclusive without waiting for it.

        Gives whether the lock is held; the kernel gives up the lock of a process that dies.
        """
        if not self.local:
            yield False
            return
        self.local.mkdir(parents=True, exist_ok=True)
        with (self.local / ".lock").open("ab") as file:
            try:
                kind = fcntl.LOCK_EX | fcntl.LOCK_NB if exclusive else fcntl.LOCK_SH
                fcntl.flock(file, kind)
            except BlockingIOError:
                yield False
            else:
                yield True


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _put_new(folder: Folder, name: str, data: bytes) -> bool:
    """Create an object by a conditional put; False if there was one of that name.

    Raises StorageError for other file systems, if obstore is missing, or if the store fails: it
    may then have been created or not.
    """
    kind = folder.files.type_name
    if kind not in ("s3", "gcs"):
        raise StorageError(
            f"expected a registry in a local folder or at s3://, gs:// or hdfs://; {kind} has no "
            "way to let only one of several publishers win: it can be read, not written"
        )
    try:
        import obstore
        from obstore.exceptions import AlreadyExistsError, BaseError
    except ImportError:
        raise StorageError(
            f"expected obstore, which writes to {kind} only what is not there; "
            "install it: pip install obstore"
        ) from None
    bucket, _, prefix = folder.path.partition("/")
    try:
        obstore.put(_store(folder, bucket), f"{prefix}/{name}", data, mode="create")
    except AlreadyExistsError:
        return False
    except BaseError as error:
        first = str(error).partition("\n")[0]
        raise StorageError(f"cannot write {name} at {folder.uri}; {first}") from None
    return True


def _store(folder: Folder, bucket: str) -> Any:
    """The bucket as obstore opens it, with what the URI says; the rest is in the environment."""
    from obstore.store import GCSStore, S3Store

    parts = urlsplit(folder.given)
    options = dict(parse_qsl(parts.query))
    endpoint = options.get("endpoint_override", "")
    if endpoint and "://" not in endpoint:
        endpoint = f"{options.get('scheme', 'https')}://{endpoint}"
    config: dict[str, Any] = {}
    if folder.files.type_name == "gcs":
        config |= {"base_url": endpoint} if endpoint else {}
        config |= {"skip_signature": True} if parts.username == "anonymous" else {}
        return GCSStore(bucket, config=config, client_options={"allow_http": True})
    config |= {"endpoint": endpoint} if endpoint else {}
    if parts.username and parts.password:
        config |= {"access_key_id": unquote(parts.username)}
        config |= {"secret_access_key": unquote(parts.password)}
    config |= {"region": options.get("region") or folder.files.region}
    return S3Store(bucket, config=config, client_options={"allow_http": True})
