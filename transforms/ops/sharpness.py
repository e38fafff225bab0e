"""Sharpness of a face at the resolution of its canonical crop."""

from __future__ import annotations

import cv2
import numpy as np

from facemill.transforms.ops.canonical import OVAL, Region, values_in

_FACE: Region = (slice(28, 112), slice(12, 101))  # the oval and what the filters need around it
_OVAL = OVAL[_FACE]
_NOISE_FACTOR = 3.0
_WINDOW_PX = 5
_COARSE_SIGMA_PX = 2.0
_REACH_PX = 6  # of the filters, in which the edge of the picture would count as one of the face


def measure_sharpness(luma: np.ndarray, inside: np.ndarray | None) -> float:
    """How much of a face's detail is as fine as the crop can show: (112, 112) uint8 -> a ratio from 0 to about 1.5.

    The root of e / c over the face's oval. e is the energy of oriented gradients: where l1 >= l2 are the eigenvalues of
    the structure tensor over 5 x 5 pixels, the mean of max(l1 - 3 l2, 0). Edges have l1 alone, noise has both alike, so
    that noise takes from a face's detail in place of adding to it (compare Zhu and Milanfar 2010, metric Q). c is the
    gradient energy of the same face blurred by a sigma of 2 px, which takes contrast and content out.

    An enlarged small face is as blurred as it looks, and a large one is judged by what the crop shows of it. OFIQ's
    sharpness for ISO/IEC 29794-5 is a random forest on gradients of a crop of 616 x 616, and not comparable. NaN for a
    face without any gradient.
    """
    if inside is not None:
        size = 2 * _REACH_PX + 1
        inside = cv2.erode(inside.astype(np.uint8), np.ones((size, size), np.uint8), borderValue=1).astype(bool)[_FACE]
    face = luma[_FACE].astype(np.float32)
    fine = values_in(_oriented_energy(face), _OVAL, inside).sum(dtype=np.float64)
    slope_x, slope_y = _slopes(cv2.GaussianBlur(face, (0, 0), _COARSE_SIGMA_PX))
    coarse = values_in(slope_x**2 + slope_y**2, _OVAL, inside).sum(dtype=np.float64)
    return float(np.sqrt(fine / coarse)) if coarse > 0 else np.nan


def _slopes(face: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Along x and y, per px: (h, w) float32 -> two of the same."""
    return cv2.Scharr(face, -1, 1, 0, scale=1 / 32), cv2.Scharr(face, -1, 0, 1, scale=1 / 32)


def _oriented_energy(face: np.ndarray) -> np.ndarray:
    """max(l1 - 3 l2, 0) of the structure tensor about each pixel: (h, w) float32 -> the same."""
    x, y = _slopes(face)
    xx, yy, xy = (cv2.blur(product, (_WINDOW_PX, _WINDOW_PX)) for product in (x * x, y * y, x * y))
    trace, difference = xx + yy, cv2.magnitude(xx - yy, 2 * xy)  # l1 + l2, l1 - l2
    return np.maximum(((1 + _NOISE_FACTOR) * difference - (_NOISE_FACTOR - 1) * trace) / 2, 0)
