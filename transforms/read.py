"""Read: units in, batches of encoded images out."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import apache_beam as beam

from facemill.transforms.elements import Batch, Element, EndOfUnit
from facemill.transforms.ops import heartbeat
from facemill.transforms.ops.committing import digest_marker, read_marker
from facemill.transforms.ops.layout import marker_name
from facemill.transforms.ops.reading import InputRoots, ReadOptions, read_unit
from facemill.transforms.ops.recalling import recall_unit
from facemill.transforms.ops.records import ImageRecord
from facemill.transforms.ops.storage import Folder
from facemill.transforms.ops.units import Unit

_MAX_RECORDS = 4096  # of a batch, as there are some without a file


@dataclass
class ReadImages(beam.PTransform):
    """Reads the images of each unit, unless the unit is committed already.

    Args:
        roots: The input roots by name.
        options: Labels, limits and columns.
        output: The output folder, where commit markers are looked up.
        batch_bytes: A batch is closed when its encoded files reach this many bytes.
        quarantined: Positions, by unit, of images that are not to be touched again, as they killed the worker.
        tables: An earlier output folder with the faces of these units, or None where they are to be found.
    """

    roots: InputRoots
    options: ReadOptions
    output: Folder
    batch_bytes: int
    quarantined: Mapping[str, tuple[int, ...]]
    tables: Folder | None = None

    def expand(self, units: beam.PCollection[Unit]) -> beam.PCollection[Element]:
        """PCollection of `Unit` -> PCollection of `Element`; with `tables`, the `faces` are there as well."""
        read = _ReadFn(self.roots, self.options, self.output, self.batch_bytes, self.quarantined, self.tables)
        return units | "ReadUnit" >> beam.ParDo(read).with_output_types(Element)


class _ReadFn(beam.DoFn):
    def __init__(
        self,
        roots: InputRoots,
        options: ReadOptions,
        output: Folder,
        batch_bytes: int,
        quarantined: Mapping[str, tuple[int, ...]],
        tables: Folder | None,
    ) -> None:
        self._roots = roots
        self._options = options
        self._output = output
        self._batch_bytes = batch_bytes
        self._quarantined = quarantined
        self._tables = tables

    def process(self, unit: Unit) -> Iterator[Element]:
        if not self._output.exists(marker_name(unit.name)):  # so that a unit that is handed out twice is harmless
            yield from self._read(unit)

    def _read(self, unit: Unit) -> Iterator[Element]:
        heartbeat.begin_unit()
        started_at = time.time()
        # Before the tables: if they are written anew meanwhile, the marker that then comes is another one.
        source_digest = digest_marker(read_marker(self._tables, unit.name)) if self._tables is not None else ""
        num_images = 0
        for records in _batched(self._records(unit), self._batch_bytes):
            num_images += len(records)
            yield Batch(unit.name, records)
        yield EndOfUnit(unit.name, num_images, started_at, source_digest)

    def _records(self, unit: Unit) -> Iterator[ImageRecord]:
        skip = frozenset(self._quarantined.get(unit.name, ()))
        if self._tables is None:
            return read_unit(unit, self._roots, self._options, skip=skip)
        return recall_unit(unit, self._tables, self._roots, self._options, skip=skip)


def _batched(records: Iterator[ImageRecord], batch_bytes: int) -> Iterator[tuple[ImageRecord, ...]]:
    batch: list[ImageRecord] = []
    num_bytes = 0
    for record in records:
        batch.append(record)
        num_bytes += len(record.data or b"")
        if num_bytes >= batch_bytes or len(batch) == _MAX_RECORDS:
            yield tuple(batch)
            batch, num_bytes = [], 0
    if batch:
        yield tuple(batch)
