"""Write: judged and aligned images in, committed units out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import apache_beam as beam

from facemill.models.errors import OutputError
from facemill.transforms.elements import Batch, Element, EndOfUnit
from facemill.transforms.ops.committing import UnitSummary, UnitWriter
from facemill.transforms.ops.crops import WriteOptions
from facemill.transforms.ops.storage import Folder


@dataclass
class WriteUnit(beam.PTransform):
    """Writes crops and tables, and commits each unit when its end arrives.

    Args:
        output: The output folder.
        options: How crops are stored.
        fingerprint: Of the configuration, for the markers.
        templates: The names of those that the crops come in.
    """

    output: Folder
    options: WriteOptions
    fingerprint: str
    templates: tuple[str, ...]

    def expand(self, elements: beam.PCollection[Element]) -> beam.PCollection[UnitSummary]:
        """PCollection of `Element` -> PCollection of `UnitSummary`, one per committed unit."""
        write = _WriteFn(self.output, self.options, self.fingerprint, self.templates)
        return elements | "CommitUnit" >> beam.ParDo(write).with_output_types(UnitSummary)


class _WriteFn(beam.DoFn):
    """Holds the open units between elements: their batches arrive in order, and in one bundle with their end."""

    def __init__(self, output: Folder, options: WriteOptions, fingerprint: str, templates: tuple[str, ...]) -> None:
        self._output = output
        self._options = options
        self._fingerprint = fingerprint
        self._templates = templates
        self._open: dict[str, UnitWriter] = {}

    def start_bundle(self) -> None:
        self._discard_all()

    def process(self, element: Element) -> Iterator[UnitSummary]:
        if isinstance(element, Batch):
            self._add(element)
        elif isinstance(element, EndOfUnit):
            yield self._commit(element)

    def finish_bundle(self) -> None:
        if self._open:
            names = ", ".join(sorted(self._open))
            self._discard_all()
            raise OutputError(f"the runner cut units apart ({names}): their end did not come with their images")

    def teardown(self) -> None:
        self._discard_all()

    def _add(self, batch: Batch) -> None:
        writer = self._open_unit(batch.unit)
        try:
            for record in batch.records:
                writer.add(record)
        except BaseException:
            self._open.pop(batch.unit).discard()
            raise

    def _commit(self, end: EndOfUnit) -> UnitSummary:
        writer = self._open_unit(end.unit)
        del self._open[end.unit]
        try:
            return writer.commit(num_images=end.num_images, started_at=end.started_at, source_digest=end.source_digest)
        except BaseException:
            writer.discard()
            raise

    def _open_unit(self, unit: str) -> UnitWriter:
        if unit not in self._open:
            self._open[unit] = UnitWriter(self._output, unit, self._options, self._fingerprint, self._templates)
        return self._open[unit]

    def _discard_all(self) -> None:
        for writer in self._open.values():
            writer.discard()
        self._open.clear()
