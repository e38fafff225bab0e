"""The crops of a face, from matrix to file, whichever way the pixels take."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from facemill.transforms.ops.alignment import AlignOptions
from facemill.transforms.ops.crops import WriteOptions, encode_crop
from facemill.transforms.ops.cutting import cut_crops
from facemill.transforms.ops.templates import get_template
from facemill.transforms.ops.warping import warp_affine

IMAGE = np.random.default_rng(1).integers(0, 256, (90, 120, 3), np.uint8)
TEMPLATE = get_template("arcface112")
MATRICES = {
    "enlarged and turned": [[1.5, -0.4, 3.25], [0.4, 1.5, -9.5]],
    "shrunk": [[0.4, 0.1, 30], [-0.1, 0.4, 20]],
    "cut out": [[1, 0, -8], [0, 1, 22]],
    "whole pixels": [[2, 0, 0.5], [0, 2, 0.5]],
    "beside the picture": [[1, 0, 500], [0, 1, 0]],
}


@pytest.mark.parametrize("matrix", MATRICES.values(), ids=MATRICES)
def test_a_lossless_crop_is_the_one_that_was_cut(matrix: list[list[float]]) -> None:
    placed = np.array(matrix)
    ((png,), none) = cut_crops(IMAGE, [(placed,), None], [TEMPLATE], AlignOptions(), WriteOptions(image_format="png"))
    assert none is None
    decoded = np.asarray(Image.open(io.BytesIO(png)))
    np.testing.assert_array_equal(decoded, warp_affine(IMAGE, placed, TEMPLATE.size_wh))


@pytest.mark.parametrize("matrix", MATRICES.values(), ids=MATRICES)
def test_a_jpeg_is_that_of_its_three_colours(matrix: list[list[float]]) -> None:
    placed = np.array(matrix)
    ((jpeg,),) = cut_crops(IMAGE, [(placed,)], [TEMPLATE], AlignOptions(), WriteOptions())
    crop = warp_affine(IMAGE, placed, TEMPLATE.size_wh)
    assert crop.shape == (112, 112, 3)
    assert jpeg == encode_crop(crop, WriteOptions())
