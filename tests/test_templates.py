"""The templates, each against its published numbers and an independent way to the same crop."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
from aligned import align_face
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pictures import astronaut
from PIL import Image
from skimage.transform import AffineTransform, SimilarityTransform, downscale_local_mean, warp

from facemill.models.errors import ConfigError
from facemill.pipeline.config import load_config
from facemill.pipeline.template_files import choose_templates, load_templates
from facemill.transforms.ops.alignment import AlignOptions, CropError, crop_matrix, transform_points
from facemill.transforms.ops.own_templates import TemplateDefinition
from facemill.transforms.ops.reduction import PixelGrid
from facemill.transforms.ops.templates import TEMPLATE_NAMES, BoxTemplate, PointTemplate, Template, get_template
from facemill.transforms.ops.warping import warp_affine

# Of the astronaut: eyes, tip of the nose, corners of the mouth; and a box as the cascade draws them.
LANDMARKS = np.array([[203.5, 101], [246.5, 103], [224.5, 126.5], [203.5, 140], [243.5, 140.5]], np.float32)
BOX = np.array([179.3, 61.8, 266.4, 172.6], np.float32)
NO_BOX = np.full(4, np.nan)
SPHEREFACE = np.array(
    [[30.2946, 51.6963], [65.5318, 51.5014], [48.0252, 71.7366], [33.5493, 92.3655], [62.7299, 92.2041]]
)
ARCFACE = np.array([[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]])


def enlarged(factor: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The astronaut `factor` times as large, with its landmarks and box."""
    side = round(512 * factor)
    image = np.asarray(Image.fromarray(astronaut()).resize((side, side), Image.Resampling.BICUBIC))
    return image, (LANDMARKS + 0.5) * factor - 0.5, BOX * factor


def mean_difference(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one.astype(float) - other).mean())


def area_means(image: np.ndarray, matrix: np.ndarray, size_wh: tuple[int, int], fineness: int = 8) -> np.ndarray:
    """The crop by skimage: sampled `fineness` times finer in x and y, then averaged."""
    finer = np.array([[fineness, 0, (fineness - 1) / 2], [0, fineness, (fineness - 1) / 2], [0, 0, 1]])
    inverse = AffineTransform(finer @ np.vstack([matrix, [0, 0, 1]])).inverse
    shape = (size_wh[1] * fineness, size_wh[0] * fineness)
    fine = warp(image, inverse, output_shape=shape, order=1, preserve_range=True)
    return downscale_local_mean(fine, (fineness, fineness, 1))


class TestPoints:
    @pytest.mark.parametrize(
        ("name", "points", "size_wh"),
        [
            ("sphereface96x112", SPHEREFACE, (96, 112)),
            ("arcface112", ARCFACE, (112, 112)),
            # insightface at 128: ratio = 128 / 128, and 8 * ratio to the right of the 112 px points.
            ("insight128", ARCFACE * (128 / 128) + (8 * 128 / 128, 0), (128, 128)),
        ],
    )
    def test_the_published_numbers(self, name: str, points: np.ndarray, size_wh: tuple[int, int]) -> None:
        template = get_template(name)
        assert isinstance(template, PointTemplate)
        np.testing.assert_allclose(template.points, points, atol=1e-9)
        assert template.size_wh == size_wh

    @pytest.mark.parametrize("name", ["sphereface96x112", "arcface112", "insight128"])
    @pytest.mark.parametrize("factor", [0.4, 0.7, 1, 2.7])
    def test_crops_are_those_of_skimage_and_opencv(self, name: str, factor: float) -> None:
        image, landmarks, _ = enlarged(factor)
        template = get_template(name)
        assert isinstance(template, PointTemplate)
        transform = SimilarityTransform()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # `estimate` gives way to `from_estimate`, which is new
            assert transform.estimate(landmarks, template.points)
        matrix = crop_matrix(template, NO_BOX, landmarks, image.shape[1::-1])
        np.testing.assert_allclose(matrix, transform.params[:2], atol=1e-4)  # skimage counts in float32
        crop = align_face(image, landmarks, template)
        if factor >= 1:  # shrinking, where OpenCV alone takes single pixels
            assert mean_difference(crop, area_means(image, transform.params[:2], template.size_wh)) < 1.5
        else:
            expected = cv2.warpAffine(image, transform.params[:2], template.size_wh, borderValue=0.0)
            assert mean_difference(crop, expected) < 0.3


