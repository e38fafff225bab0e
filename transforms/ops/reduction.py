"""Decoding only as large as it is needed: how far a picture may be reduced for each step, and where its pixels lie.

A JPEG is decoded at 1/2, 1/4 or 1/8 of its sides as cheaply as libjpeg can. Coordinates stay those of the upright,
full-size original: pixel i of a picture reduced by r covers the original's pixels r * i to r * (i + 1), from the corner
where the file starts. Sides are rounded up, so a picture that EXIF turns may begin up to r - 1 px outside of the
original: that is its origin.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from facemill.models.options import DetectorOptions, smallest_face_px
from facemill.transforms.ops.alignment import AlignOptions
from facemill.transforms.ops.cutting import largest_scale, place_crops
from facemill.transforms.ops.decoding import ImageHeader, decode_at
from facemill.transforms.ops.jpeg import reduced_size
from facemill.transforms.ops.records import ImageRecord
from facemill.transforms.ops.turning import TURNS

REDUCTIONS = (8, 4, 2)
# Of the smallest face, in px of the reduced picture. P-Net would do with 12; O-Net looks at 48, and its points lose
# 2 % of their accuracy down to this size. To detect in smaller ones and decode anew for O-Net takes longer as soon as a
# few pictures hold a face, for most of the time goes into the entropy code, whatever the size.
_MIN_FACE_PX = 36.0
# Smaller faces than were asked for are found as well; below this size their points are clearly worse.
_MIN_CANDIDATE_PX = 27.0


class ReductionRule(Protocol):
    """Tells how far a picture may be reduced."""

    def __call__(self, record: ImageRecord) -> int:
        """1, 2, 4 or 8, for a record with its width and height."""


@dataclass(frozen=True)
class ForDetection:
    """As far as the smallest face that is looked for can still be found."""

    detector: DetectorOptions

    def __call__(self, record: ImageRecord) -> int:
        return detection_reduction(smallest_face_px(self.detector, record.size_wh))


@dataclass(frozen=True)
class ForCrops:
    """As far as the crops of the kept faces, which are known, need no more pixels."""

    align: AlignOptions

    def __call__(self, record: ImageRecord) -> int:
        assert record.faces is not None
        _, matrices = place_crops(record.faces, self.align.find_templates(), record.size_wh)
        return crop_reduction(largest_scale(matrices))


class PixelGrid(NamedTuple):
    """Where the pixels of a picture lie on those of its original."""

    reduction: int = 1
    origin_xy: tuple[int, int] = (0, 0)  # the outer corner of the first pixel, px of the original, not positive

    def matrix_from_original(self, matrix: np.ndarray) -> np.ndarray:
        """A (2, 3) matrix that takes px of the original -> the same for px of the picture."""
        if self.reduction == 1:
            return matrix
        corner = (self.reduction - 1) / 2 + np.array(self.origin_xy)  # the first pixel's centre
        return np.column_stack([matrix[:, :2] * self.reduction, matrix[:, 2] + matrix[:, :2] @ corner])

    def to_corner(self, coordinates: np.ndarray) -> np.ndarray:
        """Boxes (N, 4) or points (..., 2), px of the original -> px of the same size, but from the picture's corner."""
        return self._shift(coordinates, -1)

    def from_corner(self, coordinates: np.ndarray) -> np.ndarray:
        """The reverse of `to_corner`."""
        return self._shift(coordinates, 1)

    def _shift(self, coordinates: np.ndarray, sign: int) -> np.ndarray:
        if self.origin_xy == (0, 0):
            return coordinates
        shift = sign * np.resize(self.origin_xy, coordinates.shape[-1])
        return (coordinates + shift).astype(coordinates.dtype)


def pixel_grid(record: ImageRecord) -> PixelGrid:
    """The grid of the picture that a record holds."""
    return PixelGrid() if record.reduction == 1 else grid_of(record.size_wh, record.exif_orientation, record.reduction)


def grid_of(size_wh: tuple[int, int], exif_orientation: int | None, reduction: int) -> PixelGrid:
    """The grid of a picture that was decoded at 1 / `reduction`; the size is that of the upright original."""
    flips_xy = TURNS[exif_orientation or 1].flips_xy
    origin_x, origin_y = (
        side - reduction * reduced_size(side, reduction) if is_flipped else 0
        for side, is_flipped in zip(size_wh, flips_xy, strict=True)
    )
    return PixelGrid(reduction, (origin_x, origin_y))


def detection_reduction(face_px: float) -> int:
    """How far a picture may be reduced in which no face smaller than `face_px` is to be found."""
    return _largest_reduction(face_px / _MIN_FACE_PX)


def landmark_reduction(boxes: np.ndarray) -> int:
    """How far a picture may be reduced for O-Net to place points in boxes (N, 4), px of the original."""
    sides_px = (np.asarray(boxes)[:, 2:] - np.asarray(boxes)[:, :2]).max(axis=1, initial=0)
    return _largest_reduction(float(sides_px.min(initial=np.inf)) / _MIN_CANDIDATE_PX)


def crop_reduction(scale: float) -> int:
    """How far a picture may be reduced for a crop at `scale` of the original, without its being enlarged."""
    return _largest_reduction(1 / scale if scale else np.inf)


def _largest_reduction(limit: float) -> int:
    return next((reduction for reduction in REDUCTIONS if reduction <= limit), 1)


def at_least(record: ImageRecord, reduction: int) -> ImageRecord:
    """The record with a picture that is reduced no further than `reduction`; decoded anew where it was.

    Raises BadInputError as `decode_pixels`.
    """
    if record.reduction <= reduction:
        return record
    assert record.data is not None and record.format is not None
    header = ImageHeader(record.format, *record.size_wh, record.exif_orientation)
    image, reduction = decode_at(record.data, header, reduction=reduction)
    return dataclasses.replace(record, image=image, reduction=reduction, pyramid=None)
