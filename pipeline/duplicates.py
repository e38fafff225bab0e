"""`facemill duplicates`: groups of images that are the same file, and of faces that are the same picture."""

from __future__ import annotations

import contextlib
import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from facemill.models.errors import ConfigError, OutputError
from facemill.pipeline.outputs import Output
from facemill.pipeline.summary import read_summaries
from facemill.transforms.ops.grouping import group_near
from facemill.transforms.ops.hamming import WORDS, as_words
from facemill.transforms.ops.layout import DUPLICATES, duplicates_name
from facemill.transforms.ops.perceptual_hash import HASH_HEX_DIGITS
from facemill.transforms.ops.storage import output_error
from facemill.transforms.ops.table_writer import TableWriter

TableName = Literal["images", "faces"]

_GROUP_COLUMNS = [("group", pa.int32()), ("size", pa.int32()), ("num_labels", pa.int32())]
DUPLICATE_IMAGES_SCHEMA = pa.schema(
    [("image_id", pa.string()), ("label", pa.string()), ("sha256", pa.string()), *_GROUP_COLUMNS, ("place", pa.int32())]
)
DUPLICATE_FACES_SCHEMA = pa.schema(
    [
        ("face_id", pa.string()),
        ("image_id", pa.string()),
        ("label", pa.string()),
        *_GROUP_COLUMNS,
        ("distance", pa.int16()),
        ("place", pa.int32()),
    ]
)
DUPLICATES_SCHEMAS: dict[TableName, pa.Schema] = {"images": DUPLICATE_IMAGES_SCHEMA, "faces": DUPLICATE_FACES_SCHEMA}

# Beyond it strangers are taken for each other, and the search becomes slow.
MAX_NEAR_DISTANCE = 64
_MEMORY = "1GB"
_BATCH_ROWS = 4096


@dataclass(frozen=True)
class DuplicatesOptions:
    """What is compared, and what counts as near; ConfigError where a value is impossible.

    Attributes:
        near_distance: In how many of their 256 bits the hashes of two faces may differ.
        all_faces: Compare all faces, not those alone that are kept.
    """

    near_distance: int
    all_faces: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.near_distance <= MAX_NEAR_DISTANCE:
            raise ConfigError(f"the near distance must lie in [0, {MAX_NEAR_DISTANCE}], got {self.near_distance}")


@dataclass
class GroupCounts:
    """What was found.

    Attributes:
        num_compared: Images or faces.
        num_members: Those in groups, which have two members or more.
        num_groups: The groups.
        num_across: Those with members of more than one label.
        largest: The members of the largest.
        num_rejected: Faces that were not compared, as they are not kept.
    """

    num_compared: int
    num_members: int = 0
    num_groups: int = 0
    num_across: int = 0
    largest: int = 0
    num_rejected: int = 0

    @property
    def num_superfluous(self) -> int:
        """How many would go if one of each group stayed."""
        return self.num_members - self.num_groups

    def add(self, row: dict[str, Any]) -> None:
        """Count a row of a table of groups; the rows of a group follow each other."""
        self.num_members += 1
        if row["group"] != self.num_groups:
            self.num_groups += 1
            self.num_across += row["num_labels"] > 1
            self.largest = max(self.largest, row["size"])


def find_duplicates(
    output: Output, options: DuplicatesOptions, *, on_share: Callable[[float], None] | None = None
) -> tuple[GroupCounts, GroupCounts]:
    """Write the tables of equal images and of near faces; what was found of both.

    `on_share` is told, time and again, the share of the faces' comparing that was done since.

    Raises:
        OutputError: A table cannot be read or written.
    """
    metadata = {"facemill": json.dumps({**_made_from(output), **asdict(options)}, sort_keys=True)}
    output.folder.sweep(DUPLICATES)
    with open_database(output) as connection:
        images = GroupCounts(_number(connection, f"select count(*) from images where {_READABLE}"))
        _write(output, "images", metadata, _rows(connection, _EQUAL_IMAGES), images)
        compared = "phash is not null" if options.all_faces else "phash is not null and kept"
        connection.execute(_HASHES.format(compared=compared))
        faces = GroupCounts(_number(connection, "select coalesce(sum(num_faces), 0) from hashes"))
        if not options.all_faces:
            faces.num_rejected = _number(connection, "select count(*) from faces where not kept")
        representatives, distances = group_near(
            _read_hashes(output, connection), options.near_distance, on_share=on_share
        )
        grouped = {"row": np.arange(len(distances)), "representative": representatives, "distance": distances}
        connection.register("grouped", pa.table(grouped))
        connection.execute(_MEMBERS.format(compared=compared))
        _write(output, "faces", metadata, _rows(connection, _NEAR_FACES), faces)
    return images, faces


def check_duplicates(output: Output, table: TableName) -> DuplicatesOptions:
    """What a table of duplicates was made with.

    Raises:
        ConfigError: There is none, or it was made from other tables than the folder holds now.
    """
    name, uri = duplicates_name(table), output.folder.uri
    if not output.folder.exists(name):
        raise ConfigError(f"{uri} has no table of duplicates; make it with: facemill duplicates {uri}")
    try:
        with output.folder.fs.open(output.folder.join(name), "rb") as file:
            made = json.loads(pq.read_schema(file).metadata[b"facemill"])
        options = DuplicatesOptions(near_distance=made.pop("near_distance"), all_faces=made.pop("all_faces"))
    except (OSError, pa.ArrowException, ValueError, LookupError, TypeError) as error:
        raise OutputError(f"cannot read {output.folder.join(name)}: {error}") from error
    if made != _made_from(output):
        raise ConfigError(
            f"{output.folder.join(name)} is older than the other tables; make it again with: facemill duplicates {uri}"
        )
    return options


