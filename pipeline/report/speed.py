"""How fast the units were done, from their commit markers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from facemill.transforms.ops.committing import UnitSummary

_NUM_SLOWEST = 6


class UnitSpeed(NamedTuple):
    """What one unit took."""

    unit: str
    num_images: int
    num_bytes: int
    seconds: float


@dataclass(frozen=True)
class Speed:
    """What the units took; seconds are those of one worker, from the first read to the commit.

    Attributes:
        num_images: Inputs of the units.
        num_bytes: Encoded bytes of these inputs.
        seconds: Sum over the units.
        quartiles_s: Seconds of the units: least, quarter, median, three quarters, most.
        slowest: The units that took the most seconds.
    """

    num_images: int
    num_bytes: int
    seconds: float
    quartiles_s: tuple[float, ...]
    slowest: tuple[UnitSpeed, ...]


def sum_speed(units: Sequence[UnitSummary]) -> Speed | None:
    """Add up the units; None where none of them took any time."""
    timed = [UnitSpeed(unit.unit, unit.num_images, unit.num_bytes, unit.seconds) for unit in units if unit.seconds > 0]
    if not timed:
        return None
    seconds = [unit.seconds for unit in timed]
    return Speed(
        num_images=sum(unit.num_images for unit in timed),
        num_bytes=sum(unit.num_bytes for unit in timed),
        seconds=sum(seconds),
        quartiles_s=tuple(np.quantile(seconds, [0, 0.25, 0.5, 0.75, 1]).tolist()),
        slowest=tuple(sorted(timed, key=lambda unit: (-unit.seconds, unit.unit))[:_NUM_SLOWEST]),
    )
