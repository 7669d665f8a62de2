"""Lists in files: every one once, in order, whole, and the same read back."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from models.list_files import SCHEMA, Spool, read_lists, write_lists
from udfs.recommend import Recommendation, RecommendedItem


def message(identity: str, stamp: int = 1, score: float = 0.123456) -> bytes:
    items = [
        RecommendedItem("i", 0, score, "neural", ["fits"]),
        RecommendedItem("ü", 1, 0, "x", []),
    ]
    return msgspec.json.encode(
        Recommendation(
            schema_version=1,
            recommendation_id=identity,
            trigger_event_id="e",
            user_id="u",
            event_time=5,
            generated_at=stamp,
            items=items,
            bundle_version="v",
            served_by="full",
            took_us={"features": stamp, "retrieve": 2, "rank": 3},
        )
    )


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
@pytest.mark.parametrize("uri", [False, True])
def test_lists_come_back_in_order_as_they_were(tmp_path: Path, suffix: str, uri: bool) -> None:
    path = str(tmp_path / f"lists.{suffix}")
    path = f"file://{path}" if uri else path
    with Spool(tmp_path / "spool") as spool:
        for identity in ("c", "a", "b", "a"):
            spool.add(message(identity))
        assert (len(spool), spool.repeated) == (3, 1)
        write_lists(path, spool)
    assert [*read_lists(path)] == [json.loads(message(identity)) for identity in "abc"]


def test_the_hash_of_the_decisions_leaves_the_stamps_aside(tmp_path: Path) -> None:
    hashes = []
    for number, lists in enumerate(
        [[message("a"), message("b")], [message("b", 7), message("a", 9)], [message("a")]]
    ):
        with Spool(tmp_path / str(number)) as spool:
            for each in lists:
                spool.add(each)
            hashes.append(spool.decisions_sha256())
    assert hashes[0] == hashes[1] != hashes[2]


def test_two_answers_to_one_question_are_an_error(tmp_path: Path) -> None:
    with Spool(tmp_path / "spool") as spool:
        spool.add(message("a"))
        with pytest.raises(ValueError, match="answered in two ways"):
            spool.add(message("a", score=0.2))


def test_a_file_that_is_not_finished_is_not_there(tmp_path: Path) -> None:
    def broken():  # type: ignore[no-untyped-def]
        yield message("a")
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        write_lists(str(tmp_path / "new" / "lists.jsonl"), broken())
    assert [*(tmp_path / "new").iterdir()] == []


def test_the_columns_are_the_fields_of_the_message() -> None:
    assert tuple(SCHEMA.names) == Recommendation.__struct_fields__
    (items,) = [field.type.value_type for field in SCHEMA if field.name == "items"]
    assert tuple(field.name for field in items) == RecommendedItem.__struct_fields__
