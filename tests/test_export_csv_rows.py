"""Rows of CSV, whose bytes must not depend on the version of Python."""

from __future__ import annotations

import csv

import pytest

from facemill.pipeline.export.csv_rows import csv_row


@pytest.mark.parametrize(
    ("values", "row"),
    [
        (["a", 1, None, 0.5, ""], b"a,1,,0.5,\n"),
        (["a,b", 'c"d'], b'"a,b","c""d"\n'),
        (["new\nline", "carriage\rreturn", "\r\n"], b'"new\nline","carriage\rreturn","\r\n"\n'),
        (["é", "="], "é,=\n".encode()),
    ],
)
def test_csv_row(values: list[object], row: bytes) -> None:
    assert csv_row(values) == row
    assert list(csv.reader([row.decode()])) == [["" if value is None else str(value) for value in values]]
