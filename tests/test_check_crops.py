"""`facemill check-crops`: crops by independent code and by our own are told apart, and what differs is said."""

from __future__ import annotations

import io
import json
import re
import warnings
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import pytest
from pictures import astronaut, coffee, jpeg, write_loose, write_parquet, write_tar, write_zip
from PIL import Image
from skimage.transform import SimilarityTransform

from facemill.models.errors import ConfigError
from facemill.models.options import DetectorOptions
from facemill.models.pyramid import ImagePyramid
from facemill.pipeline.check_crops import check_crops
from facemill.pipeline.cli import main
from facemill.pipeline.listing import list_inputs
from facemill.pipeline.sampling import sample_images
from facemill.pipeline.template_files import choose_templates
from facemill.transforms.ops.alignment import AlignOptions, crop_matrix, transform_points
from facemill.transforms.ops.crop_points import locate_crop_points
from facemill.transforms.ops.networks import load_cascade
from facemill.transforms.ops.template_match import match_template, rank_templates
from facemill.transforms.ops.templates import TEMPLATE_NAMES, get_template
from facemill.transforms.ops.typical_face import typical_face
from facemill.transforms.ops.warping import warp_affine

# Of the astronaut, by the cascade's own measure: eyes, tip of the nose, corners of the mouth, and a typical box there.
LANDMARKS = np.array([[203.5, 101], [246.5, 103], [224.5, 126.5], [203.5, 140], [243.5, 140.5]])
BOX = np.array([179.0, 61.0, 266.0, 173.0])
ARCFACE = np.array([[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]])
NUM_CROPS = 8


@lru_cache(maxsize=1)
def pictures() -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """The astronaut enlarged, turned and moved at random, with the landmarks and a box, which is not turned."""
    rng = np.random.default_rng(5)
    made = []
    for _ in range(NUM_CROPS):
        move = cv2.getRotationMatrix2D((224, 118), rng.uniform(-14, 14), rng.uniform(0.8, 1.6))
        move[:, 2] += rng.uniform(60, 90, 2)
        image = cv2.warpAffine(astronaut(), move, (620, 560), borderMode=cv2.BORDER_REFLECT)
        center, size = transform_points(move, (BOX[:2] + BOX[2:]) / 2), (BOX[2:] - BOX[:2]) * np.hypot(*move[:, 0])
        box = np.concatenate([center - size / 2, center + size / 2]) + rng.normal(0, 1, 4)
        made.append((image, transform_points(move, LANDMARKS), box))
    return made


def by_skimage(points: np.ndarray, size_wh: tuple[int, int]) -> list[np.ndarray]:
    crops = []
    for image, landmarks, _ in pictures():
        transform = SimilarityTransform()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # `estimate` gives way to `from_estimate`, which is new
            assert transform.estimate(landmarks, points)
        crops.append(cv2.warpAffine(image, transform.params[:2], size_wh))
    return crops


def by_pillow(margin_px: float) -> list[np.ndarray]:
    crops = []
    for image, _, box in pictures():
        cut = Image.fromarray(image).crop(tuple(int(v) for v in box + np.array([-1, -1, 1, 1]) * margin_px / 2))
        crops.append(np.asarray(cut.resize((160, 160), Image.Resampling.BILINEAR)))
    return crops


def by_us(name: str) -> list[np.ndarray]:
    template = get_template(name)
    return [
        warp_affine(image, crop_matrix(template, box, landmarks, image.shape[1::-1]), template.size_wh)
        for image, landmarks, box in pictures()
    ]


def write_crops(folder: Path, crops: list[np.ndarray]) -> Path:
    return write_loose(folder, {f"{i % 3}/{i}.jpg": jpeg(crop, quality=95) for i, crop in enumerate(crops)})


def check(folder: Path, *templates: str, count: int = 200, seed: int = 0) -> dict[str, object]:
    out = io.StringIO()
    options = choose_templates(templates or TEMPLATE_NAMES, AlignOptions())
    check_crops(str(folder), options=options, count=count, seed=seed, as_json=True, out=out)
    content: dict[str, object] = json.loads(out.getvalue())
    return content


INDEPENDENT = {
    "arcface112": lambda: by_skimage(ARCFACE, (112, 112)),
    "sphereface96x112": lambda: by_skimage(np.subtract(ARCFACE, (8, 0)), (96, 112)),
    "insight128": lambda: by_skimage(np.add(ARCFACE, (8, 0)), (128, 128)),
    "facenet160": lambda: by_pillow(32),
    "facenet160_pytorch": lambda: by_pillow(0),
    "ffhq256": lambda: by_us("ffhq256"),
    "square256": lambda: by_us("square256"),
}


