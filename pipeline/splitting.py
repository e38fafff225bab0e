"""Large shards cut into ranges, so that one of them does not hold up all others."""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import BinaryIO, Literal, cast

from facemill.transforms.ops.kinds import ShardKind
from facemill.transforms.ops.members import ShardRange
from facemill.transforms.ops.options import RunOptions
from facemill.transforms.ops.reading import split_source
from facemill.transforms.ops.shards import split_shard
from facemill.transforms.ops.storage import Folder
from facemill.transforms.ops.url_lists import split_lines

# docs/scaling.md has the figures behind these.
SCAN_RATIO = 500  # planning reads so many bytes of an object store while a worker does one
MIN_SCANNED_BYTES = 64 << 20  # a smaller tar is done in a minute or two as it is
_SKEWED_SHARE = 1000  # what holds more than one in so many of all bytes is named when it cannot be split
_SCANNED: tuple[ShardKind, ...] = ("tar", "tfrecord")  # one member tells where the next one is
_NUM_READERS = 16
_BLOCK_BYTES = 8 << 20  # that each reader holds; some stores' own default is 50 MB
_GZIPPED = "a gzipped shard cannot be split; a plain one can"
_TOO_MUCH = "splitting means reading more here than run.scan_bytes={}"


@dataclass(frozen=True, slots=True)
class LargeShard:
    """A shard of several units' size, or a list of URLs."""

    source: str
    num_bytes: int
    kind: ShardKind | Literal["urls"]
    root: Folder

    @property
    def is_gzipped(self) -> bool:
        """Whether its name says that only reading it from its start tells where its members are."""
        return self.kind in _SCANNED and self.source.lower().endswith("gz")

    @property
    def needs_scan(self) -> bool:
        """Whether finding its members means to read all of it from an object store, as it has no directory."""
        return self.kind in _SCANNED and not self.is_gzipped and not self.root.is_local


def split_shards(
    shards: Sequence[LargeShard],
    archive_bytes: int,
    options: RunOptions,
    *,
    list_lines: int,
    on_split: Callable[[str], None],
    on_whole: Callable[[str], None],
) -> dict[str, list[ShardRange]]:
    """The ranges of those shards that are looked through, by source; several are read at once.

    Args:
        shards: What may be worth splitting.
        archive_bytes: The size of all inputs together.
        options: The size of units, and how much may be read.
        list_lines: About how many lines of a list of URLs make a unit.
        on_split: Told the name of each shard before its content is looked through.
        on_whole: Told, in a sentence, which shards stay whole though they may hold up the others.
    """
    gzipped = [shard for shard in shards if shard.is_gzipped]
    remote = [shard for shard in shards if shard.needs_scan]
    sizes = [shard.num_bytes for shard in remote]
    whole_bytes = max((shard.num_bytes for shard in gzipped), default=0)
    worth = [remote[index].source for index in choose_scans(sizes, whole_bytes)]
    affordable = {remote[index].source for index in choose_scans(sizes, whole_bytes, options.scan_bytes)}
    unread = [shard for shard in remote if shard.source in set(worth) - affordable]
    _tell_whole(unread, _TOO_MUCH.format(options.scan_bytes), on_whole)
    _tell_whole([s for s in gzipped if s.num_bytes > archive_bytes // _SKEWED_SHARE], _GZIPPED, on_whole)
    chosen = [s for s in shards if not s.is_gzipped and (not s.needs_scan or s.source in affordable)]
    for shard in chosen:
        if shard.num_bytes > options.unit_bytes:
            on_split(shard.source)
    ranges = _split_all(chosen, options.unit_bytes, list_lines, on_whole)
    return dict(zip((shard.source for shard in chosen), ranges, strict=True))


def choose_scans(sizes: Sequence[int], whole_bytes: int, scan_bytes: float = math.inf) -> list[int]:
    """Which tars on an object store to read in order to split them: positions in `sizes`, the largest first.

    However many workers there are, a run takes no less than its largest unit does, so the choice is the one with the
    least sum of the time for reading tars here and the time for the largest that is left.

    Args:
        sizes: Of the tars, in bytes.
        whole_bytes: The size of the largest shard that stays whole in any case.
        scan_bytes: At most so many are read.
    """
    whole_bytes = max(whole_bytes, MIN_SCANNED_BYTES)
    order = sorted(range(len(sizes)), key=lambda index: (-sizes[index], index))
    largest_left = [max(sizes[index], whole_bytes) for index in order] + [whole_bytes]
    num_read = list(itertools.accumulate((sizes[index] for index in order), initial=0))
    costs = [read + SCAN_RATIO * left for read, left in zip(num_read, largest_left, strict=True) if read <= scan_bytes]
    return order[: costs.index(min(costs))]


def _tell_whole(shards: Sequence[LargeShard], why: str, on_whole: Callable[[str], None]) -> None:
    if not shards:
        return
    largest = max(shards, key=lambda shard: shard.num_bytes)
    what = f"{largest.source} ({largest.num_bytes / 1e9:.1f} GB)"
    others = f" and {len(shards) - 1:,} more stay one unit each" if len(shards) > 1 else " stays one unit"
    on_whole(f"{what}{others}: {why}")


def _split_all(
    shards: Sequence[LargeShard], unit_bytes: int, list_lines: int, on_whole: Callable[[str], None]
) -> list[list[ShardRange]]:
    stop = threading.Event()
    pool = ThreadPoolExecutor(_NUM_READERS, thread_name_prefix="split")
    try:
        return list(pool.map(lambda shard: _split(shard, unit_bytes, list_lines, stop, on_whole), shards))
    finally:
        stop.set()  # after an interrupt the threads that still read end with their next read
        pool.shutdown(cancel_futures=True)


def _split(
    shard: LargeShard, unit_bytes: int, list_lines: int, stop: threading.Event, on_whole: Callable[[str], None]
) -> list[ShardRange]:
    path = split_source(shard.source)[1]
    try:
        with shard.root.fs.open(shard.root.join(path), "rb", block_size=_BLOCK_BYTES) as file:
            stoppable = cast(BinaryIO, _StoppableFile(file, stop))
            if shard.kind == "urls":
                return split_lines(stoppable, list_lines)
            return split_shard(stoppable, shard.kind, unit_bytes)
    except Exception as error:  # the libraries behind the stores have errors of their own
        if not stop.is_set():
            on_whole(f"{shard.source} stays one unit, as it cannot be looked through: {error}")
        return []  # if the reader meets the same error, it gives the shard its row


class _StoppableFile:
    """A file for reading, every read of which fails once `stop` is set."""

    def __init__(self, file: BinaryIO, stop: threading.Event) -> None:
        self._file = file
        self._stop = stop
        self.seek = file.seek
        self.tell = file.tell

    def read(self, num_bytes: int = -1) -> bytes:
        if self._stop.is_set():
            raise InterruptedError("planning was interrupted")
        return self._file.read(num_bytes)
