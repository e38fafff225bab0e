"""Templates as pictures: where in the crop a face goes."""

from __future__ import annotations

import cv2
import numpy as np

from facemill.transforms.ops.alignment import crop_matrix, transform_points
from facemill.transforms.ops.drawing import draw_marks
from facemill.transforms.ops.templates import PointTemplate, Template
from facemill.transforms.ops.typical_face import typical_face
from facemill.transforms.ops.warping import warp_affine

# facenet's margin is in px of the picture, so that its drawing depends on the size of the face there.
FACE_WIDTH_PX = 128
_PAPER = 235


def draw_template(template: Template, *, height_px: int) -> np.ndarray:
    """A typical face's box and landmarks in the crop: (height_px, w, 3) uint8 RGB, in the crop's proportions."""
    box, landmarks = typical_face(FACE_WIDTH_PX)
    offset = 10 * FACE_WIDTH_PX  # far from the picture's edges
    image_wh = (3 * offset, 3 * offset)
    box, landmarks = box + offset, landmarks + offset
    matrix = crop_matrix(template, box, landmarks, image_wh)
    points = template.points if isinstance(template, PointTemplate) else transform_points(matrix, landmarks)
    zoom = height_px / template.size_wh[1]
    paper = np.full((height_px, round(template.size_wh[0] * zoom), 3), _PAPER, np.uint8)
    corners = transform_points(matrix, box.reshape(2, 2))
    return draw_marks(paper, (corners.reshape(1, 4) + 0.5) * zoom - 0.5, ((points + 0.5) * zoom - 0.5)[None])


def cut_tile(
    image: np.ndarray, box: np.ndarray, landmarks: np.ndarray, template: Template, *, height_px: int
) -> np.ndarray:
    """The crop of a face, resized to a height: (H, W, 3) uint8, (4,) and (5, 2) px -> (height_px, w, 3) uint8.

    CropError where the face determines no crop.
    """
    matrix = crop_matrix(template, box, landmarks, (image.shape[1], image.shape[0]))
    crop = warp_affine(image, matrix, template.size_wh)
    zoom = height_px / crop.shape[0]
    size_wh = (round(crop.shape[1] * zoom), height_px)
    resized: np.ndarray = cv2.resize(crop, size_wh, interpolation=cv2.INTER_AREA if zoom < 1 else cv2.INTER_LINEAR)
    return resized
