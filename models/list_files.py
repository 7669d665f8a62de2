"""Lists as files: JSONL or Parquet by path or URI, each list once, ordered by recommendation_id.

messages ─ Spool (on disk; what was written twice counts once) ─┬─ file
                                                                └─ sha256 of the decisions
"""

from __future__ import annotations

import hashlib
import io
import itertools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from models.event_files import file_system

STAMPS = ("generated_at", "took_us")  # what may differ where the decision is the same
SUFFIXES = (".jsonl", ".parquet")
_ROWS = 2_000  # of a Parquet row group
_ITEM = pa.struct(
    {
        "item_id": pa.string(),
        "position": pa.int32(),
        "score": pa.float64(),
        "source": pa.string(),
        "reasons": pa.list_(pa.string()),
        "propensity": pa.float64(),
    }
)
SCHEMA = pa.schema(
    {
        "schema_version": pa.int32(),
        "recommendation_id": pa.string(),
        "trigger_event_id": pa.string(),
        "user_id": pa.string(),
        "session_id": pa.string(),
        "list_id": pa.string(),
        "event_time": pa.int64(),
        "generated_at": pa.int64(),
        "items": pa.list_(_ITEM),
        "bundle_version": pa.string(),
        "served_by": pa.string(),
        "took_us": pa.struct(dict.fromkeys(("features", "retrieve", "rank"), pa.int32())),
    }
)
"""The columns of a Parquet file: the fields of the message, times in epoch ms."""

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


class Spool:
    """Messages of `recommendations`, kept in a file of their own until all are there."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w+b")
        self._places: dict[str, tuple[int, int, bytes]] = {}  # id → offset, size, hash
        self.repeated = 0  # written again after a failure

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self._places)

    def add(self, value: bytes) -> dict[str, Any]:
        """Keep a message, which is returned decoded; raises ValueError if one decision has two
        answers."""
        message: dict[str, Any] = _decode(value)
        identity, digest = message["recommendation_id"], decision_hash(message)
        known = self._places.get(identity)
        if known is None:
            self._places[identity] = (self._file.seek(0, 2), len(value), digest)
            self._file.write(value)
        elif known[2] != digest:
            raise ValueError(f"expected one answer for {identity}; it was answered in two ways")
        else:
            self.repeated += 1
        return message

    def __iter__(self) -> Iterator[bytes]:
        for _, (offset, size, _) in sorted(self._places.items()):
            self._file.seek(offset)
            yield self._file.read(size)

    def messages(self) -> Iterator[dict[str, Any]]:
        """The messages, decoded."""
        return map(_decode, self)

    def decisions_sha256(self) -> str:
        """One hash of all decisions, ordered by recommendation_id: the same, if all are."""
        digests = (digest for _, (_, _, digest) in sorted(self._places.items()))
        return hashlib.sha256(b"".join(digests)).hexdigest()


def decision_hash(message: dict[str, Any]) -> bytes:
    """SHA-256 of a message without its stamps."""
    decision = {name: value for name, value in message.items() if name not in STAMPS}
    return hashlib.sha256(_encode(decision)).digest()


def write_lists(path: str, lists: Iterable[bytes]) -> None:
    """Write messages to a path or URI that ends with one of SUFFIXES: whole or not at all."""
    with created(path) as file:
        if path.endswith(".parquet"):
            with pq.ParquetWriter(file, SCHEMA, compression="zstd") as writer:
                for rows in _chunks(map(_decode, lists)):
                    writer.write_table(pa.Table.from_pylist(rows, SCHEMA))
        else:
            for value in lists:
                file.write(value + b"\n")


@contextmanager
def created(path: str) -> Iterator[BinaryIO]:
    """A new file at a path or URI, in place of an old one; a local one appears when it is whole."""
    if "://" in path:
        target, place = file_system(path)
        with target.open_output_stream(place, compression=None) as stream:
            yield stream
        return
    aside = Path(f"{path}.unfinished")
    aside.parent.mkdir(parents=True, exist_ok=True)
    try:
        with aside.open("wb") as file:
            yield file
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def read_lists(path: str) -> Iterator[dict[str, Any]]:
    """The messages of a file that `write_lists` wrote, as dictionaries."""
    source, place = file_system(path)
    if path.endswith(".parquet"):
        with source.open_input_file(place) as file:
            for batch in pq.ParquetFile(file).iter_batches(_ROWS):
                for row in batch.to_pylist():  # fields a message does not have are null there
                    yield {name: value for name, value in row.items() if value is not None}
    else:
        with source.open_input_file(place) as file:
            yield from map(_decode, io.BufferedReader(file))


def _chunks(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    while chunk := list(itertools.islice(rows, _ROWS)):
        yield chunk
