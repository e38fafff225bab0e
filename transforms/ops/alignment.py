"""From a face to the matrix of its crop: similarities of landmarks, rectangles of boxes, the square of FFHQ.

Coordinates are pixels, integer coordinates being pixel centres. Matrices are (2, 3), as `cv2.warpAffine` takes them:
they lead from the picture to the crop.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from facemill.models.errors import ConfigError
from facemill.transforms.ops.own_templates import TemplateDefinition, check_names, find_template
from facemill.transforms.ops.templates import BoxTemplate, PointTemplate, Template
from facemill.transforms.ops.warping import BORDERS, Border

_Row = tuple[float, float, float]

# Below this share of the numbers involved, a length is rounding noise.
_DEGENERATE = 1e-12
# The reason of a face that was kept, but whose box or landmarks determine no crop in one of the templates.
NO_CROP = "no_crop"


class CropError(ValueError):
    """A face's box or landmarks determine no crop that shows anything of the picture."""


@dataclass(frozen=True, slots=True)
class AlignOptions:
    """How crops are cut; ConfigError where a name is unknown, or a template impossible.

    Attributes:
        template: What the crop shows and its size: a template's name, or a list of names for crops in each of them.
        own: Templates of your own, by name; see `TemplateDefinition`.
        border: What lies outside of the picture: one colour, the nearest pixel, or the mirrored picture.
    """

    template: str | tuple[str, ...] = "arcface112"
    own: Mapping[str, TemplateDefinition] = field(default_factory=dict)
    border: Border = "black"

    def __post_init__(self) -> None:
        check_names(self.own)
        if not self.templates:
            raise ConfigError("template must name at least one template, got an empty list")
        for index, name in enumerate(self.templates):
            find_template(name, self.own)
            if name in self.templates[:index]:
                raise ConfigError(f"template names {name} twice")
        if self.border not in BORDERS:
            raise ConfigError(f"border must be one of {', '.join(BORDERS)}, got {self.border!r}")

    @property
    def templates(self) -> tuple[str, ...]:
        """The names of the templates, in their order."""
        return (self.template,) if isinstance(self.template, str) else self.template

    def find_templates(self) -> tuple[Template, ...]:
        """The templates of these names."""
        return tuple(find_template(name, self.own) for name in self.templates)


