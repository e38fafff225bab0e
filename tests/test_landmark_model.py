"""Landmarks on cropped faces, and the weights of the old single-image tool."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from skimage import data

from facemill.models import FaceLandmarkModel
from facemill.models.errors import BadInputError, ModelLoadError


@pytest.fixture(scope="module")
def model() -> FaceLandmarkModel:
    return FaceLandmarkModel()


def test_a_known_face(model: FaceLandmarkModel) -> None:
    x1, y1 = 178, 62
    score, landmarks = model.face_landmarks(data.astronaut()[y1:172, x1:268])
    assert score > 0.95
    assert landmarks.shape == (5, 2)
    assert landmarks.dtype == np.float32
    expected = [[203.5, 101], [246.5, 103], [224.5, 126.5], [203.5, 140], [243.5, 140.5]]
    np.testing.assert_allclose(landmarks + np.array([x1, y1]), expected, atol=4)


def test_no_face(model: FaceLandmarkModel) -> None:
    assert model.face_landmarks(np.full((60, 60, 3), 127, np.uint8))[0] < 0.5


def test_landmarks_scale_with_the_crop(model: FaceLandmarkModel) -> None:
    """Fractions of width and height: edges scale, so pixel centres scale about -0.5."""
    crop = data.astronaut()[62:172, 178:268]
    _, landmarks = model.face_landmarks(crop)
    _, stretched = model.face_landmarks(cv2.resize(crop, (900, 550), interpolation=cv2.INTER_CUBIC))
    np.testing.assert_allclose((stretched + 0.5) / [10, 5] - 0.5, landmarks, atol=1)


@pytest.mark.parametrize("crop", [np.zeros((40, 40), np.uint8), np.zeros((40, 0, 3), np.uint8)])
def test_other_arrays_are_refused(model: FaceLandmarkModel, crop: np.ndarray) -> None:
    with pytest.raises(BadInputError, match="uint8 RGB"):
        model.face_landmarks(crop)


def test_reference_dots(model: FaceLandmarkModel, shared_data: Path) -> None:
    """Dots read back from the old tool's demo pictures, sorted by y."""
    dots = json.loads((shared_data / "seeds" / "reference_dots.json").read_text(encoding="utf-8"))
    assert len(dots) == 8
    for name, entry in dots.items():
        crop = cv2.cvtColor(cv2.imread(str(shared_data / "seeds/images" / f"adumrewal_{name}")), cv2.COLOR_BGR2RGB)
        score, landmarks = model.face_landmarks(crop)
        assert score > 0.95, name
        distances = np.linalg.norm(np.array(entry["dots_px"])[:, np.newaxis] - landmarks, axis=2)
        assert sorted(distances.argmin(axis=1)) == [0, 1, 2, 3, 4], name
        assert distances.min(axis=1).max() <= 2, name


def facenet_file(path: Path, rng: np.random.Generator, slopes: tuple[float, float]) -> dict[str, dict[str, np.ndarray]]:
    """A `det3.npy` with random weights, its slopes in a range."""
    kernels = {
        "conv1": (3, 3, 3, 32),
        "conv2": (3, 3, 32, 64),
        "conv3": (3, 3, 64, 64),
        "conv4": (2, 2, 64, 128),
        "conv5": (1152, 256),
        "conv6-1": (256, 2),
        "conv6-2": (256, 4),
        "conv6-3": (256, 10),
    }
    layers: dict[str, dict[str, np.ndarray]] = {}
    for name, shape in kernels.items():
        weights = rng.normal(0, np.sqrt(2 / np.prod(shape[:-1])), shape)
        layers[name] = {
            "weights": weights.astype(np.float32),
            "biases": rng.normal(0, 0.1, shape[-1]).astype(np.float32),
        }
        if "-" not in name:
            layers[f"prelu{name[-1]}"] = {"alpha": rng.uniform(*slopes, shape[-1]).astype(np.float32)}
    np.save(path, np.array(layers, dtype=object), allow_pickle=True)
    return layers


def old_tool(layers: dict[str, dict[str, np.ndarray]], patch: np.ndarray) -> tuple[float, np.ndarray]:
    """What the TensorFlow graph of mtcnn-landmark-detector makes of the transposed, normalized 48 x 48 patch."""
    x = ((patch.astype(float) - 127.5) * 0.0078125).transpose(1, 0, 2)
    for index, (side, whole_only) in enumerate([(3, False), (3, True), (2, False), (0, True)], start=1):
        kernel = layers[f"conv{index}"]["weights"].astype(float)
        windows = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[:2], axis=(0, 1))
        x = np.tensordot(windows, kernel, axes=([3, 4, 2], [0, 1, 2])) + layers[f"conv{index}"]["biases"]
        x = np.maximum(x, 0) - layers[f"prelu{index}"]["alpha"] * np.maximum(-x, 0)
        if side:
            if not whole_only:
                missing = max((-(-x.shape[0] // 2) - 1) * 2 + side - x.shape[0], 0)
                x = np.pad(x, [(0, missing), (0, missing), (0, 0)], constant_values=-np.inf)
            x = np.lib.stride_tricks.sliding_window_view(x, (side, side), axis=(0, 1))[::2, ::2].max(axis=(-1, -2))
    x = x.ravel() @ layers["conv5"]["weights"].astype(float) + layers["conv5"]["biases"]
    x = np.maximum(x, 0) - layers["prelu5"]["alpha"] * np.maximum(-x, 0)
    outputs = [x @ layers[f"conv6-{i}"]["weights"].astype(float) + layers[f"conv6-{i}"]["biases"] for i in (1, 2, 3)]
    exponents = np.exp(outputs[0] - outputs[0].max())
    return exponents[1] / exponents.sum(), outputs[2].reshape(2, 5).T


@pytest.mark.parametrize("slopes", [(-0.3, 0.9), (-1.5, 1.5), (0.9, 1.1), (1.05, 1.2), (-1.2, -0.1), (0.0, 0.0)])
def test_weights_of_the_old_tool(tmp_path: Path, slopes: tuple[float, float]) -> None:
    layers = facenet_file(tmp_path / "landmark_detector_weights.npy", np.random.default_rng(8), slopes)
    model = FaceLandmarkModel(tmp_path / "landmark_detector_weights.npy")
    crop = data.astronaut()[62:110, 178:226]  # 48 x 48, so that no resampling blurs the comparison
    score, landmarks = model.face_landmarks(crop)
    expected_score, fractions = old_tool(layers, crop)
    assert 0.001 < expected_score < 0.999
    assert score == pytest.approx(expected_score, abs=1e-5)
    np.testing.assert_allclose((landmarks + 0.5) / 48, fractions, atol=1e-5)


def test_a_path_that_is_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"absent\.npy"):
        FaceLandmarkModel(str(tmp_path / "absent.npy"))
