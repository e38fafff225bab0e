"""The ONNX graphs against a plain numpy computation in float64, written from the layer lists of the `mtcnn` package."""

from __future__ import annotations

import io
import platform
from collections import Counter
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import cv2
import joblib
import lz4.frame
import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pictures import astronaut, coffee

from facemill.models.errors import ModelLoadError
from facemill.models.graphs import GraphForm, build_graph
from facemill.models.sessions import Session, _one_thread_options, open_session
from facemill.models.weights import NetworkName, Weights, load_weights

NETWORKS: tuple[NetworkName, ...] = ("pnet", "rnet", "onet")
FORMS: tuple[GraphForm, ...] = ("plain", "fast")
SIDES: dict[NetworkName, int] = {"rnet": 24, "onet": 48}
NUM_HEADS: dict[NetworkName, int] = {"pnet": 5, "rnet": 5, "onet": 15}
# Kernel and stride of the pooling after each convolution, as in mtcnn/network/*.py; "same" pads at the end.
LAYERS: dict[NetworkName, list[tuple[int, str] | None]] = {
    "pnet": [(2, "same"), None, None],
    "rnet": [(3, "same"), (3, "valid"), None],
    "onet": [(3, "same"), (3, "valid"), (2, "same"), None],
}
# Changes of layout that ONNX Runtime makes in the fast graphs, to blocks of channels and back. The second one of P-Net
# is where 10 channels, less than a block of 16, come out unblocked; there is none where blocks are of 8.
MAX_REORDERS: dict[NetworkName, dict[str, int]] = {
    "pnet": {"ReorderInput": 0, "ReorderOutput": 2},
    "rnet": {"ReorderInput": 0, "ReorderOutput": 1},
    "onet": {"ReorderInput": 0, "ReorderOutput": 1},
}

Outputs = dict[str, np.ndarray]


def layer_names(network: NetworkName) -> list[str]:
    convolutions = [f"conv{index + 1}" for index in range(len(LAYERS[network]))]
    return convolutions if network == "pnet" else [*convolutions, "dense"]


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


def plain_network(network: NetworkName, pixels: np.ndarray, arrays: list[np.ndarray]) -> Outputs:
    """Every layer's output, and `logit`, `probability`, `offsets` and `landmarks`, each with its channels last."""
    outputs: Outputs = {}
    rest = iter(arrays)
    x = (pixels.astype(float) - 127.5) / 128
    for name, pool in zip(layer_names(network), LAYERS[network], strict=False):
        x = convolve(x, next(rest), next(rest))
        x = np.where(x > 0, x, next(rest) * x)
        x = outputs[name] = max_pool(x, *pool) if pool else x
    if network != "pnet":
        x = x.transpose(0, 2, 1, 3).reshape(len(x), -1) @ next(rest).astype(float) + next(rest)
        x = outputs["dense"] = np.where(x > 0, x, next(rest) * x)
    offsets, *landmarks, classes = (
        x @ np.squeeze(kernel.astype(float)) + bias for kernel, bias in zip(rest, rest, strict=True)
    )
    exponents = np.exp(classes - classes.max(axis=-1, keepdims=True))
    outputs["logit"] = classes[..., 1] - classes[..., 0]
    outputs |= {"probability": (exponents / exponents.sum(axis=-1, keepdims=True))[..., 1], "offsets": offsets}
    return outputs | ({"landmarks": landmarks[0]} if landmarks else {})


def read_heads(heads: np.ndarray) -> Outputs:
    """`heads` as `plain_network` gives them."""
    logit, offsets, landmarks = np.split(np.moveaxis(heads.astype(float), 1, -1), [1, 5], axis=-1)
    logit = logit[..., 0]
    outputs = {"logit": logit, "probability": 1 / (1 + np.exp(-logit)), "offsets": offsets}
    return outputs | ({"landmarks": landmarks} if landmarks.size else {})