class TestBoxes:
    IMAGE = np.random.default_rng(3).integers(0, 256, (150, 200, 3), dtype=np.uint8)
    WIDE = (50.7, 40.2, 110.9, 120.5)

    @pytest.mark.parametrize(
        ("definition", "box", "rectangle"),
        [
            # 16 px more on each side: 34.7, 24.2, 126.9, 136.5, all cut off.
            ({"kind": "facenet", "margin": 32}, WIDE, (34, 24, 126, 136)),
            ({"kind": "facenet", "margin": 33}, WIDE, (34, 23, 127, 137)),
            ({"kind": "facenet", "margin": 32}, (5.5, 3.2, 190.1, 148.9), (0, 0, 200, 150)),
            ({"kind": "facenet"}, (-7.9, 100.1, 20.99, 160.2), (0, 100, 20, 150)),
            ({"kind": "facenet_pytorch"}, WIDE, (50, 40, 110, 120)),
            # 32 of 160 px are 32 / 128 of the box: half of 60.2 / 4 = 7.525 and of 80.3 / 4 = 10.0375 more.
            ({"kind": "facenet_pytorch", "margin": 32}, WIDE, (43, 30, 118, 130)),
            ({"kind": "facenet_pytorch", "margin": 32}, (0.5, 2, 64.5, 66), (0, 0, 72, 74)),
            ({"kind": "facenet_pytorch", "margin": 14}, (150, 90, 223, 163), (146, 86, 200, 150)),
        ],
    )
    def test_the_rectangle_by_hand(
        self, definition: dict[str, float], box: tuple[float, ...], rectangle: tuple[int, int, int, int]
    ) -> None:
        template = TemplateDefinition(size=160, **definition).to_template("own")  # type: ignore[arg-type]
        matrix = crop_matrix(template, np.array(box), LANDMARKS, (200, 150))
        left, top, right, bottom = rectangle
        # The outer edge of the first row and column, and of the last.
        corners = transform_points(matrix, np.array([[left - 0.5, top - 0.5], [right - 0.5, bottom - 0.5]]))
        np.testing.assert_allclose(corners, [[-0.5, -0.5], [159.5, 159.5]], atol=1e-9)
        crop = warp_affine(self.IMAGE, matrix, (160, 160))
        cut = Image.fromarray(self.IMAGE).crop(rectangle)
        expected = np.asarray(cut.resize((160, 160), Image.Resampling.BILINEAR))
        # Pillow's bilinear is a tent twice as wide when it shrinks; on noise that is as far off as it can be.
        assert mean_difference(crop, expected) < (2 if right - left <= 160 and bottom - top <= 160 else 18)

    @pytest.mark.parametrize(("name", "rule", "margin"), [("facenet160", "facenet", 32), ("facenet160_pytorch", "", 0)])
    @pytest.mark.parametrize("factor", [1, 2.5, 3.9])
    def test_a_photograph_in_facenet_and_facenet_pytorch(
        self, name: str, rule: str, margin: float, factor: float
    ) -> None:
        image, landmarks, box = enlarged(factor)
        half = margin / 2
        left, top = int(max(box[0] - half, 0)), int(max(box[1] - half, 0))
        right, bottom = int(min(box[2] + half, image.shape[1])), int(min(box[3] + half, image.shape[0]))
        matrix = crop_matrix(get_template(name), box, landmarks, image.shape[1::-1])
        crop = warp_affine(image, matrix, (160, 160))
        by_pillow = (
            Image.fromarray(image).crop((left, top, right, bottom)).resize((160, 160), Image.Resampling.BILINEAR)
        )
        assert mean_difference(crop, np.asarray(by_pillow)) < 1.5
        by_opencv = cv2.resize(image[top:bottom, left:right], (160, 160), interpolation=cv2.INTER_AREA)
        if right - left >= 160 and bottom - top >= 160:
            np.testing.assert_array_equal(crop, by_opencv)
        else:
            assert mean_difference(crop, by_opencv) < 3

    def test_a_rectangle_that_shrinks_in_one_direction_alone(self) -> None:
        template = TemplateDefinition(size=100, kind="facenet").to_template("own")
        matrix = crop_matrix(template, np.array([0.0, 20, 200, 70]), LANDMARKS, (200, 150))
        crop = warp_affine(self.IMAGE, matrix, (100, 100))
        halves = self.IMAGE[20:70].reshape(50, 100, 2, 3).mean(axis=2)
        expected = cv2.resize(halves.astype(np.float32), (100, 100), interpolation=cv2.INTER_LINEAR)
        assert np.abs(crop - expected).max() < 1.6  # rounded twice

    def test_the_square_by_hand(self) -> None:
        # 1.3 * 80 = 104 px around (30, 60), which 256 px show.
        matrix = crop_matrix(get_template("square256"), np.array([10, 20, 50, 100]), LANDMARKS, (200, 150))
        np.testing.assert_allclose(matrix, [[256 / 104, 0, 22 * 256 / 104 - 0.5], [0, 256 / 104, -8 * 256 / 104 - 0.5]])

    @pytest.mark.parametrize("factor", [1, 4])
    def test_the_square_of_a_photograph(self, factor: float) -> None:
        image, landmarks, box = enlarged(factor)
        template = get_template("square256")
        matrix = crop_matrix(template, box, landmarks, image.shape[1::-1])
        crop = warp_affine(image, matrix, (256, 256))
        assert mean_difference(crop, area_means(image, matrix, (256, 256), 4)) < 0.7
        side = 1.3 * (box[3] - box[1])
        left, top = (box[0] + box[2] - side) / 2 + 0.5, (box[1] + box[3] - side) / 2 + 0.5
        by_pillow = Image.fromarray(image).resize(
            (256, 256),
            Image.Resampling.BILINEAR if factor == 1 else Image.Resampling.BOX,
            (left, top, left + side, top + side),
        )
        assert mean_difference(crop, np.asarray(by_pillow)) < 1