@pytest.mark.parametrize("name", INDEPENDENT)
def test_the_template_is_told(name: str, tmp_path: Path) -> None:
    found = check(write_crops(tmp_path, INDEPENDENT[name]()))
    assert (found["crops"], found["faces"]) == (NUM_CROPS, NUM_CROPS)
    assert (found["verdict"], found["explanation"]) == (name, f"the crops were made with {name}")


def enlarged(crops: list[np.ndarray], size_wh: tuple[int, int]) -> list[np.ndarray]:
    return [cv2.resize(crop, size_wh) for crop in crops]


FITTED: dict[str, Callable[[], list[np.ndarray]]] = {
    "arcface112 resized to 224x224": lambda: enlarged(INDEPENDENT["arcface112"](), (224, 224)),
    "sphereface96x112 stretched to 112x112": lambda: enlarged(INDEPENDENT["sphereface96x112"](), (112, 112)),
    "insight128 padded to 128x146": lambda: [
        np.pad(crop, ((9, 9), (0, 0), (0, 0))) for crop in INDEPENDENT["insight128"]()
    ],
    "insight128 cut to 100x128": lambda: [crop[:, 14:-14] for crop in INDEPENDENT["insight128"]()],
    "ffhq256 resized to 300x300": lambda: enlarged(by_us("ffhq256"), (300, 300)),
}


@pytest.mark.parametrize("explanation", FITTED)
def test_crops_of_another_size_than_the_templates(explanation: str, tmp_path: Path) -> None:
    found = check(write_crops(tmp_path, FITTED[explanation]()))
    assert (found["verdict"], found["explanation"]) == (
        explanation.partition(" ")[0],
        f"the crops were made with {explanation}",
    )


MIDDLE = ARCFACE.mean(axis=0)
MOVED = {
    "6 px farther right": (ARCFACE + np.array([6, -3]), (1, 6, -3, 0)),
    "larger": ((ARCFACE - MIDDLE) * 1.15 + MIDDLE, (1.15, 0, 0, 0)),
    "turned clockwise": (
        transform_points(cv2.getRotationMatrix2D(tuple(MIDDLE), -9, 1), ARCFACE),  # OpenCV counts the other way
        (1, 0, 0, 9),
    ),
}


@pytest.mark.parametrize("how", MOVED)
def test_crops_that_differ_alike(how: str, tmp_path: Path) -> None:
    points, (scale, across, down, turn_deg) = MOVED[how]
    found = check(write_crops(tmp_path, by_skimage(points, (112, 112))))
    assert found["verdict"] is None
    assert str(found["explanation"]).startswith(
        "no template fits: the crops are aligned as by arcface112, but the faces are "
    )
    first = found["matches"][0]  # type: ignore[index]
    assert abs(first["scale"] - scale) < 0.04
    np.testing.assert_allclose(first["shift_px"], (across, down), atol=1)
    assert abs(first["turn_deg"] - turn_deg) < 2


def test_how_a_difference_is_put_into_words(tmp_path: Path) -> None:
    found = check(write_crops(tmp_path, by_skimage(MOVED["6 px farther right"][0], (112, 112))), "arcface112")
    words = r"the faces are 1\.0\d times as large, [56]\.\d px farther right and [23]\.\d px up \(of 112x112\), "
    assert re.search(words + r"and turned [01]\.\d degrees (anti)?clockwise$", str(found["explanation"]))


NONE: dict[str, tuple[Callable[[], list[np.ndarray]], str]] = {
    "photographs": (lambda: [image for image, _, _ in pictures()], "no template fits: the faces are not aligned"),
    "no faces": (
        lambda: [coffee()[i : i + 112, :112] for i in range(6)],
        "no template can be told: faces are found in 0 of 6 crops, fewer than the 5 it takes$",
    ),
    "many sizes": (
        lambda: [cv2.resize(crop, (100 + i, 100)) for i, crop in enumerate(by_us("arcface112"))],
        "no template fits: the crops are of many sizes, so they were not made with one template$",
    ),
}


@pytest.mark.parametrize("what", NONE)
def test_what_was_made_with_no_template(what: str, tmp_path: Path) -> None:
    make, explanation = NONE[what]
    found = check(write_crops(tmp_path, make()))
    assert found["verdict"] is None
    assert re.match(explanation, str(found["explanation"])), found["explanation"]


