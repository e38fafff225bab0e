"""How well crops fit a template, by the landmarks that are found in them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

from facemill.transforms.ops.alignment import CropError, crop_matrix, estimate_similarity, transform_points
from facemill.transforms.ops.templates import BoxTemplate, PointTemplate, Template
from facemill.transforms.ops.typical_face import typical_face

# How a template's crop may have become one of another size: not at all or resized with its proportions; or, where
# those differ, stretched, made to fit with a border, or made to fill with its edges cut off.
Fitting = Literal["same", "resized", "stretched", "padded", "cut"]

# Widths of the faces, px, that are tried for facenet's margin, which is in px of the picture.
_FACE_WIDTHS_PX = np.geomspace(25, 800, 26)
# The largest median distance at which a template fits, in shares of the face's size. Crops of our own come to 0.01
# where landmarks rule, or 0.02 to 0.03 by other detectors' or people's landmarks, and to 0.15 (LFW) to 0.3 (MTFL, half
# profiles) where the box does, as poses differ. Crops that were stretched, padded or cut must fit better, as these are
# many ways in which they can have been.
_POINTS_LIMIT, _REFITTED_LIMIT, _BOX_LIMIT = 0.05, 0.03, 0.4
# The largest `leftover` of crops that landmarks have aligned: our own come to 0.01 to 0.03, LFW's photographs, in which
# the faces are centred and mostly upright, to 0.047, and crops by the box to 0.1 or more.
_ALIGNED_LIMIT = 0.035
# For boxes as well: the largest share by which faces of the median crop are larger, smaller or elsewhere.
_BOX_BIAS_LIMIT = 0.1
# What else would have to be the case counts against a match: that the faces had just the sizes at which facenet's
# margin explains the crops, and that crops were stretched, padded or cut where they do not fit even then.
_FACE_SIZE_HANDICAP, _REFITTED_IN_VAIN_HANDICAP = 1.2, 2.0


@dataclass(frozen=True, slots=True)
class TemplateMatch:
    """How the crops of a folder lie to a template; px are the template's, the face's size is `face_sizes`.

    Attributes:
        template: The template.
        fitting: How its crops would have become those of this size.
        distance: Median over the crops of the mean distance of the five landmarks from where the template puts them,
            as a share of the face's size.
        distance_spread: The range of the middle half of the crops in that distance.
        scale: How much larger the faces are than the template makes them, in the median.
        shift_px: How much farther to the right and down they lie, in the median.
        turn_deg: How much farther they are turned clockwise, as seen, in the median.
        turn_spread_deg: The range of the middle half of the crops in that.
        face_px: Of `facenet`: the median width of the faces in the pictures that their margin speaks for.
        leftover: `distance` after the median scale, shift and turn have been taken out.
        is_aligned: Whether the crops have been aligned by landmarks, be it by this template or by another.
    """

    template: Template
    fitting: Fitting
    distance: float
    distance_spread: float
    scale: float
    shift_px: tuple[float, float]
    turn_deg: float
    turn_spread_deg: float
    face_px: float | None
    leftover: float
    is_aligned: bool = False

    @property
    def limit(self) -> float:
        """The largest `distance` at which the template fits."""
        if isinstance(self.template, BoxTemplate):
            return _BOX_LIMIT
        return _POINTS_LIMIT if self.keeps_proportions else _REFITTED_LIMIT

    @property
    def keeps_proportions(self) -> bool:
        """Whether the crops have the template's proportions."""
        return self.fitting in ("same", "resized")

    @property
    def fits(self) -> bool:
        """Whether the crops can have been made with the template."""
        if not self.distance <= self.limit:
            return False
        if not isinstance(self.template, BoxTemplate):
            return True
        shift = max(map(abs, self.shift_px)) / self.template.size_wh[0]
        return max(abs(self.scale - 1), shift) <= _BOX_BIAS_LIMIT and not self.is_aligned

    @property
    def is_aligned_alike(self) -> bool:
        """Whether the crops have been aligned by landmarks to a shape like the template's, wherever in the crop."""
        return not isinstance(self.template, BoxTemplate) and self.leftover <= _ALIGNED_LIMIT

    @property
    def is_near(self) -> bool:
        """Whether it would fit with another scale, shift and turn, the same for all crops."""
        if isinstance(self.template, BoxTemplate):
            return self.leftover <= self.limit and not self.is_aligned
        return self.is_aligned_alike

    @property
    def rank(self) -> tuple[bool, bool, float]:
        """Sorts the better match to the front."""
        handicap = 1.0 if self.face_px is None else _FACE_SIZE_HANDICAP
        if not (self.fits or self.keeps_proportions):
            handicap *= _REFITTED_IN_VAIN_HANDICAP
        return not self.fits, not self.is_near, self.distance / self.limit * handicap


