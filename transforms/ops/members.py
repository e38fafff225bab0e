"""What the shard readers share: the member record, the limits, and which names are inputs."""

from __future__ import annotations

import math
import os
from collections.abc import Collection
from dataclasses import dataclass
from hashlib import blake2b
from typing import BinaryIO, NamedTuple

from facemill.models.errors import BadInputError, FailureReason
from facemill.transforms.ops.records import Failure

# fmt: off
SIDECAR_EXTENSIONS = frozenset((
    ".cls", ".csv", ".doc", ".docx", ".htm", ".html", ".idx", ".ini", ".json", ".jsonl", ".license", ".log",
    ".lst", ".mat", ".md", ".md5", ".npy", ".npz", ".pdf", ".pickle", ".pkl", ".pts", ".py", ".rst", ".rtf", ".sha1",
    ".sha256", ".sqlite", ".tsv", ".txt", ".url", ".xls", ".xlsx", ".xml", ".yaml", ".yml",
))
# fmt: on
_JUNK_NAMES = frozenset({"__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "_run.lock"})


class ShardRange(NamedTuple):
    """A part of a shard; `start` and `stop` are bytes (tar), directory entries (zip) or row groups (Parquet)."""

    start: int
    stop: int
    num_bytes: int  # stored bytes in the range, for balancing


@dataclass(frozen=True, slots=True)
class Member:
    """One input of a shard: either `data` or `failure` is set.

    An empty `name` stands for the shard itself: it could not be read, or not to its end.
    """

    name: str
    data: bytes | None = None
    label: str | None = None
    failure: Failure | None = None
    own_label: str | None = None  # what a file beside it says, where `label` is that of its folder
    stored_bytes: int | None = None  # what it takes in the shard, where that is not about the length of `data`


class StoredRecord(NamedTuple):
    """One record of a file that knows no names: either `data` or `failure` is set."""

    offset: int  # of its first byte in the file, unpacked where it is compressed
    data: bytes | None
    failure: Failure | None = None


@dataclass(frozen=True)
class ReadLimits:
    """Bounds that keep a hostile shard from exhausting memory or time."""

    max_member_bytes: int = 256 * 2**20
    max_expansion: int = 200  # unpacked bytes per stored byte of the whole shard
    free_expansion_bytes: int = 2**30  # a shard may always unpack to this much

    def max_expanded_bytes(self, stored_bytes: int) -> int:
        """How much a shard of `stored_bytes` may unpack to in total."""
        return max(self.free_expansion_bytes, self.max_expansion * stored_bytes)


class UniqueNames:
    """Gives the second member called `a` the name `a~2`; keeps 16 bytes a name, however long the names are."""

    def __init__(self) -> None:
        self._seen: set[bytes] = set()
        self._counts: dict[bytes, int] = {}

    def add(self, name: str) -> str:
        """`name`, or a variant of it that was not given out before."""
        key = digest = _digest(name)
        unique = name
        while digest in self._seen:
            self._counts[key] = self._counts.get(key, 1) + 1
            unique = f"{name}~{self._counts[key]}"
            digest = _digest(unique)
        self._seen.add(digest)
        return unique


def _digest(name: str) -> bytes:
    return blake2b(name.encode(), digest_size=16).digest()


def is_ignored(name: str, extensions: Collection[str] = SIDECAR_EXTENSIONS) -> bool:
    """Whether a path, relative to its root, is no input: hidden, left by a file manager, or a sidecar by `extensions`.

    `extensions` are in lower case with their dot.
    """
    parts = name.split("/")
    if any(part.lower() in _JUNK_NAMES or _is_hidden(part) for part in parts):
        return True
    return os.path.splitext(parts[-1])[1].lower() in extensions


def _is_hidden(part: str) -> bool:
    return part.startswith(".") and part not in (".", "..")


def folder_label(name: str) -> str | None:
    """The last folder of a member's path, which by convention names the identity."""
    folders = [part for part in name.split("/")[:-1] if part not in ("", ".", "..")]
    return folders[-1] if folders else None


def number_label(value: float) -> str | None:
    """The label that a number says: `7` for 7.0, and none for what is no number or without end."""
    if isinstance(value, int):
        return str(value)
    if not math.isfinite(value):
        return None
    return str(int(value)) if value.is_integer() else str(value)


def member_of(name: str, data: bytes, *, label: str | None) -> Member:
    """The member, or the failure `empty` where it has no bytes."""
    if not data:
        return failed_member(name, "empty", "the file has no bytes", label=label)
    return Member(name, data, label)


def failed_member(name: str, reason: FailureReason, message: str, *, label: str | None = None) -> Member:
    """A member that cannot be read."""
    return Member(name, None, label, Failure(reason, message))


def failed_shard(error: BadInputError) -> Member:
    """The row that says that a shard could not be read, or not to its end."""
    return Member("", None, None, Failure(error.reason, error.message))


def check_member_size(size_bytes: int, limits: ReadLimits) -> Failure | None:
    """The failure `too_large` for a member beyond the limit."""
    if size_bytes <= limits.max_member_bytes:
        return None
    return Failure("too_large", f"{size_bytes} bytes, the limit is {limits.max_member_bytes}")


def file_size(file: BinaryIO) -> int:
    """Size in bytes; leaves the file at its end."""
    return file.seek(0, os.SEEK_END) or file.tell()


def read_up_to(file: BinaryIO, num_bytes: int) -> bytes:
    """`num_bytes` bytes, fewer only at the end of the file."""
    data = file.read(num_bytes)
    while 0 < len(data) < num_bytes:
        more = file.read(num_bytes - len(data))
        if not more:
            break
        data += more
    return data