def random_pixels(shape: tuple[int, ...]) -> np.ndarray:
    """Blocks of random grey values: more contrast than noise leaves after a convolution."""
    count, height, width, channels = shape
    blocks = np.random.default_rng(sum(shape)).integers(0, 256, (count, height // 3 + 1, width // 3 + 1, channels))
    return blocks.repeat(3, axis=1).repeat(3, axis=2)[:, :height, :width].astype(np.uint8)


def photographs(network: NetworkName) -> np.ndarray:
    """What the network is shown of photographs: the face and its surroundings at several sizes; no face."""
    if network == "pnet":
        return cv2.resize(astronaut(), (77, 67), interpolation=cv2.INTER_AREA)[np.newaxis]
    corners = [(168, 60, 110), (178, 70, 90), (150, 40, 150), (188, 96, 50), (0, 0, 512), (300, 300, 64)]
    parts = [astronaut()[top : top + side, left : left + side] for left, top, side in corners]
    parts.append(coffee()[100:200, 100:200])
    side = SIDES[network]
    return np.stack([cv2.resize(part, (side, side), interpolation=cv2.INTER_AREA) for part in parts])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", [(1, 12, 12, 3), (1, 13, 12, 3), (2, 12, 13, 3), (1, 57, 80, 3), (1, 40, 41, 3)])
def test_pnet_equals_the_plain_computation(shape: tuple[int, ...], form: GraphForm) -> None:
    check_network("pnet", random_pixels(shape), form)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("network", ["rnet", "onet"])
@pytest.mark.parametrize("count", [1, 7])
def test_patch_networks_equal_the_plain_computation(network: NetworkName, count: int, form: GraphForm) -> None:
    check_network(network, random_pixels((count, SIDES[network], SIDES[network], 3)), form)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("network", NETWORKS)
def test_networks_equal_the_plain_computation_on_photographs(network: NetworkName, form: GraphForm) -> None:
    probability = plain_network(network, photographs(network), keras_arrays(network))["probability"]
    assert probability.min() < 0.1 and probability.max() > 0.9
    check_network(network, photographs(network), form)


def check_network(network: NetworkName, pixels: np.ndarray, form: GraphForm) -> None:
    heads = Session(build_graph(network, load_weights(network), form))(pixels)
    assert heads.dtype == np.float32
    assert heads.shape[:2] == (len(pixels), NUM_HEADS[network])
    theirs = plain_network(network, pixels, keras_arrays(network))
    ours = read_heads(heads)
    assert len(ours) == (4 if network == "onet" else 3)
    for name, our in ours.items():
        # A logit counts by its probability; it may be 20 and more.
        np.testing.assert_allclose(our, theirs[name], rtol=0, atol=5e-5 if name == "logit" else 1e-5, err_msg=name)


def run_layers(network: NetworkName, weights: Weights, form: GraphForm, pixels: np.ndarray) -> Outputs:
    """The output of each layer and `heads`, with the channels second."""
    model = onnx.load_from_string(build_graph(network, weights, form))
    names = layer_names(network)
    model.graph.output.extend(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), sess_options=_one_thread_options(), providers=["CPUExecutionProvider"]
    )
    names = ["heads", *names]
    return dict(zip(names, session.run(names, {"pixels": pixels}), strict=True))


def check_layers(
    network: NetworkName, weights: Weights, arrays: list[np.ndarray], pixels: np.ndarray, tolerance: float
) -> None:
    """Both forms against each other and the plain computation; the tolerance is of each layer's largest value."""
    plain, fast = (run_layers(network, weights, form, pixels) for form in FORMS)
    theirs = plain_network(network, pixels, arrays)
    for name in layer_names(network):
        slope = weights[f"{name}.slope"]
        values = np.moveaxis(plain[name], 1, -1).reshape(theirs[name].shape)
        most = tolerance * max(1, np.abs(theirs[name]).max())
        np.testing.assert_allclose(values, theirs[name], rtol=0, atol=most, err_msg=f"plain {name}")
        signs = np.where(slope > 1, -1, 1)[:, np.newaxis, np.newaxis]
        turned, padding = np.split(fast[name], [len(slope)], axis=1)
        np.testing.assert_allclose(turned * signs, plain[name], rtol=0, atol=most, err_msg=f"fast {name}")
        assert not padding.any(), name
    for form, outputs in (("plain", plain), ("fast", fast)):
        ours = read_heads(outputs["heads"])
        del ours["probability"]  # follows from the logit, whose size the tolerance is for
        for name, values in ours.items():
            most = tolerance * max(1, np.abs(theirs[name]).max())
            np.testing.assert_allclose(values, theirs[name], rtol=0, atol=most, err_msg=f"{form} {name}")


@pytest.mark.parametrize("network", NETWORKS)
def test_every_layer_of_both_forms_equals_the_plain_computation(network: NetworkName) -> None:
    check_layers(network, load_weights(network), keras_arrays(network), photographs(network), 1e-5)


SLOPES: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "published": lambda rng, count: rng.uniform(-0.3, 0.9, count),
    "negative": lambda rng, count: rng.uniform(-2, -0.01, count),
    "one negative": lambda rng, count: np.where(np.arange(count) == rng.integers(count), -0.4, 0.3),
    "between": lambda rng, count: rng.uniform(0, 1, count),
    "above 1": lambda rng, count: rng.uniform(1, 2, count) + 1e-3,
    "any": lambda rng, count: rng.uniform(-2, 2, count),
    "corners": lambda rng, count: rng.choice([-1.0, 0, 1, 1.5, 0.5, -1e-7, 1 + 1e-6], count),
    "0": lambda rng, count: np.zeros(count),
    "-0": lambda rng, count: np.full(count, -0.0),
    "1": lambda rng, count: np.ones(count),
}