def match_template(points: np.ndarray, size_wh: tuple[int, int], template: Template) -> TemplateMatch:
    """The best way in which crops of one size, with landmarks (N, 5, 2) px, N >= 1, can have come from a template."""
    matches = [_match(points, size_wh, template, fitting) for fitting in _fittings(size_wh, template.size_wh)]
    return min(matches, key=lambda match: match.rank)


def rank_templates(
    points: np.ndarray, size_wh: tuple[int, int], templates: tuple[Template, ...]
) -> tuple[TemplateMatch, ...]:
    """The matches of crops of one size with each template, the best first; takes what `match_template` takes.

    Of templates that are one another's enlargements only the one nearest in size is kept.
    """
    nearest: dict[object, Template] = {}
    for template in sorted(templates, key=lambda t: abs(np.log(t.size_wh[0] / size_wh[0]))):
        nearest.setdefault(_geometry(template), template)
    matches = [match_template(points, size_wh, template) for template in nearest.values()]
    is_aligned = any(match.is_aligned_alike for match in matches)
    return tuple(sorted((replace(match, is_aligned=is_aligned) for match in matches), key=lambda match: match.rank))


def face_sizes(points: np.ndarray) -> np.ndarray:
    """The larger of the distances of the eyes, and of eyes and mouth, as poses shrink either: (N, 5, 2) -> (N,) px."""
    eye_to_eye = points[:, 1] - points[:, 0]
    eye_to_mouth = (points[:, 3] + points[:, 4] - points[:, 0] - points[:, 1]) / 2
    return np.maximum(np.hypot(*eye_to_eye.T), np.hypot(*eye_to_mouth.T))


def _geometry(template: Template) -> object:
    """What templates have in common that differ in size alone."""
    if isinstance(template, PointTemplate):
        shares = (template.points + 0.5) / template.size_wh[0]
        return tuple(np.round(shares, 4).ravel()), round(template.size_wh[1] / template.size_wh[0], 4)
    if isinstance(template, BoxTemplate):
        in_crop = template.rule == "facenet_pytorch"
        return template.rule, template.margin / template.size_wh[0] if in_crop else template.margin
    return "ffhq"


def _fittings(size_wh: tuple[int, int], template_wh: tuple[int, int]) -> tuple[Fitting, ...]:
    if size_wh == template_wh:
        return ("same",)
    # A rounded side may be half a pixel off.
    if abs(size_wh[0] * template_wh[1] - size_wh[1] * template_wh[0]) <= 0.5 * max(template_wh):
        return ("resized",)
    return get_args(Fitting)[2:]


def _match(points: np.ndarray, size_wh: tuple[int, int], template: Template, fitting: Fitting) -> TemplateMatch:
    points = _to_template(points, size_wh, template.size_wh, fitting)
    wanted, face_px = _wanted(points, template)
    distances = _distances(points, wanted)
    z = np.array([_quotient(*pair) for pair in zip(wanted, points, strict=True)])
    scale, turn_deg = float(np.median(np.abs(z))), np.degrees(np.angle(z))
    shift = np.median((points - wanted).mean(axis=1), axis=0)
    corrected = _without(points, scale, shift, float(np.median(turn_deg)))
    return TemplateMatch(
        template=template,
        fitting=fitting,
        distance=float(np.median(distances)),
        distance_spread=_spread(distances),
        scale=scale,
        shift_px=(float(shift[0]), float(shift[1])),
        turn_deg=float(np.median(turn_deg)),
        turn_spread_deg=_spread(turn_deg),
        face_px=face_px,
        leftover=float(np.median(_distances(corrected, _wanted(corrected, template)[0]))),
    )


