"""Lists of URLs: one a line, with a label behind it if there is one."""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Literal, NamedTuple

from facemill.models.errors import BadInputError
from facemill.transforms.ops.credentials import without_credentials
from facemill.transforms.ops.members import ShardRange, file_size
from facemill.transforms.ops.records import Failure

Delimiter = Literal["\t", ","]

_URL_COLUMN, _LABEL_COLUMN = "url", "label"
_MAX_LINE_BYTES = 64 * 1024
_MAX_NAME_CHARS = 1000
_MAX_RANGES = 1000  # as the reader of each goes through the list from its start
_USUAL_IMAGE_BYTES = 100_000
_CHUNK_BYTES = 1 << 20
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://(?=.)")


class UrlLine(NamedTuple):
    """A line of a list: either `url` or `failure` is set."""

    name: str  # its number, and the URL without credentials
    url: str | None
    label: str | None = None
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class _Columns:
    delimiter: Delimiter
    url: int
    label: int | None
    first_line: int  # behind the names of the columns


def delimiter_of(path: str) -> Delimiter:
    """What separates the columns of a list of this name."""
    return "," if path.lower().endswith(".csv") else "\t"


def iterate_lines(
    file: BinaryIO,
    *,
    delimiter: Delimiter,
    url_column: str | None = None,
    label_column: str | None = None,
    start: int = 0,
    stop: int | None = None,
) -> Iterator[UrlLine]:
    """The lines [start, stop) of a list, counted from 0, that are neither blank nor a comment.

    A first line with a cell `url`, or called as is asked for, names the columns. Without it the first column is the URL
    and the second, if there is one, the label.

    Raises:
        BadInputError: The file has no bytes, or not the column of labels that is asked for.
    """
    if file_size(file) == 0:
        raise BadInputError("empty", "the file has no bytes")
    file.seek(0)
    lines = _lines(file)
    first = next(lines)
    columns = _find_columns(first, delimiter, url_column, label_column)
    for number, line in itertools.islice(enumerate(itertools.chain([first], lines), start=1), start, stop):
        if number >= columns.first_line and (entry := _parse(number, line, columns)) is not None:
            yield entry


def split_lines(file: BinaryIO, target_lines: int) -> list[ShardRange]:
    """Ranges of `target_lines` lines; goes through the list, not through what it names."""
    file_size(file)
    file.seek(0)
    num_lines, last = 0, b"\n"
    while chunk := file.read(_CHUNK_BYTES):
        num_lines += chunk.count(b"\n")
        last = chunk[-1:]
    num_lines += last != b"\n"
    step = max(target_lines, -(-num_lines // _MAX_RANGES))
    bounds = [*range(0, max(1, num_lines), step), num_lines]
    return [ShardRange(start, stop, (stop - start) * _USUAL_IMAGE_BYTES) for start, stop in itertools.pairwise(bounds)]


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """The lines of a file; of a long one a part, which is longer than may be."""
    rest = b""
    while chunk := file.read(_CHUNK_BYTES):
        *lines, rest = (rest + chunk).split(b"\n")
        yield from lines
        rest = rest[: _MAX_LINE_BYTES + 1]
    if rest:
        yield rest


def _find_columns(line: bytes, delimiter: Delimiter, url_column: str | None, label_column: str | None) -> _Columns:
    names = [cell.strip() for cell in _cells(line.decode("utf-8-sig", "replace").strip("\r\n"), delimiter)]
    url = next((name for name in (url_column, _URL_COLUMN) if name in names), None)
    if url is None:
        return _Columns(delimiter, url=0, label=1, first_line=1)
    label = label_column or _LABEL_COLUMN
    if label_column is not None and label not in names:
        raise BadInputError("read_error", f"no column {label!r}, columns are: {', '.join(names)[:300]}")
    return _Columns(delimiter, names.index(url), names.index(label) if label in names else None, first_line=2)


def _parse(number: int, line: bytes, columns: _Columns) -> UrlLine | None:
    """The URL and label of a line; None where it is blank or a comment."""
    name = f"{number:08d}"
    if len(line) > _MAX_LINE_BYTES:
        return _failed(name, None, f"a line of more than {_MAX_LINE_BYTES} bytes")
    try:
        text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip("\r\n")
    except UnicodeDecodeError:
        return _failed(name, None, "the line is not UTF-8")
    if not text.strip() or text.lstrip().startswith("#"):
        return None
    cells = [cell.strip() for cell in _cells(text, columns.delimiter)]
    url, label = (_cell(cells, index) for index in (columns.url, columns.label))
    if " " in url or not url.isprintable():
        return _failed(name, label, "a URL with spaces or control characters; they are written like %20")
    scheme = _SCHEME.match(url)
    if scheme is None:
        return _failed(name, label, "no URL: it begins like https://")
    url = scheme[0].lower() + url[scheme.end() :]
    return UrlLine(f"{name}/{without_credentials(url)[:_MAX_NAME_CHARS]}", url, label or None)


def _cells(text: str, delimiter: Delimiter) -> list[str]:
    """The cells of a line; the whole line where it is no CSV."""
    if delimiter == "\t":
        return text.split("\t")
    try:
        return next(csv.reader([text]), [])
    except csv.Error:
        return [text]


def _cell(cells: list[str], index: int | None) -> str:
    return cells[index] if index is not None and index < len(cells) else ""


def _failed(name: str, label: str | None, message: str) -> UrlLine:
    return UrlLine(name, None, label or None, Failure("read_error", message))
