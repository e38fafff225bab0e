"""The files of an export, whose digests are taken while they are written."""

from __future__ import annotations

import os
import shutil
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from facemill.transforms.ops.storage import AtomicFile, Folder, output_error

_BLOCK_BYTES = 1 << 20


class ExportedFile(NamedTuple):
    """A finished file of an export."""

    name: str
    num_bytes: int
    sha256: str


class ExportWriter:
    """A file that is written from its start to its end, and appears on `commit`; looks like a file to libraries.

    Args:
        folder: Where it is to appear.
        name: Its name there.
        finished: The list that it joins when it is committed.
        gather_in: As in `AtomicFile`.

    Raises:
        OutputError: From every method, where the store refuses the write.
    """

    def __init__(
        self, folder: Folder, name: str, finished: list[ExportedFile], *, gather_in: Path | None = None
    ) -> None:
        self._shown = folder.shown(name)
        self._name = name
        self._finished = finished
        self._digest = sha256()
        self._num_bytes = 0
        self._file = AtomicFile(folder, name, gather_in=gather_in)
        self.closed = False

    def write(self, data: bytes) -> int:
        """Append."""
        try:
            self._file.file.write(data)
        except OSError as error:
            raise output_error(self._shown, error) from error
        self._digest.update(data)
        self._num_bytes += memoryview(data).nbytes
        return memoryview(data).nbytes

    def tell(self) -> int:
        """The number of bytes by now."""
        return self._num_bytes

    def flush(self) -> None:
        """Nothing, as what counts is `commit`."""

    def close(self) -> None:
        """Nothing, as what counts is `commit`."""

    def commit(self) -> None:
        """Make the file appear, and add it to the finished ones."""
        try:
            self._file.commit()
        except OSError as error:
            raise output_error(self._shown, error) from error
        self.closed = True
        self._finished.append(ExportedFile(self._name, self._num_bytes, self._digest.hexdigest()))

    def discard(self) -> None:
        """Leave nothing behind; harmless after `commit`."""
        self.closed = True
        self._file.discard()

    def __enter__(self) -> ExportWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.commit()
        finally:
            self.discard()


def move_in(path: Path, folder: Folder, name: str) -> ExportedFile:
    """Move a finished file of this machine to `name` in `folder`.

    Raises:
        OutputError: The store refuses it.
    """
    digest = sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK_BYTES):
                digest.update(block)
        num_bytes = path.stat().st_size
        if folder.is_local:
            folder.make_folder(os.path.dirname(name))
            shutil.move(path, folder.join(name))
        else:
            folder.fs.put_file(str(path), folder.join(name))
    except OSError as error:
        raise output_error(folder.shown(name), error) from error
    return ExportedFile(name, num_bytes, digest.hexdigest())