class TestFfhq:
    @staticmethod
    def quad(points: np.ndarray) -> np.ndarray:
        """Upper left, lower left, lower right, upper right corner: the steps of the FFHQ script."""
        eye_left, eye_right, _, mouth_left, mouth_right = np.asarray(points, np.float64)
        eye_avg, mouth_avg = (eye_left + eye_right) / 2, (mouth_left + mouth_right) / 2
        eye_to_eye, eye_to_mouth = eye_right - eye_left, mouth_avg - eye_avg
        x = eye_to_eye - np.array([-eye_to_mouth[1], eye_to_mouth[0]])
        x *= max(np.linalg.norm(eye_to_eye) * 2.0, np.linalg.norm(eye_to_mouth) * 1.8) / np.linalg.norm(x)
        y = np.array([-x[1], x[0]])
        center = eye_avg + eye_to_mouth * 0.1
        return np.stack([center - x - y, center - x + y, center + x + y, center + x - y])

    @pytest.mark.parametrize("size", [256, 512, 1024])
    @pytest.mark.parametrize("turn_deg", [0, 25, -140])
    def test_the_corners_of_the_quad(self, size: int, turn_deg: float) -> None:
        turn = cv2.getRotationMatrix2D((256, 256), turn_deg, 1.3)
        points = transform_points(turn, LANDMARKS)
        matrix = crop_matrix(get_template(f"ffhq{size}"), NO_BOX, points, (512, 512))
        low, high = -0.5, size - 0.5
        corners = transform_points(matrix, self.quad(points))
        np.testing.assert_allclose(corners, [[low, low], [low, high], [high, high], [high, low]], atol=1e-8)

    @pytest.mark.parametrize(("size", "factor"), [(256, 1), (256, 3), (512, 1), (1024, 1)])
    def test_the_crop_is_that_of_pillow(self, size: int, factor: float) -> None:
        image, landmarks, _ = enlarged(factor)
        corners = (self.quad(landmarks) + 0.5).flatten()
        finer = 4 if size < 1024 else 1
        by_pillow = Image.fromarray(image).transform(
            (size * finer, size * finer), Image.Transform.QUAD, corners, Image.Resampling.BILINEAR
        )
        expected = by_pillow.resize((size, size), Image.Resampling.LANCZOS)
        crop = align_face(image, landmarks, get_template(f"ffhq{size}"))
        inside = np.asarray(expected).any(axis=2)
        assert inside.mean() > 0.9
        assert mean_difference(crop[inside], np.asarray(expected)[inside]) < 1.5

    def test_the_nose_does_not_matter(self) -> None:
        elsewhere = LANDMARKS.copy()
        elsewhere[2] = (7, 3)
        template = get_template("ffhq256")
        np.testing.assert_array_equal(
            *(crop_matrix(template, NO_BOX, points, (512, 512)) for points in (LANDMARKS, elsewhere))
        )


