"""Listing inputs: folders, globs and single files, on a disk, in memory and over http."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from pictures import write_loose
from web import web_server

from facemill.models.errors import ConfigError
from facemill.pipeline.listing import Listing, list_inputs
from facemill.transforms.ops.reading import ReadOptions

FILES = {"1.jpg": b"1", "a/2.jpg": b"22", "a/b/3.jpg": b"333"}
TREE = [("1.jpg", 1), ("a/2.jpg", 2), ("a/b/3.jpg", 3)]


def listed(uri: Path | str) -> Listing:
    return list_inputs(str(uri), ignored_extensions=(".txt", ".json"))


def pairs(uri: Path | str) -> list[tuple[str, int]]:
    listing = listed(uri)
    return list(zip(listing.names, listing.sizes, strict=True))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_loose(tmp_path / "photos", FILES)


def test_a_folder_is_listed_with_sizes_in_order(photos: Path) -> None:
    assert pairs(photos) == TREE
    assert listed(photos).root.uri == photos.as_uri()


@pytest.mark.parametrize("ending", ["", "/"])
@pytest.mark.parametrize("protocol", ["", "file://"])
def test_ways_to_write_a_folder(protocol: str, ending: str, photos: Path) -> None:
    listing = listed(f"{protocol}{photos}{ending}")
    assert (listing.root.uri, listing.names) == (photos.as_uri(), [name for name, _ in TREE])


@pytest.mark.parametrize(
    ("pattern", "root", "names"),
    [
        ("*.jpg", "", ["1.jpg"]),
        ("*", "", ["1.jpg", "a/2.jpg", "a/b/3.jpg"]),  # a folder that matches counts with all that it holds
        ("?.jpg", "", ["1.jpg"]),
        ("[12].jpg", "", ["1.jpg"]),
        ("a/*.jpg", "/a", ["2.jpg"]),
        ("*/b", "", ["a/b/3.jpg"]),
        ("**/*.jpg", "", ["1.jpg", "a/2.jpg", "a/b/3.jpg"]),
        ("**", "", ["1.jpg", "a/2.jpg", "a/b/3.jpg"]),
        ("**/*", "", ["1.jpg", "a/2.jpg", "a/b/3.jpg"]),
    ],
)
def test_a_glob_lists_every_match_once_below_its_fixed_part(
    pattern: str, root: str, names: list[str], photos: Path
) -> None:
    listing = listed(photos / pattern)
    assert listing.root.uri == photos.as_uri() + root
    assert listing.names == names


def test_a_glob_that_matches_nothing_is_empty(photos: Path) -> None:
    assert pairs(photos / "*.png") == []


def test_a_single_file_lies_below_its_folder(photos: Path) -> None:
    listing = listed(photos / "a" / "2.jpg")
    assert (listing.root.uri, listing.names, listing.sizes) == (f"{photos.as_uri()}/a", ["2.jpg"], [2])


def test_brackets_in_a_name_are_no_pattern_where_the_name_exists(tmp_path: Path) -> None:
    folder = write_loose(tmp_path / "set [1]", {"x[2].jpg": b"xx", "y*.jpg": b"y", "z?.jpg": b""})
    assert pairs(folder) == [("x[2].jpg", 2), ("y*.jpg", 1), ("z?.jpg", 0)]
    assert pairs(folder / "x[2].jpg") == [("x[2].jpg", 2)]
    assert pairs(folder / "y*.jpg") == [("y*.jpg", 1)]


def test_hidden_and_sidecar_files_are_counted_and_left_out(tmp_path: Path) -> None:
    aside = [".DS_Store", ".cache/4.jpg", "a/notes.txt", "a/NOTES.TXT", "meta.json", "__MACOSX/1.jpg", "Thumbs.db"]
    folder = write_loose(tmp_path / "photos", FILES | dict.fromkeys(aside, b"x"))
    assert pairs(folder) == TREE
    assert listed(folder).num_ignored == len(aside)


def test_what_lies_beside_recordio_is_left_aside(tmp_path: Path) -> None:
    files = ("a/train.rec", "a/train.idx", "a/train.lst", "a/property", "b/property", "property/1.jpg")
    folder = write_loose(tmp_path / "photos", dict.fromkeys(files, b"x"))
    listing = list_inputs(str(folder), ignored_extensions=ReadOptions().ignored_extensions)
    assert (listing.names, listing.num_ignored) == (["a/train.rec", "b/property", "property/1.jpg"], 3)


def test_a_hidden_folder_above_the_root_does_not_hide_it(tmp_path: Path) -> None:
    assert pairs(write_loose(tmp_path / ".cache" / "photos", FILES)) == TREE


def test_an_empty_folder(tmp_path: Path) -> None:
    assert pairs(tmp_path) == []


def test_a_missing_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^no input at .*/nowhere$"):
        listed(tmp_path / "nowhere")


@pytest.mark.parametrize("uri", ["nosuch://bucket/photos", "http:///photos"])
def test_a_store_that_cannot_be_reached_is_refused(uri: str) -> None:
    with pytest.raises(ConfigError, match=uri):
        listed(uri)


class Unreachable(MemoryFileSystem):
    """A store whose library has errors of its own, as botocore and google.auth do."""

    protocol = "unreachable"

    def info(self, path: str, **kwargs: object) -> dict[str, object]:
        raise NoConnection("no connection")


class NoConnection(Exception):
    pass


def test_an_error_of_the_library_behind_a_store_is_told() -> None:
    fsspec.register_implementation("unreachable", Unreachable, clobber=True)
    with pytest.raises(ConfigError, match=r"cannot list the input unreachable://bucket: no connection"):
        list_inputs("unreachable://bucket", ignored_extensions=())


def test_links_to_files_and_folders_are_followed(photos: Path, tmp_path: Path) -> None:
    folder = write_loose(tmp_path / "linked", {})
    folder.mkdir()
    (folder / "file.jpg").symlink_to(photos / "a" / "2.jpg")
    (folder / "folder").symlink_to(photos / "a")
    assert pairs(folder) == [("file.jpg", 2), ("folder/2.jpg", 2), ("folder/b/3.jpg", 3)]


@pytest.mark.parametrize("target", ["..", "../..", "."])
def test_a_link_to_a_folder_above_it_ends(target: str, photos: Path) -> None:
    (photos / "a" / "loop").symlink_to(target)
    assert pairs(photos) == TREE


def test_two_links_that_lead_to_each_other_end(tmp_path: Path) -> None:
    folder = write_loose(tmp_path / "photos", {"a/1.jpg": b"1", "b/2.jpg": b"2"})
    (folder / "a" / "to_b").symlink_to(folder / "b")
    (folder / "b" / "to_a").symlink_to(folder / "a")
    assert {("a/1.jpg", 1), ("b/2.jpg", 1)} <= set(pairs(folder))


@pytest.mark.parametrize("target", ["nowhere.jpg", "link.jpg"])
def test_a_link_that_leads_nowhere_is_an_input_of_no_bytes(target: str, photos: Path) -> None:
    (photos / "link.jpg").symlink_to(target)
    assert pairs(photos) == [*TREE, ("link.jpg", 0)]


def test_a_named_pipe_is_listed_and_not_opened(photos: Path) -> None:
    os.mkfifo(photos / "pipe.jpg")
    assert pairs(photos) == [*TREE, ("pipe.jpg", 0)]


def test_names_that_are_no_utf8(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/\xff.jpg"
    with open(path, "wb") as file:
        file.write(b"12")
    assert [(os.fsencode(name), size) for name, size in pairs(tmp_path)] == [(b"\xff.jpg", 2)]


@pytest.mark.parametrize("way", ["..", "../../photos", ".././"])
def test_the_way_by_which_a_folder_is_named_does_not_matter(
    way: str, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos / "a")
    assert listed(way).root.uri == photos.as_uri()


@pytest.mark.parametrize("way", [".", "./"])
def test_the_working_folder(way: str, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(photos)
    assert listed(way).root.uri == photos.as_uri()


@pytest.fixture
def memory() -> Iterator[str]:
    fs = fsspec.filesystem("memory")
    for name, data in FILES.items():
        fs.pipe(f"/listing/{name}", data)
    yield "memory://listing"
    fs.rm("/listing", recursive=True)


@pytest.mark.parametrize(("below", "expected"), [("", TREE), ("/*.jpg", TREE[:1]), ("/a/2.jpg", [("2.jpg", 2)])])
def test_a_store_in_memory(below: str, expected: list[tuple[str, int]], memory: str) -> None:
    assert pairs(memory + below) == expected
    assert listed(memory + below).root.uri.startswith("memory:///listing")


def test_what_is_listed_can_be_read(memory: str, photos: Path) -> None:
    for uri in (memory, str(photos)):
        listing = listed(uri)
        assert [listing.root.read_bytes(name) for name in listing.names] == [b"1", b"22", b"333"]


@pytest.fixture
def server(photos: Path) -> Iterator[str]:
    with web_server(photos) as address:
        yield address


@pytest.mark.parametrize("query", ["", "?width=100"])
def test_a_single_file_over_http(query: str, server: str) -> None:
    listing = listed(f"{server}/a/2.jpg{query}")
    assert (listing.root.uri, listing.names, listing.sizes) == (f"{server}/a", [f"2.jpg{query}"], [2])
    assert listing.root.read_bytes(listing.names[0]) == b"22"


def test_a_missing_file_over_http(server: str) -> None:
    with pytest.raises(ConfigError, match=f"no input at {server}/nothing.jpg"):
        listed(f"{server}/nothing.jpg")
