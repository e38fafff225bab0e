"""The kinds of inputs, by the ending of a file's name."""

from __future__ import annotations

import re
from typing import Literal, cast

ShardKind = Literal["tar", "zip", "parquet", "tfrecord", "recordio"]
UnitKind = Literal["files", "videos", "urls"] | ShardKind

# Writers of TFRecords put a shard's number behind the ending, or in its place (train-00000-of-01024).
_ENDING = re.compile(
    r"\.(?:(?P<tar>tar|tar\.gz|tgz)"
    r"|(?P<zip>zip)"
    r"|(?P<parquet>parquet)"
    r"|(?P<tfrecord>tfrecords?(-\d+-of-\d+)?(\.gz)?)"
    r"|(?P<recordio>rec))\Z"
)
_VIDEO = re.compile(r"\.(mp4|m4v|mov|mkv|webm|avi)\Z")
_URL_LIST = re.compile(r"\.urls(\.txt|\.tsv|\.csv)?\Z")
_NUMBERED = re.compile(r"-\d{5}-of-\d{5}\Z")


def input_kind(path: str) -> UnitKind:
    """What kind of unit reads a path, by its ending; `files` for all that names nothing else."""
    if _VIDEO.search(path.lower()):
        return "videos"
    return "urls" if is_url_list(path) else shard_kind(path) or "files"


def is_url_list(path: str) -> bool:
    """Whether a path's ending names a list of URLs."""
    return _URL_LIST.search(path.lower()) is not None


def shard_kind(path: str) -> ShardKind | None:
    """The kind of shard that a path's ending names; None for all else."""
    lower = path.lower()
    if match := _ENDING.search(lower):
        return cast(ShardKind, next(kind for kind, ending in match.groupdict().items() if ending))
    return "tfrecord" if _NUMBERED.search(lower) else None
