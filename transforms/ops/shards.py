"""One door to the readers of shards.

The readers are generators that hold one member (Parquet: one small batch) in memory. They never raise for what the
shard holds: a member or a shard that cannot be read becomes a `Member` with a failure. An OSError of the file object,
such as a broken connection, passes through, so that the caller can try the unit again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import BinaryIO

from facemill.transforms.ops.kinds import ShardKind
from facemill.transforms.ops.members import (
    SIDECAR_EXTENSIONS,
    Member,
    ReadLimits,
    ShardRange,
)
from facemill.transforms.ops.shards_parquet import iterate_parquet, split_parquet
from facemill.transforms.ops.shards_recordio import iterate_recordio, split_recordio
from facemill.transforms.ops.shards_tar import iterate_tar, split_tar
from facemill.transforms.ops.shards_tfrecord import iterate_tfrecord, split_tfrecord
from facemill.transforms.ops.shards_zip import iterate_zip, split_zip


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
    """The inputs of a shard, or of one of its ranges as `split_shard` gives them; content tells a gzipped one."""
    if kind == "tar":
        return iterate_tar(
            file,
            limits=limits,
            ignored_extensions=ignored_extensions,
            label_column=label_column,
            start=start,
            stop=stop,
        )
    if kind == "zip":
        return iterate_zip(file, limits=limits, ignored_extensions=ignored_extensions, start=start, stop=stop)
    if kind == "recordio":
        return iterate_recordio(file, limits=limits, start=start, stop=stop)
    iterate = iterate_parquet if kind == "parquet" else iterate_tfrecord
    return iterate(file, limits=limits, image_column=image_column, label_column=label_column, start=start, stop=stop)


def split_shard(file: BinaryIO, kind: ShardKind, target_bytes: int) -> list[ShardRange]:
    """At least one range; all of them together, in order, hold every member of the shard once."""
    split = {
        "tar": split_tar,
        "zip": split_zip,
        "parquet": split_parquet,
        "tfrecord": split_tfrecord,
        "recordio": split_recordio,
    }
    return split[kind](file, target_bytes)
