"""Where an export goes: whether it may, what an earlier one left there, and its files with their digests."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

from facemill.models.errors import ConfigError
from facemill.pipeline.export.files import ExportedFile, ExportWriter, move_in
from facemill.pipeline.lock import LOCK, hold_lock
from facemill.pipeline.output_folder import make_output, place_of
from facemill.transforms.ops.storage import Folder

RECORD = "export.json"
_BEGUN = "export.partial.json"
_HALF_BEGUN = f".{_BEGUN}.*.tmp"  # what a kill leaves while `_BEGUN` is written
_SCRATCH = ".export-"
_DIGEST_DIGITS = 16
_Taken = TypeVar("_Taken")


class Destination:
    """A folder that holds one export: none yet, one that was broken off, or a complete one.

    Attributes:
        folder: The folder.
        files: What was written to it by now.
        is_begun: Whether it was left to this export.
    """

    _gathering: Path | None = None  # where files for a store wait for their upload

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self.files: list[ExportedFile] = []
        self.is_begun = False

    def check_own(self) -> None:
        """Refuse a folder that holds something else than an export.

        Raises:
            ConfigError: It does.
        """
        names = set(self.folder.list_names(""))
        own = (LOCK, _HALF_BEGUN, f"{self._scratch_prefix()}*")
        if not names & {RECORD, _BEGUN} and not all(_matches(name, own) for name in names):
            raise ConfigError(f"{self.folder.uri} is not empty and holds no export of facemill; choose a new folder")

    def read_record(self) -> dict[str, Any] | None:
        """What a complete export says about itself; None where there is none.

        Raises:
            ConfigError: It is damaged, or names a file that is not there as it was.
        """
        if not self.folder.exists(RECORD):
            return None
        record, sizes = self._parse(RECORD, _record_and_sizes)
        for name, num_bytes in sizes.items():
            if self._size_of(name) != num_bytes:
                path = self.folder.shown(name)
                raise ConfigError(f"{path} is missing or has changed since it was exported; choose a new folder")
        self.folder.remove(_BEGUN)  # there after a kill between the last two steps of `finish`
        return record

    def check_image_files(self, counts: Mapping[str, int]) -> None:
        """Refuse folders with fewer files than were exported; on this machine alone, as stores list slowly.

        Raises:
            ConfigError: Names the first.
        """
        for name, expected in counts.items() if self.folder.is_local else ():
            found = sum(len(files) for *_, files in os.walk(self.folder.join(name)))
            if found < expected:
                path = self.folder.shown(name)
                raise ConfigError(f"{path} holds {found:,} crops of {expected:,} exported ones; choose a new folder")

    def begin(self, entries: Sequence[str]) -> None:
        """Remove what an export that was broken off left, and say that one is under way.

        Args:
            entries: Patterns of the names, directly in the folder, that this export will write.
        """
        if self.folder.exists(_BEGUN):
            self._remove(self._parse(_BEGUN, _entries))
        self.folder.sweep("")
        self.folder.write_bytes(_BEGUN, (json.dumps({"entries": list(entries)}) + "\n").encode())
        self.is_begun = True

    def finish(self, record: Mapping[str, Any]) -> None:
        """Write what makes the export a complete one."""
        listed = [{"name": file.name, "bytes": file.num_bytes, "sha256": file.sha256} for file in self.files]
        content = json.dumps({**record, "files": listed}, indent=1, ensure_ascii=False)
        self.folder.write_bytes(RECORD, f"{content}\n".encode())
        self.folder.remove(_BEGUN)

    def create(self, name: str) -> ExportWriter:
        """A new file, which appears and is counted when it is committed."""
        return ExportWriter(self.folder, name, self.files, gather_in=self._gathering)

    def write_bytes(self, name: str, content: bytes) -> None:
        """Write a small file."""
        with self.create(name) as writer:
            writer.write(content)

    def adopt(self, path: Path, name: str) -> None:
        """Move a finished file of this machine in."""
        self.files.append(move_in(path, self.folder, name))

    @contextmanager
    def scratch(self, parent: str | None) -> Iterator[Path]:
        """A folder on this machine for the block's time: in `parent`, else here, or in the system's own.

        What killed exports to this destination left there, or in the place without `parent`, is removed; only under
        the lock. Others may have theirs in the same place.

        Raises:
            ConfigError: It cannot be made, or DuckDB would not take it.
        """
        usual = self.folder.path if self.folder.is_local else tempfile.gettempdir()
        place, prefix = parent or usual, self._scratch_prefix()
        if "?" in os.path.abspath(place):  # DuckDB puts its log elsewhere, as if a URL ended there
            raise ConfigError(f"{place} has a question mark in its path; --scratch names a folder without one")
        try:
            for left in (found for folder in {usual, place} for found in Path(folder).glob(f"{prefix}*")):
                shutil.rmtree(left)
            made = tempfile.TemporaryDirectory(prefix=prefix, dir=place)
        except OSError as error:
            raise ConfigError(f"cannot write to {place}: {error.strerror}") from error
        with made as folder:
            self._gathering = Path(folder)
            yield self._gathering

    def _scratch_prefix(self) -> str:
        """With which the names of scratch folders of exports to this destination begin."""
        return f"{_SCRATCH}{sha256(place_of(self.folder).encode()).hexdigest()[:_DIGEST_DIGITS]}-"

    def _size_of(self, name: str) -> int | None:
        try:
            return int(self.folder.fs.info(self.folder.join(name))["size"])
        except FileNotFoundError:
            return None

    def _remove(self, patterns: Sequence[str]) -> None:
        for name in self.folder.list_names(""):
            if _matches(name, patterns):
                self._remove_all(self.folder.join(name))

    def _remove_all(self, path: str) -> None:
        """Remove a file, or a folder with all that is in it."""
        if self.folder.is_local and os.path.isdir(path):
            shutil.rmtree(path)
            return
        for found in self.folder.fs.find(path):
            self.folder.fs.rm_file(found)

    def _parse(self, name: str, take: Callable[[Any], _Taken]) -> _Taken:
        try:
            return take(json.loads(self.folder.read_bytes(name)))
        except (ValueError, TypeError, KeyError) as error:
            raise ConfigError(f"{self.folder.shown(name)} is damaged; choose a new folder") from error


def _record_and_sizes(content: Any) -> tuple[dict[str, Any], dict[str, int]]:
    """What `finish` wrote, and the sizes of the files that it lists, bytes."""
    record = {**content, "options": {**content["options"]}}
    return record, {str(file["name"]): file["bytes"] for file in content["files"]}


def _entries(content: Any) -> list[str]:
    entries = content["entries"]
    if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
        raise TypeError(entries)
    return entries


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


@contextmanager
def open_destination(folder: Folder) -> Iterator[Destination]:
    """Keep other exports out of a folder inside the block; it is made, and removed where nothing was begun in it.

    Raises:
        ConfigError: It cannot be used, or holds something else.
    """
    was_there = folder.exists("")
    make_output(folder)
    destination = Destination(folder)
    try:
        destination.check_own()
        with hold_lock(folder, keeps_file=False):
            yield destination
    finally:
        if folder.is_local and not was_there and not destination.is_begun:
            with contextlib.suppress(OSError):  # another export has come meanwhile
                os.rmdir(folder.path)
