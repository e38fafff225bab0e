"""Weight arrays of the cascade: where they come from, and the one layout the rest of the package knows.

A network's weights are a flat mapping of names to float32 arrays:

- `conv1.weight` (out, in, height, width), `conv1.bias` (out,), `conv1.slope` (out,): a convolution and its PReLU;
  `conv2`, ... likewise.
- `dense.weight` (out, in, height, width), `dense.bias`, `dense.slope`: the hidden layer of R-Net and O-Net, written as
  the convolution that covers its whole feature map, so that no flattening order has to be remembered.
- `score.weight` (2, in, 1, 1), `box.weight` (4, in, 1, 1), `landmarks.weight` (10, in, 1, 1) and their `bias`: the
  outputs. Score: not a face, a face. Box: x1, y1, x2, y2. Landmarks: five x, then five y.

Heights are image rows. The original MATLAB networks see the image transposed; readers of such files turn them.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from facemill.models.errors import ModelLoadError
from facemill.models.npy import read_object_npy

NetworkName = Literal["pnet", "rnet", "onet"]
Weights = dict[str, NDArray[np.float32]]

_NUM_CONVS: dict[NetworkName, int] = {"pnet": 3, "rnet": 3, "onet": 4}
_HEAD_OF_WIDTH = {2: "score", 4: "box", 10: "landmarks"}


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A file of weights that the results depend on."""

    name: str
    sha256: str
    license: str


_DISTRIBUTION = "mtcnn"
_MODEL_FILES: dict[NetworkName, ModelFile] = {
    "pnet": ModelFile("pnet.lz4", "ea6b0c3e685ebee3165326ad6484acc95f2ef78f1c94fbf40a55704fa989f7b5", "MIT"),
    "rnet": ModelFile("rnet.lz4", "cb00e6460f3c98b0bfafaba3c0a0ded4bdf6e62cee7174d969e8670d7e757fee", "MIT"),
    "onet": ModelFile("onet.lz4", "94f6ea2f4cf985275ee958cdd762d17b6009348a4fb9d8c6be39ba73ffd22ca3", "MIT"),
}


def model_files() -> list[ModelFile]:
    """The files behind the default cascade, in the order P-Net, R-Net, O-Net; reads nothing."""
    return list(_MODEL_FILES.values())


def load_weights(network: NetworkName, *, folder: Path | None = None) -> Weights:
    """Weights of one network of the pretrained cascade, from the installed `mtcnn` 1.0.0 distribution.

    `folder` reads the same files from elsewhere. Nothing is unpickled before its SHA-256 is known to be right.
    Raises ModelLoadError when the file is missing or is not the published one.
    """
    path = (_installed_folder() if folder is None else folder) / _MODEL_FILES[network].name
    arrays = _unpickle_verified(path, _MODEL_FILES[network].sha256)
    return _from_keras(arrays, network)


def load_landmark_npy(path: str | Path) -> Weights:
    """O-Net weights from a `.npy` file that holds a pickled dict of arrays, without running what a pickle can run.

    Takes the layouts of facenet's `det3.npy` (and the `landmark_detector_weights.npy` of mtcnn-landmark-detector),
    nested or flat, which see the image transposed, and of facenet-pytorch's state dict. Raises ModelLoadError for
    anything else.
    """
    path = Path(path)
    content = read_object_npy(path)
    try:
        return _landmark_weights(_flatten(content))
    except KeyError as error:
        raise ModelLoadError(f"{path} does not hold the layers of an O-Net: {error.args[0]} is missing") from error
    except (AttributeError, ValueError, TypeError) as error:
        raise ModelLoadError(f"{path} does not hold the layers of an O-Net: {error}") from error


def _installed_folder() -> Path:
    spec = importlib.util.find_spec(_DISTRIBUTION)  # finds the files without importing TensorFlow
    if spec is None or not spec.submodule_search_locations:
        raise ModelLoadError(
            "the weights come with the package mtcnn, which is not installed: pip install mtcnn==1.0.0"
        )
    return Path(spec.submodule_search_locations[0]) / "assets" / "weights"


def _unpickle_verified(path: Path, sha256: str) -> list[NDArray[np.float32]]:
    try:
        data = path.read_bytes()
    except OSError as error:
        reason = error.strerror or error
        raise ModelLoadError(f"cannot read weights {path}: {reason}; reinstall mtcnn==1.0.0") from error
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise ModelLoadError(f"{path} has SHA-256 {found}, expected {sha256}; reinstall mtcnn==1.0.0")
    import joblib
    import lz4.frame

    # joblib would unpack it as well, but leaves lz4's reader open, of which Python 3.13 complains.
    arrays: list[NDArray[np.float32]] = joblib.load(io.BytesIO(lz4.frame.decompress(data)))
    return arrays