def with_slopes(network: NetworkName, kinds: list[str], seed: int) -> tuple[Weights, list[np.ndarray]]:
    """The published weights, as ours and as Keras', but for the slopes."""
    rng = np.random.default_rng(seed)
    weights, arrays = load_weights(network), keras_arrays(network)
    for index, (name, kind) in enumerate(zip(layer_names(network), kinds, strict=True)):
        old = arrays[3 * index + 2]
        slope = SLOPES[kind](rng, old.size).astype(np.float32)
        arrays[3 * index + 2] = slope.reshape(old.shape)
        weights[f"{name}.slope"] = slope
    return weights, arrays


@settings(max_examples=60)
@given(st.lists(st.sampled_from(list(SLOPES)), min_size=3, max_size=3), st.integers(0, 2**32 - 1))
@example(["any"] * 3, 5)
@example(["corners"] * 3, 5)
@example(["above 1"] * 3, 5)
@example(["negative"] * 3, 5)
def test_any_slopes_of_pnet_are_exact(kinds: list[str], seed: int) -> None:
    """Slopes above 1 and below 0 occur in the published weights; rewritings of PReLU tend to need the range between."""
    check_layers("pnet", *with_slopes("pnet", kinds, seed), random_pixels((1, 30, 31, 3)), 1e-5)


@settings(max_examples=40)
@given(st.lists(st.sampled_from(list(SLOPES)), min_size=4, max_size=4), st.integers(0, 2**32 - 1))
@example(["any"] * 4, 5)
@example(["corners"] * 4, 5)
def test_any_slopes_of_rnet_are_exact(kinds: list[str], seed: int) -> None:
    check_layers("rnet", *with_slopes("rnet", kinds, seed), photographs("rnet")[:3], 1e-5)


@settings(max_examples=40)
@given(st.lists(st.sampled_from(list(SLOPES)), min_size=5, max_size=5), st.integers(0, 2**32 - 1))
@example(["any"] * 5, 5)
@example(["corners"] * 5, 5)
def test_any_slopes_of_onet_are_exact(kinds: list[str], seed: int) -> None:
    """Whatever a landmark_detector_weights.npy holds."""
    check_layers("onet", *with_slopes("onet", kinds, seed), photographs("onet")[:2], 1e-5)


@pytest.mark.parametrize("network", NETWORKS)
def test_the_fast_form_has_no_prelu(network: NetworkName) -> None:
    plain, fast = (
        Counter(
            node.op_type for node in onnx.load_from_string(build_graph(network, load_weights(network), form)).graph.node
        )
        for form in FORMS
    )
    assert plain["PRelu"] == len(layer_names(network))
    assert set(fast) <= {"Reshape", "Unsqueeze", "Cast", "Conv", "MaxPool", "Relu", "Add", "Flatten"}
    # Of each layer: the convolution, and two products for its PReLU.
    assert (fast["Conv"], fast["Relu"], fast["Add"]) == (3 * plain["PRelu"] + 1, plain["PRelu"], plain["PRelu"])


