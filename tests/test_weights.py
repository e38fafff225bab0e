"""Where the weights come from, and what a file of weights cannot do."""

from __future__ import annotations

import base64
import importlib.util
import io
import pickle
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import joblib
import lz4.frame
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facemill.models.errors import ModelLoadError
from facemill.models.weights import load_landmark_npy, load_weights, model_files

ONET_LAYERS = {
    "conv1": ((3, 3, 3, 32), (32,)),
    "conv2": ((3, 3, 32, 64), (64,)),
    "conv3": ((3, 3, 64, 64), (64,)),
    "conv4": ((2, 2, 64, 128), (128,)),
    "conv5": ((1152, 256), (256,)),
    "conv6-1": ((256, 2), (2,)),
    "conv6-2": ((256, 4), (4,)),
    "conv6-3": ((256, 10), (10,)),
}


def facenet_arrays() -> dict[str, dict[str, np.ndarray]]:
    """Random weights in the layout of `det3.npy`: layer -> parameter -> array."""
    rng = np.random.default_rng(3)
    arrays: dict[str, dict[str, np.ndarray]] = {}
    for layer, (kernel, bias) in ONET_LAYERS.items():
        fan_in = np.prod(kernel[:-1])
        arrays[layer] = {
            "weights": rng.normal(0, fan_in**-0.5, kernel).astype(np.float32),
            "biases": rng.normal(0, 0.1, bias).astype(np.float32),
        }
        if "-" not in layer:
            arrays[layer.replace("conv", "prelu")] = {"alpha": rng.uniform(-0.2, 0.8, bias).astype(np.float32)}
    return arrays


def save(path: Path, content: object) -> Path:
    np.save(path, np.array(content, dtype=object), allow_pickle=True)
    return path


def npy_with_pickle(path: Path, stream: bytes) -> Path:
    """A `.npy` file whose object array is the given pickle."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|O", "fortran_order": False, "shape": ()})
    path.write_bytes(header.getvalue() + stream)
    return path


def test_the_files_are_those_of_the_distribution() -> None:
    files = model_files()
    assert [file.name for file in files] == ["pnet.lz4", "rnet.lz4", "onet.lz4"]
    assert {file.license for file in files} == {"MIT"}
    recorded = {path.name: path.hash for path in metadata.files("mtcnn") or []}
    for file in files:
        record = recorded[file.name]
        assert record is not None
        assert record.mode == "sha256"
        assert base64.urlsafe_b64decode(record.value + "=").hex() == file.sha256


def test_kernels_are_out_in_height_width() -> None:
    path = Path(str(metadata.distribution("mtcnn").locate_file("mtcnn/assets/weights/onet.lz4")))
    keras = joblib.load(io.BytesIO(lz4.frame.decompress(path.read_bytes())))
    weights = load_weights("onet")
    assert weights["conv2.weight"].shape == (64, 32, 3, 3)
    assert weights["conv2.weight"][40, 20, 0, 2] == keras[3][0, 2, 20, 40]
    assert weights["dense.weight"].shape == (256, 128, 3, 3)
    # The feature map is flattened column by column, channels innermost.
    assert weights["dense.weight"][7, 100, 0, 2] == keras[12][(2 * 3 + 0) * 128 + 100, 7]
    assert [weights[f"{head}.weight"].shape[0] for head in ("score", "box", "landmarks")] == [2, 4, 10]


def test_loading_imports_neither_mtcnn_nor_tensorflow() -> None:
    code = (
        "import sys; from facemill.models.weights import load_weights; load_weights('pnet');"
        "sys.exit(bool({'mtcnn', 'tensorflow', 'keras'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_importing_the_models_is_cheap() -> None:
    code = (
        "import sys, facemill.models, facemill.models.errors, facemill.models.options;"
        "sys.exit(bool({'cv2', 'onnx', 'onnxruntime'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_missing_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelLoadError, match=r"pip install mtcnn==1\.0\.0"):
        load_weights("pnet")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"cannot read weights .*pnet\.lz4"):
        load_weights("pnet", folder=tmp_path)


class Trap:
    """Unpickling it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_wrong_file_is_refused_before_it_is_unpickled(tmp_path: Path) -> None:
    trap = io.BytesIO()
    joblib.dump(Trap(tmp_path / "sprung"), trap)
    (tmp_path / "pnet.lz4").write_bytes(lz4.frame.compress(trap.getvalue()))
    with pytest.raises(ModelLoadError, match="SHA-256"):
        load_weights("pnet", folder=tmp_path)
    assert not (tmp_path / "sprung").exists()
    joblib.load(io.BytesIO(trap.getvalue()))
    assert (tmp_path / "sprung").exists(), "the trap must work, or the test shows nothing"


