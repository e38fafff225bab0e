"""Light on a face: the measures of ISO/IEC 29794-5 that come from the histogram of its luminance."""

from __future__ import annotations

import cv2
import numpy as np

from facemill.transforms.ops.canonical import OVAL, Region, values_in

LUMINANCE_COLUMNS = ("luminance_mean", "luminance_variance", "under_exposure", "over_exposure", "dynamic_range")

_LEVELS = np.arange(256) / 255
_LINEAR = np.where(_LEVELS > 0.04045, ((_LEVELS + 0.055) / 1.055) ** 2.4, _LEVELS / 12.92)  # sRGB, IEC 61966-2-1
_LUMINANCE_OF = (255 * np.outer((0.2126, 0.7152, 0.0722), _LINEAR)).astype(np.float32)  # (RGB, level)
# The ends of the scale that count as exposed too little and too much, as OFIQ has them.
_UNDER_EXPOSED, _OVER_EXPOSED = slice(0, 26), slice(247, 256)

# Outwards from each eye, halfway down to the mouth, 0.3 eye distances wide, as OFIQ has them.
_CHEEKS: tuple[Region, Region] = ((slice(72, 83), slice(28, 39)), (slice(72, 83), slice(74, 85)))
_LEVELS_PER_BIN = 8


def luminance_of(image: np.ndarray) -> np.ndarray:
    """Relative luminance of sRGB, linear in light, 255 being white: (H, W, 3) uint8 RGB -> (H, W) uint8."""
    red, green, blue = (cv2.LUT(channel, table) for channel, table in zip(cv2.split(image), _LUMINANCE_OF, strict=True))
    return (red + green + blue + 0.5).astype(np.uint8)


def measure_luminance(luminance: np.ndarray, inside: np.ndarray | None) -> tuple[float, ...]:
    """The LUMINANCE_COLUMNS of a canonical crop: its luminance (112, 112) uint8 -> five floats; NaN if unseen.

    Of the face's oval: the mean and the variance of the luminance, white being 1; the shares of its pixels with a
    luminance of up to 25 and from 247 on, of 255; the entropy of its histogram of 256 levels, in bits. That is what
    ISO/IEC 29794-5 measures, as its reference implementation OFIQ does, but for the region: there it is the hull of 98
    landmarks, without what hides the face. ISO maps these numbers to scores from 0 to 100; here they are as measured.
    """
    values = values_in(luminance, OVAL, inside)
    if not len(values):
        return (np.nan,) * len(LUMINANCE_COLUMNS)
    shares = np.bincount(values, minlength=256) / len(values)
    mean = float(shares @ _LEVELS)
    present = shares[shares > 0]
    return (
        mean,
        float(shares @ (_LEVELS - mean) ** 2),
        float(shares[_UNDER_EXPOSED].sum()),
        float(shares[_OVER_EXPOSED].sum()),
        float(present @ -np.log2(present)),
    )


def illumination_uniformity(luminance: np.ndarray, inside: np.ndarray | None) -> float:
    """How alike the light on both cheeks is: luminance (112, 112) uint8 -> the overlap of their histograms, in [0, 1].

    As OFIQ does it for ISO/IEC 29794-5, but with 32 bins in place of 256: the cheeks have 121 pixels here, of which
    256 bins would be all but empty.
    """
    left, right = (values_in(luminance, cheek, inside) // _LEVELS_PER_BIN for cheek in _CHEEKS)
    if not (len(left) and len(right)):
        return np.nan
    num_bins = 256 // _LEVELS_PER_BIN
    shares = [np.bincount(side, minlength=num_bins) / len(side) for side in (left, right)]
    return float(np.minimum(*shares).sum())
