"""A picture of groups of near faces, for people to look at."""

from __future__ import annotations

import itertools
import os
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import pyarrow as pa

from facemill.models.errors import ConfigError, OutputError
from facemill.pipeline.duplicates import DUPLICATES_SCHEMAS, open_database
from facemill.pipeline.outputs import Output
from facemill.transforms.ops.crops import WriteOptions, encode_crop
from facemill.transforms.ops.drawing import contact_sheet
from facemill.transforms.ops.layout import duplicates_name
from facemill.transforms.ops.reading import printable
from facemill.transforms.ops.storage import Folder
from facemill.transforms.ops.table_reader import open_table

_COLUMNS = 8
_TILE_PX = 112
_GREY = 128

_CHOSEN = f"""
    with groups as (select distinct "group", num_labels from duplicates),
    chosen as (
        select "group", row_number() over (order by num_labels > 1 desc, "group") as row
        from groups order by row limit $num_groups
    ),
    members as (
        select face_id, label, "group", place, distance, row
        from duplicates join chosen using ("group") where place <= {_COLUMNS}
    )
    select "group", members.label, distance, unit, crop
    from members join faces using (face_id) order by row, place
"""


class _Face(NamedTuple):
    group: int
    label: str | None
    distance: int
    unit: str
    crop: str | None  # its name; a face that is not kept has none


def check_drawable(output: Output, target: str) -> None:
    """Refuse what names no file, and an output folder without crops.

    Raises:
        ConfigError: Says which.
    """
    if not os.path.basename(target) or os.path.isdir(target):
        raise ConfigError(f"--draw {target} names a folder; name a file")
    if not target.lower().endswith(".png"):
        raise ConfigError(f"--draw {target}: name a file that ends in .png")
    _ = output.crops_folder
    if output.store == "none":
        raise ConfigError(f"--draw needs crops, and {output.folder.uri} was made with write.crops=none")


def draw_groups(output: Output, target: Folder, name: str, *, num_groups: int) -> int:
    """Draw the first groups of `duplicates/faces.parquet` as a PNG; how many there were to draw.

    Those across labels come first, and then the largest. Of each the first eight faces are shown with their labels: the
    one to keep under the group's number, the others under their distance from it.

    Raises:
        OutputError: A table or a crop cannot be read, or the picture cannot be written.
    """
    faces = _choose(output, num_groups)
    crops = _read_crops(output, faces)
    tiles: list[np.ndarray] = []
    captions: list[str] = []
    groups = [list(group) for _, group in itertools.groupby(faces, key=lambda face: face.group)]
    for group in groups:
        width = next(width for width in (2, 4, _COLUMNS) if len(group) <= width)
        before = -len(tiles) % _COLUMNS
        before = before if width > before else 0  # a group does not begin in a row that it does not fit in
        blanks_before, blanks_after = ([_blank()] * number for number in (before, width - len(group)))
        tiles += [*blanks_before, *(crops.get((face.unit, face.crop), _blank()) for face in group), *blanks_after]
        captions += [""] * before + _captions(group) + [""] * (width - len(group))
    if groups:
        sheet = contact_sheet(tiles, columns=_COLUMNS, captions=captions)
        target.write_bytes(name, encode_crop(sheet, WriteOptions(image_format="png")))
    return len(groups)


def _choose(output: Output, num_groups: int) -> list[_Face]:
    columns = ["face_id", "label", "group", "place", "num_labels", "distance"]
    with (
        open_database(output) as connection,
        open_table(output.folder, duplicates_name("faces"), DUPLICATES_SCHEMAS["faces"]) as table,
    ):
        connection.register("part", table.schema_arrow.empty_table().select(columns))
        connection.execute("create temp table duplicates as select * from part")
        for batch in table.iter_batches(columns=columns, use_threads=False):
            connection.register("part", pa.Table.from_batches([batch]))
            connection.execute("insert into duplicates by name select * from part")
        return [_Face(*row) for row in connection.execute(_CHOSEN, {"num_groups": num_groups}).fetchall()]


def _read_crops(output: Output, faces: Sequence[_Face]) -> dict[tuple[str, str | None], np.ndarray]:
    """The crops of these faces as tiles, by unit and name."""
    wanted: dict[str, set[str]] = defaultdict(set)
    for face in faces:
        if face.crop is not None:
            wanted[face.unit].add(face.crop)
    tiles: dict[tuple[str, str | None], np.ndarray] = {}
    for unit, names in sorted(wanted.items()):
        for name, content in output.crops(unit, output.templates[0]):
            if name in names:
                tiles[unit, name] = _tile(name, content)
                names.remove(name)
            if not names:
                break
        if names:
            raise OutputError(f"the unit {unit} of {output.folder.uri} lacks the crop {min(names)}")
    return tiles


def _tile(name: str, content: bytes) -> np.ndarray:
    """A crop no larger than a tile: encoded bytes -> (h, w, 3) uint8 RGB."""
    image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise OutputError(f"the crop {name} is damaged")
    scale = min(_TILE_PX / max(image.shape[:2]), 1)
    size_wh = (max(round(image.shape[1] * scale), 1), max(round(image.shape[0] * scale), 1))
    return cv2.resize(image, size_wh, interpolation=cv2.INTER_AREA)[:, :, ::-1]


def _captions(group: Sequence[_Face]) -> list[str]:
    labels = ["-" if face.label is None else printable(face.label) for face in group]
    numbers = [f"#{group[0].group}", *(str(face.distance) for face in group[1:])]
    return [f"{number} {label}" for number, label in zip(numbers, labels, strict=True)]


def _blank() -> np.ndarray:
    return np.full((_TILE_PX, _TILE_PX, 3), _GREY, np.uint8)