def test_a_template_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    points = (ARCFACE - 55.5) * 0.8 + (55.5, 60)
    crops = write_crops(tmp_path / "crops", by_skimage(points, (112, 112)))
    hint = "a template of your own is compared as well with --template FILE.yaml"
    mine = tmp_path / "mine.yaml"
    mine.write_text(f"mine: {{size: 112, points: {points.tolist()}}}")
    assert main(["check-crops", str(crops)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == hint
    assert main(["check-crops", str(crops), "--template", str(mine)]) == 0
    printed = capsys.readouterr().out
    assert "\narcface112 " in printed and printed.endswith("verdict: the crops were made with mine\n")
    found = check(crops, "arcface112", str(mine))
    assert found["verdict"] == "mine"
    assert [match["template"] for match in found["matches"]] == ["mine", "arcface112"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("write", [write_tar, write_zip, write_parquet])
def test_crops_in_shards(write: Callable[[Path, dict[str, bytes]], Path], tmp_path: Path) -> None:
    crops = {f"{i}.jpg": jpeg(crop) for i, crop in enumerate(by_us("arcface112"))}
    ending = {write_tar: "tar", write_zip: "zip", write_parquet: "parquet"}[write]
    write(tmp_path / "crops" / f"a.{ending}", crops)
    assert check(tmp_path / "crops")["verdict"] == "arcface112"


def test_a_part_of_them_is_looked_at_and_what_cannot_be_read_is_counted(tmp_path: Path) -> None:
    crops = write_crops(tmp_path, by_us("arcface112"))
    assert check(crops, count=6)["crops"] == 6
    assert check(crops, count=6) == check(crops, count=6)
    (crops / "broken.jpg").write_bytes(b"no picture")
    found = check(crops)
    assert (found["failed"], found["crops"], found["verdict"]) == (1, NUM_CROPS, "arcface112")


def test_what_is_printed(tmp_path: Path) -> None:
    out = io.StringIO()
    crops = write_crops(tmp_path, INDEPENDENT["arcface112"]())
    (crops / "broken.jpg").write_bytes(b"")
    check_crops(str(crops), options=choose_templates(TEMPLATE_NAMES, AlignOptions()), count=99, seed=0, out=out)
    lines = out.getvalue().splitlines()
    assert lines[0].split() == ["crops", "8", "8", "of", "112x112"]
    assert lines[2].split()[:2] == ["failed", "1"]
    assert lines[5].startswith("arcface112 ")
    assert " yes " in lines[5]
    distances = [float(line.partition(" no ")[2].split()[0]) for line in lines if re.search(" no  ", line)]
    assert len(distances) > 3
    assert distances == sorted(distances)
    assert lines[-1] == "verdict: the crops were made with arcface112"
    assert max(map(len, lines)) <= 120


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"notes.txt": b""}, "no image at"),
        ({"1.jpg": b"no picture"}, "none of 1 images of"),
        ({"manifest.json": b"{}", "crops/1.jpg": b""}, "is an output folder of facemill; name the folder of its crops"),
    ],
)
def test_what_cannot_be_checked(files: dict[str, bytes], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        check(write_loose(tmp_path, files))


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no input at"):
        check(tmp_path / "nowhere")


class TestSample:
    @staticmethod
    def draw(folder: Path, count: int, seed: int = 0) -> list[str]:
        listing = list_inputs(str(folder), ignored_extensions=())
        return [record.image_id for record in sample_images(listing, count, seed=seed)]

    def test_loose_files_in_their_order(self, tmp_path: Path) -> None:
        write_loose(tmp_path, {f"{i // 10}/{i:02d}.jpg": b"x" for i in range(40)})
        drawn = self.draw(tmp_path, 10)
        assert len(set(drawn)) == 10 and drawn == sorted(drawn)
        assert drawn == self.draw(tmp_path, 10) != self.draw(tmp_path, 10, seed=1)
        assert len(self.draw(tmp_path, 99)) == 40

    def test_members_of_shards(self, tmp_path: Path) -> None:
        for number in range(20):
            write_tar(tmp_path / f"{number:02d}.tar", {f"{i:03d}.jpg": b"x" for i in range(30)})
        drawn = self.draw(tmp_path, 100)
        assert len(set(drawn)) == 100 and drawn == sorted(drawn)
        assert len({name.split("/")[1] for name in drawn}) == 16
        assert len(self.draw(tmp_path, 10_000)) == 16 * 30
        members = [int(name[-7:-4]) for seed in range(8) for name in self.draw(tmp_path, 100, seed)]
        assert 12 < np.mean(members) < 17  # not the first of each

    def test_both_by_their_bytes(self, tmp_path: Path) -> None:
        write_loose(tmp_path, {f"{i:02d}.jpg": bytes(2000) for i in range(50)})
        write_tar(tmp_path / "z.tar", {f"{i:02d}.jpg": bytes(1536) for i in range(50)})
        drawn = self.draw(tmp_path, 20)
        assert len(drawn) == 20
        assert 8 <= sum("/z.tar/" in name for name in drawn) <= 12


class TestMatch:
    """Landmarks that need no finding: what is measured, by hand."""

    ARCFACE112 = get_template("arcface112")

    def test_the_templates_own_points(self) -> None:
        match = match_template(np.array([ARCFACE] * 3), (112, 112), self.ARCFACE112)
        assert (match.fitting, match.fits) == ("same", True)
        np.testing.assert_allclose(
            [match.distance, match.distance_spread, match.scale, *match.shift_px, match.turn_deg],
            [0, 0, 1, 0, 0, 0],
            atol=1e-9,
        )

    def test_moved_enlarged_and_turned(self) -> None:
        middle = ARCFACE.mean(axis=0)
        turn = np.radians(4)
        rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        points = (ARCFACE - middle) @ rotation.T * 1.1 + middle + (2, -1)
        match = match_template(np.array([points] * 3), (112, 112), self.ARCFACE112)
        np.testing.assert_allclose([match.scale, *match.shift_px, match.turn_deg], [1.1, 2, -1, 4], atol=1e-9)
        np.testing.assert_allclose(match.leftover, 0, atol=1e-9)
        # The larger of 35.2 px between the eyes and 40.7 from them to the mouth, 1.1 times as large.
        expected = np.linalg.norm(points - ARCFACE, axis=1).mean() / (1.1 * 40.686)
        np.testing.assert_allclose(match.distance, expected, rtol=1e-4)

    @pytest.mark.parametrize(
        ("size_wh", "scale", "shift", "fitting"),
        [
            ((224, 224), (2, 2), (0, 0), "resized"),
            ((168, 112), (1.5, 1), (0, 0), "stretched"),
            ((168, 112), (1, 1), (28, 0), "padded"),
            ((168, 112), (1.5, 1.5), (0, -28), "cut"),
        ],
    )
    def test_crops_of_another_size(
        self, size_wh: tuple[int, int], scale: tuple[float, float], shift: tuple[float, float], fitting: str
    ) -> None:
        points = (ARCFACE + 0.5) * scale - 0.5 + shift
        match = match_template(np.array([points] * 3), size_wh, self.ARCFACE112)
        assert match.fitting == fitting
        np.testing.assert_allclose([match.distance, match.scale - 1, *match.shift_px], 0, atol=1e-9)

    def test_a_typical_face_in_each_template_of_boxes(self) -> None:
        box, landmarks = typical_face(90)
        for name in ("square256", "facenet160", "facenet160_pytorch"):
            template = get_template(name)
            matrix = crop_matrix(template, box + 300, landmarks + 300, (900, 900))
            points = np.array([transform_points(matrix, landmarks + 300)] * 3)
            match = match_template(points, template.size_wh, template)
            assert match.fits and match.distance < 0.02, name
            assert match.face_px is None or 80 < match.face_px < 105

    def test_the_same_template_in_three_sizes_is_one(self) -> None:
        templates = tuple(map(get_template, TEMPLATE_NAMES))
        names = [m.template.name for m in rank_templates(np.array([ARCFACE] * 5), (500, 500), templates)]
        assert sorted(names) == sorted(set(TEMPLATE_NAMES) - {"ffhq256", "ffhq1024"})


@pytest.mark.parametrize("name", ["arcface112", "sphereface96x112", "facenet160_pytorch", "ffhq256"])
def test_landmarks_are_found_in_tight_crops(name: str) -> None:
    cascade, template = load_cascade(DetectorOptions(min_face_size_px=40)), get_template(name)
    for crop, (image, landmarks, box) in zip(by_us(name), pictures(), strict=True):
        points = locate_crop_points(cascade, crop)
        expected = transform_points(crop_matrix(template, box, landmarks, image.shape[1::-1]), landmarks)
        assert points is not None
        assert np.linalg.norm(points - expected, axis=1).mean() < 0.025 * template.size_wh[0]


def test_no_landmarks_are_found_where_no_face_is() -> None:
    assert locate_crop_points(load_cascade(DetectorOptions(min_face_size_px=40)), coffee()[:112, :112]) is None


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in TEMPLATE_NAMES if name not in ("ffhq512", "ffhq1024")])
def test_crops_of_real_people(name: str, shared_data: Path, tmp_path: Path) -> None:
    cascade = load_cascade(DetectorOptions(min_face_size_px=60))
    template = get_template(name)
    crops = []
    for path in sorted((shared_data / "lfw_pairs" / "images").rglob("*.jpg"))[::40]:
        image = np.asarray(Image.open(path).convert("RGB"))
        pyramid = ImagePyramid(image)
        found = cascade.refine(pyramid, cascade.propose(pyramid).boxes)
        matrix = crop_matrix(template, found.boxes[0], found.landmarks[0], (image.shape[1], image.shape[0]))
        crops.append(warp_affine(image, matrix, template.size_wh))
    assert len(crops) >= 30
    assert check(write_crops(tmp_path, crops))["explanation"] == f"the crops were made with {name}"
