"""Units: what is processed and committed as a whole."""

from __future__ import annotations

from dataclasses import dataclass

from facemill.transforms.ops.kinds import UnitKind


@dataclass(frozen=True, slots=True)
class Unit:
    """A run of loose files or videos, one shard, or a range of a shard.

    `sources` are names below the named input roots (`root/path/below/it`), one for a shard, else many.
    `start` and `stop` bound a range of a shard in the reader's own measure: bytes of a tar or a file of records,
    entries of a zip, row groups of a Parquet file; `stop` is None for a whole shard.
    """

    name: str
    kind: UnitKind
    sources: tuple[str, ...]
    sizes: tuple[int, ...]  # bytes; of the whole file also for a range
    num_bytes: int  # what this unit reads
    start: int = 0
    stop: int | None = None

    @property
    def num_planned(self) -> int | None:
        """How many inputs the plan promises; None where only reading the shard tells."""
        return len(self.sources) if self.kind == "files" else None
