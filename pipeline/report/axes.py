"""Axes of histograms: equally wide bins on the scale that spreads the values best, and round numbers along it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from facemill.pipeline.report.text import measure

# Equal steps are equal differences; doublings; or ten times less that is missing to 1: 0.9, 0.99, 0.999.
Scale = Literal["linear", "octaves", "nines"]

_NUM_BINS = 36  # at most, about
_MIN_TICKS, _MAX_TICKS = 2, 6
_CONSTANT, _MARGIN = 1e-6, 0.1  # of a value; closer together all are one, and the axis reaches so far beyond it
_TICK_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
_BIN_STEPS = (1.0, 2.0, 2.5, 4.0, 5.0, 10.0)
_SKEWED = 12.0  # values from nothing to so many times their median are shown by octaves
_NEAR_ONE, _MAX_NINES = 0.99, 5.5  # of a median that is shown by nines, and of the last edge
_MAX_DECIMALS = 6
_ROUNDING = 1e-9


class Tick(NamedTuple):
    """A number at a place along the axis, in percent of its length."""

    label: str
    percent: float


@dataclass(frozen=True, eq=False)
class Axis:
    """Edges of bins, (B + 1,) ascending, that are equally wide on the scale."""

    edges: np.ndarray
    scale: Scale

    @property
    def num_bins(self) -> int:
        """How many bins there are."""
        return len(self.edges) - 1

    @property
    def ticks(self) -> list[Tick]:
        """A few round numbers."""
        low, high = self._ends
        step = _round_up((high - low) / _MAX_TICKS, _TICK_STEPS)
        if self.scale != "linear":
            step = float(math.ceil(step))
        places = range(math.ceil(low / step - _ROUNDING), math.floor(high / step + _ROUNDING) + 1)
        values = [_unscaled(step * place, self.scale) for place in places]
        if len(values) < _MIN_TICKS:
            values = [float(self.edges[0]), float(self.edges[-1])]
        return [Tick(self.spell(value), self.place(value)) for value in values]

    def place(self, value: float) -> float:
        """Where a value lies along the axis, in percent; at an end where it is beyond."""
        low, high = self._ends
        within = min(max(value, float(self.edges[0])), float(self.edges[-1]))
        return 100 * (_scaled(within, self.scale) - low) / (high - low)

    def spell(self, value: float) -> str:
        """A value with the digits that tell it from its neighbours."""
        if self.scale != "nines" or not 0 < value < 1:
            return measure(value)
        num_nines = math.ceil(-math.log10(1 - value) - _ROUNDING)
        num_decimals = min(num_nines + 1, _MAX_DECIMALS)
        below = math.floor(value * 10**num_decimals + _ROUNDING) / 10**num_decimals  # never 1
        return f"{below:.{num_decimals}f}".rstrip("0")

    @property
    def _ends(self) -> tuple[float, float]:
        return _scaled(float(self.edges[0]), self.scale), _scaled(float(self.edges[-1]), self.scale)


def choose_axis(*, least: float, low: float, median: float, high: float, most: float, unit: str = "") -> Axis:
    """Bins of a round width from about `low` to `high`, beyond which few of the values from `least` to `most` lie."""
    scale: Scale = "linear"
    if least > 0 and (unit == "px" or (unit != "deg" and high > _SKEWED * median)):
        scale = "octaves"
    elif least >= 0 and most <= 1 and median > _NEAR_ONE:
        scale = "nines"
        low, high = (min(end, 1 - 10**-_MAX_NINES) for end in (low, high))
    first, last = _scaled(low, scale), _scaled(max(low, high), scale)
    if last - first <= _CONSTANT * max(abs(first), abs(last), 1.0):  # some bins around the one value
        margin = _MARGIN * max(abs(first), 1.0)
        first, last = first - margin, first + margin
    step = _round_up((last - first) / _NUM_BINS, _BIN_STEPS)
    places = range(math.floor(first / step + _ROUNDING), math.ceil(last / step - _ROUNDING) + 1)
    return Axis(np.array([_unscaled(step * place, scale) for place in places]), scale)


def _round_up(step: float, factors: Sequence[float]) -> float:
    """The next of some factors times a power of ten."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(power * factor for factor in factors if power * factor >= step * (1 - _ROUNDING))


def _scaled(value: float, scale: Scale) -> float:
    if scale == "octaves":
        return math.log2(value)
    return -math.log10(1 - value) if scale == "nines" else value


def _unscaled(place: float, scale: Scale) -> float:
    if scale == "octaves":
        return 2.0**place
    return 1 - 10.0**-place if scale == "nines" else place
