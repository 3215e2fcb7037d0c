"""Files that are there whole or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from clearwater.files import sync, write_atomically, write_through


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    content = bytes(range(256)) * 33
    for write in (write_through, write_atomically):
        path = tmp_path / write.__name__
        write(path, content)
        write(path, content[:100])
        assert path.read_bytes() == content[:100]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["write_atomically", "write_through"]


def test_the_new_content_is_on_disk_before_the_old_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    seen = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: seen.append((path.read_bytes(), os.fstat(descriptor).st_size)))
    write_atomically(path, b"longer than old")
    assert seen[0] == (b"old", len(b"longer than old"))
    assert path.read_bytes() == b"longer than old"


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_leaves_the_old_content_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(descriptor: int) -> None:
        raise failure

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(type(failure)) as caught:
        write_atomically(path, b"new")
    assert caught.value is failure
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_sync_waits_for_that_very_file_or_folder_and_closes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    path = tmp_path if kind == "folder" else tmp_path / "file"
    if kind == "file":
        path.write_bytes(b"content")
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append((descriptor, os.fstat(descriptor).st_ino)))
    sync(path)
    ((descriptor, inode),) = synced
    assert inode == path.stat().st_ino
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
