"""An output folder, read: what made it, its tables, and where its crops lie.

DuckDB and Arrow's datasets, which bring pandas, take 0.2 s to import: only what asks a table needs them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import pyarrow as pa

from facemill.models.errors import ConfigError, OutputError
from facemill.pipeline.config import Config, validate
from facemill.pipeline.folder_files import FOLDER_PROTOCOL, FolderFileSystem
from facemill.pipeline.manifest import Manifest, read_manifest
from facemill.pipeline.summary import LabelCounts, committed_units
from facemill.transforms.ops.committing import UnitSummary, digest_marker, read_marker
from facemill.transforms.ops.crop_reading import read_crops
from facemill.transforms.ops.layout import MANIFEST, CropStore, faces_name, images_name, marker_name, template_folders
from facemill.transforms.ops.storage import Folder
from facemill.transforms.ops.table_reader import NUM_COORDINATES, check_rows, open_table, telling_damage
from facemill.transforms.ops.tables import FACES_SCHEMA, IMAGES_SCHEMA, SCHEMA_VERSION

if TYPE_CHECKING:
    import duckdb
    import pyarrow.dataset as ds
    from pyarrow.fs import FileSystem

_TABLES: dict[str, tuple[Callable[[str], str], pa.Schema]] = {
    "images": (images_name, IMAGES_SCHEMA),
    "faces": (faces_name, FACES_SCHEMA),
}
_DAMAGED_ROWS = {
    "images": "status is null or num_faces is null or num_kept is null",
    "faces": f"kept is null or len(landmarks) <> {NUM_COORDINATES} "
    f"or list_count(landmarks) is distinct from {NUM_COORDINATES}",
}
_PATTERN = re.compile(r"[*?\[]")  # what DuckDB takes for a pattern in a path


@dataclass(frozen=True)
class Output:
    """An output folder with its committed units, of which alone the tables and crops are read.

    Attributes:
        folder: The folder.
        manifest: What made it.
        units: The names of the committed units, sorted.
    """

    folder: Folder
    manifest: Manifest
    units: tuple[str, ...]

    @cached_property
    def config(self) -> Config:
        """The configuration that made the folder."""
        return validate(self.manifest.config)

    @property
    def store(self) -> CropStore:
        """How the crops are stored."""
        return self.config.write.crops

    @property
    def templates(self) -> tuple[str, ...]:
        """The names of the templates that the crops were made with."""
        return self.config.align.templates

    @cached_property
    def crops_folder(self) -> Folder:
        """Where the crops lie: here, or in the output whose faces `facemill filter` judged anew.

        Raises:
            ConfigError: Some of the kept faces have none yet, or that output is gone.
        """
        manifest = self.manifest
        if manifest.crops_from:
            there, uri = self.find(manifest.crops_from), self.folder.uri
            if not there.exists(MANIFEST):
                raise ConfigError(
                    f"the crops of {uri} were in {there.uri}, which is gone; bring it back, or make new ones: "
                    f"facemill crop {uri} --output URI"
                )
            return there
        if manifest.filtered:
            uri = self.folder.uri
            raise ConfigError(f"{uri} has kept faces without a crop; facemill crop {uri} --output URI makes them")
        return self.folder

    def find(self, uri: str) -> Folder:
        """The output that the manifest names so; if it is gone, one of its name beside this: both may have moved."""
        there = Folder(uri, self.folder.storage_options)
        if there.exists(MANIFEST):
            return there
        parent, slash, _ = self.folder.absolute().uri.rstrip("/").rpartition("/")
        beside = Folder(parent + slash + uri.rstrip("/").rpartition("/")[2], self.folder.storage_options)
        return beside if beside.exists(MANIFEST) else there

    def images(self) -> ds.Dataset:
        """The rows of the inputs, in the order of the units."""
        return self._dataset([images_name(unit) for unit in self.units], IMAGES_SCHEMA)

    def faces(self) -> ds.Dataset:
        """The rows of the faces, in the order of the units."""
        return self._dataset([faces_name(unit) for unit in self.units], FACES_SCHEMA)

    def count_labels(self) -> LabelCounts:
        """Count the labels of the inputs with a kept face.

        Raises:
            OutputError: The tables cannot be read.
        """
        import duckdb

        query = """select count(distinct label), count(*) filter (label is not null and num_kept > 1)
            from images where num_kept > 0"""
        with self.connect() as connection:
            try:
                (row,) = connection.execute(query).fetchall()
            except duckdb.Error as error:
                raise self.unreadable(error) from error
        return LabelCounts(*row)

    def connect(self) -> duckdb.DuckDBPyConnection:
        """A database in memory with the views `images` and `faces`, which are read as they are asked for.

        Raises:
            OutputError: The tables cannot be read.
        """
        import duckdb

        connection = duckdb.connect()
        try:
            for view, (name_of, schema) in _TABLES.items():
                self._add_table(connection, view, name_of, schema)
        except OutputError:
            connection.close()
            raise
        return connection

    def add_view(self, connection: duckdb.DuckDBPyConnection, view: str, names: Sequence[str]) -> None:
        """Let a connection read Parquet files of the folder, by their names, as one view.

        DuckDB reads them by itself: with Arrow's datasets of a store it waited for ever, once in a hundred times.

        Raises:
            OutputError: They cannot be read.
        """
        import duckdb

        paths = [_PATTERN.sub(r"[\g<0>]", self.folder.join(name)) for name in names]
        if not self.folder.is_local:
            if not connection.filesystem_is_registered(FOLDER_PROTOCOL):
                connection.register_filesystem(FolderFileSystem(self.folder))
            paths = [f"{FOLDER_PROTOCOL}://{name}" for name in names]
        try:
            connection.read_parquet(paths, hive_partitioning=False).create_view(view)
        except (OSError, duckdb.Error) as error:
            raise self.unreadable(error) from error

    def check_rows(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Make sure that the rows of the views hold what every row has.

        Raises:
            OutputError: Some do not; of a folder on this machine it names the damaged table.
        """
        for view, condition in _DAMAGED_ROWS.items():
            if connection.execute(f"select 1 from {view} where {condition} limit 1").fetchall():
                raise self.unreadable(ValueError(f"{view} have rows that lack a value"))

    def unreadable(self, error: Exception) -> OutputError:
        """What to raise where a database cannot read the tables: of those on this machine it names the damaged one."""
        for unit in self.units if self.folder.is_local else ():
            for name_of, schema in _TABLES.values():
                name = name_of(unit)
                try:
                    with open_table(self.folder, name, schema) as table, telling_damage(self.folder.shown(name)):
                        for batch in table.iter_batches():
                            check_rows(batch)
                except OutputError as damage:
                    return damage
        why = (str(error).splitlines() or [type(error).__name__])[0]
        return OutputError(f"cannot read the tables of {self.folder.uri}: {why}")

    def crops(self, unit: str, template: str | None = None) -> Iterator[tuple[str, bytes]]:
        """Name and encoded bytes of a unit's crops; `template` may be left out where there is one alone.

        Raises:
            OutputError: They are missing or damaged.
            ConfigError: There is no such template, or several to choose from.
        """
        there = self.crops_folder
        if there is not self.folder:
            self._check_unchanged(there, unit)
        crops = read_crops(there, unit, self.store, self._crops_subfolder(template))
        if there is self.folder:
            return crops
        kept = self._crop_names(unit)
        return (crop for crop in crops if crop[0] in kept)

    def _check_unchanged(self, there: Folder, unit: str) -> None:
        """Refuse crops of another run than that whose faces were judged anew; their names may be the same."""
        marker = self.folder.shown(marker_name(unit))
        wanted = UnitSummary.from_json(read_marker(self.folder, unit), marker).crops_digest
        if digest_marker(read_marker(there, unit)) != wanted:
            raise OutputError(
                f"{unit} in {there.uri} is another than the one whose faces {self.folder.uri} judged anew; "
                "judge them again with facemill filter, into a new folder"
            )

    def check_crops(self, template: str | None = None) -> None:
        """Make sure, without reading any, that `crops` can be asked for this template.

        Raises:
            ConfigError: There is no such template, several to choose from, or faces without a crop.
        """
        _ = self.crops_folder
        self._crops_subfolder(template)

    def _crop_names(self, unit: str) -> frozenset[str]:
        with open_table(self.folder, faces_name(unit), FACES_SCHEMA) as faces:
            return frozenset(faces.read(["crop"])["crop"].drop_null().to_pylist())

    def _crops_subfolder(self, template: str | None) -> str:
        if template is None and len(self.templates) > 1:
            raise ConfigError(f"{self.folder.uri} holds crops of {', '.join(self.templates)}; name one with --template")
        if template is not None and template not in self.templates:
            raise ConfigError(
                f"{self.folder.uri} holds no crops of the template {template!r}; there are {', '.join(self.templates)}"
            )
        return template_folders(self.templates)[self.templates.index(template) if template else 0]

    def _add_table(
        self, connection: duckdb.DuckDBPyConnection, view: str, name_of: Callable[[str], str], schema: pa.Schema
    ) -> None:
        if self.units:
            self.add_view(connection, view, [name_of(unit) for unit in self.units])
            there = connection.view(view).columns
            missing = [name for name in schema.names if name not in there]
            if missing:
                raise self.unreadable(ValueError(f"{view} lack the column {missing[0]}"))
        else:
            connection.register(view, schema.empty_table())

    def _dataset(self, names: list[str], schema: pa.Schema) -> ds.Dataset:
        import pyarrow.dataset as ds

        if not names:
            return ds.dataset(schema.empty_table())
        paths = [self.folder.join(name) for name in names]
        try:
            return ds.dataset(paths, schema=schema, format="parquet", filesystem=_arrow_fs(self.folder))
        except (OSError, pa.ArrowException) as error:
            raise OutputError(f"cannot read the tables of {self.folder.uri}: {error}") from error


def open_output(folder: Folder) -> Output:
    """The output folder at `folder`.

    Raises:
        ConfigError: There is none, or it was made by another version.
        DamagedOutputError: Its manifest is damaged.
    """
    try:
        manifest = read_manifest(folder)
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(f"cannot read {folder.uri}: {error}") from error
    if manifest is None:
        raise ConfigError(f"{folder.uri} is no output folder of facemill: it holds no manifest.json")
    if manifest.schema_version != SCHEMA_VERSION:
        raise ConfigError(
            f"{folder.uri} holds tables of version {manifest.schema_version}, this facemill reads version "
            f"{SCHEMA_VERSION}; run facemill again into a new folder"
        )
    return Output(folder, manifest, tuple(sorted(committed_units(folder))))


def _arrow_fs(folder: Folder) -> FileSystem:
    from pyarrow.fs import FSSpecHandler, LocalFileSystem, PyFileSystem

    # Arrow (25.0) hangs now and then, where a reader of many files is made and its threads wait for Python.
    return LocalFileSystem() if folder.is_local else PyFileSystem(FSSpecHandler(folder.fs))
