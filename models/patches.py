"""Cut patches out of an image at float coordinates."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from facemill.models.pyramid import ImagePyramid, times_halved

# The networks' zero: what lies outside of the image says nothing.
_OUTSIDE = (127.5, 127.5, 127.5)
# warpAffine takes pictures of less than 2^15 px a side.
_MAX_SIDE_PX = 2**15 - 2


def cut_patches(
    pyramid: ImagePyramid, boxes: NDArray[np.float64], patch_px: int, samples_per_axis: int
) -> NDArray[np.uint8]:
    """What the boxes (N, 4) hold, resampled: (N, patch_px, patch_px, 3).

    Boxes give outer edges of pixels: the box 0, 0, W, H is the whole image. A pixel of a patch is the mean of so many
    bilinear samples a side, spread evenly over its area and taken from the half of the image that fits their distance.
    """
    import cv2

    num_samples = patch_px * samples_per_axis
    steps = (boxes[:, 2:] - boxes[:, :2]) / num_samples
    times = times_halved(steps.max(axis=1, initial=0), pyramid.reduction)
    # Sample i lies i + 0.5 steps from the box's edge; warpAffine counts from the centre of the first pixel.
    pixel_px = (pyramid.reduction * 2.0**times)[:, np.newaxis]
    matrices = np.zeros((len(boxes), 2, 3))
    matrices[:, [0, 1], [0, 1]] = steps / pixel_px
    matrices[:, :, 2] = (boxes[:, :2] + 0.5 * steps) / pixel_px - 0.5

    samples = np.empty((len(boxes), num_samples, num_samples, 3), np.uint8)
    for target, matrix, halvings in zip(samples, matrices, times.tolist(), strict=True):
        source = pyramid.half(halvings)
        if max(source.shape) > _MAX_SIDE_PX:
            source, matrix = _surrounding(source, matrix, num_samples)
        cv2.warpAffine(
            source,
            matrix,
            (num_samples, num_samples),
            dst=target,
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=_OUTSIDE,
        )
    if samples_per_axis == 1 or not len(boxes):
        return samples[:, :patch_px, :patch_px]
    stacked = samples.reshape(-1, num_samples, 3)
    means = cv2.resize(stacked, (patch_px, len(boxes) * patch_px), interpolation=cv2.INTER_AREA)
    return np.asarray(means, dtype=np.uint8).reshape(-1, patch_px, patch_px, 3)


def _surrounding(
    source: NDArray[np.uint8], matrix: NDArray[np.float64], num_samples: int
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """The part of a large picture that the samples come from, not empty, and the matrix for it."""
    size_wh = np.array(source.shape[1::-1])
    first_sample = matrix[:, 2]
    last_sample = first_sample + matrix[[0, 1], [0, 1]] * (num_samples - 1)
    first = np.clip(np.floor(first_sample) - 1, 0, size_wh - 1).astype(np.int64)
    last = np.clip(np.ceil(last_sample) + 2, first + 1, size_wh).astype(np.int64)
    moved = matrix.copy()
    moved[:, 2] -= first
    return source[first[1] : last[1], first[0] : last[0]], moved
