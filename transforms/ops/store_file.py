"""A file of a store, open for reading; a read that breaks off is made again, where it was."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

from facemill.transforms.ops.patience import CutShortError


class StoreFile(io.RawIOBase):
    """Reads parts of a file, each of them whole; what stands around it is the caller's `io.BufferedReader`.

    Args:
        file: As the driver opened it, without a cache: fsspec's own take a part that came short for the whole (2026.9).
        ask: Calls what it is given, again where that may help.
    """

    def __init__(self, file: Any, ask: Callable[[Callable[[], bytes]], bytes]) -> None:
        self._file = file
        self._ask = ask
        self._size = int(file.seek(0, io.SEEK_END) or file.tell())
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        data = self._take(len(view))
        view[: len(data)] = data
        return len(data)

    def readall(self) -> bytes:  # the inherited one makes a request for each 8 KiB
        return self._take(self._size)

    def _take(self, num_bytes: int) -> bytes:
        """As many bytes, fewer only at the end of the file."""
        num_bytes = max(0, min(num_bytes, self._size - self._position))
        data = self._ask(lambda: self._fetch(num_bytes)) if num_bytes else b""
        self._position += num_bytes
        return data

    def _fetch(self, num_bytes: int) -> bytes:
        self._file.seek(self._position)
        data: bytes = self._file.read(num_bytes)
        if len(data) != num_bytes:
            raise CutShortError(f"{len(data)} of {num_bytes} bytes came")
        return data

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()
