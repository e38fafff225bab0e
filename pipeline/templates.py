"""`facemill templates`: the templates as a list, as JSON, and as a picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from facemill.models import FaceDetector
from facemill.models.errors import BadInputError, ConfigError
from facemill.transforms.ops.alignment import CropError
from facemill.transforms.ops.crops import WriteOptions, encode_crop
from facemill.transforms.ops.decoding import decode_image
from facemill.transforms.ops.drawing import contact_sheet
from facemill.transforms.ops.options import DecodeOptions
from facemill.transforms.ops.storage import Folder
from facemill.transforms.ops.template_drawing import cut_tile, draw_template
from facemill.transforms.ops.templates import BoxTemplate, PointTemplate, Template

_TILE_PX = 224
_COLUMNS = 5
_FORMATS = {".png": WriteOptions(image_format="png"), ".jpg": WriteOptions(), ".jpeg": WriteOptions()}


def as_text(templates: Sequence[Template]) -> str:
    """One line per template: name, size, kind, source."""
    rows = [(t.name, f"{t.size_wh[0]}x{t.size_wh[1]}", t.kind, t.source) for t in templates]
    name, size, kind = (max(len(row[column]) for row in rows) + 2 for column in range(3))
    return "\n".join(f"{row[0]:<{name}}{row[1]:<{size}}{row[2]:<{kind}}{row[3]}" for row in rows)


def as_json(templates: Sequence[Template]) -> str:
    """Each template with what a definition of one's own would say, and its source."""
    return json.dumps({template.name: _definition(template) for template in templates}, indent=2)


def _definition(template: Template) -> dict[str, Any]:
    width, height = template.size_wh
    definition: dict[str, Any] = {"kind": template.kind, "size": width if width == height else [width, height]}
    if isinstance(template, PointTemplate):
        definition["points"] = np.round(template.points, 4).tolist()
    if isinstance(template, BoxTemplate):
        definition["margin"] = template.margin
    return definition | {"source": template.source}


def draw(templates: Sequence[Template], file: str, *, image: str | None = None) -> None:
    """Write a sheet with where each template puts a typical face, or with the crops of the first face in `image`.

    Raises:
        ConfigError: The picture cannot be read, holds no face, or the sheet's name is that of no picture.
        OutputError: The sheet cannot be written.
    """
    path = Path(file).absolute()
    if path.suffix.lower() not in _FORMATS:
        raise ConfigError(f"--draw {file}: the name must end with {', '.join(_FORMATS)}")
    tiles = [draw_template(template, height_px=_TILE_PX) for template in templates] if image is None else []
    sheet = contact_sheet(
        tiles or _cut_tiles(templates, str(image)),
        columns=min(_COLUMNS, len(templates)),
        captions=[f"{template.name}  {template.size_wh[0]}x{template.size_wh[1]}" for template in templates],
    )
    Folder(str(path.parent)).write_bytes(path.name, encode_crop(sheet, _FORMATS[path.suffix.lower()]))


def _cut_tiles(templates: Sequence[Template], image: str) -> list[np.ndarray]:
    limits = DecodeOptions()
    try:
        data = Path(image).read_bytes()
        pixels = decode_image(data, max_pixels=limits.max_pixels, min_side_px=limits.min_side_px)
    except (OSError, BadInputError) as error:
        raise ConfigError(f"cannot read the picture {image}: {error}") from error
    faces = FaceDetector().detect(pixels)
    if not faces:
        raise ConfigError(f"no face is found in {image}")
    try:
        return [cut_tile(pixels, faces[0].bbox, faces[0].landmarks, t, height_px=_TILE_PX) for t in templates]
    except CropError as error:
        raise ConfigError(f"the first face in {image} makes no crop: {error}") from error
