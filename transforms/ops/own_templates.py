"""Templates of the user's own: how they are written down, and what is wrong with them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from facemill.models.errors import ConfigError
from facemill.transforms.ops.templates import (
    TEMPLATE_NAMES,
    BoxTemplate,
    PointTemplate,
    QuadTemplate,
    Template,
    TemplateKind,
    get_template,
    require_known,
)

_LARGEST_SIDE_PX = 4096
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_NUM_POINTS = 5
_MIN_AREA_PX2 = 1.0  # of what eyes and mouth span
# At which margin the square is 21 times the box; larger ones are a mistake of units.
_LARGEST_SHARE = 10.0


@dataclass(frozen=True, slots=True)
class TemplateDefinition:
    """A template as YAML spells it out; ConfigError where a value is impossible.

    Attributes:
        size: Sides of the crop in px: one number, or width and height for `points`.
        kind: `points`; `square`, `facenet` or `facenet_pytorch`, see `BoxTemplate`; or `ffhq`.
        points: For `points`: x and y of left eye, right eye, nose, left and right mouth corner, px of the crop.
        margin: For the three that go by the box; 0 where it is left out.
        source: Where the numbers come from, for those who read it.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    size: int | tuple[int, int]
    kind: TemplateKind = "points"
    points: tuple[tuple[float, float], ...] | None = None
    margin: float | None = None
    source: str = "your own"

    def __post_init__(self) -> None:
        self._check_size()
        if self.kind == "points":
            self._check_points()
        elif self.points is not None:
            raise ConfigError(f"points do not go with the kind {self.kind}")
        if self.kind in ("points", "ffhq"):
            if self.margin is not None:
                raise ConfigError(f"margin does not go with the kind {self.kind}")
        else:
            self._check_margin()

    @property
    def size_wh(self) -> tuple[int, int]:
        """Width and height of the crop, px."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    def to_template(self, name: str) -> Template:
        """The template of this definition."""
        if self.kind == "points":
            return PointTemplate(name, self.size_wh, self.source, points=np.array(self.points))
        if self.kind == "ffhq":
            return QuadTemplate(name, self.size_wh, self.source)
        return BoxTemplate(name, self.size_wh, self.source, rule=self.kind, margin=self.margin or 0.0)

    def _check_size(self) -> None:
        if not all(1 <= side <= _LARGEST_SIDE_PX for side in self.size_wh):
            raise ConfigError(f"size must lie in [1, {_LARGEST_SIDE_PX}], got {self.size}")
        if self.kind != "points" and self.size_wh[0] != self.size_wh[1]:
            raise ConfigError(f"size must be one number, as {self.kind} makes squares, got {list(self.size_wh)}")

    def _check_points(self) -> None:
        if self.points is None or len(self.points) != _NUM_POINTS:
            raise ConfigError(
                f"points must be five pairs of x and y, as the kind points takes them, got {len(self.points or ())}"
            )
        for point in self.points:
            if not all(-side <= value <= 2 * side for value, side in zip(point, self.size_wh, strict=True)):
                raise ConfigError(
                    f"points must lie within a crop's size of the crop of {self.size_wh[0]}x{self.size_wh[1]}, "
                    f"got {list(point)}"
                )
        left_eye, right_eye, _, mouth_left, mouth_right = np.array(self.points) @ (1, 1j)
        down = (mouth_left + mouth_right) - (left_eye + right_eye)
        # y points down, so that the mouth lies clockwise of the line from the left eye to the right.
        if not ((right_eye - left_eye).conjugate() * down).imag > _MIN_AREA_PX2:
            raise ConfigError(
                "points must be left eye, right eye, nose, left and right mouth corner, left as seen in the image; "
                "these are mirrored, on one line or on one spot"
            )

    def _check_margin(self) -> None:
        margin = self.margin or 0.0
        if self.kind == "facenet_pytorch":
            low, high = 0.0, float(self.size_wh[0])
            fits = low <= margin < high
        else:
            low, high = 0.0, _LARGEST_SHARE if self.kind == "square" else float(_LARGEST_SIDE_PX)
            fits = low <= margin <= high
        if not (fits and math.isfinite(margin)):
            unit = {"square": "a share of the box's longer side", "facenet": "px of the picture"}
            raise ConfigError(
                f"margin must lie in [{low:g}, {high:g}{')' if self.kind == 'facenet_pytorch' else ']'}, "
                f"{unit.get(self.kind, 'px of the crop')}, got {margin:g}"
            )


def check_names(own: Mapping[str, TemplateDefinition]) -> None:
    """ConfigError where a template's name is none for a folder, or is taken."""
    taken = {name.lower(): name for name in TEMPLATE_NAMES}
    for name in own:
        if not _NAME.fullmatch(name):
            raise ConfigError(
                f"own.{name}: a template's name is made of up to 64 letters, digits, _ and -, "
                "as a folder will be called so"
            )
        # Folders of some file systems do not tell capitals from small letters.
        if name.lower() in taken:
            raise ConfigError(f"own.{name}: a template is called {taken[name.lower()]} already; choose another name")
        taken[name.lower()] = name


def find_template(name: str, own: Mapping[str, TemplateDefinition]) -> Template:
    """The template of that name, the user's or ours; ConfigError naming the known ones if there is none."""
    if name in own:
        return own[name].to_template(name)
    require_known(name, [*TEMPLATE_NAMES, *own])
    return get_template(name)