def check_facenet(path: Path) -> None:
    arrays, weights = facenet_arrays(), load_landmark_npy(path)
    # facenet sees the image transposed: its first kernel axis runs along the image's rows from left to right.
    assert weights["conv3.weight"][10, 20, 0, 2] == arrays["conv3"]["weights"][2, 0, 20, 10]
    np.testing.assert_array_equal(weights["conv4.slope"], arrays["prelu4"]["alpha"])
    np.testing.assert_array_equal(weights["score.weight"][:, :, 0, 0], arrays["conv6-1"]["weights"].T)
    np.testing.assert_array_equal(weights["box.bias"], arrays["conv6-2"]["biases"])
    np.testing.assert_array_equal(weights["landmarks.bias"], arrays["conv6-3"]["biases"])


def test_facenet_layout(tmp_path: Path) -> None:
    check_facenet(save(tmp_path / "det3.npy", facenet_arrays()))


@pytest.mark.parametrize("separator", [".", "/"])
def test_flat_facenet_layout(tmp_path: Path, separator: str) -> None:
    flat = {f"{layer}{separator}{name}": array for layer, ps in facenet_arrays().items() for name, array in ps.items()}
    check_facenet(save(tmp_path / "flat.npy", flat))


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_every_pickle_protocol(tmp_path: Path, protocol: int) -> None:
    stream = pickle.dumps(np.array(facenet_arrays(), dtype=object), protocol=protocol)
    check_facenet(npy_with_pickle(tmp_path / "det3.npy", stream))


def test_files_of_numpy_1(tmp_path: Path) -> None:
    stream = pickle.dumps(np.array(facenet_arrays(), dtype=object), protocol=2)
    check_facenet(npy_with_pickle(tmp_path / "det3.npy", stream.replace(b"numpy._core", b"numpy.core")))


def test_files_of_python_2(tmp_path: Path) -> None:
    """There `str` was bytes: what Python 3 writes as encoded text was written as it is, in opcode T."""
    layers = b""
    for layer, parameters in facenet_arrays().items():
        pairs = b"".join(_python2_str(name.encode()) + _python2_array(array) for name, array in parameters.items())
        layers += _python2_str(layer.encode()) + b"}(" + pairs + b"u"
    stream = b"\x80\x02" + _python2_array(np.array(None, dtype=object), content=b"](}(" + layers + b"ue") + b"."
    check_facenet(npy_with_pickle(tmp_path / "det3.npy", stream))


def _python2_str(text: bytes) -> bytes:
    return b"T" + len(text).to_bytes(4, "little") + text


