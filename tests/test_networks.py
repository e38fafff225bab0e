"""The ONNX graphs against a plain numpy computation in float64, written from the layer lists of the `mtcnn` package."""

from __future__ import annotations

import io
from importlib import metadata
from pathlib import Path
from typing import Any

import joblib
import lz4.frame
import numpy as np
import onnx
import pytest

from facemill.models.errors import ModelLoadError
from facemill.models.graphs import build_graph
from facemill.models.pyramid import split_strips
from facemill.models.sessions import Session
from facemill.models.weights import NetworkName, load_weights

SIDES: dict[NetworkName, int] = {"rnet": 24, "onet": 48}
# Kernel and stride of the pooling after each convolution, as in mtcnn/network/*.py; "same" pads at the end.
LAYERS: dict[NetworkName, list[tuple[int, str] | None]] = {
    "pnet": [(2, "same"), None, None],
    "rnet": [(3, "same"), (3, "valid"), None],
    "onet": [(3, "same"), (3, "valid"), (2, "same"), None],
}


def keras_arrays(network: NetworkName) -> list[np.ndarray]:
    path = Path(str(metadata.distribution("mtcnn").locate_file(f"mtcnn/assets/weights/{network}.lz4")))
    arrays: list[np.ndarray] = joblib.load(io.BytesIO(lz4.frame.decompress(path.read_bytes())))
    return arrays


def convolve(x: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """(N, H, W, C) with a kernel (h, w, C, K), no padding."""
    windows = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[:2], axis=(1, 2))
    return np.einsum("nyxchw,hwck->nyxk", windows, kernel.astype(float), optimize=True) + bias


