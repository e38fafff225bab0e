"""The plan: inputs cut into units, written once and only ever appended to."""

from __future__ import annotations

import io
import itertools
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from facemill.models.errors import ConfigError, DamagedOutputError
from facemill.pipeline.listing import Listing
from facemill.pipeline.splitting import LargeShard, split_shards
from facemill.transforms.ops.kinds import UnitKind, input_kind
from facemill.transforms.ops.layout import PLAN
from facemill.transforms.ops.members import ShardRange
from facemill.transforms.ops.options import RunOptions
from facemill.transforms.ops.reading import split_source
from facemill.transforms.ops.storage import Folder
from facemill.transforms.ops.units import Unit

MAX_UNITS = 100_000  # about; docs/scaling.md says why
_SMALL_ARCHIVE_UNITS = 64
_MIN_UNIT_FILES = 40
_MIN_UNIT_BYTES = 1 << 20
_GROUPED: tuple[UnitKind, ...] = ("files", "videos")  # of which a unit reads many
_USUAL_LINE_BYTES = 80  # of a list of URLs
_GROUP_UNITS = 64
_GROUP_NAMES = 64 * 2000

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

    @cached_property
    def names(self) -> list[str]:
        """The names of all units, in the order of the plan; not to be changed."""
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

    def roots(self, units: Collection[str]) -> set[str]:
        """The names of the input roots that these units read; each reads from one."""
        firsts = pc.list_element(self.table["sources"], 0).to_pylist()
        pairs = zip(self.names, firsts, strict=True)
        return {split_source(_text(source))[0] for name, source in pairs if name in units}

    def pending(self, committed: frozenset[str]) -> list[tuple[str, int]]:
        """Name and bytes of the units still to do, the largest first."""
        pairs = zip(self.names, self.table["num_bytes"].to_pylist(), strict=True)
        left = [(name, num_bytes) for name, num_bytes in pairs if name not in committed]
        return sorted(left, key=lambda pair: (-pair[1], pair[0]))

    def units(self, names: Iterable[str]) -> Iterator[Unit]:
        """The units of these names, in this order, made one at a time."""
        rows = {name: row for row, name in enumerate(self.names)}
        batches = self.table.to_batches()  # a slice of the table costs time for each of its chunks
        starts = list(itertools.accumulate((batch.num_rows for batch in batches), initial=0))
        for name in names:
            number = bisect_right(starts, rows[name]) - 1
            yield _unit(batches[number].slice(rows[name] - starts[number], 1).to_pylist()[0])


def plan_files(output: Folder) -> list[str]:
    """The names of the plan's Parquet files, in the order in which they were appended."""
    return [name for name in output.list_names(PLAN) if name.endswith(".parquet") and not name.startswith(".")]


def count_units(output: Folder) -> int:
    """How many units are planned in an output folder; the rows are not read."""
    tables = [output.read_bytes(f"{PLAN}/{name}") for name in plan_files(output)]
    return sum(pq.read_metadata(io.BytesIO(table)).num_rows for table in tables)


def units_of(table: pa.Table) -> list[Unit]:
    """The units that rows of the plan describe."""
    return [_unit(row) for row in table.to_pylist()]


def read_plan(output: Folder) -> Plan:
    """The plan in an output folder, empty if there is none yet."""
    try:
        tables = [
            pq.read_table(io.BytesIO(output.read_bytes(f"{PLAN}/{name}")), schema=_SCHEMA)
            for name in plan_files(output)
        ]
    except pa.ArrowInvalid as error:
        raise DamagedOutputError(
            f"the plan in {output.uri}/{PLAN} is damaged ({error}); choose a new output folder"
        ) from error
    return Plan(pa.concat_tables(tables) if tables else _SCHEMA.empty_table())


