"""Files for libraries that open a path by themselves."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from facemill.transforms.ops import heartbeat
from facemill.transforms.ops.storage import Folder

_CHUNK_BYTES = 8 << 20


def check_regular(path: str) -> None:
    """Refuse a pipe or device, as reading it might never end.

    Raises:
        OSError: It is one, or there is no such file.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError("a pipe or device, not a file")


@contextmanager
def local_file(folder: Folder, name: str) -> Iterator[str]:
    """The path of a file on this machine; one that lies elsewhere, or whose name is not UTF-8, is copied for a while.

    Raises:
        OSError: It cannot be read.
    """
    path = folder.join(name)
    if folder.is_local:
        check_regular(path)
        if _is_utf8(path):
            yield path
            return
    with tempfile.NamedTemporaryFile(prefix="facemill-") as copy:
        with folder.fs.open(path, "rb", block_size=_CHUNK_BYTES) as file:
            while chunk := file.read(_CHUNK_BYTES):
                copy.write(chunk)
                heartbeat.beat()
        copy.flush()
        yield copy.name


def _is_utf8(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True
