"""Folders by path or URI: what is read, what is refused, and what only one of many can make."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pyarrow import fs

from models.storage import ASIDE, Folder, StorageError


def memory(path: str = "root") -> Folder:
    """A file system that is neither local nor one of the known object stores."""
    fsspec = pytest.importorskip("fsspec")
    return Folder(fs.PyFileSystem(fs.FSSpecHandler(fsspec.filesystem("memory"))), f"/{path}")


def test_a_path_and_its_uri_are_the_same_folder(tmp_path: Path) -> None:
    (tmp_path / "a b").mkdir()
    for place in (tmp_path / "a b", str(tmp_path / "a b"), (tmp_path / "a b").as_uri()):
        folder = Folder.at(place)
        assert folder.local == tmp_path / "a b"
        assert folder.uri == (tmp_path / "a b").as_uri()
        assert (folder / "c").uri == (tmp_path / "a b" / "c").as_uri()


def test_a_relative_path_stays_where_it_was_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Folder.at("here")
    monkeypatch.chdir("/")
    assert folder.local == tmp_path / "here"


def test_secrets_of_a_uri_are_not_told() -> None:
    query = "?region=us-east-1&scheme=http&endpoint_override=localhost%3A9000"
    folder = Folder.at(f"s3://key:secret@bucket/some/where{query}") / "bundles"
    assert folder.uri == f"s3://bucket/some/where/bundles{query}"
    assert "secret" not in repr(folder) + str(folder)


@pytest.mark.parametrize("uri", ["ftp://a/b", "s3://", "file://relative", "s3://b/x?no_such=1"])
def test_a_uri_that_cannot_be_understood_is_refused(uri: str) -> None:
    with pytest.raises(StorageError, match="expected a path or file://"):
        Folder.at(uri)


@pytest.mark.parametrize(
    "uri", ["s3://key:secret@", "s3://key:secret@b/x?no=1", "f tp://k:secret@b"]
)
def test_secrets_of_a_wrong_uri_are_not_told_either(uri: str) -> None:
    with pytest.raises(StorageError) as error:
        Folder.at(uri)
    assert "secret" not in str(error.value)


def test_what_is_written_is_read_and_no_more_than_asked_for(tmp_path: Path) -> None:
    for folder in (Folder.at(tmp_path / "new" / "one"), memory()):
        folder.write("a.gz", b"0123456789")  # no name makes it decompress
        assert folder.read("a.gz", 10) == b"0123456789"
        assert folder.read("a.gz", 3) == b"0123"  # one more, which tells that it is too long
        assert [info.base_name for info in folder.infos()] == ["a.gz"]
        with pytest.raises(FileNotFoundError):
            folder.read("b", 10)
        folder.delete()
        folder.delete()
        assert folder.infos() == []


def test_links_pipes_and_folders_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "folder", "pipe"):
        with pytest.raises(OSError, match=r"expected a plain file|symbolic links"):
            Folder.at(tmp_path).read(name, 10)


def test_a_name_is_made_once(tmp_path: Path) -> None:
    root = Folder.at(tmp_path)
    assert root.create("history/1", "a.json", b"first")
    assert not root.create("history/1", "a.json", b"second")
    assert (root / "history/1").read("a.json", 100) == b"first"
    assert (root / ASIDE).infos() == []


def test_a_failure_to_make_a_name_is_no_lost_race(tmp_path: Path) -> None:
    (tmp_path / "history").write_text("a file where the folder should be")
    with pytest.raises(OSError, match="history"):
        Folder.at(tmp_path).create("history/1", "a.json", b"first")
    assert (Folder.at(tmp_path) / ASIDE).infos() == []


def test_where_nothing_can_be_made_once_nothing_is_made() -> None:
    root = memory("once")
    with pytest.raises(StorageError, match="it can be read, not written"):
        root.create("history/1", "a.json", b"first")
    assert root.infos() == []


def test_a_shared_lock_keeps_out_who_wants_it_alone(tmp_path: Path) -> None:
    root = Folder.at(tmp_path)
    with root.lock(exclusive=False) as one, root.lock(exclusive=False) as two:
        assert one
        assert two
        with root.lock(exclusive=True) as alone:
            assert not alone
    with root.lock(exclusive=True) as alone:
        assert alone
    with memory().lock(exclusive=True) as alone:
        assert not alone
