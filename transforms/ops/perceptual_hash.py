"""A hash of a face's picture that hardly changes when the picture is compressed, resized or found again.

It is made for aligned crops of one size, in which the same photograph shows the same things in the same places.
docs/duplicates.md says how it was chosen and what it tells apart.
"""

from __future__ import annotations

import cv2
import numpy as np

HASH_BITS = 256
HASH_HEX_DIGITS = HASH_BITS // 4

_CROP_PX = 112
_FREQUENCIES = np.arange(1, 17)  # half waves per crop; 0 would tell of light alone
_SCALE = 2**12
_EDGE_WEIGHT = 0.5


def _make_basis() -> np.ndarray:
    """Cosines of DCT-II, weighted less towards the crop's edges: (16, 112) float64 holding whole numbers.

    The edges are the first to change when the face is found anew a little beside, or the photograph was cut. Each row
    sums up to nothing, but for rounding, so that light alone turns no bit.
    """
    places = np.arange(_CROP_PX) + 0.5
    weights = _EDGE_WEIGHT + (1 - _EDGE_WEIGHT) * np.sin(np.pi * places / _CROP_PX)
    waves = weights * np.cos(np.pi * _FREQUENCIES[:, None] * places / _CROP_PX)
    return np.rint(_SCALE * (waves - weights * waves.sum(axis=1, keepdims=True) / weights.sum()))


_BASIS = _make_basis()


def perceptual_hash(crop: np.ndarray) -> str:
    """The hash of a canonical crop: (112, 112, 3) uint8 RGB -> 64 hexadecimal digits.

    One bit for each of 16 x 16 spatial frequencies, by rows: whether the brightness goes along with it or against it.
    The number of bits in which two hashes differ is their distance. Pictures of different people differ in about 122 of
    the 256, a mirrored picture in half of them.

    The sums are of whole numbers below 2 ** 53, therefore exact in any order: the same pixels have the same hash on
    every machine. Where another decoder or processor makes pixels brighter by one, a bit whose frequency is hardly
    there can still turn.
    """
    brightness = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY).astype(np.float64)
    return np.packbits(_BASIS @ brightness @ _BASIS.T > 0).tobytes().hex()
