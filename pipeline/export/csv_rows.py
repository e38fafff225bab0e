"""Rows of CSV, in the same bytes from every version of Python."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable

_END = "\r\n"


def csv_row(values: Iterable[object]) -> bytes:
    """A row that ends in a line feed; null is empty.

    Up to Python 3.12 `csv` quotes a carriage return only where lines end in one; unquoted, it breaks the row.
    """
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator=_END).writerow(values)
    return text.getvalue().removesuffix(_END).encode() + b"\n"
