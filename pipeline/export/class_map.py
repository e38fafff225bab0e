"""The class map: which label has which class, in three forms."""

from __future__ import annotations

import json
from collections.abc import Iterable

from facemill.pipeline.export.csv_rows import csv_row
from facemill.pipeline.export.destination import Destination
from facemill.pipeline.export.selection import SelectedClass

CLASS_MAP = ("classes.csv", "classes.json", "classes.txt")


def write_class_map(destination: Destination, classes: Iterable[SelectedClass]) -> None:
    """Write `classes.csv` (all), `classes.json` (label to class) and `classes.txt` (names, in order of the classes)."""
    with (
        destination.create("classes.csv") as table,
        destination.create("classes.json") as mapping,
        destination.create("classes.txt") as names,
    ):
        table.write(csv_row(["class", "label", "name", "split", "faces"]))
        mapping.write(b"{")
        for found in classes:
            table.write(csv_row([found.index, found.label, found.name, found.split, found.num_faces]))
            comma = ",\n" if found.index else "\n"
            mapping.write(f"{comma}{json.dumps(found.label, ensure_ascii=False)}: {found.index}".encode())
            names.write(f"{found.name}\n".encode())
        mapping.write(b"\n}\n")