def transform_points(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points moved by a (2, 3) matrix: (..., 2) -> (..., 2) float64."""
    matrix = np.asarray(matrix, dtype=np.float64)
    return np.asarray(points, dtype=np.float64) @ matrix[:, :2].T + matrix[:, 2]


def estimate_similarity(src: np.ndarray, dst: np.ndarray) -> np.ndarray:
    """Least-squares rotation, uniform scale and shift from src to dst: (K, 2) and (K, 2) -> (2, 3) float64.

    Umeyama 1991, eqs. 40 to 42. In two dimensions the singular value decomposition comes down to one complex quotient
    z = scale * exp(i * angle), which cannot be a reflection. Points on one line are enough. ValueError where no such
    transform is determined: points that are all equal or fit no rotation better than another, fewer than two points, or
    numbers that are not finite.
    """
    src, dst = np.asarray(src, dtype=np.float64), np.asarray(dst, dtype=np.float64)
    if src.shape != dst.shape or src.ndim != 2 or src.shape[1] != 2 or len(src) < 2:
        raise ValueError(f"a similarity needs two arrays of shape (K, 2), K >= 2, got {src.shape} and {dst.shape}")
    if not (np.isfinite(src).all() and np.isfinite(dst).all()):
        raise ValueError("a similarity needs finite points")
    from_offset, to_offset = src.mean(axis=0), dst.mean(axis=0)
    from_points, to_points = (src - from_offset) @ (1, 1j), (dst - to_offset) @ (1, 1j)
    from_length, to_length = np.linalg.norm(from_points), np.linalg.norm(to_points)
    if from_length <= _DEGENERATE * np.abs(src).max() or to_length <= _DEGENERATE * np.abs(dst).max():
        raise ValueError("no similarity is determined: the points are all equal")
    covariance = np.vdot(from_points, to_points)
    if abs(covariance) <= _DEGENERATE * from_length * to_length:
        raise ValueError("no similarity is determined: no rotation fits better than another")
    z = covariance / from_length**2
    linear = np.array([[z.real, -z.imag], [z.imag, z.real]])
    return np.column_stack([linear, to_offset - linear @ from_offset])


def crop_matrix(template: Template, box: np.ndarray, landmarks: np.ndarray, image_wh: tuple[int, int]) -> np.ndarray:
    """Where a template wants a face: box (4,) px, landmarks (5, 2) px, size of the picture -> (2, 3) float64.

    Raises:
        CropError: The box or the landmarks, whichever the template goes by, determine no crop, or one that lies beside
            the picture, or in which the picture is smaller than a pixel.
    """
    try:
        with np.errstate(all="ignore"):
            if isinstance(template, PointTemplate):
                matrix = estimate_similarity(landmarks, template.points)
            elif isinstance(template, BoxTemplate):
                matrix = _box_matrix(template, np.asarray(box, dtype=np.float64), image_wh)
            else:
                matrix = _ffhq_matrix(landmarks, template.size_wh[0])
            shows = _shows_picture(matrix, template.size_wh, image_wh)
    except ValueError as error:
        raise CropError(f"{template.name}: {error}") from error
    if not shows:
        raise CropError(f"{template.name}: the crop would show nothing of the picture")
    return matrix


def _box_matrix(template: BoxTemplate, box: np.ndarray, image_wh: tuple[int, int]) -> np.ndarray:
    """The rectangle of a box with its margin, stretched to the crop."""
    if not np.isfinite(box).all() or not (box[2:] > box[:2]).all():
        raise ValueError("the box has no area")
    if template.rule == "square":
        half = (0.5 + template.margin) * (box[2:] - box[:2]).max()
        center = (box[:2] + box[2:]) / 2
        first, last = center - half, center + half
    else:
        half = _half_margin(template, box)
        # Rows and columns from the first up to the last; their outer edges lie half a pixel before their centres.
        first = np.trunc(np.maximum(box[:2] - half, 0)) - 0.5
        last = np.trunc(np.minimum(box[2:] + half, image_wh)) - 0.5
        if not (last > first).all():
            raise ValueError("the box holds no pixel of the picture")
    scale_xy = template.size_wh / (last - first)
    return np.column_stack([np.diag(scale_xy), -first * scale_xy - 0.5])


def _half_margin(template: BoxTemplate, box: np.ndarray) -> np.ndarray:
    """What is added on each side of the box in x and y: (2,) px of the picture."""
    if template.rule == "facenet":
        return np.full(2, template.margin / 2)
    return template.margin * (box[2:] - box[:2]) / (template.size_wh[0] - template.margin) / 2


def _ffhq_matrix(landmarks: np.ndarray, size: int) -> np.ndarray:
    """The square of the FFHQ script: along the mean of the eyes' line and the upright of the line to the mouth.

    Half its side is the larger of 2 times the eyes' distance and 1.8 times that of eyes and mouth; its centre lies a
    tenth of the way from the eyes to the mouth.
    """
    left_eye, right_eye, _, mouth_left, mouth_right = np.asarray(landmarks, dtype=np.float64) @ (1, 1j)
    eyes, mouth = (left_eye + right_eye) / 2, (mouth_left + mouth_right) / 2
    eye_to_eye, eye_to_mouth = right_eye - left_eye, mouth - eyes
    direction = eye_to_eye - 1j * eye_to_mouth  # a quarter turn anticlockwise, as seen, of the way down
    longest = max(2 * abs(eye_to_eye), 1.8 * abs(eye_to_mouth))
    if not abs(direction) > _DEGENERATE * longest:
        raise ValueError("the eyes and the mouth determine no square")
    half_side = direction / abs(direction) * longest
    z = size / (2 * half_side)
    shift = (size - 1) / 2 * (1 + 1j) - z * (eyes + 0.1 * eye_to_mouth)
    return np.array([[z.real, -z.imag, shift.real], [z.imag, z.real, shift.imag]])


def _shows_picture(matrix: np.ndarray, size_wh: tuple[int, int], image_wh: tuple[int, int]) -> bool:
    """Whether the crop overlaps the picture, which fills at least one of its pixels.

    Two parallelograms are apart if and only if they are along a side of one of them.
    """
    (a, b, c), (d, e, f) = matrix.tolist()  # on plain numbers, as arrays would take most of the time of a small crop
    determinant = a * e - b * d
    if not all(map(math.isfinite, (a, b, c, d, e, f))) or not determinant:
        return False
    inverse = (
        (e / determinant, -b / determinant, (b * f - c * e) / determinant),
        (-d / determinant, a / determinant, (c * d - a * f) / determinant),
    )
    fills = math.hypot(a, d) * image_wh[0] >= 1 and math.hypot(b, e) * image_wh[1] >= 1
    return fills and _reaches(((a, b, c), (d, e, f)), image_wh, size_wh) and _reaches(inverse, size_wh, image_wh)


def _reaches(rows: tuple[_Row, _Row], from_wh: tuple[int, int], to_wh: tuple[int, int]) -> bool:
    """Whether the upright rectangle around one raster's area, moved by a matrix, overlaps that of the other."""
    for (by_x, by_y, shift), extent in zip(rows, to_wh, strict=True):
        across = (-0.5 * by_x, (from_wh[0] - 0.5) * by_x)
        down = (-0.5 * by_y, (from_wh[1] - 0.5) * by_y)
        if not (shift + max(across) + max(down) > -0.5 and shift + min(across) + min(down) < extent - 0.5):
            return False
    return True
