"""The perceptual hash: against its formula, and on photographs that were compressed, resized, lit and cut."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import lru_cache

import cv2
import numpy as np
import pytest
from pictures import astronaut, jpeg
from PIL import Image

from facemill.models import FaceDetector
from facemill.transforms.ops.canonical import canonical_crops, canonical_matrices
from facemill.transforms.ops.perceptual_hash import HASH_BITS, HASH_HEX_DIGITS, perceptual_hash

NEAR = 32
UNRELATED = 90
PORTRAIT = np.ascontiguousarray(astronaut()[:256, 100:356])


def bits_of(text: str) -> np.ndarray:
    """(16, 16) bool, as the binary digits of the number that the text writes."""
    return np.array([digit == "1" for digit in f"{int(text, 16):0{HASH_BITS}b}"]).reshape(16, 16)


def distance(a: str, b: str) -> int:
    return (int(a, 16) ^ int(b, 16)).bit_count()


@lru_cache(maxsize=1)
def detector() -> FaceDetector:
    return FaceDetector(min_face_size_px=30)


def hash_of_face(image: np.ndarray) -> str:
    """As a run makes it: of the best face, found anew in this very image."""
    landmarks = detector().detect(image)[0].landmarks
    (crop,) = canonical_crops(image, canonical_matrices(landmarks[None], (image.shape[1], image.shape[0])))
    assert crop is not None
    return perceptual_hash(crop)


def noise(seed: int) -> np.ndarray:
    """A crop with structure of all sizes."""
    coarse = [np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8) for side in (3, 7, 14, 28, 112)]
    return np.mean([cv2.resize(part, (112, 112), interpolation=cv2.INTER_CUBIC) for part in coarse], axis=0).astype(
        np.uint8
    )


def test_the_bits_are_the_signs_of_weighted_cosine_sums() -> None:
    crop = noise(1)
    brightness = crop @ np.array([0.299, 0.587, 0.114])
    weight = [0.5 + 0.5 * np.sin(np.pi * (x + 0.5) / 112) for x in range(112)]
    sums = np.zeros((16, 16))
    for frequency in range(1, 17):
        wave = np.array([w * np.cos(np.pi * frequency * (x + 0.5) / 112) for x, w in enumerate(weight)])
        wave -= np.multiply(weight, wave.sum() / sum(weight))
        for column in range(1, 17):
            across = np.array([w * np.cos(np.pi * column * (x + 0.5) / 112) for x, w in enumerate(weight)])
            across -= np.multiply(weight, across.sum() / sum(weight))
            sums[frequency - 1, column - 1] = wave @ brightness @ across
    is_clear = np.abs(sums) > 300  # rounding the brightness alone moves a sum by some 50
    assert is_clear.sum() > 200
    np.testing.assert_array_equal(bits_of(perceptual_hash(crop))[is_clear], sums[is_clear] > 0)


def test_it_has_64_lower_case_hexadecimal_digits() -> None:
    text = perceptual_hash(noise(2))
    assert len(text) == HASH_HEX_DIGITS == 64
    assert set(text) <= set("0123456789abcdef") and len(set(text)) > 4


def test_a_mirrored_picture_has_the_odd_columns_turned() -> None:
    crop = noise(3)
    upright, mirrored = (bits_of(perceptual_hash(np.ascontiguousarray(c))) for c in (crop, crop[:, ::-1]))
    np.testing.assert_array_equal(mirrored[:, 1::2], upright[:, 1::2])  # 2, 4, ... half waves
    np.testing.assert_array_equal(mirrored[:, 0::2], ~upright[:, 0::2])


def test_black_has_no_bits() -> None:
    assert perceptual_hash(np.zeros((112, 112, 3), np.uint8)) == "0" * 64


def test_light_and_contrast_hardly_matter() -> None:
    crop = noise(4)
    assert distance(perceptual_hash(crop), perceptual_hash((crop * 0.5 + 60).astype(np.uint8))) <= 4


@pytest.mark.parametrize("seed", range(5))
def test_unrelated_pictures_differ_in_about_half_of_the_bits(seed: int) -> None:
    assert 96 <= distance(perceptual_hash(noise(2 * seed)), perceptual_hash(noise(2 * seed + 1))) <= 160


def reencoded(quality: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda image: np.asarray(Image.open(io.BytesIO(jpeg(image, quality=quality))))


def resized(factor: float) -> Callable[[np.ndarray], np.ndarray]:
    side = round(256 * factor)
    return lambda image: np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.LANCZOS))


@pytest.mark.parametrize(
    "change",
    [
        reencoded(30),
        reencoded(60),
        reencoded(90),
        resized(0.5),
        resized(1.6),
        lambda image: reencoded(50)(resized(0.5)(image)),
        lambda image: np.clip(image.astype(int) + 30, 0, 255).astype(np.uint8),
        lambda image: (image * 0.7).astype(np.uint8),
        lambda image: np.repeat(image.mean(axis=2, keepdims=True), 3, axis=2).astype(np.uint8),
        lambda image: np.ascontiguousarray(image[9:, 17:]),
        lambda image: cv2.GaussianBlur(image, (0, 0), 1),
    ],
    ids=["q30", "q60", "q90", "half", "larger", "half-q50", "brighter", "darker", "grey", "cut", "blurred"],
)
def test_a_photograph_that_was_changed_is_near(change: Callable[[np.ndarray], np.ndarray]) -> None:
    assert distance(hash_of_face(PORTRAIT), hash_of_face(change(PORTRAIT))) <= NEAR


def test_a_photograph_that_was_mirrored_is_not_near() -> None:
    assert distance(hash_of_face(PORTRAIT), hash_of_face(np.ascontiguousarray(PORTRAIT[:, ::-1]))) > UNRELATED


def test_somebody_else_is_not_near() -> None:
    matplotlib = pytest.importorskip("matplotlib", reason="has the photograph of Grace Hopper")
    path = f"{matplotlib.get_data_path()}/sample_data/grace_hopper.jpg"
    hopper = np.asarray(Image.open(path).convert("RGB"))
    assert distance(hash_of_face(PORTRAIT), hash_of_face(hopper)) > UNRELATED
