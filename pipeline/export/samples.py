"""What the writers of all formats get: one face after the other, and the shard that it goes to."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import simplejpeg  # type: ignore[import-untyped]

from facemill.models.errors import OutputError
from facemill.pipeline.export.destination import Destination
from facemill.pipeline.export.selection import SelectedSplit, Selection

_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG"
_PNG_SIZE, _PNG_SIZE_AT = struct.Struct(">II"), 16  # the header's chunk comes first


@dataclass(frozen=True, slots=True)
class Sample:
    """One face.

    Attributes:
        number: Its place in its split, from 0.
        class_index: Over all splits; -1 where the face has no label.
        class_name: A name that any file system takes; None where the face has no label.
        content: The crop's file as it was made.
        face: Its row of the `faces` table, less what the cutting into units decides.
    """

    number: int
    class_index: int
    class_name: str | None
    content: bytes
    face: Mapping[str, Any]

    @property
    def key(self) -> str:
        """The number as text, which sorts."""
        return f"{self.number:09d}"

    @property
    def image_format(self) -> str:
        """`jpeg` or `png`."""
        return "png" if self.content.startswith(_PNG) else "jpeg"

    @property
    def extension(self) -> str:
        """Of the crop's file, with its dot."""
        return ".png" if self.content.startswith(_PNG) else ".jpg"

    @property
    def size_wh(self) -> tuple[int, int]:
        """Of the crop, px, as its file says; raises OutputError where it is damaged."""
        try:
            if self.content.startswith(_PNG):
                return _PNG_SIZE.unpack_from(self.content, _PNG_SIZE_AT)
            height, width, _, _ = simplejpeg.decode_jpeg_header(self.content)
        except (ValueError, struct.error) as error:
            raise OutputError(f"the crop of {self.face['face_id']} is damaged; facemill crop makes new ones") from error
        return width, height

    def to_json(self) -> bytes:
        """The face's columns and its class."""
        columns = {name: _finite(value) for name, value in self.face.items()}
        named = {"class": self.class_index, "class_name": self.class_name, **columns}
        return json.dumps(named, ensure_ascii=False, allow_nan=False).encode()


@dataclass(frozen=True, slots=True)
class Shard:
    """A part of a split: the samples `[start, start + num_samples)` of it.

    `num_bytes` are those of the crops of the whole split.
    """

    split: SelectedSplit
    index: int
    num_shards: int
    start: int
    num_samples: int
    num_bytes: int

    @property
    def numbered(self) -> str:
        """`train-00000-of-00005`."""
        return f"{self.split.name}-{self.index:05d}-of-{self.num_shards:05d}"


@dataclass(frozen=True)
class Target:
    """What the writers write to, and what they may ask about all faces."""

    destination: Destination
    selection: Selection
    scratch: Path


class Format:
    """A format; its class attributes say what it needs.

    Attributes:
        is_sharded: Whether a split goes to several files.
        is_by_class: Whether the faces of a class must follow each other.
        takes_unlabelled: Whether there is a place for faces without a label.
        has_image_files: Whether each crop is a file of its own, in the folder of its split.
    """

    is_sharded: ClassVar[bool] = True
    is_by_class: ClassVar[bool] = False
    takes_unlabelled: ClassVar[bool] = True
    has_image_files: ClassVar[bool] = False

    def check(self) -> None:
        """Refuse what cannot be done, before any work.

        Raises:
            ConfigError: Says what is missing.
        """

    def entries(self, split: str) -> tuple[str, ...]:
        """Patterns of the names in the destination that belong to a split, or to all."""
        raise NotImplementedError

    def begin(self, target: Target) -> None:
        """Take from the selection what all shards need."""

    def open_shard(self, target: Target, shard: Shard) -> AbstractContextManager[Callable[[Sample], None]]:
        """A block in which a shard is written, by the function that it gets; at its end the shard's files appear."""
        raise NotImplementedError

    def finish(self, target: Target) -> None:
        """Write what comes after all shards."""


def check_image(content: bytes, name: str) -> None:
    """Make sure by its first bytes that a crop is one.

    Raises:
        OutputError: It is empty, or neither JPEG nor PNG.
    """
    if not content.startswith((_JPEG, _PNG)):
        what = "neither JPEG nor PNG" if content else "empty"
        raise OutputError(f"the crop {name} is {what}; facemill crop makes new ones")


def _finite(value: Any) -> Any:
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
