"""Choosing the faces of an export, dividing them and putting them in order, by DuckDB, which goes to disk at need."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pyarrow as pa

from facemill.models.errors import ConfigError, OutputError
from facemill.pipeline.export.duplicates import KEYS, read_duplicates
from facemill.pipeline.export.identity_splits import assign_split
from facemill.pipeline.export.names import class_name, folded, marked_name
from facemill.pipeline.export.options import ExportOptions
from facemill.pipeline.export.record import explain_nothing
from facemill.pipeline.export.selection import FACE_COLUMNS, Counts, SelectedSplit, Selection
from facemill.pipeline.outputs import Output
from facemill.transforms.ops.layout import faces_name
from facemill.transforms.ops.table_reader import check_rows, open_table, telling_damage
from facemill.transforms.ops.tables import FACES_SCHEMA

_MEMORY = "1GB"
_NUM_THREADS = 4
_BATCH_ROWS = 100_000
_SCHEMA = pa.schema([FACES_SCHEMA.field(name) for name in (*FACE_COLUMNS, "unit", "crop", "kept")])
_DATABASE = "selection.duckdb"


@contextmanager
def select_faces(output: Output, options: ExportOptions, scratch: Path, *, by_class: bool) -> Iterator[Selection]:
    """The faces to export, in a database in the folder `scratch`.

    Args:
        output: The output folder with the tables.
        options: Which faces, and how they are divided.
        scratch: An empty folder.
        by_class: Put the faces in order of their classes, and at random only within these.

    Raises:
        ConfigError: The options leave no face, or none in a split.
        OutputError: The tables cannot be read, or the disk is full.
    """
    with contextlib.closing(duckdb.connect(str(scratch / _DATABASE))) as connection:
        try:
            connection.execute(f"set memory_limit = '{_MEMORY}'")
            connection.execute(f"set threads = {_NUM_THREADS}")
            counts = _choose(connection, output, options)
            splits = _divide(connection, options)
            _put_in_order(connection, by_class=by_class)
            counts.exported = _number(connection, "select count(*) from faces")
            counts.exported_unlabelled = _number(connection, "select count(*) from faces where class < 0")
            counts.shared = _number(connection, _SHARED)
            digest = _digest(connection)
        except (duckdb.Error, pa.ArrowException, OSError) as error:
            reason = str(error).partition("\n")[0]
            raise OutputError(f"cannot select the faces of {output.folder.uri}: {reason}") from error
        yield Selection(connection, counts, splits, digest)


def _choose(connection: duckdb.DuckDBPyConnection, output: Output, options: ExportOptions) -> Counts:
    """Fill `candidates`, and take away what the options do not want, one rule after the other."""
    counts = Counts()
    _gather(connection, output, options.seed, counts)
    counts.kept = _number(connection, "select count(*) from candidates")
    num_without = _number(connection, "select count(*) from candidates where crop is null")
    if num_without:
        raise ConfigError(
            f"{num_without:,} of {counts.kept:,} kept faces of {output.folder.uri} have no crop; "
            "facemill crop makes them"
        )
    counts.unlabelled = _leave_out_unlabelled(connection, options)
    if options.drop_duplicates is not None:
        connection.execute("create table duplicates (key varchar, number bigint, place bigint)")
        _insert(connection, "duplicates", "* from part", read_duplicates(output, options.drop_duplicates))
        counts.duplicates = _delete(connection, _DUPLICATES.format(key=KEYS[options.drop_duplicates]))
    if options.min_images > 1:
        few = f"is_labelled and identity in ({_FEW} {options.min_images})"
        counts.identities_too_few = _number(connection, f"select count(*) from ({_FEW} {options.min_images})")
        counts.too_few = _delete(connection, few)
    if options.max_images is not None:
        counts.too_many = _delete(connection, f"rowid in ({_DRAWN} where drawn > {options.max_images})")
    if not _number(connection, "select count(*) from candidates"):
        raise ConfigError(f"no face of {output.folder.uri} is left to export: {explain_nothing(counts, options)}")
    return counts


def _gather(connection: duckdb.DuckDBPyConnection, output: Output, seed: int, counts: Counts) -> None:
    """Fill `candidates` with the kept faces, and count all."""
    made = f"""* exclude (kept), label is not null as is_labelled, coalesce(label, image_id) as identity,
        md5({seed} || '/' || face_id) as draw"""
    connection.register("part", _SCHEMA.empty_table())
    connection.execute(f"create table candidates as select {made} from part")
    _insert(connection, "candidates", f"{made} from part where kept", _read_faces(output, counts))


def _read_faces(output: Output, counts: Counts) -> Iterator[pa.RecordBatch]:
    """The rows of all faces, file by file: Arrow's data sets take memory that grows with the number of rows."""
    for unit in output.units:
        name = faces_name(unit)
        with open_table(output.folder, name, _SCHEMA) as faces, telling_damage(output.folder.shown(name)):
            for batch in faces.iter_batches(columns=_SCHEMA.names, use_threads=False):
                check_rows(batch)
                counts.faces += batch.num_rows
                yield batch


def _insert(
    connection: duckdb.DuckDBPyConnection, table: str, selected: str, batches: Iterable[pa.RecordBatch]
) -> None:
    for part in _in_parts(batches, _BATCH_ROWS):
        connection.register("part", part)
        connection.execute(f"insert into {table} select {selected}")
        connection.unregister("part")


