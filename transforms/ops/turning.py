"""From rows as a file stores them to the upright picture, as EXIF says it is turned."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import cv2
import numpy as np

STRIP_PIXELS = 1 << 17


class Turn(NamedTuple):
    """How stored rows become upright: transposed, then flipped as `cv2.flip` counts, laid down from which end."""

    transposes: bool
    flip: int | None
    fills_backwards: bool

    @property
    def flips_xy(self) -> tuple[bool, bool]:
        """Whether the upright picture's columns, and its rows, run against the stored order."""
        return self.flip in (1, -1), self.flip in (0, -1)


# EXIF 2.32, tag 0x0112
TURNS = {
    1: Turn(False, None, False),
    2: Turn(False, 1, False),
    3: Turn(False, -1, True),
    4: Turn(False, 0, True),
    5: Turn(True, None, False),
    6: Turn(True, 1, True),
    7: Turn(True, -1, True),
    8: Turn(True, 0, False),
}


def turn_upright(stored: np.ndarray, orientation: int) -> np.ndarray:
    """Turn stored pixels (H, W, 3) uint8 upright and contiguous; the same array where nothing is to be turned."""
    if orientation == 1:
        return stored
    height, width = stored.shape[:2]
    step = max(1, STRIP_PIXELS // width)
    strips = (stored[top : top + step] for top in range(0, height, step))
    return assemble(strips, (height, width) if TURNS[orientation].transposes else (width, height), orientation)


def assemble(strips: Iterable[np.ndarray], size_wh: tuple[int, int], orientation: int) -> np.ndarray:
    """Put strips of stored rows, (h, W, 3) or grey (h, W) uint8, at their upright places: (H, W, 3) uint8."""
    upright = np.empty((size_wh[1], size_wh[0], 3), np.uint8)
    turn = TURNS[orientation]
    across = upright.swapaxes(0, 1) if turn.transposes else upright  # stored rows lie along its first axis
    top = 0
    for strip in strips:
        bottom = top + len(strip)
        place = across[len(across) - bottom : len(across) - top] if turn.fills_backwards else across[top:bottom]
        turned = _turned(strip, turn)
        rows = turned.swapaxes(0, 1) if turn.transposes else turned
        place[:] = rows if rows.ndim == 3 else rows[..., None]
        top = bottom
    return upright


def _turned(strip: np.ndarray, turn: Turn) -> np.ndarray:
    # By OpenCV, as numpy takes 3 to 5 times as long to copy pixels against their order.
    turned = cv2.transpose(strip) if turn.transposes else strip
    return turned if turn.flip is None else cv2.flip(turned, turn.flip)