def _made_from(output: Output) -> dict[str, Any]:
    """What tells whether the tables changed: the committed units with their counts, as units may be done again."""
    digest = hashlib.sha256()
    for unit in read_summaries(output.folder, output.units):
        digest.update(f"{unit.unit} {unit.num_images} {unit.num_faces} {unit.num_kept}\n".encode())
    return {
        "fingerprint": output.manifest.fingerprint,
        "num_units": len(output.units),
        "units_sha256": digest.hexdigest(),
    }


@contextlib.contextmanager
def open_database(output: Output) -> Iterator[duckdb.DuckDBPyConnection]:
    """The tables in a database that takes little memory and spills into a temporary folder.

    Raises:
        OutputError: In place of what the database says of a table that it cannot read.
    """
    with (
        tempfile.TemporaryDirectory(prefix="facemill-") as folder,
        contextlib.closing(output.connect()) as connection,
    ):
        connection.execute(f"set memory_limit = '{_MEMORY}'")
        connection.execute("set temp_directory = $folder", {"folder": folder})
        connection.execute("set preserve_insertion_order = false")  # which takes memory; all that matters is ordered
        try:
            yield connection
        except (duckdb.Error, pa.ArrowException) as error:
            raise output.unreadable(error) from error


def _number(connection: duckdb.DuckDBPyConnection, query: str) -> int:
    row = connection.execute(query).fetchone()
    assert row is not None
    return int(row[0])


def _rows(connection: duckdb.DuckDBPyConnection, query: str) -> Iterator[dict[str, Any]]:
    cursor = connection.execute(query)
    names = [column[0] for column in cursor.description]
    while rows := cursor.fetchmany(_BATCH_ROWS):
        yield from (dict(zip(names, row, strict=True)) for row in rows)


def _read_hashes(output: Output, connection: duckdb.DuckDBPyConnection) -> np.ndarray:
    """The different hashes, in the order of `hashes`: (N, 4) uint64."""
    if _number(connection, f"select count(*) from hashes where length(phash) <> {HASH_HEX_DIGITS}"):
        raise OutputError(f"cannot read the tables of {output.folder.uri}: a phash has not {HASH_HEX_DIGITS} digits")
    words = np.empty((_number(connection, "select count(*) from hashes"), WORDS), np.uint64)
    cursor = connection.execute("select unhex(phash) from hashes order by row")
    start = 0
    while rows := cursor.fetchmany(_BATCH_ROWS):
        words[start : start + len(rows)] = as_words(b"".join(value for (value,) in rows))
        start += len(rows)
    return words


def _write(
    output: Output,
    table: TableName,
    metadata: dict[str, str],
    rows: Iterator[dict[str, Any]],
    counts: GroupCounts,
) -> None:
    """Write the rows of a table, and count them."""
    name = duplicates_name(table)
    schema = DUPLICATES_SCHEMAS[table]
    writer = TableWriter(output.folder, name, schema, group_rows=_BATCH_ROWS, compression="zstd", metadata=metadata)
    try:
        for row in rows:
            counts.add(row)
            writer.add([row])
        writer.commit()
    except OSError as error:
        raise output_error(output.folder.join(name), error) from error
    finally:
        writer.discard()


_READABLE = "status <> 'failed'"

_NUMBERED = """numbered as (select *, row_number() over (order by size desc, first) as "group" from sizes)"""

_EQUAL_IMAGES = f"""
    with sizes as (
        select sha256, count(*) as size, count(distinct label) as num_labels, min(image_id) as first
        from images where {_READABLE} group by sha256 having count(*) > 1
    ), {_NUMBERED}
    select image_id, label, sha256, "group", size, num_labels,
        row_number() over (partition by "group" order by image_id) as place
    from images join numbered using (sha256) where {_READABLE} order by "group", place
"""

# In an order that depends on the hashes alone, and has nothing to do with which are near: `group_near` needs both.
_HASHES = """
    create temp table hashes as
    select phash, count(*) as num_faces, row_number() over (order by md5(phash)) - 1 as row
    from faces where {compared} group by phash
"""

# A copy of half the size is about as sharp where the crop shows no more than it has, so size has to count by itself.
# `isnan` is wrong of columns of Parquet files, whose statistics leave NaN out.
QUALITY = "if(isfinite(sharpness), sharpness, 0)::double + 0.1 * log2(greatest(interocular_px, 1)::double)"

_MEMBERS = f"""
    create temp table members as
    select face_id, image_id, label, phash, representative,
        row_number() over (partition by representative order by {QUALITY} desc, distance, face_id) as place
    from faces join hashes using (phash) join grouped using (row)
    where {{compared}} and representative in (
        select representative from hashes join grouped using (row) group by representative having sum(num_faces) > 1
    )
"""

_NEAR_FACES = f"""
    with sizes as (
        select representative, count(*) as size, count(distinct label) as num_labels, min(face_id) as first,
            any_value(phash) filter (place = 1) as best
        from members group by representative
    ), {_NUMBERED}
    select face_id, image_id, label, "group", size, num_labels,
        bit_count(xor(unhex(phash)::bit, unhex(best)::bit)) as distance, place
    from members join numbered using (representative) order by "group", place
"""
