"""Crop templates: where a face goes in a crop, and how large the crop is.

Sizes and points are px of the crop, integer coordinates being pixel centres.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np

from facemill.models.errors import ConfigError

BoxRule = Literal["square", "facenet", "facenet_pytorch"]
TemplateKind = Literal["points", "square", "facenet", "facenet_pytorch", "ffhq"]


@dataclass(frozen=True, slots=True, eq=False)
class Template:
    """What every template has: a name, the crop's size, and where its recipe comes from."""

    name: str
    size_wh: tuple[int, int]
    source: str

    @property
    def kind(self) -> TemplateKind:
        """What a definition of one's own calls the recipe."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True, eq=False)
class PointTemplate(Template):
    """Takes the five landmarks as near to its own points as turning, scaling and shifting can.

    `points` is (5, 2) float64, read-only: left_eye, right_eye, nose, mouth_left, mouth_right.
    """

    points: np.ndarray

    def __post_init__(self) -> None:
        points = np.array(self.points, dtype=np.float64)
        points.setflags(write=False)
        object.__setattr__(self, "points", points)

    @property
    def kind(self) -> TemplateKind:
        return "points"


@dataclass(frozen=True, slots=True, eq=False)
class BoxTemplate(Template):
    """Takes the face's box with a margin, without turning it.

    Attributes:
        rule: How the box becomes the crop, which says what the margin is.
            `square`: a square around the box's centre, as large as the box's longer side and `margin` of that on each
            side; beyond the picture is border.
            `facenet`: `margin` px of the picture are added to each side length, half of them on each side.
            `facenet_pytorch`: as much is added as makes `margin` px of the crop. Both of these cut their numbers off
            to whole pixels, end at the picture's edges, and stretch what remains to the square.
        margin: See `rule`.
    """

    rule: BoxRule
    margin: float

    @property
    def kind(self) -> TemplateKind:
        return self.rule


@dataclass(frozen=True, slots=True, eq=False)
class QuadTemplate(Template):
    """Takes the square of the FFHQ script, which depends on the middles of the eyes and the corners of the mouth."""

    @property
    def kind(self) -> TemplateKind:
        return "ffhq"


# Destination points of a 96x112 crop in SphereFace's face_align_demo.m and in insightface.
_SPHEREFACE_POINTS = np.array(
    [[30.2946, 51.6963], [65.5318, 51.5014], [48.0252, 71.7366], [33.5493, 92.3655], [62.7299, 92.2041]]
)
_FFHQ = "quad of NVlabs/ffhq-dataset download_ffhq.py (Karras et al. 2019), here from five points"
_TEMPLATES = MappingProxyType(
    {
        template.name: template
        for template in (
            PointTemplate(
                name="arcface112",
                size_wh=(112, 112),
                source="insightface face_align.py, the 96x112 points moved 8 px to the right (Deng et al. 2019)",
                points=np.add(_SPHEREFACE_POINTS, (8, 0)),
            ),
            PointTemplate(
                name="sphereface96x112",
                size_wh=(96, 112),
                source="sphereface face_align_demo.m (Liu et al. 2017)",
                points=_SPHEREFACE_POINTS,
            ),
            PointTemplate(
                name="insight128",
                size_wh=(128, 128),
                source="insightface face_align.py at image_size 128: the 112 px points moved 8 px to the right",
                points=np.add(_SPHEREFACE_POINTS, (16, 0)),
            ),
            BoxTemplate(
                name="facenet160",
                size_wh=(160, 160),
                source="facenet align_dataset_mtcnn.py with --image_size 160 --margin 32 (Sandberg)",
                rule="facenet",
                margin=32,
            ),
            BoxTemplate(
                name="facenet160_pytorch",
                size_wh=(160, 160),
                source="facenet-pytorch 2.6.0 extract_face with image_size 160, margin 0 (Esler)",
                rule="facenet_pytorch",
                margin=0,
            ),
            QuadTemplate(name="ffhq256", size_wh=(256, 256), source=_FFHQ),
            QuadTemplate(name="ffhq512", size_wh=(512, 512), source=_FFHQ),
            QuadTemplate(name="ffhq1024", size_wh=(1024, 1024), source=_FFHQ),
            BoxTemplate(
                name="square256",
                size_wh=(256, 256),
                source="square of 1.3 times the box's longer side, as FaceForensics++ crops (Roessler et al. 2019)",
                rule="square",
                margin=0.15,
            ),
        )
    }
)
TEMPLATE_NAMES: tuple[str, ...] = tuple(_TEMPLATES)


def get_template(name: str) -> Template:
    """The template of that name that comes with facemill; ConfigError naming the known ones if there is none."""
    require_known(name, TEMPLATE_NAMES)
    return _TEMPLATES[name]


def require_known(name: str, known: Iterable[str]) -> None:
    """ConfigError naming the known templates, and the one that was meant, where `name` is none of them."""
    names = list(known)
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(f"template must be one of {', '.join(names)}, got {name!r}{hint}")