def optimized_operators(model: bytes, path: Path) -> Counter[str]:
    """The operators that ONNX Runtime makes of a graph, those in blocks of channels with an asterisk."""
    options = _one_thread_options()
    options.optimized_model_filepath = str(path)
    onnxruntime.InferenceSession(model, sess_options=options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type + "*" * node.domain.endswith("nchwc") for node in onnx.load(path).graph.node)


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="blocks of channels are for x86")
@pytest.mark.parametrize("network", NETWORKS)
def test_onnx_runtime_keeps_the_fast_form_in_blocks_of_channels(network: NetworkName, tmp_path: Path) -> None:
    """All of it fused and blocked, and no change of layout between the layers, which took a third of the time."""
    weights = load_weights(network)
    plain, fast = (
        optimized_operators(build_graph(network, weights, form), tmp_path / f"{form}.onnx") for form in FORMS
    )
    num_layers = len(layer_names(network))
    # What is kept apart in the plain form, so that a Runtime which writes it otherwise is noticed.
    assert plain["PRelu"] == num_layers and plain["ReorderInput*"] + plain["ReorderOutput*"] >= 2 * num_layers - 1
    message = f"onnxruntime {onnxruntime.__version__} makes of {network}: {dict(fast)}"
    for operator, most in MAX_REORDERS[network].items():
        assert fast[f"{operator}*"] <= most, message
    assert fast["Conv*"] == 3 * num_layers + 1, message
    assert fast["MaxPool*"] == sum(pool is not None for pool in LAYERS[network]), message
    rest = {name for name in fast if not name.endswith("*")}
    assert rest <= {"Reshape", "Unsqueeze", "Cast", "Flatten"}, message
    assert fast["Reshape"] == 1, message


@pytest.fixture(scope="module", params=["rnet", "onet"])
def crowd(request: pytest.FixtureRequest) -> tuple[Callable[[np.ndarray], np.ndarray], np.ndarray, np.ndarray]:
    """A patch network, 70 patches and what it says about each when it is alone."""
    network: NetworkName = request.param
    session = open_session(network, load_weights(network))
    pixels = random_pixels((70, SIDES[network], SIDES[network], 3))
    pixels[: len(photographs(network))] = photographs(network)
    alone = np.concatenate([session(pixels[index : index + 1]) for index in range(len(pixels))])
    assert len(np.unique(alone[:, 0])) == 70
    return session, pixels, alone


@pytest.mark.parametrize("count", range(1, 71))
def test_a_patch_gets_the_same_bits_in_any_company(
    crowd: tuple[Callable[[np.ndarray], np.ndarray], np.ndarray, np.ndarray], count: int
) -> None:
    session, pixels, alone = crowd
    order = np.random.default_rng(count).permutation(len(pixels))[:count]
    np.testing.assert_array_equal(session(pixels[order]), alone[order])
    np.testing.assert_array_equal(session(pixels[-count:]), alone[-count:])


@pytest.mark.parametrize("network", ["rnet", "onet"])
def test_no_patches(network: NetworkName) -> None:
    heads = open_session(network, load_weights(network))(random_pixels((1, *[SIDES[network]] * 2, 3))[:0])
    assert heads.shape == (0, NUM_HEADS[network])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("network", NETWORKS)
def test_old_runtimes_can_read_the_graphs(network: NetworkName, form: GraphForm) -> None:
    model: Any = onnx.load_from_string(build_graph(network, load_weights(network), form))
    assert model.ir_version <= 10  # onnxruntime 1.18
    assert [(entry.domain, entry.version <= 21) for entry in model.opset_import] == [("", True)]


def test_sessions_take_one_thread() -> None:
    options = Session(build_graph("pnet", load_weights("pnet")))._session.get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (1, 1)


def test_a_broken_graph() -> None:
    with pytest.raises(ModelLoadError, match=r"ONNX Runtime .* cannot load the network"):
        Session(b"not a graph")