def _in_parts(batches: Iterable[pa.RecordBatch], num_rows: int) -> Iterator[pa.Table]:
    """Tables of `num_rows` rows or some more."""
    gathered: list[pa.RecordBatch] = []
    for batch in batches:
        gathered.append(batch)
        if sum(part.num_rows for part in gathered) >= num_rows:
            yield pa.Table.from_batches(gathered)
            gathered = []
    if gathered:
        yield pa.Table.from_batches(gathered)


_DUPLICATES = """{key} in (select {key} from (
    select key as {key}, row_number() over (partition by number order by place) as rank from duplicates
    where key in (select {key} from candidates)) where rank > 1)"""
_FEW = "select identity from candidates where is_labelled group by identity having count(*) <"
_SHARED = """select count(*) from (select image_id from faces where class >= 0
    group by image_id having count(*) > 1)"""
_DRAWN = """select rowid from (select rowid, row_number() over (partition by identity order by draw) as drawn
    from candidates where is_labelled)"""


def _leave_out_unlabelled(connection: duckdb.DuckDBPyConnection, options: ExportOptions) -> int:
    if options.unlabelled == "keep":
        return 0
    number = _delete(connection, "not is_labelled")
    if number and options.unlabelled == "error":
        raise ConfigError(f"{number:,} kept faces have no label; --unlabelled drop or keep says what to do with them")
    return number


def _divide(connection: duckdb.DuckDBPyConnection, options: ExportOptions) -> tuple[SelectedSplit, ...]:
    """Fill `groups`, one row per identity or unlabelled image, and `classes`; the faces and classes of each split."""
    connection.execute(
        """create table groups (is_labelled bool, identity varchar, num_faces bigint, split integer,
        plain_name varchar, marked_name varchar, folded varchar)"""
    )
    for batch in _grouped(connection, options):
        connection.register("batch", batch)
        connection.execute("insert into groups select * from batch")
        connection.unregister("batch")
    connection.execute(
        """create table classes as
        select row_number() over (order by split, name) - 1 as class, name, identity, split, num_faces from (
            select if(count(*) over (partition by folded) > 1, marked_name, plain_name) as name,
            identity, split, num_faces
            from groups where is_labelled) order by class"""
    )
    return tuple(_count_splits(connection, options))


def _grouped(connection: duckdb.DuckDBPyConnection, options: ExportOptions) -> Iterator[pa.Table]:
    cursor = connection.cursor().execute(
        "select is_labelled, identity, count(*) from candidates group by is_labelled, identity"
    )
    while rows := cursor.fetchmany(_BATCH_ROWS):
        is_labelled, identities, num_faces = zip(*rows, strict=True)
        names = [class_name(identity) for identity in identities]
        yield pa.table(
            {
                "is_labelled": is_labelled,
                "identity": identities,
                "num_faces": num_faces,
                "split": [assign_split(identity, options.splits, options.seed) for identity in identities],
                "plain_name": names,
                "marked_name": [marked_name(identity) for identity in identities],
                "folded": [folded(name) for name in names],
            }
        )


def _count_splits(connection: duckdb.DuckDBPyConnection, options: ExportOptions) -> Iterator[SelectedSplit]:
    rows = connection.execute(
        """select split, sum(num_faces)::bigint, count(*) filter (is_labelled), count(*)
        from groups group by split"""
    ).fetchall()
    found = {split: counts for split, *counts in rows}
    start = first_class = 0
    num_identities = sum(number for _, _, number in found.values())
    for index, split in enumerate(options.splits):
        if index not in found:
            raise ConfigError(
                f"none of the {num_identities:,} identities falls into {split.name}; "
                "give it a larger share, or another --seed"
            )
        num_faces, num_classes, _ = found[index]
        yield SelectedSplit(split.name, start, num_faces, first_class, num_classes)
        start, first_class = start + num_faces, first_class + num_classes


def _put_in_order(connection: duckdb.DuckDBPyConnection, *, by_class: bool) -> None:
    """Fill `rows`, whose row ids then are the positions."""
    columns = ", ".join(f'f."{name}"' for name in FACE_COLUMNS)
    order = "split, class, draw" if by_class else "split, draw"
    connection.execute(
        f"""create table faces as
        select {columns}, f.unit, f.crop, f.identity, g.split, coalesce(c.class, -1) as class, c.name as class_name
        from candidates f join groups g on f.is_labelled = g.is_labelled and f.identity = g.identity
        left join classes c on f.is_labelled and f.identity = c.identity order by {order}"""
    )
    connection.execute("drop table candidates")


def _digest(connection: duckdb.DuckDBPyConnection) -> str:
    """Of the set of rows, in whatever order."""
    number = _number(
        connection,
        "select bit_xor(md5_number(to_json(face))) from (select * exclude (unit, crop) from faces) face",
    )
    return f"{number % 2**128:032x}"


def _delete(connection: duckdb.DuckDBPyConnection, condition: str) -> int:
    return _number(connection, f"delete from candidates where {condition}")


def _number(connection: duckdb.DuckDBPyConnection, query: str) -> int:
    row = connection.execute(query).fetchone()
    assert row is not None
    return int(row[0])
