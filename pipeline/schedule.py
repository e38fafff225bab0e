"""What is still to do, as it travels in a runner's job: references to the plan, not the units themselves.

A unit of loose files names up to thousands of files, and runners refuse jobs of more than some megabytes. So the job
says which rows of the plan's Parquet files are pending, 64 to a reference, and a worker reads the units from there.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass

import apache_beam as beam
import pyarrow.parquet as pq

from facemill.pipeline.plan import plan_files, units_of
from facemill.transforms.ops.layout import PLAN
from facemill.transforms.ops.storage import Folder
from facemill.transforms.ops.units import Unit


@dataclass(frozen=True, slots=True)
class PlanRows:
    """Some rows of one row group of one of the plan's files."""

    file: str
    row_group: int
    rows: tuple[int, ...]


def pending_rows(output: Folder, pending: frozenset[str]) -> list[PlanRows]:
    """Where the plan keeps the units of these names, in the order of the plan."""
    found = []
    for name in plan_files(output):
        file = pq.ParquetFile(io.BytesIO(output.read_bytes(f"{PLAN}/{name}")))
        for row_group in range(file.num_row_groups):
            units = file.read_row_group(row_group, columns=["unit"])["unit"].to_pylist()
            rows = tuple(row for row, unit in enumerate(units) if unit in pending)
            if rows:
                found.append(PlanRows(name, row_group, rows))
    return found


class ReadPlan(beam.PTransform):
    """Makes units of references to the plan, and spreads them over the workers.

    Args:
        output: The output folder, which holds the plan.
        references: What `pending_rows` found.
    """

    def __init__(self, output: Folder, references: list[PlanRows]) -> None:
        super().__init__()
        self._output = output
        self._references = references

    def expand(self, begin: beam.pvalue.PBegin) -> beam.PCollection[Unit]:
        """The start of a pipeline -> PCollection of `Unit`."""
        return (
            begin
            | "References" >> beam.Create(self._references, reshuffle=False)
            | "ReadUnits" >> beam.ParDo(_ReadPlanFn(self._output)).with_output_types(Unit)
            | "Spread" >> beam.Reshuffle()
        )


class _ReadPlanFn(beam.DoFn):
    def __init__(self, output: Folder) -> None:
        self._output = output
        self._name = ""
        self._file: pq.ParquetFile | None = None

    def process(self, reference: PlanRows) -> Iterator[Unit]:
        table = self._open(reference.file).read_row_group(reference.row_group)
        yield from units_of(table.take(list(reference.rows)))

    def teardown(self) -> None:
        self._close()

    def _open(self, name: str) -> pq.ParquetFile:
        if self._file is None or self._name != name:
            self._close()
            self._name = name
            self._file = pq.ParquetFile(self._output.fs.open(self._output.join(f"{PLAN}/{name}"), "rb"))
        return self._file

    def _close(self) -> None:
        if self._file is not None:
            self._file.close(force=True)
            self._file = None
