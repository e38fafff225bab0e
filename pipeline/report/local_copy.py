"""The tables of an output on a store, copied here: they are asked time and again, and each time would cost requests."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from pathlib import Path

from facemill.models.errors import OutputError
from facemill.pipeline.outputs import Output
from facemill.pipeline.report.duplicates import TABLES
from facemill.transforms.ops.layout import duplicates_name, faces_name, images_name
from facemill.transforms.ops.storage import Folder

_FETCHED_AT_ONCE = 64


@contextmanager
def tables_at_hand(output: Output) -> Iterator[Output]:
    """The output itself where it is on a local disk; else one whose folder holds copies of the tables alone.

    Raises:
        OutputError: The store does not give them.
    """
    if output.folder.is_local:
        yield output
        return
    with tempfile.TemporaryDirectory() as copy:
        try:
            _fetch(output, Path(copy))
        except OSError as error:
            why = error.strerror or error
            raise OutputError(f"cannot read the tables of {output.folder.uri}: {why}") from error
        yield replace(output, folder=Folder(copy))


def _fetch(output: Output, copy: Path) -> None:
    names = list(chain.from_iterable((images_name(unit), faces_name(unit)) for unit in output.units))
    names += [name for name in map(duplicates_name, TABLES) if output.folder.exists(name)]
    for start in range(0, len(names), _FETCHED_AT_ONCE):
        for name, content in output.folder.read_many(names[start : start + _FETCHED_AT_ONCE]).items():
            (copy / name).parent.mkdir(exist_ok=True)
            (copy / name).write_bytes(content)
