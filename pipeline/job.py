"""What every worker must know of a run."""

from __future__ import annotations

from dataclasses import dataclass

from facemill.pipeline.config import Config
from facemill.transforms.ops.storage import Folder


@dataclass(frozen=True)
class Job:
    """A run, as it travels to the workers.

    Attributes:
        config: The resolved configuration.
        roots: The input roots by name.
        output: The output folder.
        known_faces: The table of known faces, if one takes the place of detection.
        tables: The earlier output folder whose faces are cropped, if they are not to be found.
    """

    config: Config
    roots: dict[str, Folder]
    output: Folder
    known_faces: Folder | None = None
    tables: Folder | None = None