def _python2_array(array: np.ndarray, content: bytes | None = None) -> bytes:
    """numpy.ndarray.__reduce__ as Python 2 pickled it: _reconstruct(ndarray, (0,), "b"), then the state."""
    empty = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    shape = b"(" + b"".join(b"M" + size.to_bytes(2, "little") for size in array.shape) + b"t"
    kind, order = (b"O8", b"|") if content else (b"f4", b"<")
    dtype = (
        b"cnumpy\ndtype\nU\x02"
        + kind
        + b"K\x00K\x01\x87R(K\x03U\x01"
        + order
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    return empty + b"(K\x01" + shape + dtype + b"\x89" + (content or _python2_str(array.tobytes())) + b"tb"


def test_torch_layout(tmp_path: Path) -> None:
    """Names and axes of facenet-pytorch's ONet: Conv2d (out, in, h, w), Linear (out, in)."""
    rng = np.random.default_rng(4)
    state: dict[str, np.ndarray] = {}
    for layer, (kernel, bias) in ONET_LAYERS.items():
        name = layer.replace("conv5", "dense5").replace("conv6-", "dense6_")
        state[f"{name}.weight"] = rng.normal(size=kernel[::-1]).astype(np.float32)
        state[f"{name}.bias"] = rng.normal(size=bias).astype(np.float32)
        if "-" not in layer:
            state[f"prelu{layer[-1]}.weight"] = rng.normal(size=bias).astype(np.float32)
    weights = load_landmark_npy(save(tmp_path / "onet.npy", state))
    np.testing.assert_array_equal(weights["conv3.weight"], state["conv3.weight"])
    np.testing.assert_array_equal(weights["dense.slope"], state["prelu5.weight"])
    np.testing.assert_array_equal(weights["landmarks.weight"][:, :, 0, 0], state["dense6_3.weight"])
    # facenet-pytorch permutes to (N, width, height, channels) and flattens
    assert weights["dense.weight"][7, 100, 0, 2] == state["dense5.weight"][7, (2 * 3 + 0) * 128 + 100]


def without(layer: str) -> dict[str, Any]:
    return {name: value for name, value in facenet_arrays().items() if name != layer}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (without("conv4"), "conv4.weights is missing"),
        (
            {**facenet_arrays(), "conv1": {"weights": np.zeros((5, 5, 3, 32), "f4"), "biases": np.zeros(32, "f4")}},
            "conv1",
        ),
        ({**facenet_arrays(), "prelu1": {"alpha": np.zeros(31, np.float32)}}, "conv1.slope has shape"),
        ({**facenet_arrays(), "prelu1": {"alpha": np.full(32, np.nan, np.float32)}}, "not finite"),
        ({**facenet_arrays(), "prelu1": {"alpha": [0.1] * 32}}, "prelu1 alpha is not an array"),
        ({**facenet_arrays(), "conv6-1": {"weights": np.zeros((256, 3), "f4"), "biases": np.zeros(3, "f4")}}, "3"),
        ({}, "is missing"),
        ([1, 2], "expected a dict"),
        ({"a": np.array(["text"])}, "not made of floats"),
    ],
    ids=["layer", "kernel", "slope", "nan", "list", "outputs", "empty", "no dict", "text"],
)
def test_wrong_content_is_named(tmp_path: Path, content: object, message: str) -> None:
    stream = pickle.dumps(np.array(content, dtype=object) if isinstance(content, dict) else content)
    with pytest.raises(ModelLoadError, match=message):
        load_landmark_npy(npy_with_pickle(tmp_path / "weights.npy", stream))


@pytest.mark.parametrize(
    "stream",
    [
        b"cos\nsystem\n(S'touch SPRUNG'\ntR.",
        b'cbuiltins\neval\n(S\'open("SPRUNG", "w")\'\ntR.',
        b'c__builtin__\nexec\n(S\'open("SPRUNG", "w")\'\ntR.',
        b"cnumpy.core.multiarray\nfromfile\n(S'SPRUNG'\ntR.",
        b'cnumpy.testing._private.utils\nrunstring\n(S\'open("SPRUNG", "w")\'\n}tR.',
        b"c_codecs\nencode\n(S'x'\nS'zlib'\ntR.",
        b"c_codecs\nlookup\n(S'x'\ntR.",
        b"cnumpy\nndarray.__class__\n.",
        b"\x80\x04\x8c\x05numpy\x8c\x11ndarray.__class__\x93.",
    ],
)
def test_no_pickle_runs_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stream: bytes) -> None:
    monkeypatch.chdir(tmp_path)
    path = npy_with_pickle(tmp_path / "weights.npy", stream)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ModelLoadError, match="is not allowed in a file of weights"):
        load_landmark_npy(path)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("data", [b"", b"text", b"\x93NUMPY", b"\x93NUMPY\x01\x00\xff\xff{", b"PK\x03\x04"])
def test_other_files(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "weights.npy"
    path.write_bytes(data)
    with pytest.raises(ModelLoadError, match=r"weights\.npy"):
        load_landmark_npy(path)


def test_a_plain_array_and_a_missing_file(tmp_path: Path) -> None:
    np.save(tmp_path / "plain.npy", np.zeros(3))
    with pytest.raises(ModelLoadError, match="shape"):
        load_landmark_npy(tmp_path / "plain.npy")
    with pytest.raises(ModelLoadError, match="No such file"):
        load_landmark_npy(tmp_path / "absent.npy")


@given(st.data())
def test_damaged_files_are_refused_or_read(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    stream = bytearray(pickle.dumps(np.array({"conv1": {"weights": np.zeros((3, 3, 3, 4), np.float32)}}, dtype=object)))
    for _ in range(data.draw(st.integers(1, 4))):
        stream[data.draw(st.integers(0, len(stream) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.npy"
    npy_with_pickle(path, bytes(stream[: data.draw(st.integers(1, len(stream)))]))
    with pytest.raises(ModelLoadError):  # damaged or not, this is not a whole O-Net
        load_landmark_npy(path)
