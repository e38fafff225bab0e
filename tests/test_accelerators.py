"""Accelerators: which are there, what is said of those that are not, and that they say what the processor says.

Sessions of OpenVINO are compared where the package is installed (the extra `openvino`), CUDA's where there is a GPU.
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from pictures import astronaut, portrait, read_table, write_loose

from facemill.models import FaceDetector, FaceLandmarkModel, accelerators
from facemill.models.accelerators import CUDA_PROVIDER, Accelerator, describe_engine, resolve_accelerator
from facemill.models.cells import split_tiles
from facemill.models.errors import ConfigError, ModelLoadError
from facemill.models.options import DetectorOptions
from facemill.models.sessions import Network, OpenVinoPatchSession, even_margin, open_session
from facemill.models.weights import NetworkName, load_weights
from facemill.pipeline.config import load_config, settle_accelerator
from facemill.pipeline.manifest import check_same_result, make_manifest, read_manifest
from facemill.pipeline.run import RunRequest, run
from facemill.transforms.ops.storage import Folder

NETWORKS: tuple[NetworkName, ...] = ("pnet", "rnet", "onet")
SIDES: dict[NetworkName, int] = {"rnet": 24, "onet": 48}
# Of logits up to some 20, and of offsets below 1; seen at most 1.1e-5.
TOLERANCE = 5e-5


@pytest.fixture
def without_openvino(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, "openvino", None)  # importing it fails as if it were not there
    accelerators._why_no_openvino.cache_clear()
    yield
    accelerators._why_no_openvino.cache_clear()


@pytest.fixture
def without_cuda() -> None:
    if not accelerators._why_no_cuda():
        pytest.skip("CUDA works here")


def test_the_processor_is_always_there() -> None:
    assert resolve_accelerator("cpu") == "cpu"
    engine = describe_engine("cpu")
    assert (engine.accelerator, engine.provider) == ("cpu", "CPUExecutionProvider")
    assert engine.version == metadata.version(engine.package) == onnxruntime.__version__


def test_the_runtime_reports_to_nobody(tmp_path: Path) -> None:
    """Told not to, it leaves no identifier of the machine in the folder for temporary files either."""
    program = "from facemill.models import FaceLandmarkModel; FaceLandmarkModel(); import os; print(os.environ[NAME])"
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    done = subprocess.run(
        [sys.executable, "-c", program.replace("NAME", "'ORT_DISABLE_TELEMETRY'")],
        env={**environment, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "1\n", done.stderr
    assert list(tmp_path.iterdir()) == []


def test_absent_openvino_is_named_with_its_extra(without_openvino: None) -> None:
    with pytest.raises(ConfigError, match=r"openvino cannot be used: .* not installed; pip install \"facemill\[openvi"):
        resolve_accelerator("openvino")


def test_absent_cuda_is_named_with_its_package(without_cuda: None) -> None:
    with pytest.raises(ConfigError, match=r"cuda cannot be used: .*pip install --force-reinstall --no-deps onnxruntim"):
        resolve_accelerator("cuda")


def test_auto_without_cuda_is_the_processor(without_cuda: None, capfd: pytest.CaptureFixture[str]) -> None:
    accelerators._why_no_cuda.cache_clear()
    assert resolve_accelerator("auto") == "cpu"
    assert capfd.readouterr() == ("", "")  # onnxruntime-gpu would tell at length what it misses


def test_unknown_accelerators_are_refused() -> None:
    with pytest.raises(ConfigError, match="accelerator must be one of cpu, openvino, cuda, auto, got 'tpu'"):
        DetectorOptions(accelerator="tpu")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"detect\.accelerator: Input should be 'cpu'.*got 'tpu'"):
        load_config(None, ["detect.accelerator=tpu"])


def test_a_run_names_its_engine(tmp_path: Path) -> None:
    """`auto` is settled before anything is written: manifest, fingerprint and tables hold what it came to."""
    photos, output = write_loose(tmp_path / "photos", {"1.jpg": portrait(1)}), Folder(str(tmp_path / "out"))
    config = load_config(None, ["detect.accelerator=auto"])
    settled = settle_accelerator(config)
    result = run(RunRequest([str(photos)], output, config), out=io.StringIO(), err=io.StringIO())
    assert result.is_complete and len(read_table(Path(output.uri), "faces")) == 1
    manifest = read_manifest(output)
    assert manifest is not None
    assert manifest.config["detect"]["accelerator"] == settled.detect.accelerator != "auto"
    assert manifest.fingerprint == settled.fingerprint != config.fingerprint
    assert manifest.engine == dataclasses.asdict(describe_engine(settle_accelerator(config).detect.accelerator))
    assert manifest.versions[manifest.engine["package"]] == manifest.engine["version"]
    marker = json.loads(next((tmp_path / "out" / "_units").glob("*.json")).read_text())
    assert marker.get("fingerprint", settled.fingerprint) == settled.fingerprint


def test_an_absent_accelerator_stops_before_any_work(tmp_path: Path, without_openvino: None) -> None:
    photos = write_loose(tmp_path / "photos", {"1.jpg": portrait(1)})
    config = load_config(None, ["detect.accelerator=openvino"])
    with pytest.raises(ConfigError, match="openvino cannot be used"):
        run(RunRequest([str(photos)], Folder(str(tmp_path / "out")), config), out=io.StringIO(), err=io.StringIO())
    assert not (tmp_path / "out").exists()


def test_runners_want_a_name(tmp_path: Path) -> None:
    """The machines of a runner may have what this one lacks, or lack what it has."""
    photos = write_loose(tmp_path / "photos", {"1.jpg": portrait(1)})
    config = load_config(None, ["detect.accelerator=auto"])
    request = RunRequest([str(photos)], Folder(str(tmp_path / "out")), config, runner="DirectRunner")
    with pytest.raises(ConfigError, match="name one: cpu, openvino or cuda"):
        run(request, out=io.StringIO(), err=io.StringIO())
    engine = make_manifest(load_config(None, ["detect.accelerator=cuda"]), {}, runs_here=False).engine
    assert engine == {"accelerator": "cuda"}


def test_no_manifest_says_auto() -> None:
    with pytest.raises(ConfigError, match=r"detect\.accelerator is still auto"):
        make_manifest(load_config(None, ["detect.accelerator=auto"]), {})


def test_an_output_is_not_continued_with_another_accelerator(tmp_path: Path) -> None:
    earlier = make_manifest(load_config(), {})
    now = make_manifest(load_config(None, ["detect.accelerator=cuda"]), {}, runs_here=False)
    with pytest.raises(ConfigError, match=r"detect\.accelerator is 'cuda' now and was 'cpu' there"):
        check_same_result(earlier, now, Folder(str(tmp_path)))


@pytest.mark.parametrize("side_px", range(12, 60))
def test_margins(side_px: int) -> None:
    margin = even_margin(side_px)
    assert margin % 2 == 0 and 0 <= margin < 12
    assert (side_px + margin) % 12 == side_px % 2


def test_margins_leave_few_shapes() -> None:
    """Of the tiles that P-Net is given; each costs OpenVINO 0.45 MB."""
    sides = range(12, max(tile.shape[0] for _, tile in split_tiles(np.zeros((2000, 12, 3), np.uint8))) + 2)
    assert len({side + even_margin(side) for side in sides}) == 26


@pytest.fixture(scope="module", params=["openvino", "cuda"])
def accelerator(request: pytest.FixtureRequest) -> Accelerator:
    try:
        return resolve_accelerator(request.param)
    except ConfigError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def pairs(accelerator: Accelerator) -> dict[NetworkName, tuple[Network, Network]]:
    """Each network on the accelerator and on the processor."""
    return {
        network: (
            open_session(network, load_weights(network), accelerator),
            open_session(network, load_weights(network)),
        )
        for network in NETWORKS
    }


Pairs = dict[NetworkName, tuple[Network, Network]]


def random_pixels(shape: tuple[int, ...]) -> np.ndarray:
    """Blocks of random grey values: more contrast than noise leaves after a convolution."""
    count, height, width, channels = shape
    blocks = np.random.default_rng(sum(shape)).integers(0, 256, (count, height // 3 + 1, width // 3 + 1, channels))
    return blocks.repeat(3, axis=1).repeat(3, axis=2)[:, :height, :width].astype(np.uint8)


def pixels_of(network: NetworkName, count: int) -> np.ndarray:
    return random_pixels((count, *[SIDES[network]] * 2, 3))


@pytest.mark.parametrize("shape", [(1, 12, 12, 3), (1, 13, 12, 3), (2, 12, 13, 3), (1, 57, 80, 3), (3, 40, 301, 3)])
def test_pnet_says_what_the_processor_says(pairs: Pairs, shape: tuple[int, ...]) -> None:
    accelerated, plain = pairs["pnet"]
    check_equal(accelerated, plain, random_pixels(shape))


@pytest.mark.parametrize("network", ["rnet", "onet"])
@pytest.mark.parametrize("count", [0, 1, 2, 17])
def test_patch_networks_say_what_the_processor_says(pairs: Pairs, network: NetworkName, count: int) -> None:
    accelerated, plain = pairs[network]
    check_equal(accelerated, plain, pixels_of(network, 17)[:count])


def check_equal(accelerated: Network, plain: Network, pixels: np.ndarray) -> None:
    ours, theirs = accelerated(pixels), plain(pixels)
    assert (ours.shape, ours.dtype) == (theirs.shape, np.float32)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE)


@pytest.fixture
def openvino_only(accelerator: Accelerator) -> None:
    if accelerator != "openvino":
        pytest.skip("a GPU's library chooses its algorithms by the size of the batch")


@pytest.mark.parametrize("network", ["rnet", "onet"])
def test_a_patch_gets_the_same_bits_in_any_company(openvino_only: None, pairs: Pairs, network: NetworkName) -> None:
    session, _ = pairs[network]
    pixels = pixels_of(network, 128)
    together = session(pixels)
    for count in (1, 2, 3, 5, 16, 63, 64, 127):
        np.testing.assert_array_equal(session(pixels[-count:]), together[-count:])
    np.testing.assert_array_equal(session(np.roll(pixels, 37, axis=0)), np.roll(together, 37, axis=0))


def test_outputs_outlive_the_next_run(openvino_only: None, pairs: Pairs) -> None:
    for network, shape in (("pnet", (1, 30, 40, 3)), ("rnet", (3, 24, 24, 3))):
        session, _ = pairs[network]  # type: ignore[index]
        pixels = random_pixels(shape)
        first = session(pixels)
        kept = first.copy()
        session(255 - pixels)
        np.testing.assert_array_equal(first, kept)


def test_margins_change_no_bit(openvino_only: None, pairs: Pairs) -> None:
    """A picture that needs no margin, and the same in the corner of a larger one, the cells of which it shares."""
    session, _ = pairs["pnet"]
    larger = random_pixels((1, 85, 121, 3))
    whole = session(larger)
    for top, left in ((2, 0), (0, 8), (24, 14)):
        part = session(np.ascontiguousarray(larger[:, top:, left:]))
        np.testing.assert_array_equal(part, whole[:, :, top // 2 :, left // 2 :])


def test_a_detector_finds_the_same_faces(accelerator: Accelerator) -> None:
    theirs = FaceDetector().detect(astronaut())
    assert len(theirs) > 0
    for our, their in zip(FaceDetector(accelerator=accelerator).detect(astronaut()), theirs, strict=True):
        assert our.score == pytest.approx(their.score, abs=2e-3)
        np.testing.assert_allclose(our.bbox, their.bbox, rtol=0, atol=0.1)
        np.testing.assert_allclose(our.landmarks, their.landmarks, rtol=0, atol=0.1)


def test_a_detector_refuses_what_is_absent(without_openvino: None) -> None:
    with pytest.raises(ConfigError, match="openvino cannot be used"):
        FaceDetector(accelerator="openvino")


def test_a_broken_graph() -> None:
    pytest.importorskip("openvino")
    with pytest.raises(ModelLoadError, match=r"OpenVINO .* cannot load the network"):
        OpenVinoPatchSession(b"not a graph")


def test_cuda_is_no_silent_fallback(without_cuda: None) -> None:
    if CUDA_PROVIDER not in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime is built without CUDA")
    with pytest.raises(ModelLoadError, match="cannot use CUDAExecutionProvider"):
        open_session("rnet", load_weights("rnet"), "cuda")


def test_a_detector_may_be_shared_by_threads(accelerator: Accelerator) -> None:
    images = [np.ascontiguousarray(np.roll(astronaut(), shift, axis=1)) for shift in (0, 40, 80)]
    detector = FaceDetector(min_face_size_px=40, accelerator=accelerator)
    alone = [detector.detect(image) for image in images]
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(detector.detect, images * 5))
    for faces, expected in zip(together, alone * 5, strict=True):
        assert [face.score for face in faces] == [face.score for face in expected]
        for face, other in zip(faces, expected, strict=True):
            np.testing.assert_array_equal(face.landmarks, other.landmarks)


def test_the_options_in_force_name_what_auto_came_to(without_cuda: None) -> None:
    assert FaceDetector(accelerator="auto").options.accelerator == "cpu"


def test_unknown_names_are_refused_everywhere() -> None:
    with pytest.raises(ConfigError, match="accelerator must be one of cpu, openvino, cuda, auto, got 'tpu'"):
        FaceLandmarkModel(accelerator="tpu")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("package", "accelerator", "way_out"),
    [
        ("onnxruntime", "cpu", "pip install --force-reinstall --no-deps onnxruntime"),
        ("onnxruntime", "auto", "pip install --force-reinstall --no-deps onnxruntime"),
        ("openvino", "openvino", "facemill[openvino]"),
    ],
)
@pytest.mark.parametrize("content", ["raise OSError('bad ELF')", ""])
def test_broken_libraries_are_named(package: str, accelerator: str, way_out: str, content: str, tmp_path: Path) -> None:
    """Among them a folder of which another package's removal took the files."""
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").write_text(content)
    program = (
        "import sys\n"
        "from facemill.models.accelerators import resolve_accelerator\n"
        "from facemill.models.errors import ConfigError\n"
        "try:\n"
        f"    resolve_accelerator({accelerator!r})\n"
        "except ConfigError as error:\n"
        "    sys.exit(str(error))\n"
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert f"{package} does not load (" in done.stderr and way_out in done.stderr
    assert len(done.stderr.splitlines()) == 1