@pytest.mark.parametrize("name", TEMPLATE_NAMES)
@pytest.mark.parametrize("grid", [PixelGrid(), PixelGrid(2, (0, -1)), PixelGrid(4, (-3, -2))])
def test_a_crop_of_a_reduced_picture_shows_the_same(name: str, grid: PixelGrid) -> None:
    matrix = crop_matrix(get_template(name), BOX, LANDMARKS, (512, 512))
    reduced = grid.matrix_from_original(matrix)
    points = np.random.default_rng(1).uniform(0, 512, (9, 2))
    in_picture = (points + 0.5 - grid.origin_xy) / grid.reduction - 0.5
    np.testing.assert_allclose(transform_points(reduced, in_picture), transform_points(matrix, points), atol=1e-9)


class TestNoCrop:
    ALL_EQUAL = np.full((5, 2), 7.0)
    # The mouth above the eyes as far as they are apart.
    UPSIDE_DOWN = np.array([[100, 100], [140, 100], [120, 80], [110, 60], [130, 60]], float)
    NO_NUMBERS = np.full((5, 2), np.nan)

    @pytest.mark.parametrize(
        ("name", "landmarks", "message"),
        [
            ("arcface112", ALL_EQUAL, "arcface112: no similarity is determined: the points are all equal"),
            ("arcface112", NO_NUMBERS, "arcface112: a similarity needs finite points"),
            ("ffhq256", ALL_EQUAL, "ffhq256: the eyes and the mouth determine no square"),
            ("ffhq256", UPSIDE_DOWN, "ffhq256: the eyes and the mouth determine no square"),
            ("ffhq256", NO_NUMBERS, "ffhq256: the eyes and the mouth determine no square"),
            ("ffhq256", LANDMARKS + 1000, "ffhq256: the crop would show nothing of the picture"),
        ],
    )
    def test_landmarks(self, name: str, landmarks: np.ndarray, message: str) -> None:
        with pytest.raises(CropError) as caught:
            crop_matrix(get_template(name), BOX, landmarks, (512, 512))
        assert str(caught.value) == message

    @pytest.mark.parametrize("name", [n for n in TEMPLATE_NAMES if isinstance(get_template(n), BoxTemplate)])
    @pytest.mark.parametrize(
        "box",
        [
            (60, 40, 60, 110),
            (100, 110, 50, 40),
            (600, 40, 700, 110),
            (-200, -90, -120, -40),
            (-100, 1300, 700, 1340),
            (np.nan, 0, 100, 100),
            (0, 0, np.inf, 100),
        ],
    )
    def test_boxes(self, name: str, box: tuple[float, ...]) -> None:
        with pytest.raises(CropError, match=f"^{name}: "):
            crop_matrix(get_template(name), np.array(box), LANDMARKS, (512, 512))

    def test_a_corner_of_the_picture_is_enough(self) -> None:
        for box in ((505, 505, 600, 600), (-90, -90, 3, 3)):
            for name in ("square256", "facenet160", "facenet160_pytorch"):
                crop_matrix(get_template(name), np.array(box), LANDMARKS, (512, 512))

    @given(
        box=hnp.arrays(np.float32, 4, elements=st.floats(-(2.0**100), 2.0**100, width=32)),
        near=hnp.arrays(np.float32, 4, elements=st.floats(-30, 60, width=32)),
        landmarks=hnp.arrays(np.float32, (5, 2), elements=st.floats(-100, 150, width=32)),
        image_wh=st.sampled_from([(1, 1), (12, 700), (30, 20)]),
        name=st.sampled_from(TEMPLATE_NAMES),
        border=st.sampled_from(["black", "reflect"]),
    )
    def test_what_is_placed_can_be_cut(
        self,
        box: np.ndarray,
        near: np.ndarray,
        landmarks: np.ndarray,
        image_wh: tuple[int, int],
        name: str,
        border: str,
    ) -> None:
        template = get_template(name)
        if template.size_wh[0] > 256:
            return
        image = np.full((image_wh[1], image_wh[0], 3), 77, np.uint8)
        for one in (box, near):
            try:
                matrix = crop_matrix(template, one, landmarks, image_wh)
            except CropError:
                continue
            crop = warp_affine(image, matrix, template.size_wh, border=border)  # type: ignore[arg-type]
            assert crop.shape == (template.size_wh[1], template.size_wh[0], 3)
            assert border == "black" or (crop == 77).all()


