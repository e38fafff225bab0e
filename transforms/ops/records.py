"""The records that travel along the chain, from bytes to rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from facemill.models.errors import FailureReason
from facemill.models.pyramid import ImagePyramid


class Failure(NamedTuple):
    """Why an input has no result."""

    reason: FailureReason
    message: str


@dataclass(frozen=True, slots=True, eq=False)
class Faces:
    """All faces of one image, best score first; every array has one row per face."""

    boxes: np.ndarray  # (N, 4) float32, x1 y1 x2 y2 px of the upright original
    scores: np.ndarray  # (N,) float32
    landmarks: np.ndarray  # (N, 5, 2) float32 px
    angles_deg: np.ndarray | None = None  # (N, 3) float32: yaw, pitch, roll
    interocular_px: np.ndarray | None = None  # (N,) float32
    quality: np.ndarray | None = None  # (N, 10) float32, QUALITY_COLUMNS
    phashes: tuple[str | None, ...] = ()  # perceptual hash; None where there is no canonical crop
    reasons: tuple[str, ...] = ()  # why a face was not kept; "" where it was
    crops: tuple[tuple[bytes, ...] | None, ...] = ()  # of the kept faces, encoded, one per template

    def __len__(self) -> int:
        return len(self.boxes)


@dataclass(frozen=True, slots=True, eq=False)
class KnownRows:
    """The faces that a table holds of one image; NaN where it has no value."""

    boxes: np.ndarray  # (N, 4) float32
    scores: np.ndarray  # (N,) float32
    landmarks: np.ndarray  # (N, 5, 2) float32


@dataclass(frozen=True, slots=True, eq=False)
class ImageRecord:
    """One input on its way through the chain; each step returns a copy with more fields."""

    index: int  # position within its unit
    image_id: str
    source: str
    member: str
    label: str | None = None
    data: bytes | None = field(default=None, repr=False)  # the encoded file, until nothing more is decoded from it
    num_bytes: int = 0  # of the encoded file; of a video, the frame's share
    sha256: str | None = None
    format: str | None = None
    width: int | None = None  # of the upright image
    height: int | None = None
    exif_orientation: int | None = None
    image: np.ndarray | None = field(default=None, repr=False)  # (H, W, 3) uint8 RGB, upright
    reduction: int = 1  # the image's sides are 1 / reduction of width and height, rounded up
    pyramid: ImagePyramid | None = field(default=None, repr=False)  # of `image`, from R-Net to O-Net
    candidates: np.ndarray | None = None  # (N, 4) float32, R-Net's boxes
    known: KnownRows | None = None  # instead of candidates, where the faces are given
    faces: Faces | None = None
    num_capped: int = 0  # candidates that the detector's cap cut
    failure: Failure | None = None

    @property
    def size_wh(self) -> tuple[int, int]:
        """Width and height of the upright original, px."""
        if self.width is not None and self.height is not None:
            return self.width, self.height
        assert self.image is not None and self.reduction == 1
        return self.image.shape[1], self.image.shape[0]
