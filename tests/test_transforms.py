"""The Beam transforms, each on a list of elements."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from pictures import jpeg, portrait, read_table, scenery, write_loose
from PIL import Image
from skimage.color import rgb2xyz

from facemill.models.cascade import DetectorOptions
from facemill.models.errors import BadInputError, ConfigError, OutputError
from facemill.transforms.align import AlignFaces
from facemill.transforms.decode import DecodeImages
from facemill.transforms.detect import DetectFaces, LookUpFaces
from facemill.transforms.elements import Batch, Element, ElementCoder, EndOfUnit, apply_step, map_images
from facemill.transforms.judge import JudgeFaces
from facemill.transforms.landmarks import LocateLandmarks
from facemill.transforms.ops.alignment import AlignOptions
from facemill.transforms.ops.crops import WriteOptions
from facemill.transforms.ops.options import DecodeOptions
from facemill.transforms.ops.perceptual_hash import perceptual_hash
from facemill.transforms.ops.quality import QUALITY_COLUMNS
from facemill.transforms.ops.reading import ReadOptions
from facemill.transforms.ops.records import Faces, Failure, ImageRecord, KnownRows
from facemill.transforms.ops.storage import Folder
from facemill.transforms.ops.units import Unit
from facemill.transforms.ops.verdict import JudgeOptions
from facemill.transforms.read import ReadImages
from facemill.transforms.write import WriteUnit

PNG = WriteOptions(image_format="png")

_outputs: list[Any] = []


def _collect(output: Any) -> None:
    """Known to the runner by its name, so that it reaches the list of this process and not a pickled copy."""
    _outputs.append(output)


def apply(transform: beam.PTransform, elements: Sequence[Any]) -> list[Any]:
    """What comes out of `transform` when `elements` go in, in one bundle and in this order."""
    _outputs.clear()
    options = PipelineOptions(flags=[], direct_running_mode="in_memory")
    with beam.Pipeline(runner=FnApiRunner(), options=options) as pipeline:
        _ = pipeline | beam.Create(elements, reshuffle=False) | transform | "Collect" >> beam.Map(_collect)
    return list(_outputs)


def records_of(elements: Sequence[Element]) -> list[ImageRecord]:
    return [record for element in elements if isinstance(element, Batch) for record in element.records]


def record(index: int = 0, **fields: Any) -> ImageRecord:
    return ImageRecord(index, f"in/{index}.jpg", f"in/{index}.jpg", "", **fields)


def batch(*records: ImageRecord) -> Batch:
    return Batch("unit-0", tuple(records))


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


END = EndOfUnit("unit-0", 1, 12.5)
FAILED = record(3, failure=Failure("truncated", "it ends early"), sha256="ab", width=7, num_bytes=9)
# Where insightface wants the points in 112x112, so that a crop of these is the picture itself.
ARCFACE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]], np.float32
)


def faces_at(*landmarks: np.ndarray) -> Faces:
    points = np.array(landmarks, np.float32).reshape(-1, 5, 2)
    boxes = np.concatenate([points.min(axis=1), points.max(axis=1)], axis=1)
    return Faces(boxes, np.full(len(points), 0.9, np.float32), points)


class TestReadImages:
    @pytest.fixture
    def roots(self, tmp_path: Path) -> dict[str, Folder]:
        sizes = {"a/0.jpg": 10, "a/1.jpg": 20, "2.jpg": 30, "3.jpg": 5, "4.jpg": 0}
        folder = write_loose(tmp_path / "in", {name: b"x" * size for name, size in sizes.items()})
        return {"in": Folder(str(folder))}

    def unit(self, *names: str, name: str = "unit-0") -> Unit:
        return Unit(name, "files", tuple(f"in/{source}" for source in names), (1,) * len(names), len(names))

    def read(
        self,
        units: Sequence[Unit],
        roots: dict[str, Folder],
        tmp_path: Path,
        *,
        batch_bytes: int = 10**9,
        quarantined: dict[str, tuple[int, ...]] | None = None,
    ) -> list[Element]:
        output = Folder(str(tmp_path / "out"))
        return apply(ReadImages(roots, ReadOptions(), output, batch_bytes, quarantined or {}), units)

    @pytest.mark.parametrize(
        ("batch_bytes", "sizes"),
        [(1, [[10], [20], [30], [5]]), (30, [[10, 20], [30], [5]]), (31, [[10, 20, 30], [5]]), (66, [[10, 20, 30, 5]])],
    )
    def test_a_batch_is_closed_when_it_has_its_bytes(
        self, batch_bytes: int, sizes: list[list[int]], roots: dict[str, Folder], tmp_path: Path
    ) -> None:
        unit = self.unit("a/0.jpg", "a/1.jpg", "2.jpg", "3.jpg")
        *batches, end = self.read([unit], roots, tmp_path, batch_bytes=batch_bytes)
        assert [[one.num_bytes for one in part.records] for part in batches] == sizes
        assert (end.unit, end.num_images) == ("unit-0", 4)
        assert [one.index for one in records_of(batches)] == [0, 1, 2, 3]
        assert [one.label for one in records_of(batches)] == ["a", "a", None, None]

    def test_files_without_bytes_still_fill_no_batch_and_have_their_row(
        self, roots: dict[str, Folder], tmp_path: Path
    ) -> None:
        part, end = self.read([self.unit("4.jpg", "nothing.jpg", "3.jpg")], roots, tmp_path)
        assert [one.failure and one.failure.reason for one in part.records] == ["empty", "read_error", None]
        assert end.num_images == 3

    def test_a_link_to_a_device_is_not_read(self, roots: dict[str, Folder], tmp_path: Path) -> None:
        (tmp_path / "in" / "device.jpg").symlink_to("/dev/null")
        (one,) = records_of(self.read([self.unit("device.jpg")], roots, tmp_path))
        assert one.failure is not None and one.failure.reason == "read_error"

    def test_a_committed_unit_is_not_read(self, roots: dict[str, Folder], tmp_path: Path) -> None:
        write_loose(tmp_path / "out", {"_units/unit-0.json": b"{}"})
        units = [self.unit("2.jpg"), self.unit("3.jpg", name="unit-1")]
        elements = self.read(units, roots, tmp_path)
        assert [element.unit for element in elements] == ["unit-1", "unit-1"]

    def test_every_unit_ends(self, roots: dict[str, Folder], tmp_path: Path) -> None:
        units = [self.unit("2.jpg"), self.unit("3.jpg", "2.jpg", name="unit-1")]
        ends = [(e.unit, e.num_images) for e in self.read(units, roots, tmp_path) if isinstance(e, EndOfUnit)]
        assert ends == [("unit-0", 1), ("unit-1", 2)]

    def test_quarantined_positions_are_not_touched(self, roots: dict[str, Folder], tmp_path: Path) -> None:
        units = [self.unit("2.jpg", "3.jpg"), self.unit("2.jpg", "3.jpg", name="unit-1")]
        elements = self.read(units, roots, tmp_path, quarantined={"unit-1": (1,), "unit-9": (0,)})
        first, second = records_of(elements[:2]), records_of(elements[2:])
        assert [one.failure for one in [*first, second[0]]] == [None] * 3
        assert second[1].data is None
        assert second[1].failure is not None and second[1].failure.reason == "internal_error"
        assert elements[-1].num_images == 2


class TestDecodeImages:
    SQUARE = jpeg(np.zeros((20, 20, 3), np.uint8))

    def decode(self, records: Sequence[ImageRecord], batch_pixels: int = 10**9, **options: int) -> list[Element]:
        return apply(DecodeImages(DecodeOptions(**options), batch_pixels), [batch(*records), END])

    @pytest.mark.parametrize(
        ("batch_pixels", "indices"),
        [
            (400, [[0], [1], [2], [3, 4]]),  # number 3 cannot be decoded, so it has no pixels to fill a batch
            (401, [[0, 1], [2, 3, 4]]),
            (2000, [[0, 1, 2, 3, 4]]),
        ],
    )
    def test_batches_are_split_by_pixels(self, batch_pixels: int, indices: list[list[int]]) -> None:
        records = [record(i, data=b"no picture" if i == 3 else self.SQUARE) for i in range(5)]
        *batches, end = self.decode(records, batch_pixels)
        assert [[one.index for one in part.records] for part in batches] == indices
        assert end == END

    def test_what_a_decoded_image_knows(self) -> None:
        lying = np.zeros((20, 40, 3), np.uint8)
        exif = Image.Exif()
        exif[0x0112] = 6
        data = jpeg(lying, exif=exif)
        (one,) = records_of(self.decode([record(data=data, num_bytes=len(data))]))
        assert one.sha256 == hashlib.sha256(data).hexdigest()
        assert (one.format, one.width, one.height, one.exif_orientation) == ("JPEG", 20, 40, 6)
        assert one.image is not None and one.image.shape == (40, 20, 3) and one.image.dtype == np.uint8
        assert (one.data, one.num_bytes) == (None, len(data))

    @pytest.mark.parametrize(
        ("data", "reason", "options"),
        [
            (b"", "empty", {}),
            (b"this is no picture", "unsupported_format", {}),
            (portrait(0)[:1500], "truncated", {}),
            (SQUARE, "too_large", {"max_pixels": 399}),
            (SQUARE, "too_small", {"min_side_px": 21}),
        ],
    )
    def test_a_broken_image_gets_its_reason_and_holds_nothing(
        self, data: bytes, reason: str, options: dict[str, int]
    ) -> None:
        (one,) = records_of(self.decode([record(data=data)], **options))
        assert one.failure is not None and one.failure.reason == reason
        assert one.sha256 == hashlib.sha256(data).hexdigest()
        assert one.data is None and one.image is None

    def test_an_empty_batch(self) -> None:
        assert records_of(self.decode([])) == []


class TestDetectAndLandmarks:
    def test_the_face_of_a_portrait_and_none_in_a_scene(self) -> None:
        images = [record(0, image=pixels(portrait(0))), record(1, image=pixels(scenery(0)))]
        detected = apply(DetectFaces(DetectorOptions()), [batch(*images), END])
        assert detected[-1] == END
        assert all(one.candidates is not None and one.image is not None for one in records_of(detected))
        located = records_of(apply(LocateLandmarks(DetectorOptions(), False), detected))
        assert [len(one.faces or ()) for one in located] == [1, 0]
        assert located[0].candidates is None
        # Read off the photograph by eye.
        expected = np.array([[58.8, 56.9], [82.6, 57.9], [70.3, 71.4], [58.7, 78.9], [81, 79.5]])
        assert located[0].faces is not None
        assert np.abs(located[0].faces.landmarks[0] - expected).max() < 4

    def test_known_faces_keep_their_points_and_get_those_they_lack(self) -> None:
        boxes = np.array([[43, 32, 93, 96], [43, 32, 93, 96]], np.float32)
        landmarks = np.stack([ARCFACE, np.full((5, 2), np.nan, np.float32)])
        known = KnownRows(boxes, np.array([0.25, np.nan], np.float32), landmarks)
        image = record(image=pixels(portrait(0)), known=known)
        (one,) = records_of(apply(LocateLandmarks(DetectorOptions(), False), [batch(image)]))
        assert one.faces is not None and one.known is None
        np.testing.assert_array_equal(one.faces.boxes, boxes)
        np.testing.assert_array_equal(one.faces.landmarks[0], ARCFACE)
        assert one.faces.scores[0] == 0.25 and one.faces.scores[1] > 0.9
        assert np.abs(one.faces.landmarks[1, 0] - [58.8, 56.9]).max() < 4
        (again,) = records_of(apply(LocateLandmarks(DetectorOptions(), True), [batch(image)]))
        assert again.faces is not None
        np.testing.assert_array_equal(again.faces.landmarks[0], one.faces.landmarks[1])

    def test_an_image_without_known_faces(self) -> None:
        nothing = KnownRows(*(np.zeros(shape, np.float32) for shape in ((0, 4), (0,), (0, 5, 2))))
        image = record(image=pixels(scenery(0)), known=nothing)
        (one,) = records_of(apply(LocateLandmarks(DetectorOptions(), False), [batch(image)]))
        assert one.faces is not None and len(one.faces) == 0

    def test_faces_are_looked_up_by_image(self, tmp_path: Path) -> None:
        columns = {"image_id": ["in/1.jpg"], "x1": [1.0], "y1": [2.0], "x2": [3.0], "y2": [4.0]}
        pq.write_table(pa.table(columns), tmp_path / "faces.parquet")
        elements = [batch(record(0), record(1), FAILED), END]
        found = apply(LookUpFaces(Folder(str(tmp_path))), elements)
        boxes = [None if one.known is None else one.known.boxes.tolist() for one in records_of(found)]
        assert boxes == [[], [[1, 2, 3, 4]], None]
        assert found[-1] == END


class TestJudgeAndAlign:
    IMAGE = np.random.default_rng(0).integers(0, 256, (112, 112, 3), dtype=np.uint8)

    def test_a_verdict_for_each_face(self) -> None:
        small = ARCFACE * 0.2
        image = record(image=self.IMAGE, faces=faces_at(ARCFACE, small, ARCFACE + 100))
        options = JudgeOptions(min_interocular_px=20)
        (one,) = records_of(apply(JudgeFaces(options), [batch(image)]))
        assert one.faces is not None and one.faces.angles_deg is not None and one.faces.interocular_px is not None
        assert one.faces.reasons == ("", "small", "outside")
        np.testing.assert_allclose(one.faces.interocular_px, [35.238, 7.048, 35.238], atol=0.01)
        assert one.faces.angles_deg.shape == (3, 3)
        assert one.faces.quality is not None
        quality = dict(zip(QUALITY_COLUMNS, one.faces.quality.T, strict=True))
        assert abs(quality["luminance_mean"][0] - np.mean(rgb2xyz(self.IMAGE)[..., 1])) < 0.01
        assert np.isnan(quality["sharpness"]).tolist() == [False, False, True]
        np.testing.assert_allclose(quality["crop_out"], [0, 0, 1])

    def test_a_hash_for_each_face_that_has_a_canonical_crop(self) -> None:
        faces = faces_at(ARCFACE, ARCFACE * 0.5, np.zeros_like(ARCFACE))
        (one,) = records_of(apply(JudgeFaces(JudgeOptions()), [batch(record(image=self.IMAGE, faces=faces))]))
        assert one.faces is not None
        whole, part, nothing = one.faces.phashes
        assert whole == perceptual_hash(self.IMAGE)
        assert part is not None and part != whole
        assert nothing is None

    def test_points_at_the_template_give_the_picture_itself(self) -> None:
        faces = dataclasses.replace(faces_at(ARCFACE, ARCFACE), reasons=("", "yaw"))
        aligned = apply(AlignFaces(AlignOptions(), PNG), [batch(record(image=self.IMAGE, faces=faces)), END])
        (one,) = records_of(aligned)
        assert one.faces is not None and one.image is None
        kept, rejected = one.faces.crops
        assert rejected is None and kept is not None
        (crop,) = (np.asarray(Image.open(io.BytesIO(content))) for content in kept)
        assert crop.shape == (112, 112, 3) and crop.dtype == np.uint8
        assert np.abs(crop.astype(int) - self.IMAGE).max() <= 1
        assert aligned[-1] == END

    @pytest.mark.parametrize("transform", [JudgeFaces(JudgeOptions()), AlignFaces(AlignOptions(), PNG)])
    def test_an_image_without_faces(self, transform: beam.PTransform) -> None:
        (one,) = records_of(apply(transform, [batch(record(image=self.IMAGE, faces=faces_at()))]))
        assert one.failure is None
        assert one.faces is not None and (one.faces.reasons, one.faces.phashes, one.faces.crops) == ((), (), ())
        assert one.faces.quality is None or one.faces.quality.shape == (0, len(QUALITY_COLUMNS))


STEPS = {
    "decode": DecodeImages(DecodeOptions(), 10**9),
    "detect": DetectFaces(DetectorOptions()),
    "landmarks": LocateLandmarks(DetectorOptions(), False),
    "judge": JudgeFaces(JudgeOptions()),
    "align": AlignFaces(AlignOptions(), PNG),
}


class TestFailures:
    @pytest.mark.parametrize("step", STEPS)
    def test_a_failed_image_travels_through_untouched(self, step: str) -> None:
        passed, end = apply(STEPS[step], [batch(FAILED), END])
        assert passed.unit == "unit-0"
        assert [dataclasses.asdict(one) for one in passed.records] == [dataclasses.asdict(FAILED)]
        assert end == END

    @pytest.mark.parametrize("step", ["detect", "landmarks", "judge", "align"])
    def test_an_unexpected_exception_costs_one_image_and_is_logged(
        self, step: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        faces = dataclasses.replace(faces_at(ARCFACE), reasons=("",))
        fields: dict[str, Any] = {"faces": faces, "candidates": np.zeros((0, 4), np.float32), "data": b"left"}
        without_pixels = record(0, **fields)
        fine = record(1, image=np.zeros((112, 112, 3), np.uint8), **fields)
        with caplog.at_level(logging.ERROR):
            first, second = records_of(apply(STEPS[step], [batch(without_pixels, fine)]))
        assert first.failure is not None and first.failure.reason == "internal_error"
        assert first.failure.message.startswith("AssertionError")
        assert (first.data, first.image, first.faces) == (None, None, None)
        assert second.failure is None
        (entry,) = [entry for entry in caplog.records if entry.name == "facemill.transforms.elements"]
        assert entry.getMessage() == "internal error on in/0.jpg"
        assert entry.exc_info is not None

    def test_what_is_wrong_with_the_input_keeps_its_reason(self) -> None:
        done = apply_step(record(data=b"x"), raiser(BadInputError("decode_error", "bad marker")))
        assert done.failure == Failure("decode_error", "bad marker")
        assert done.data is None

    @pytest.mark.parametrize("error", [ConfigError("wrong"), OutputError("full"), KeyboardInterrupt()])
    def test_what_is_not_about_the_image_stops_the_unit(self, error: BaseException) -> None:
        with pytest.raises(type(error)):
            apply_step(record(), raiser(error))

    def test_a_failed_image_is_not_given_to_a_step(self) -> None:
        passed = map_images(batch(FAILED, record(4)), lambda one: dataclasses.replace(one, label="seen"))
        assert isinstance(passed, Batch)
        assert [one.label for one in passed.records] == [None, "seen"]
        assert passed.records[0] is FAILED
        assert map_images(END, raiser(ValueError())) is END


def raiser(error: BaseException) -> Callable[[ImageRecord], ImageRecord]:
    def step(_: ImageRecord) -> ImageRecord:
        raise error

    return step


class TestWriteUnit:
    def image(self, index: int) -> ImageRecord:
        """An image with one kept face."""
        angles = np.zeros((1, 3), np.float32)
        crops = ((b"jpeg",),)
        faces = dataclasses.replace(
            faces_at(ARCFACE),
            angles_deg=angles,
            interocular_px=angles[:, 0],
            quality=np.zeros((1, len(QUALITY_COLUMNS)), np.float32),
            phashes=(None,),
            reasons=("",),
            crops=crops,
        )
        return record(index, faces=faces)

    def write(self, elements: Sequence[Element], tmp_path: Path) -> list[Any]:
        return apply(WriteUnit(Folder(str(tmp_path)), WriteOptions(), "f00d", ("arcface112",)), elements)

    def files(self, tmp_path: Path) -> list[str]:
        return sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())

    def test_units_are_committed_when_their_end_arrives(self, tmp_path: Path) -> None:
        elements = [
            batch(self.image(0), dataclasses.replace(FAILED, index=1)),
            Batch("unit-1", (self.image(0),)),
            batch(self.image(2)),
            EndOfUnit("unit-0", 3, 0.0),
            EndOfUnit("unit-1", 1, 0.0),
            EndOfUnit("unit-2", 0, 0.0),
        ]
        summaries = self.write(elements, tmp_path)
        counted = [(s.unit, s.num_images, s.num_kept, s.num_crops, s.fingerprint) for s in summaries]
        assert counted == [("unit-0", 3, 2, 2, "f00d"), ("unit-1", 1, 1, 1, "f00d"), ("unit-2", 0, 0, 0, "f00d")]
        assert len(read_table(tmp_path, "images")) == 4
        assert len(read_table(tmp_path, "faces")) == 3
        assert len(self.files(tmp_path)) == 3 * 4

    @pytest.mark.parametrize(
        ("indices", "num_images"),
        [((0, 2), 3), ((0, 1), 3), ((1, 0), 2), ((0, 1, 1), 2), ((0, 0), 2), ((0, 1), 1)],
        ids=["missing", "the last missing", "reordered", "twice", "twice and missing", "too many"],
    )
    def test_a_unit_that_does_not_balance_leaves_nothing(
        self, indices: tuple[int, ...], num_images: int, tmp_path: Path
    ) -> None:
        elements = [batch(self.image(index)) for index in indices]
        with pytest.raises((OutputError, RuntimeError), match="unit unit-0 does not balance"):
            self.write([*elements, EndOfUnit("unit-0", num_images, 0.0)], tmp_path)
        assert self.files(tmp_path) == []

    def test_a_unit_without_its_end_leaves_nothing(self, tmp_path: Path) -> None:
        elements = [batch(self.image(0)), Batch("unit-1", (self.image(0),)), EndOfUnit("unit-1", 1, 0.0)]
        with pytest.raises((OutputError, RuntimeError), match=r"cut units apart \(unit-0\)"):
            self.write(elements, tmp_path)
        assert {path.split("unit-")[1][0] for path in self.files(tmp_path)} == {"1"}

    def test_an_end_without_its_images_leaves_nothing(self, tmp_path: Path) -> None:
        with pytest.raises((OutputError, RuntimeError), match="3 images were read, 0 arrived"):
            self.write([EndOfUnit("unit-0", 3, 0.0)], tmp_path)
        assert self.files(tmp_path) == []


class TestElementCoder:
    ELEMENTS = (
        batch(record(0, data=b"x" * 100_000, num_bytes=100_000), record(1, image=np.zeros((300, 200, 3), np.uint8))),
        batch(FAILED),
        batch(),
        END,
    )

    def test_elements_have_this_coder(self) -> None:
        assert isinstance(beam.coders.registry.get_coder(Element), ElementCoder)

    @pytest.mark.parametrize("element", ELEMENTS, ids=["full", "failed", "empty", "end"])
    def test_round_trip(self, element: Element) -> None:
        coder = ElementCoder()
        decoded = coder.decode(coder.encode(element))
        assert type(decoded) is type(element)
        if not isinstance(element, Batch):
            assert decoded == element
            return
        assert isinstance(decoded, Batch) and (decoded.unit, len(decoded.records)) == ("unit-0", len(element.records))
        for one, original in zip(decoded.records, element.records, strict=True):
            for field in dataclasses.fields(ImageRecord):
                np.testing.assert_equal(getattr(one, field.name), getattr(original, field.name))

    @pytest.mark.parametrize("element", ELEMENTS, ids=["full", "failed", "empty", "end"])
    def test_the_estimate_is_near_the_true_size(self, element: Element) -> None:
        coder = ElementCoder()
        assert abs(coder.estimate_size(element) - len(coder.encode(element))) < 1000

    def test_the_estimate_that_beam_asks_for_encodes_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ElementCoder, "encode", lambda self, value: pytest.fail("pickled to be measured"))
        size, observables = ElementCoder().get_impl().get_estimated_size_and_observables(self.ELEMENTS[0])
        assert 280_000 <= size <= 281_000  # 100,000 of the file and 300 * 200 * 3 of the pixels
        assert list(observables) == []