def _to_template(
    points: np.ndarray, size_wh: tuple[int, int], template_wh: tuple[int, int], fitting: Fitting
) -> np.ndarray:
    """Landmarks in px of the crops -> in px of the template."""
    ratio_xy = np.divide(size_wh, template_wh)
    if fitting == "padded":
        ratio_xy = np.full(2, ratio_xy.min())
    elif fitting == "cut":
        ratio_xy = np.full(2, ratio_xy.max())
    border_xy = (np.array(size_wh) - ratio_xy * template_wh) / 2
    moved: np.ndarray = (points + 0.5 - border_xy) / ratio_xy - 0.5
    return moved


def _wanted(points: np.ndarray, template: Template) -> tuple[np.ndarray, float | None]:
    """Where the template would put the landmarks (N, 5, 2) if it cut these crops, and the faces' width in the picture.

    Where landmarks rule, these crops are aligned once more, and the landmarks stay where they are if that is how the
    crops were made. Where the box rules, it puts them where it puts those of a typical box.
    """
    if not isinstance(template, BoxTemplate):
        return np.array([_aligned_again(face, template) for face in points]), None
    if template.rule != "facenet" or not template.margin:
        return np.broadcast_to(_typical_in_crop(template, 100), points.shape), None
    candidates = np.array([_typical_in_crop(template, width_px) for width_px in _FACE_WIDTHS_PX])
    distances = np.linalg.norm(points[:, None] - candidates, axis=-1).mean(axis=-1)
    best = distances.argmin(axis=1)
    return candidates[best], float(np.median(_FACE_WIDTHS_PX[best]))


def _aligned_again(face: np.ndarray, template: Template) -> np.ndarray:
    try:
        return transform_points(crop_matrix(template, np.full(4, np.nan), face, template.size_wh), face)
    except CropError:
        return np.zeros((5, 2))  # far from the face, as nothing else can be said


def _typical_in_crop(template: BoxTemplate, width_px: float) -> np.ndarray:
    """Where the landmarks of a typical face come to lie whose box is so wide in the picture: (5, 2) px of the crop."""
    box, landmarks = typical_face(width_px)
    offset = 10 * width_px  # far from the picture's edges
    side = int(30 * width_px)
    matrix = crop_matrix(template, box + offset, landmarks + offset, (side, side))
    return transform_points(matrix, landmarks + offset)


def _quotient(wanted: np.ndarray, points: np.ndarray) -> complex:
    """Scale and turn from the wanted to the found landmarks as a complex number; 1 where none is determined."""
    try:
        matrix = estimate_similarity(wanted, points)
    except ValueError:
        return 1 + 0j
    return complex(matrix[0, 0], matrix[1, 0])


def _without(points: np.ndarray, scale: float, shift: np.ndarray, turn_deg: float) -> np.ndarray:
    """Landmarks (N, 5, 2) made smaller, turned and moved back, all about the middle of the median face."""
    middle = np.median(points.mean(axis=1), axis=0)
    z = np.exp(-1j * np.radians(turn_deg)) / scale
    linear = np.array([[z.real, -z.imag], [z.imag, z.real]])
    moved: np.ndarray = (points - middle) @ linear.T + middle - shift
    return moved


def _distances(points: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Mean distance of the landmarks of each crop from the wanted places, as a share of the face's size: (N,)."""
    sizes = np.maximum(face_sizes(points), 1e-9)
    distances: np.ndarray = np.linalg.norm(points - wanted, axis=2).mean(axis=1) / sizes
    return distances


def _spread(values: np.ndarray) -> float:
    """The range of the middle half."""
    low, high = np.percentile(values, [25, 75])
    return float(high - low)
