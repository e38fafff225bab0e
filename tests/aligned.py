"""A crop from landmarks, as the steps of the chain make it."""

from __future__ import annotations

import numpy as np

from facemill.transforms.ops.alignment import crop_matrix
from facemill.transforms.ops.templates import Template
from facemill.transforms.ops.warping import Border, warp_affine


def align_face(image: np.ndarray, landmarks: np.ndarray, template: Template, *, border: Border = "black") -> np.ndarray:
    """The crop of a face in a template that goes by landmarks: (H, W, 3) uint8, (5, 2) px -> (h, w, 3) uint8.

    CropError where the landmarks determine none.
    """
    matrix = crop_matrix(template, np.full(4, np.nan), landmarks, (image.shape[1], image.shape[0]))
    return warp_affine(image, matrix, template.size_wh, border=border)
