"""The names of what lies in an output folder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

MANIFEST = "manifest.json"
PLAN = "plan"
IMAGES = "images"
FACES = "faces"
CROPS = "crops"
FILES = "files"
MARKERS = "_units"
DUPLICATES = "duplicates"

CropStore = Literal["tar", "files", "parquet", "none"]


def images_name(unit: str) -> str:
    """The table of a unit's inputs."""
    return f"{IMAGES}/{unit}.parquet"


def faces_name(unit: str) -> str:
    """The table of a unit's faces."""
    return f"{FACES}/{unit}.parquet"


def duplicates_name(table: Literal["images", "faces"]) -> str:
    """The table of the groups of equal images, or of near faces."""
    return f"{DUPLICATES}/{table}.parquet"


def marker_name(unit: str) -> str:
    """The commit marker of a unit, written last."""
    return f"{MARKERS}/{unit}.json"


def crops_name(unit: str, store: CropStore, template: str = "") -> str:
    """The tar or Parquet file, or for `files` the folder, of a unit's crops; `template` is empty where it is alone."""
    folder = FILES if store == "files" else CROPS
    ending = {"tar": ".tar", "parquet": ".parquet"}.get(store, "")
    return f"{folder}/{template}/{unit}{ending}" if template else f"{folder}/{unit}{ending}"


def template_folders(templates: Sequence[str]) -> tuple[str, ...]:
    """What `crops_name` is told for each of the templates of an output folder: nothing where there is one alone."""
    return tuple(templates) if len(templates) > 1 else ("",)


def crop_key(unit: str, image_index: int, face_index: int) -> str:
    """The name of a crop without its extension: unique in the output, free of dots and slashes, sorted by input."""
    return f"{unit}-{image_index:06d}-{face_index:02d}"
