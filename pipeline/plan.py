"""The plan: inputs cut into units, written once and only ever appended to."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from facemill.models.errors import ConfigError, OutputError
from facemill.pipeline.listing import Listing
from facemill.transforms.ops.layout import PLAN
from facemill.transforms.ops.options import RunOptions
from facemill.transforms.ops.reading import split_source
from facemill.transforms.ops.shards import shard_kind, split_shard
from facemill.transforms.ops.storage import Folder
from facemill.transforms.ops.units import Unit

_SMALL_ARCHIVE_UNITS = 64
_MIN_UNIT_FILES = 40
_MIN_UNIT_BYTES = 1 << 20

# Names are stored as bytes, since a file name need not be valid UTF-8.
_SCHEMA = pa.schema(
    [
        ("unit", pa.string()),
        ("kind", pa.string()),
        ("sources", pa.list_(pa.binary())),
        ("sizes", pa.list_(pa.int64())),
        ("num_bytes", pa.int64()),
        ("start", pa.int64()),
        ("stop", pa.int64()),
    ]
)


@dataclass(frozen=True)
class Plan:
    """All units planned so far, one row each, as they lie in `plan/`."""

    table: pa.Table

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @property
    def names(self) -> list[str]:
        """The names of all units, in the order in which they were planned."""
        names: list[str] = self.table["unit"].to_pylist()
        return names

    def known_sizes(self) -> dict[str, int]:
        """The size that each planned input had, by its source name."""
        sources = pc.list_flatten(self.table["sources"]).to_pylist()
        sizes = pc.list_flatten(self.table["sizes"]).to_pylist()
        return {_text(source): size for source, size in zip(sources, sizes, strict=True)}

    def num_planned(self) -> dict[str, int]:
        """How many inputs each unit of loose files promises."""
        rows = self.table.filter(pc.equal(self.table["kind"], "files"))
        lengths = pc.list_value_length(rows["sources"]).to_pylist()
        return dict(zip(rows["unit"].to_pylist(), lengths, strict=True))

    def pending(self, committed: frozenset[str]) -> list[tuple[str, int]]:
        """Name and bytes of the units still to do, the largest first."""
        pairs = zip(self.names, self.table["num_bytes"].to_pylist(), strict=True)
        left = [(name, num_bytes) for name, num_bytes in pairs if name not in committed]
        return sorted(left, key=lambda pair: (-pair[1], pair[0]))

    def units(self, names: Iterable[str]) -> Iterator[Unit]:
        """The units of these names, in this order, made one at a time."""
        rows = {name: row for row, name in enumerate(self.names)}
        for name in names:
            yield _unit(self.table.slice(rows[name], 1).to_pylist()[0])


def read_plan(output: Folder) -> Plan:
    """The plan in an output folder, empty if there is none yet."""
    names = [name for name in output.list_names(PLAN) if name.endswith(".parquet") and not name.startswith(".")]
    try:
        tables = [pq.read_table(io.BytesIO(output.read_bytes(f"{PLAN}/{name}")), schema=_SCHEMA) for name in names]
    except pa.ArrowInvalid as error:
        raise OutputError(f"the plan in {output.uri}/{PLAN} is damaged: {error}") from error
    return Plan(pa.concat_tables(tables) if tables else _SCHEMA.empty_table())


def append_units(output: Folder, plan: Plan, units: Sequence[Unit]) -> Plan:
    """Write `units` behind the plan and return both; writes nothing when there are none."""
    if not units:
        return plan
    table = pa.Table.from_pylist([_row(unit) for unit in units], schema=_SCHEMA)
    with output.open_atomic(f"{PLAN}/{len(plan):08d}.parquet") as file:
        pq.write_table(table, file, compression="zstd", row_group_size=1024)
    return Plan(pa.concat_tables([plan.table, table]))


def plan_new_inputs(
    plan: Plan,
    listings: Mapping[str, Listing],
    options: RunOptions,
    *,
    on_split: Callable[[str], None] = lambda source: None,
) -> list[Unit]:
    """Units for the inputs that the plan does not have yet.

    Args:
        plan: What was planned before.
        listings: The inputs by the name of their root.
        options: The size of units.
        on_split: Told the name of each large shard before its content is looked through.

    Raises:
        ConfigError: An input has another size than when it was planned.
    """
    known = plan.known_sizes()
    numbers = itertools.count(len(plan))
    units: list[Unit] = []
    for root, listing in listings.items():
        fresh = list(_new_inputs(root, listing, known))
        loose = [(source, size) for source, size in fresh if shard_kind(source) is None]
        units += [_files_unit(next(numbers), run) for run in _runs(loose, _for_small_archives(loose, options))]
        for source, size in fresh:
            if shard_kind(source) is not None:
                units += [_name(next(numbers), unit) for unit in _shard_units(source, size, listing, options, on_split)]
    return units


def _new_inputs(root: str, listing: Listing, known: Mapping[str, int]) -> Iterator[tuple[str, int]]:
    for name, size in zip(listing.names, listing.sizes, strict=True):
        source = f"{root}/{name}"
        planned = known.get(source)
        if planned is None:
            yield source, size
        elif planned not in (0, size):  # what was empty or unreachable has a failed row, and --retry-failed does it
            raise ConfigError(
                f"the input {source} had {planned} bytes when it was planned and has {size} now; "
                "restore it, or start a new output folder"
            )


def _for_small_archives(inputs: Sequence[tuple[str, int]], options: RunOptions) -> RunOptions:
    """Smaller units where there are few inputs, so that every core gets some; it depends on the inputs alone."""
    share_files = max(_MIN_UNIT_FILES, len(inputs) // _SMALL_ARCHIVE_UNITS)
    share_bytes = max(_MIN_UNIT_BYTES, sum(size for _, size in inputs) // _SMALL_ARCHIVE_UNITS)
    return replace(
        options,
        unit_files=min(options.unit_files, share_files),
        unit_bytes=min(options.unit_bytes, share_bytes),
    )


def _runs(inputs: Sequence[tuple[str, int]], options: RunOptions) -> Iterator[list[tuple[str, int]]]:
    """Cut loose files into runs of at most about `unit_bytes` and at most `unit_files`."""
    run: list[tuple[str, int]] = []
    num_bytes = 0
    for source, size in inputs:
        if run and (num_bytes + size > options.unit_bytes or len(run) >= options.unit_files):
            yield run
            run, num_bytes = [], 0
        run.append((source, size))
        num_bytes += size
    if run:
        yield run


def _files_unit(number: int, run: Sequence[tuple[str, int]]) -> Unit:
    sources, sizes = zip(*run, strict=True)
    return _name(number, Unit("", "files", sources, sizes, sum(sizes)))


def _shard_units(
    source: str, size: int, listing: Listing, options: RunOptions, on_split: Callable[[str], None]
) -> list[Unit]:
    kind = shard_kind(source)
    assert kind is not None
    # A tar has no directory: finding its members on an object store would mean to read all of it here.
    if size <= 2 * options.unit_bytes or (kind == "tar" and not listing.root.is_local):
        return [Unit("", kind, (source,), (size,), size)]
    on_split(source)
    path = split_source(source)[1]
    try:
        with listing.root.fs.open(listing.root.join(path), "rb") as file:
            ranges = split_shard(file, kind, options.unit_bytes)
    except OSError:
        ranges = []  # the reader meets the same error, and gives the shard its row
    if len(ranges) < 2:
        return [Unit("", kind, (source,), (size,), size)]
    return [Unit("", kind, (source,), (size,), part.num_bytes, part.start, part.stop) for part in ranges]


def _name(number: int, unit: Unit) -> Unit:
    return replace(unit, name=f"unit-{number:06d}")


def _row(unit: Unit) -> dict[str, object]:
    return {
        "unit": unit.name,
        "kind": unit.kind,
        "sources": [source.encode("utf-8", "surrogateescape") for source in unit.sources],
        "sizes": list(unit.sizes),
        "num_bytes": unit.num_bytes,
        "start": unit.start,
        "stop": unit.stop,
    }


def _unit(row: Mapping[str, Any]) -> Unit:
    return Unit(
        name=row["unit"],
        kind=row["kind"],
        sources=tuple(_text(source) for source in row["sources"]),
        sizes=tuple(row["sizes"]),
        num_bytes=row["num_bytes"],
        start=row["start"],
        stop=row["stop"],
    )


def _text(source: bytes) -> str:
    return source.decode("utf-8", "surrogateescape")