POINTS = tuple(tuple(point) for point in SPHEREFACE.tolist())


class TestOwn:
    @pytest.mark.parametrize(
        ("definition", "expected"),
        [
            ({"size": (96, 112), "points": POINTS}, "sphereface96x112"),
            ({"size": 160, "kind": "facenet", "margin": 32}, "facenet160"),
            ({"size": 160, "kind": "facenet_pytorch"}, "facenet160_pytorch"),
            ({"size": 256, "kind": "square", "margin": 0.15}, "square256"),
            ({"size": 512, "kind": "ffhq"}, "ffhq512"),
        ],
    )
    def test_ours_can_be_spelled_out(self, definition: dict[str, object], expected: str) -> None:
        own: Template = TemplateDefinition(**definition).to_template("own")  # type: ignore[arg-type]
        ours = get_template(expected)
        assert own.size_wh == ours.size_wh
        np.testing.assert_array_equal(*(crop_matrix(template, BOX, LANDMARKS, (512, 512)) for template in (own, ours)))

    @pytest.mark.parametrize(
        ("definition", "message"),
        [
            ({"size": 0, "kind": "square"}, "size must lie in [1, 4096], got 0"),
            ({"size": (96, 4097), "points": POINTS}, "size must lie in [1, 4096], got (96, 4097)"),
            ({"size": (96, 112), "kind": "ffhq"}, "size must be one number, as ffhq makes squares, got [96, 112]"),
            ({"size": 112}, "points must be five pairs of x and y, as the kind points takes them, got 0"),
            ({"size": 112, "points": POINTS[:4]}, "points must be five pairs"),
            ({"size": 20, "points": POINTS}, "points must lie within a crop's size of the crop of 20x20, got [30.2"),
            ({"size": 112, "points": (*POINTS[:4], (float("nan"), 92))}, "points must lie within"),
            ({"size": 112, "points": (POINTS[1], POINTS[0], *POINTS[2:])}, "mirrored, on one line or on one spot"),
            (
                {"size": 112, "points": [(p[0] / 1e4, p[1] / 1e4) for p in POINTS]},
                "mirrored, on one line or on one spot",
            ),
            ({"size": 112, "points": ((7.0, 7.0),) * 5}, "mirrored, on one line or on one spot"),
            ({"size": 112, "points": POINTS, "margin": 0}, "margin does not go with the kind points"),
            ({"size": 112, "kind": "ffhq", "margin": 3}, "margin does not go with the kind ffhq"),
            ({"size": 112, "kind": "ffhq", "points": POINTS}, "points do not go with the kind ffhq"),
            ({"size": 112, "kind": "square", "margin": 32}, "margin must lie in [0, 10], a share of the box's longer"),
            ({"size": 112, "kind": "facenet", "margin": -1}, "margin must lie in [0, 4096], px of the picture, got -1"),
            ({"size": 112, "kind": "facenet_pytorch", "margin": 112}, "margin must lie in [0, 112), px of the crop"),
            ({"size": 112, "kind": "facenet", "margin": float("nan")}, "margin must lie in"),
        ],
    )
    def test_what_cannot_be_is_refused(self, definition: dict[str, object], message: str) -> None:
        with pytest.raises(ConfigError) as caught:
            TemplateDefinition(**definition)  # type: ignore[arg-type]
        assert message in str(caught.value)

    def test_a_file(self, tmp_path: Path) -> None:
        path = tmp_path / "templates.yaml"
        path.write_text(
            f"tall:\n  size: [96, 112]\n  points: {SPHEREFACE.tolist()}\nloose: {{kind: square, size: 64}}\n"
        )
        options = choose_templates(["ffhq256", str(path), "arcface112"], AlignOptions(border="white"))
        assert options.border == "white"
        assert options.templates == ("ffhq256", "tall", "loose", "arcface112")
        templates = options.find_templates()
        assert [template.size_wh for template in templates] == [(256, 256), (96, 112), (64, 64), (112, 112)]
        assert isinstance(templates[1], PointTemplate)
        np.testing.assert_array_equal(templates[1].points, SPHEREFACE)

    def test_the_example_of_the_documentation(self, tmp_path: Path) -> None:
        page = Path(__file__).resolve().parents[1] / "docs" / "templates.md"
        (example,) = re.findall(r"```yaml\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
        (tmp_path / "example.yaml").write_text(example)
        templates = load_config(str(tmp_path / "example.yaml")).align.find_templates()
        described = [(template.name, template.kind, template.size_wh) for template in templates]
        assert described == [
            ("arcface112", "points", (112, 112)),
            ("tall", "points", (96, 128)),
            ("loose", "square", (224, 224)),
        ]

    def test_a_configuration_holds_templates_as_well(self, tmp_path: Path) -> None:
        own = "tall: {kind: square, size: 64}"
        (tmp_path / "alone.yaml").write_text(own)
        (tmp_path / "config.yaml").write_text(f"align:\n  template: tall\n  own:\n    {own}\n")
        templates = load_templates(str(tmp_path / "config.yaml"))
        assert templates.keys() == {"tall"}
        assert templates == load_templates(str(tmp_path / "alone.yaml"))

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("mine: {size: 64, kind: sqare}", "mine.kind: Input should be 'points', 'square',"),
            ("mine: {size: 64, kind: square, marge: 1}", "mine.marge: Unexpected keyword argument"),
            ("mine: {size: 0, kind: square}", "mine.size must lie in [1, 4096], got 0"),
            ("mine: {size: 11.5, kind: square}", "mine.size: Input should be a valid integer, got 11.5"),
            ("ArcFace112: {size: 64, kind: square}", "a template is called arcface112 already; choose another name"),
            ("a/b: {size: 64, kind: square}", "a template's name is made of up to 64 letters, digits, _ and -"),
            ("[1, 2]", "expected templates by their names, got '[1, 2]'"),
            ("", "expected templates by their names, got '{}'"),
            ("3: {size: 64, kind: square}", "expected templates by their names"),
            ("mine: {size: 64", "is not valid YAML"),
        ],
    )
    def test_a_file_that_is_wrong(self, text: str, message: str, tmp_path: Path) -> None:
        path = tmp_path / "templates.yaml"
        path.write_text(text)
        with pytest.raises(ConfigError) as caught:
            load_templates(str(path))
        assert str(path) in str(caught.value)
        assert message in str(caught.value)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["arcface"], "got 'arcface'; did you mean arcface112?"),
            (["arcface112", "arcface112"], "template names arcface112 twice"),
            ([], "template must name at least one template, got an empty list"),
            (["nowhere.yaml"], "cannot read the configuration nowhere.yaml"),
            (["mine.yaml", "mine.yaml"], "template names mine twice"),
            (["mine.yaml", "other.yaml"], "other.yaml: another template is called mine already"),
        ],
    )
    def test_arguments_that_are_wrong(
        self, arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "mine.yaml").write_text("mine: {kind: square, size: 64}")
        (tmp_path / "other.yaml").write_text("mine: {kind: square, size: 65}")
        with pytest.raises(ConfigError) as caught:
            choose_templates(arguments, AlignOptions())
        assert message in str(caught.value)
