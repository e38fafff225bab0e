"""The crops of one image's kept faces in every template, encoded."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from facemill.transforms.ops.alignment import NO_CROP, AlignOptions, CropError, crop_matrix
from facemill.transforms.ops.crops import WriteOptions, encode_crop
from facemill.transforms.ops.records import Faces
from facemill.transforms.ops.templates import Template
from facemill.transforms.ops.warping import warp_for_encoder

# Of each face the matrices of its crops, one per template; None where it gets no crop.
CropMatrices = Sequence[tuple[np.ndarray, ...] | None]


def place_crops(faces: Faces, templates: Sequence[Template], image_wh: tuple[int, int]) -> tuple[Faces, CropMatrices]:
    """The matrices of the kept faces' crops, px of the original; NO_CROP becomes the reason of a face without."""
    matrices = [
        None if reason else place_face(box, landmarks, templates, image_wh)
        for reason, box, landmarks in zip(faces.reasons, faces.boxes, faces.landmarks, strict=True)
    ]
    reasons = tuple(
        reason if reason or placed is not None else NO_CROP
        for reason, placed in zip(faces.reasons, matrices, strict=True)
    )
    return dataclasses.replace(faces, reasons=reasons), matrices


def largest_scale(matrices: CropMatrices) -> float:
    """How many times larger than in the picture something can be in one of the crops; 0 where there are none."""
    scales = [np.hypot(*matrix[:, :2]).max() for placed in matrices for matrix in placed or ()]
    return float(max(scales, default=0))


def cut_crops(
    image: np.ndarray, matrices: CropMatrices, templates: Sequence[Template], align: AlignOptions, write: WriteOptions
) -> tuple[tuple[bytes, ...] | None, ...]:
    """Cut and encode: (H, W, 3) uint8 and each face's matrices, px of this image -> each face's files.

    One crop at a time is held as pixels, as a photograph of a crowd in large templates would fill the memory.
    """

    def cut(matrix: np.ndarray, template: Template) -> bytes:
        return encode_crop(warp_for_encoder(image, matrix, template.size_wh, border=align.border), write)

    return tuple(None if placed is None else tuple(map(cut, placed, templates)) for placed in matrices)


def place_face(
    box: np.ndarray, landmarks: np.ndarray, templates: Sequence[Template], image_wh: tuple[int, int]
) -> tuple[np.ndarray, ...] | None:
    """The matrices of one face's crops, one per template; None where it has none in one of them."""
    try:
        return tuple(crop_matrix(template, box, landmarks, image_wh) for template in templates)
    except CropError:
        return None
