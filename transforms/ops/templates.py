"""The places at which an aligned crop wants the five landmarks."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from facemill.models.errors import ConfigError


@dataclass(frozen=True, slots=True, eq=False)
class Template:
    """A crop size and where the five landmarks belong in it.

    `points` is (5, 2) float64, px of the crop, read-only: left_eye, right_eye, nose, mouth_left, mouth_right, integer
    coordinates being pixel centres. `source` says where the numbers come from.
    """

    name: str
    points: np.ndarray
    size_wh: tuple[int, int]
    source: str

    def __post_init__(self) -> None:
        points = np.array(self.points, dtype=np.float64)
        points.setflags(write=False)
        object.__setattr__(self, "points", points)


_TEMPLATES = MappingProxyType(
    {
        template.name: template
        for template in (
            Template(
                name="arcface112",
                # The 96x112 destination points of SphereFace and insightface, moved 8 px to the right.
                points=np.array(
                    [
                        [38.2946, 51.6963],
                        [73.5318, 51.5014],
                        [56.0252, 71.7366],
                        [41.5493, 92.3655],
                        [70.7299, 92.2041],
                    ]
                ),
                size_wh=(112, 112),
                source="insightface, 112x112 alignment of ArcFace (Deng et al. 2019)",
            ),
        )
    }
)
TEMPLATE_NAMES: tuple[str, ...] = tuple(_TEMPLATES)


def get_template(name: str) -> Template:
    """The template of that name; ConfigError naming the known ones if there is none."""
    if name not in _TEMPLATES:
        raise ConfigError(f"template must be one of {', '.join(TEMPLATE_NAMES)}, got {name!r}")
    return _TEMPLATES[name]
