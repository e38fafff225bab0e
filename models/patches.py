"""Cut patches out of an image at float coordinates."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# The networks' zero: what lies outside of the image says nothing.
_OUTSIDE = (127.5, 127.5, 127.5)
# More make no difference to the accuracy, and most of the time goes into the samples of large faces.
_MAX_SAMPLES_PER_AXIS = 4


def cut_patches(image: NDArray[np.uint8], boxes: NDArray[np.float64], patch_px: int) -> NDArray[np.float32]:
    """What the boxes hold, resampled: (H, W, 3) and (N, 4) -> (N, patch_px, patch_px, 3), grey values.

    Boxes give outer edges of pixels: the box 0, 0, W, H is the whole image. A pixel of a patch is the mean of up to
    4 x 4 bilinear samples spread evenly over its area.
    """
    patches = np.empty((len(boxes), patch_px, patch_px, 3), dtype=np.float32)
    for patch, box in zip(patches, boxes, strict=True):
        patch[...] = _cut_patch(image, box, patch_px)
    return patches


def _cut_patch(image: NDArray[np.uint8], box: NDArray[np.float64], patch_px: int) -> NDArray[np.float32]:
    import cv2

    size = box[2:] - box[:2]
    per_axis = int(np.clip(np.ceil(size.max() / patch_px), 1, _MAX_SAMPLES_PER_AXIS))
    num_samples = patch_px * per_axis
    step = size / num_samples
    part, origin = _surrounding(image, box)
    # Sample i lies i + 0.5 steps from the box's edge; warpAffine counts from the centre of the first pixel.
    first = box[:2] - origin + 0.5 * step - 0.5
    samples = cv2.warpAffine(
        part,
        np.array([[step[0], 0.0, first[0]], [0.0, step[1], first[1]]]),
        (num_samples, num_samples),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=_OUTSIDE,
    )
    return cv2.resize(samples, (patch_px, patch_px), interpolation=cv2.INTER_AREA).astype(np.float32)


def _surrounding(image: NDArray[np.uint8], box: NDArray[np.float64]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The part of the image around a box, not empty, and its corner: warpAffine takes at most 32766 px a side."""
    image_wh = np.array(image.shape[1::-1])
    first = np.clip(np.floor(box[:2]) - 2, 0, image_wh - 1).astype(np.int64)
    last = np.clip(np.ceil(box[2:]) + 2, first + 1, image_wh).astype(np.int64)
    return image[first[1] : last[1], first[0] : last[0]], first