def max_pool(x: np.ndarray, side: int, padding: str) -> np.ndarray:
    """Stride 2; "same" gives ceil(size / 2) outputs, "valid" only whole windows."""
    if padding == "same":
        pads = [max((-(-size // 2) - 1) * 2 + side - size, 0) for size in x.shape[1:3]]
        pairs = [(0, 0), *((pad // 2, pad - pad // 2) for pad in pads), (0, 0)]
        x = np.pad(x, pairs, constant_values=-np.inf)
    return np.lib.stride_tricks.sliding_window_view(x, (side, side), axis=(1, 2))[:, ::2, ::2].max(axis=(-1, -2))


def plain_network(network: NetworkName, pixels: np.ndarray, arrays: list[np.ndarray]) -> list[np.ndarray]:
    """Outputs in our order: probability, offsets, landmarks."""
    rest = iter(arrays)
    x = (pixels.astype(float) - 127.5) / 128
    for pool in LAYERS[network]:
        x = convolve(x, next(rest), next(rest))
        x = np.where(x > 0, x, next(rest) * x)
        x = max_pool(x, *pool) if pool else x
    if network != "pnet":
        x = x.transpose(0, 2, 1, 3).reshape(len(x), -1) @ next(rest).astype(float) + next(rest)
        x = np.where(x > 0, x, next(rest) * x)
    outputs = [x @ np.squeeze(kernel.astype(float)) + bias for kernel, bias in zip(rest, rest, strict=True)]
    offsets, *landmarks, classes = outputs
    exponents = np.exp(classes - classes.max(axis=-1, keepdims=True))
    return [(exponents / exponents.sum(axis=-1, keepdims=True))[..., 1], offsets, *landmarks]


def random_pixels(shape: tuple[int, ...]) -> np.ndarray:
    """Blocks of random grey values: more contrast than noise leaves after a convolution."""
    rng = np.random.default_rng(sum(shape))
    coarse = rng.integers(0, 256, (shape[0], shape[1] // 3 + 1, shape[2] // 3 + 1, 3))
    return np.kron(coarse, np.ones((1, 3, 3, 1)))[:, : shape[1], : shape[2]].astype(np.float32)


@pytest.mark.parametrize("shape", [(1, 12, 12, 3), (1, 13, 12, 3), (2, 12, 13, 3), (1, 57, 80, 3), (1, 40, 41, 3)])
def test_pnet_equals_the_plain_computation(shape: tuple[int, ...]) -> None:
    check_network("pnet", random_pixels(shape))


@pytest.mark.parametrize("network", ["rnet", "onet"])
@pytest.mark.parametrize("count", [1, 7])
def test_patch_networks_equal_the_plain_computation(network: NetworkName, count: int) -> None:
    check_network(network, random_pixels((count, SIDES[network], SIDES[network], 3)))


def check_network(network: NetworkName, pixels: np.ndarray) -> None:
    ours = Session(build_graph(network, load_weights(network)))(pixels)
    theirs = plain_network(network, pixels, keras_arrays(network))
    assert len(ours) == len(theirs) == (3 if network == "onet" else 2)
    for our, their in zip(ours, theirs, strict=True):
        assert our.dtype == np.float32
        np.testing.assert_allclose(our, their, rtol=0, atol=1e-5)


def test_any_slope_is_exact() -> None:
    """Slopes above 1 and below 0 occur in the published weights; rewritings of PReLU tend to need the range between."""
    arrays = keras_arrays("pnet")
    rng = np.random.default_rng(5)
    weights = load_weights("pnet")
    for index in range(3):
        slope = rng.uniform(-2, 2, arrays[3 * index + 2].shape).astype(np.float32)
        arrays[3 * index + 2] = slope
        weights[f"conv{index + 1}.slope"] = slope.ravel()
    pixels = random_pixels((1, 30, 30, 3))
    ours = Session(build_graph("pnet", weights))(pixels)
    theirs = plain_network("pnet", pixels, arrays)
    np.testing.assert_allclose(ours[0], theirs[0], rtol=0, atol=1e-5)
    np.testing.assert_allclose(ours[1], theirs[1], rtol=0, atol=2e-5 * np.abs(theirs[1]).max())


@pytest.mark.parametrize("network", ["rnet", "onet"])
def test_a_patch_gets_the_same_bits_in_any_company(network: NetworkName) -> None:
    session = Session(build_graph(network, load_weights(network)))
    pixels = random_pixels((64, SIDES[network], SIDES[network], 3))
    together = session(pixels)
    for count in (1, 2, 5, 16, 63):
        for all_rows, rows in zip(together, session(pixels[-count:]), strict=True):
            np.testing.assert_array_equal(rows, all_rows[-count:])


@pytest.mark.parametrize("network", ["rnet", "onet"])
def test_no_patches(network: NetworkName) -> None:
    outputs = Session(build_graph(network, load_weights(network)))(random_pixels((1, *[SIDES[network]] * 2, 3))[:0])
    assert [output.shape for output in outputs] == [(0,), (0, 4), (0, 10)][: len(outputs)]


@pytest.mark.parametrize(("width", "height"), [(600, 601), (700, 500), (2000, 131), (333, 332), (12, 6000), (5000, 12)])
def test_strips_are_the_whole_level(width: int, height: int) -> None:
    session = Session(build_graph("pnet", load_weights("pnet")))
    level = random_pixels((1, height, width, 3))[0].astype(np.uint8)
    whole = session(level[np.newaxis].astype(np.float32))
    strips = list(split_strips(level))
    assert len(strips) > 1 or height < 60
    runs = [(first, session(strip[np.newaxis].astype(np.float32))) for first, strip in strips]
    assert [first for first, _ in runs] == np.cumsum([0, *(run[0].shape[1] for _, run in runs)])[:-1].tolist()
    for index in range(2):
        np.testing.assert_allclose(np.concatenate([run[index] for _, run in runs], axis=1), whole[index], atol=2e-6)


def test_strips_are_small() -> None:
    level = np.zeros((2340, 3120, 3), np.uint8)  # a 20-megapixel image whose 20 px faces are shown 12 px wide
    assert max(strip.size for _, strip in split_strips(level)) < 300_000 * 3


@pytest.mark.parametrize("network", ["pnet", "rnet", "onet"])
def test_old_runtimes_can_read_the_graphs(network: NetworkName) -> None:
    model: Any = onnx.load_from_string(build_graph(network, load_weights(network)))
    assert model.ir_version <= 10  # onnxruntime 1.18
    assert [(entry.domain, entry.version <= 21) for entry in model.opset_import] == [("", True)]


def test_sessions_take_one_thread() -> None:
    options = Session(build_graph("pnet", load_weights("pnet")))._session.get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (1, 1)


def test_a_broken_graph() -> None:
    with pytest.raises(ModelLoadError, match=r"ONNX Runtime .* cannot load the network"):
        Session(b"not a graph")