def append_units(output: Folder, plan: Plan, units: Sequence[Unit]) -> Plan:
    """Write `units`, the largest first, behind the plan and return both; writes nothing when there are none."""
    if not units:
        return plan
    table = _table(sorted(units, key=lambda unit: (-unit.num_bytes, unit.name)))
    group_units = max(1, min(_GROUP_UNITS, _GROUP_NAMES // max(len(unit.sources) for unit in units)))
    with output.open_atomic(f"{PLAN}/{len(plan):08d}.parquet") as file:
        pq.write_table(table, file, compression="zstd", row_group_size=group_units)
    return Plan(pa.concat_tables([plan.table, table]))


def plan_new_inputs(
    plan: Plan,
    listings: Mapping[str, Listing],
    options: RunOptions,
    *,
    on_split: Callable[[str], None] = lambda source: None,
    on_whole: Callable[[str], None] = lambda message: None,
) -> list[Unit]:
    """Units for the inputs that the plan does not have yet.

    Args:
        plan: What was planned before.
        listings: The inputs by the name of their root.
        options: The size of units.
        on_split: Told the name of each large shard before its content is looked through.
        on_whole: Told, in a sentence, which shards are large enough to hold up the others and stay whole.

    Raises:
        ConfigError: An input has another size than when it was planned.
    """
    known = plan.known_sizes()
    fresh = {root: list(_new_inputs(root, listing, known)) for root, listing in listings.items()}
    options = size_units([size for inputs in fresh.values() for _, size in inputs], options)
    num_bytes = sum(size for inputs in fresh.values() for _, size in inputs)
    large = list(_large_shards(fresh, listings, options))
    list_lines = _list_lines(large, options)
    ranges = split_shards(large, num_bytes, options, list_lines=list_lines, on_split=on_split, on_whole=on_whole)
    numbers = itertools.count(len(plan))
    units: list[Unit] = []
    for inputs in fresh.values():
        units += [_name(next(numbers), unit) for unit in _root_units(inputs, ranges, options)]
    return units


def size_units(sizes: Sequence[int], options: RunOptions) -> RunOptions:
    """Larger units where inputs of these sizes, in bytes, would make more than about `MAX_UNITS`."""
    return replace(
        options,
        unit_files=max(options.unit_files, -(-len(sizes) // MAX_UNITS)),
        unit_bytes=max(options.unit_bytes, -(-sum(sizes) // MAX_UNITS)),
    )


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


def _root_units(
    inputs: Sequence[tuple[str, int]], ranges: Mapping[str, Sequence[ShardRange]], options: RunOptions
) -> Iterator[Unit]:
    by_kind: dict[UnitKind, list[tuple[str, int]]] = defaultdict(list)
    for source, size in inputs:
        by_kind[input_kind(source)].append((source, size))
    for kind in _GROUPED:
        for run in _runs(by_kind[kind], _for_small_archives(by_kind[kind], options)):
            sources, sizes = zip(*run, strict=True)
            yield Unit("", kind, sources, sizes, sum(sizes))
    for source, size in inputs:
        yield from _shard_units(source, size, ranges.get(source, []))


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
    """Cut loose files or videos into runs of at most about `unit_bytes` and at most `unit_files`."""
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


def _list_lines(shards: Sequence[LargeShard], options: RunOptions) -> int:
    """How many lines of a list of URLs make a unit: as many as loose files would, if there were as many."""
    num_lines = sum(shard.num_bytes for shard in shards if shard.kind == "urls") // _USUAL_LINE_BYTES
    return min(options.unit_files, max(_MIN_UNIT_FILES, num_lines // _SMALL_ARCHIVE_UNITS))


def _large_shards(
    fresh: Mapping[str, Sequence[tuple[str, int]]], listings: Mapping[str, Listing], options: RunOptions
) -> Iterator[LargeShard]:
    for root, inputs in fresh.items():
        for source, size in inputs:
            kind = input_kind(source)
            if kind == "files" or kind == "videos":
                continue
            if kind == "urls" or size > 2 * options.unit_bytes:
                yield LargeShard(source, size, kind, listings[root].root)


def _shard_units(source: str, size: int, ranges: Sequence[ShardRange]) -> list[Unit]:
    kind = input_kind(source)
    if kind in _GROUPED:
        return []
    if len(ranges) < 2:
        return [Unit("", kind, (source,), (size,), ranges[0].num_bytes if ranges else size)]
    return [Unit("", kind, (source,), (size,), part.num_bytes, part.start, part.stop) for part in ranges]


def _name(number: int, unit: Unit) -> Unit:
    return replace(unit, name=f"unit-{number:06d}")


def _table(units: Sequence[Unit]) -> pa.Table:
    columns = {
        "unit": [unit.name for unit in units],
        "kind": [unit.kind for unit in units],
        "sources": [[source.encode("utf-8", "surrogateescape") for source in unit.sources] for unit in units],
        "sizes": [unit.sizes for unit in units],
        "num_bytes": [unit.num_bytes for unit in units],
        "start": [unit.start for unit in units],
        "stop": [unit.stop for unit in units],
    }
    return pa.table(columns, schema=_SCHEMA)


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
