"""Files on any fsspec file system: joining, atomic writing, sweeping."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, BinaryIO

import fsspec
from fsspec.implementations.local import LocalFileSystem

from facemill.models.errors import OutputError
from facemill.transforms.ops.drivers import is_object_store, resolve_uri
from facemill.transforms.ops.retrying import RetryingFileSystem

_TEMPORARY_SUFFIX = ".tmp"


@dataclass(frozen=True)
class Folder:
    """A folder by its URI; picklable, so that it can travel to the workers.

    `storage_options` are those of one file system, or of several by protocol: `{"s3": {...}, "http": {...}}`.
    """

    uri: str
    storage_options: Mapping[str, Any] = field(default_factory=dict, repr=False)  # may hold keys

    @property
    def fs(self) -> fsspec.AbstractFileSystem:
        """The file system; that of a store sends requests again where that may help."""
        return resolve_uri(self.uri, self.storage_options)[0]

    @property
    def path(self) -> str:
        """The folder's path on its file system, without a slash at the end."""
        return resolve_uri(self.uri, self.storage_options)[1].rstrip("/")

    @property
    def is_local(self) -> bool:
        """Whether the folder lies on this machine's own file system."""
        return isinstance(self.fs, LocalFileSystem)

    def absolute(self) -> Folder:
        """The same folder by a name that does not depend on where the process runs."""
        return replace(self, uri=self.path) if self.is_local else self

    def join(self, name: str) -> str:
        """The path of `name` below the folder, as the file system takes it."""
        return f"{self.path}/{name}" if name else self.path

    def shown(self, name: str) -> str:
        """`name` below the folder as messages tell it: a path here, a URI elsewhere."""
        return self.join(name) if self.is_local else f"{self.uri.rstrip('/')}/{name}"

    def exists(self, name: str) -> bool:
        """Whether the file or folder `name` exists."""
        return bool(self.fs.exists(self.join(name)))

    def read_bytes(self, name: str, *, num_bytes: int = 0) -> bytes:
        """The content of the file `name`; a store that listed it with `num_bytes` must not send less."""
        fs = self.fs
        if isinstance(fs, RetryingFileSystem):
            return fs.cat_whole(self.join(name), num_bytes)
        return bytes(fs.cat_file(self.join(name)))

    def read_many(self, names: list[str]) -> dict[str, bytes]:
        """The contents of many files, fetched at once where the store can do it."""
        if not names:
            return {}
        paths = [self.join(name) for name in names]
        # Not `cat`, which takes brackets in a path for a pattern.
        contents = self.fs.cat_ranges(paths, [None] * len(paths), [None] * len(paths), on_error="raise")
        return dict(zip(names, map(bytes, contents), strict=True))

    def list_names(self, folder: str) -> list[str]:
        """The names of the files directly in `folder`, sorted; empty where it does not exist."""
        try:
            paths = self.fs.ls(self.join(folder), detail=False)
        except FileNotFoundError:
            return []
        return sorted(str(path).rsplit("/", 1)[-1] for path in paths)

    def make_folder(self, name: str) -> None:
        """Create `name` where the store knows folders; a bucket that is not there is left to the user."""
        if not is_object_store(self.uri):
            self.fs.makedirs(self.join(name), exist_ok=True)

    def remove(self, name: str) -> None:
        """Remove the file `name` if it exists."""
        if self.exists(name):
            self.fs.rm_file(self.join(name))

    def write_bytes(self, name: str, content: bytes) -> None:
        """Write a small file so that it is there whole or not at all."""
        with self.open_atomic(name) as file:
            file.write(content)

    @contextmanager
    def open_atomic(self, name: str) -> Iterator[BinaryIO]:
        """Open `name` for writing; it appears when the block ends well, and never half-written.

        Raises:
            OutputError: The store refused the write.
        """
        writer = AtomicFile(self, name)
        try:
            yield writer.file
            writer.commit()
        except OSError as error:
            writer.discard()
            raise output_error(self.shown(name), error) from error
        except BaseException:
            writer.discard()
            raise

    def sweep(self, folder: str) -> int:
        """Remove what interrupted writers left in `folder`; how many files that were."""
        if not self.is_local:
            return 0  # an uncommitted upload to an object store is not a file
        orphans = [n for n in self.list_names(folder) if n.startswith(".") and n.endswith(_TEMPORARY_SUFFIX)]
        for orphan in orphans:
            os.unlink(self.join(f"{folder}/{orphan}" if folder else orphan))
        return len(orphans)


class AtomicFile:
    """A file that appears under its name only on `commit`.

    On a local disk that is a temporary file in the same folder and `os.replace`. For an object store the file is
    gathered in `gather_in`, by default the system's temporary folder, and uploaded on `commit`; an upload is there
    whole or not at all. (fsspec's `autocommit=False` is not kept by all of its file systems.)
    """

    def __init__(self, folder: Folder, name: str, *, gather_in: str | os.PathLike[str] | None = None) -> None:
        self._folder = folder
        self._path = folder.join(name)
        self._shown = folder.shown(name)
        parent, base = os.path.split(self._path)
        attempt = f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
        try:
            if folder.is_local:
                if os.path.exists(self._path) and not os.path.isfile(self._path):
                    raise OSError(errno.EINVAL, "there is something that is no file, such as a folder or a device")
                os.makedirs(parent, exist_ok=True)
            else:
                parent = os.fspath(gather_in or tempfile.gettempdir())
            self._temporary = os.path.join(parent, f".{base[:40]}.{attempt}{_TEMPORARY_SUFFIX}")
            self.file: BinaryIO = open(self._temporary, "wb")  # noqa: SIM115
        except OSError as error:
            raise output_error(self._shown, error) from error

    def commit(self) -> None:
        """Make the file appear under its name."""
        self.file.flush()
        if not self._folder.is_local:
            self.file.close()
            self._folder.fs.put_file(self._temporary, self._path)
            os.unlink(self._temporary)
            return
        os.fsync(self.file.fileno())
        self.file.close()
        os.replace(self._temporary, self._path)

    def discard(self) -> None:
        """Give the file up, leaving nothing behind; harmless after `commit`."""
        with contextlib.suppress(OSError):
            self.file.close()  # this flushes, and a full disk has already been reported
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._temporary)


def output_error(path: str, error: OSError) -> OutputError:
    """The error for the user when `path` cannot be written."""
    why = error.strerror or str(error) or type(error).__name__
    return OutputError(f"cannot write {path}: {why}")
