"""Listing inputs: what lies below an `--input`, on any fsspec file system."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from facemill.models.errors import ConfigError
from facemill.transforms.ops.credentials import split_signature
from facemill.transforms.ops.drivers import resolve_uri, store_of
from facemill.transforms.ops.kinds import is_url_list
from facemill.transforms.ops.layout import MANIFEST, MARKERS
from facemill.transforms.ops.members import is_ignored
from facemill.transforms.ops.storage import Folder

_MAGIC = frozenset("*?[")
_NUM_ASKING = 16  # requests at a time for sizes


@dataclass(frozen=True)
class Listing:
    """The inputs below one root: names below it, sorted, with their sizes in bytes."""

    root: Folder
    names: list[str]
    sizes: list[int]
    num_ignored: int


def list_inputs(
    uri: str, *, ignored_extensions: Collection[str], storage_options: Mapping[str, Any] | None = None
) -> Listing:
    """List a folder, a glob or a single file.

    The root is the folder itself, the part of a glob before its first wildcard, or the folder that holds the file.

    Raises:
        ConfigError: There is nothing, or the store cannot be reached.
    """
    if not uri.strip():
        raise ConfigError("an input has an empty name; for the folder you are in write .")
    try:
        return _list(uri, ignored_extensions, dict(storage_options or {}))
    except FileNotFoundError as error:
        raise ConfigError(f"no input at {uri}") from error
    except OSError as error:
        raise ConfigError(f"cannot list the input {uri}: {error.strerror or error}") from error


def _list(uri: str, ignored_extensions: Collection[str], storage_options: dict[str, Any]) -> Listing:
    fs, path = resolve_uri(uri, storage_options)
    if isinstance(fs, LocalFileSystem):
        path = os.path.abspath(path).replace(os.sep, "/")  # fsspec leaves .. in, and one folder would be two roots
    path = path.rstrip("/") or "/"
    if _MAGIC & set(path) and not fs.exists(path):
        root, entries = _glob_root(path), _list_glob(fs, path)
    elif fs.isdir(path):
        root, entries = path, _walk(fs, path)
    elif fs.exists(path):
        root, entries = path.rsplit("/", 1)[0] or "/", iter([(path, int(fs.size(path) or 0))])
    else:
        raise FileNotFoundError(uri)
    prefix = len(root.rstrip("/")) + 1
    sizes = {full[prefix:]: size for full, size in entries}  # a glob may match a file and its folder
    if store_of(uri) == "http":
        sizes = _sizes_over_http(fs, root, sizes)
    found = sorted(sizes.items())
    outputs, properties = _own_outputs(found), _recordio_properties(found)
    kept = [
        (name, size)
        for name, size in found
        if _is_input(name, ignored_extensions) and name not in properties and not (outputs and name.startswith(outputs))
    ]
    folder = Folder(fs.unstrip_protocol(root), storage_options)
    return Listing(folder, [name for name, _ in kept], [size for _, size in kept], len(found) - len(kept))


def _sizes_over_http(fs: fsspec.AbstractFileSystem, root: str, names: Collection[str]) -> dict[str, int]:
    """The sizes of files, which a page of links does not tell; links to another order of the page are no files."""
    names = [name for name in names if name and not name.rpartition("/")[2].startswith("?")]
    for name in names:
        if split_signature(name)[1]:
            raise ConfigError(f"the page {root} links to signed URLs; give them as inputs, one by one")
    with ThreadPoolExecutor(_NUM_ASKING) as pool:
        sizes = pool.map(lambda name: _size_over_http(fs, f"{root}/{name}"), names)
        return dict(zip(names, sizes, strict=True))


def _size_over_http(fs: fsspec.AbstractFileSystem, url: str) -> int:
    try:
        return int(fs.info(url)["size"] or 0)
    except (FileNotFoundError, PermissionError):
        return 0  # reading it gives it a failed row


def _is_folder_marker(name: str) -> bool:
    """Whether an object stands for a folder, as the consoles of the stores make them."""
    return not name or name.endswith("/")


def _is_input(name: str, ignored_extensions: Collection[str]) -> bool:
    if _is_folder_marker(name):
        return False
    if not is_ignored(name, ignored_extensions):
        return True
    return is_url_list(name) and not is_ignored(name, ())  # .urls.txt, though .txt is a sidecar


def _own_outputs(found: Sequence[tuple[str, int]]) -> tuple[str, ...]:
    """The folders that an earlier run wrote to, whose tables and crops are no inputs."""
    made = {name[: -len(MANIFEST)] for name, _ in found if name.endswith(f"/{MANIFEST}")}
    committed = {name.rpartition(f"{MARKERS}/")[0] for name, _ in found if f"/{MARKERS}/" in name}
    return tuple(sorted(made & committed))


def _recordio_properties(found: Sequence[tuple[str, int]]) -> set[str]:
    """The files called `property` beside RecordIO shards, which say how many identities of what size these hold."""
    return {f"{name.rpartition('/')[0]}/property".lstrip("/") for name, _ in found if name.lower().endswith(".rec")}


def _glob_root(path: str) -> str:
    parts = path.split("/")
    first = next(index for index, part in enumerate(parts) if _MAGIC & set(part))
    return "/".join(parts[:first]) or "/"


def _list_glob(fs: fsspec.AbstractFileSystem, path: str) -> Iterator[tuple[str, int]]:
    for full, info in sorted(fs.glob(path, detail=True).items()):
        if info["type"] == "directory":
            yield from _walk(fs, full)
        else:
            yield full, int(info["size"] or 0)


def _walk(fs: fsspec.AbstractFileSystem, path: str) -> Iterator[tuple[str, int]]:
    """Every file below a folder, one folder's listing in memory at a time."""
    if isinstance(fs, LocalFileSystem):
        yield from _walk_local(path)
        return
    for _, _, files in fs.walk(path, detail=True):
        for info in files.values():
            if info["type"] != "directory":  # some drivers list a folder as one of its own files
                yield info["name"], int(info["size"] or 0)


def _walk_local(path: str) -> Iterator[tuple[str, int]]:
    # fsspec makes a dict of ten entries per file, five times the time and the memory.
    folders = [path]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                if not _is_folder(entry):
                    yield entry.path.replace(os.sep, "/"), _size(entry)
                elif not (entry.is_symlink() and _leads_back(entry.path, path)):
                    folders.append(entry.path)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False  # a link to itself; reading it gives it a failed row


def _leads_back(link: str, root: str) -> bool:
    """Whether a linked folder contains one of those on the way to it, so that following it would never end."""
    target, folder = os.path.realpath(link), link
    while len(folder) > len(root):
        folder = os.path.dirname(folder)
        if os.path.commonpath([target, os.path.realpath(folder)]) == target:
            return True
    return False


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_size
    except OSError:
        return 0  # a dangling link; reading it gives it a failed row
