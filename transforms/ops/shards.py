"""The kinds of input shards, and one door to their readers.

The readers are generators that hold one member (Parquet: one small batch) in memory. They never raise for what the
shard holds: a member or a shard that cannot be read becomes a `Member` with a failure. An OSError of the file object,
such as a broken connection, passes through, so that the caller can try the unit again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import BinaryIO, Literal

from facemill.transforms.ops.members import (
    SIDECAR_EXTENSIONS,
    Member,
    ReadLimits,
    ShardRange,
)
from facemill.transforms.ops.shards_parquet import iterate_parquet, split_parquet
from facemill.transforms.ops.shards_tar import iterate_tar, split_tar
from facemill.transforms.ops.shards_zip import iterate_zip, split_zip

ShardKind = Literal["tar", "zip", "parquet"]

_KINDS: dict[str, ShardKind] = {
    ".tar": "tar",
    ".tar.gz": "tar",
    ".tgz": "tar",
    ".zip": "zip",
    ".parquet": "parquet",
}


def shard_kind(path: str) -> ShardKind | None:
    """The kind that a path's ending names; None for a loose file."""
    lower = path.lower()
    return next((kind for ending, kind in _KINDS.items() if lower.endswith(ending)), None)


def iterate_members(
    file: BinaryIO,
    kind: ShardKind,
    *,
    limits: ReadLimits,
    ignored_extensions: Collection[str] = SIDECAR_EXTENSIONS,
    image_column: str | None = None,
    label_column: str | None = None,
    start: int = 0,
    stop: int | None = None,
) -> Iterator[Member]:
    """The inputs of a shard, or of one of its ranges as `split_shard` gives them; content tells a gzipped tar."""
    if kind == "tar":
        return iterate_tar(file, limits=limits, ignored_extensions=ignored_extensions, start=start, stop=stop)
    if kind == "zip":
        return iterate_zip(file, limits=limits, ignored_extensions=ignored_extensions, start=start, stop=stop)
    return iterate_parquet(
        file, limits=limits, image_column=image_column, label_column=label_column, start=start, stop=stop
    )


def split_shard(file: BinaryIO, kind: ShardKind, target_bytes: int) -> list[ShardRange]:
    """At least one range; all of them together, in order, hold every member of the shard once."""
    if kind == "tar":
        return split_tar(file, target_bytes)
    if kind == "zip":
        return split_zip(file, target_bytes)
    return split_parquet(file, target_bytes)
