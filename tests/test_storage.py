"""Atomic files and folders, on a local disk and in memory."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from facemill.models.errors import OutputError
from facemill.transforms.ops.storage import AtomicFile, Folder


@pytest.fixture(params=["local", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    if request.param == "local":
        return Folder(str(tmp_path))
    return Folder(f"memory://{request.node.name}")


def test_a_file_appears_whole_at_the_end(folder: Folder) -> None:
    with folder.open_atomic("a/b.bin") as file:
        file.write(b"half")
        assert not folder.exists("a/b.bin")
        file.write(b"whole")
    assert folder.read_bytes("a/b.bin") == b"halfwhole"
    assert folder.list_names("a") == ["b.bin"]


def test_nothing_is_left_of_a_file_that_failed(folder: Folder) -> None:
    with pytest.raises(KeyError), folder.open_atomic("a/b.bin") as file:
        file.write(b"half")
        raise KeyError
    assert folder.list_names("a") == []


def test_a_file_is_replaced_whole(folder: Folder) -> None:
    folder.write_bytes("x", b"old and long")
    folder.write_bytes("x", b"new")
    assert folder.read_bytes("x") == b"new"


def test_a_pipe_is_no_file_to_replace(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OutputError, match=r"cannot write \S+/pipe: there is something that is no file"):
        Folder(str(tmp_path)).write_bytes("pipe", b"x")
    assert (tmp_path / "pipe").is_fifo()
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


def test_read_many(folder: Folder) -> None:
    names = [f"m/{i}.json" for i in range(5)]
    for name in names:
        folder.write_bytes(name, name.encode())
    assert folder.read_many(names) == {name: name.encode() for name in names}
    assert folder.read_many([]) == {}


def test_listing_what_is_not_there(folder: Folder) -> None:
    assert folder.list_names("nowhere") == []
    assert not folder.exists("nowhere")
    folder.remove("nowhere")


def test_sweep_takes_orphans_and_nothing_else(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    orphan = AtomicFile(folder, "faces/unit-1.parquet")
    orphan.file.write(b"half")
    orphan.file.close()
    (tmp_path / "faces" / ".hidden").write_bytes(b"")
    (tmp_path / "faces" / "kept.tmp").write_bytes(b"")
    assert folder.sweep("faces") == 1
    assert sorted(os.listdir(tmp_path / "faces")) == [".hidden", "kept.tmp"]
    assert folder.sweep("nowhere") == 0


def test_a_folder_without_permission(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        blocked = tmp_path / "file"
        blocked.write_bytes(b"")  # root may write anywhere, but not below a file
    else:
        blocked = tmp_path / "locked"
        blocked.mkdir(mode=0o500)
    with pytest.raises(OutputError, match=r"cannot write .*: (Not a directory|Permission denied)"):
        Folder(str(blocked)).write_bytes("a/b", b"x")
