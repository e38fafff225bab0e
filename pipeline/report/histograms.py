"""Histograms of the numbers that the table of faces holds, kept and rejected faces apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.types as pat

from facemill.pipeline.report.axes import Axis, choose_axis

_SHOWN_RANGE = (0.001, 0.999)  # quantiles; what lies beyond is counted in the outermost bins
_MARKED = (0.05, 0.5, 0.95)
_TOWERING, _CUT_AT = 3.0, 1.5  # times the second highest bin
_NO_MEASURES = frozenset({"face_index", "x1", "y1", "x2", "y2"})
FACE_SIZE = "face_size_px"
_SIZE_SQL = "greatest(x2 - x1, y2 - y1)"


class Limit(NamedTuple):
    """A limit of the configuration on a column."""

    key: str
    value: float


class Bin(NamedTuple):
    """Faces with a value from `low` to `high`."""

    low: float
    high: float
    num_kept: int
    num_rejected: int


@dataclass(frozen=True, eq=False)
class Histogram:
    """How the values of one column are spread.

    Attributes:
        column: Its name.
        axis: The bins.
        kept: (B,) kept faces in each bin; those beyond the ends count in the first and the last.
        rejected: (B,) faces that were not kept.
        range: The least and the largest value of all.
        quantiles: The values below which about 5, 50 and 95 % of the faces lie.
        num_missing: Faces without a finite value.
        limits: What the configuration asks of the column.
    """

    column: str
    axis: Axis
    kept: np.ndarray
    rejected: np.ndarray
    range: tuple[float, float]
    quantiles: tuple[float, ...]
    num_missing: int
    limits: tuple[Limit, ...]

    @property
    def bins(self) -> list[Bin]:
        """The bins from the lowest to the highest."""
        edges, counts = self.axis.edges.tolist(), zip(self.kept.tolist(), self.rejected.tolist(), strict=True)
        return [Bin(low, high, *pair) for low, high, pair in zip(edges[:-1], edges[1:], counts, strict=True)]

    @property
    def ceiling(self) -> float:
        """The number of faces that the chart is high; a single bin that towers above all others is cut off there."""
        *_, second, tallest = sorted([0, *(self.kept + self.rejected).tolist()])
        return _CUT_AT * second if second and tallest > _TOWERING * second else float(tallest)

    @property
    def num_values(self) -> int:
        """Faces with a number."""
        return int(self.kept.sum() + self.rejected.sum())

    @property
    def shown_limits(self) -> list[Limit]:
        """The limits within the axis; at its ends they would be off."""
        return [limit for limit in self.limits if self.axis.edges[0] < limit.value < self.axis.edges[-1]]


class _Spread(NamedTuple):
    """What the first look at a column tells."""

    num_missing: int
    least: float
    most: float
    quantiles: tuple[float, ...]  # the ends of _SHOWN_RANGE, and _MARKED between them


def measured_columns(schema: pa.Schema) -> list[str]:
    """The columns of numbers that say something of a face, and the size of its box."""
    numbers = [field.name for field in schema if pat.is_floating(field.type) or pat.is_integer(field.type)]
    shown = [name for name in numbers if name not in _NO_MEASURES]
    return [*shown[:1], FACE_SIZE, *shown[1:]]


def limits_on(column: str, judge: Mapping[str, Any]) -> tuple[Limit, ...]:
    """The limits that the section `judge` of a configuration sets on a column: `min_` and `max_` and its name."""
    limits = []
    for key in (f"min_{column}", f"max_{column}"):
        value = judge.get(key)
        if isinstance(value, int | float):
            signs = (-1, 1) if column.endswith("_deg") else (1,)  # angles are limited on both sides
            limits += [Limit(key, float(sign * value)) for sign in signs]
    return tuple(limits)


def make_histograms(
    connection: duckdb.DuckDBPyConnection, columns: Sequence[str], judge: Mapping[str, Any]
) -> list[Histogram]:
    """Histograms of columns of the view `faces`, in two passes over it; without those that hold no number."""
    numbers = ", ".join(f"{_finite(_SIZE_SQL if column == FACE_SIZE else column)} as {column}" for column in columns)
    rows = f"(select kept, {numbers} from faces)"
    spreads = _look(connection, rows, columns)
    axes = {column: _choose_axis(column, spread) for column, spread in spreads.items()}
    counts = _count(connection, rows, axes)
    return [
        Histogram(
            column=column,
            axis=axes[column],
            kept=counts[column, True],
            rejected=counts[column, False],
            range=(spread.least, spread.most),
            quantiles=spread.quantiles[1:-1],
            num_missing=spread.num_missing,
            limits=limits_on(column, judge),
        )
        for column, spread in spreads.items()
    ]


def _finite(expression: str) -> str:
    """A number, null where it is none."""
    return f"if(isfinite({expression}), ({expression})::double, null)"


def _look(connection: duckdb.DuckDBPyConnection, rows: str, columns: Sequence[str]) -> dict[str, _Spread]:
    """The spread of each column that has a number."""
    quantiles = [_SHOWN_RANGE[0], *_MARKED, _SHOWN_RANGE[1]]
    asked = [
        f"count({column}), min({column}), max({column}), approx_quantile({column}, {quantiles})" for column in columns
    ]
    num_rows, *values = connection.execute(f"select count(*), {', '.join(asked)} from {rows}").fetchall()[0]
    spreads = {}
    for column in columns:
        (num_values, least, most, marks), values = values[:4], values[4:]
        if num_values:
            spreads[column] = _Spread(num_rows - num_values, least, most, tuple(marks))
    return spreads


def _choose_axis(column: str, spread: _Spread) -> Axis:
    low, _, median, _, high = spread.quantiles
    unit = column.rpartition("_")[2]
    return choose_axis(least=spread.least, low=low, median=median, high=high, most=spread.most, unit=unit)


def _count(
    connection: duckdb.DuckDBPyConnection, rows: str, axes: Mapping[str, Axis]
) -> dict[tuple[str, bool], np.ndarray]:
    """The number of kept (True) and of rejected faces in each bin of each column."""
    counts = {(column, kept): np.zeros(axis.num_bins, int) for column, axis in axes.items() for kept in (True, False)}
    if not axes:
        return counts
    asked = ", ".join(f"histogram({column}, {axis.edges[1:].tolist()})" for column, axis in axes.items())
    for kept, *histograms in connection.execute(f"select kept, {asked} from {rows} group by kept").fetchall():
        for (column, axis), histogram in zip(axes.items(), histograms, strict=True):
            for place, (_, number) in enumerate(sorted((histogram or {}).items())):
                counts[column, kept][min(place, axis.num_bins - 1)] += number  # beyond the last edge comes one more
    return counts