def _from_keras(arrays: Sequence[NDArray[np.float32]], network: NetworkName) -> Weights:
    """Keras order: kernel (height, width, in, out), bias, slope per layer; then kernel and bias per output."""
    rest = iter(arrays)
    weights: Weights = {}
    for index in range(_NUM_CONVS[network]):
        name = f"conv{index + 1}"
        weights[f"{name}.weight"] = _contiguous(next(rest).transpose(3, 2, 0, 1))
        weights[f"{name}.bias"], weights[f"{name}.slope"] = next(rest), next(rest).ravel()
    if network != "pnet":
        channels = len(weights[f"conv{_NUM_CONVS[network]}.bias"])
        weights["dense.weight"] = _dense_kernel(next(rest), channels)
        weights["dense.bias"], weights["dense.slope"] = next(rest), next(rest).ravel()
    for kernel, bias in zip(rest, rest, strict=True):
        head = _HEAD_OF_WIDTH[len(bias)]
        weights[f"{head}.weight"] = _contiguous(kernel.reshape(-1, len(bias)).T[:, :, None, None])
        weights[f"{head}.bias"] = bias
    return weights


def _dense_kernel(matrix: NDArray[np.float32], channels: int) -> NDArray[np.float32]:
    """(width * height * in, out), flattened in that order as MATLAB did, to (out, in, height, width)."""
    side = round((len(matrix) / channels) ** 0.5)
    return _contiguous(matrix.reshape(side, side, channels, -1).transpose(3, 2, 1, 0))


def _contiguous(array: NDArray[Any]) -> NDArray[np.float32]:
    return np.ascontiguousarray(array, dtype=np.float32)


_LANDMARK_SHAPES: dict[str, tuple[int, ...]] = {
    "conv1.weight": (32, 3, 3, 3),
    "conv2.weight": (64, 32, 3, 3),
    "conv3.weight": (64, 64, 3, 3),
    "conv4.weight": (128, 64, 2, 2),
    "dense.weight": (256, 128, 3, 3),
    "score.weight": (2, 256, 1, 1),
    "box.weight": (4, 256, 1, 1),
    "landmarks.weight": (10, 256, 1, 1),
}


def _landmark_weights(arrays: Mapping[str, NDArray[Any]]) -> Weights:
    """Canonical O-Net weights from flat `layer.parameter` names of either layout; checks every shape."""
    convert = _from_torch if "dense5.weight" in arrays else _from_facenet
    weights = {name: _contiguous(array) for name, array in convert(arrays).items()}
    for name, shape in _LANDMARK_SHAPES.items():
        layer = name.removesuffix(".weight")
        expected = {name: shape, f"{layer}.bias": shape[:1]}
        if layer.startswith(("conv", "dense")):
            expected[f"{layer}.slope"] = shape[:1]
        for key, wanted in expected.items():
            if weights[key].shape != wanted:
                raise ValueError(f"{key} has shape {weights[key].shape}, expected {wanted}")
            if not np.isfinite(weights[key]).all():
                raise ValueError(f"{key} holds values that are not finite")
    return weights


def _from_facenet(arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Kernels are (width, height, in, out) because the network gets the image transposed."""
    weights: dict[str, NDArray[Any]] = {}
    for index in range(1, 5):
        weights[f"conv{index}.weight"] = arrays[f"conv{index}.weights"].transpose(3, 2, 1, 0)
        weights[f"conv{index}.bias"] = arrays[f"conv{index}.biases"]
        weights[f"conv{index}.slope"] = arrays[f"prelu{index}.alpha"].ravel()
    weights["dense.weight"] = _dense_kernel(arrays["conv5.weights"], 128)
    weights["dense.bias"], weights["dense.slope"] = arrays["conv5.biases"], arrays["prelu5.alpha"].ravel()
    for index in range(1, 4):
        bias = arrays[f"conv6-{index}.biases"]
        head = _HEAD_OF_WIDTH[len(bias)]
        weights[f"{head}.weight"] = arrays[f"conv6-{index}.weights"].T[:, :, None, None]
        weights[f"{head}.bias"] = bias
    return weights


def _from_torch(arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Kernels are (out, in, height, width); the hidden layer is flattened as width, height, channels."""
    weights: dict[str, NDArray[Any]] = {}
    for index in range(1, 5):
        weights[f"conv{index}.weight"] = arrays[f"conv{index}.weight"]
        weights[f"conv{index}.bias"] = arrays[f"conv{index}.bias"]
        weights[f"conv{index}.slope"] = arrays[f"prelu{index}.weight"]
    weights["dense.weight"] = _dense_kernel(arrays["dense5.weight"].T, 128)
    weights["dense.bias"], weights["dense.slope"] = arrays["dense5.bias"], arrays["prelu5.weight"]
    for index in range(1, 4):
        bias = arrays[f"dense6_{index}.bias"]
        head = _HEAD_OF_WIDTH[len(bias)]
        weights[f"{head}.weight"] = arrays[f"dense6_{index}.weight"][:, :, None, None]
        weights[f"{head}.bias"] = bias
    return weights


def _flatten(content: object) -> dict[str, NDArray[Any]]:
    """`{layer: {parameter: array}}` or `{name: array}` to `{"layer.parameter": array}`."""
    if not isinstance(content, dict):
        raise TypeError(f"expected a dict of arrays, got {type(content).__name__}")
    flat: dict[str, NDArray[Any]] = {}
    for layer, value in content.items():
        for parameter, array in value.items() if isinstance(value, dict) else (("", value),):
            if not isinstance(array, np.ndarray) or array.dtype.kind != "f":
                raise TypeError(f"{layer} {parameter} is not an array of floats")
            flat[f"{layer}.{parameter}" if parameter else str(layer).replace("/", ".").removesuffix(":0")] = array
    return flat
