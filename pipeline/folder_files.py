"""The files of a folder as a file system of its own, for libraries that want one."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from fsspec import AbstractFileSystem

from facemill.transforms.ops.storage import Folder

FOLDER_PROTOCOL = "facemill-folder"


class FolderFileSystem(AbstractFileSystem):
    """Reads the files of a folder by their names in it: `facemill-folder://images/unit-000000.parquet`.

    DuckDB takes brackets and stars for patterns, asks every store when a file was written, and has drivers of its own
    for some protocols; none of this can happen here.
    """

    protocol = FOLDER_PROTOCOL
    cachable = False  # fsspec would make a key of the arguments

    def __init__(self, folder: Folder) -> None:
        super().__init__()
        self._folder = folder

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        """What the store says of the file."""
        name = self._strip_protocol(path)
        return {**self._folder.fs.info(self._folder.join(name)), "name": name}

    def glob(self, path: str, maxdepth: int | None = None, **kwargs: Any) -> list[str]:
        """The path itself, where there is such a file; no path is a pattern."""
        name = self._strip_protocol(path)
        return [name] if self._folder.exists(name) else []

    def modified(self, path: str) -> datetime:
        """The same for all files: they are never written anew while they are read."""
        return datetime.fromtimestamp(0, timezone.utc)

    def _open(self, path: str, mode: str = "rb", **kwargs: Any) -> Any:
        return self._folder.fs.open(self._folder.join(self._strip_protocol(path)), mode)
