"""Every format, read back as its users do: the same faces, the same bytes, the same classes."""

from __future__ import annotations

import gc
import io
import json
import sys
import tarfile
from hashlib import sha256
from itertools import accumulate
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from exported import COUNTED_PER_SPLIT, FORMATS, SPLITS, find_classes, load, read_csv, read_indexed, unpack_image_record
from made_outputs import MadeFace, made_crop, write_output
from PIL import Image

from facemill.models.errors import ConfigError, OutputError
from facemill.pipeline.export import card, to_hf, to_lmdb, to_recordio
from facemill.pipeline.export.destination import Destination
from facemill.pipeline.export.formats import FORMATS as ALL_FORMATS
from facemill.pipeline.export.image_files import ImageFiles
from facemill.pipeline.export.job import ExportRequest, export
from facemill.pipeline.export.options import ExportOptions, parse_splits
from facemill.pipeline.export.samples import Sample, Shard, Target
from facemill.pipeline.export.selection import SelectedSplit
from facemill.transforms.ops.kinds import ShardKind
from facemill.transforms.ops.members import ReadLimits
from facemill.transforms.ops.reading import ReadOptions, read_unit
from facemill.transforms.ops.shards import iterate_members
from facemill.transforms.ops.storage import Folder
from facemill.transforms.ops.units import Unit

HOSTILE = (
    "a/b",
    "..",
    "",
    "x" * 4000,
    "caf\\xe9",
    "new\nline",
    "carriage\rreturn",
    "Anna",
    "ANNA",
    "CON",
    '"quoted", too',
    "<script>",
    "李小龙",
)
LABELS = (*(f"person {number:02d}" for number in range(30)), *HOSTILE)
FACES = [
    MadeFace(f"photos/{label}/{number}.jpg", label, made_crop(100 * index + number))
    for index, label in enumerate(LABELS)
    for number in range(index % 5 + 1)
]
CONTENTS = {f"{face.image_id}#0": face.crop for face in FACES}

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")


def run_export(source: Path, destination: Path, format: str, **options: object) -> None:
    request = ExportRequest(
        source=Folder(str(source)),
        destination=Folder(str(destination)),
        options=ExportOptions(format=format, **options),  # type: ignore[arg-type]
    )
    export(request, out=io.StringIO(), err=io.StringIO())


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    write_output(Folder(str(folder)), {"a": FACES[:50], "b": FACES[50:]})
    return folder


@pytest.fixture(scope="module", params=FORMATS)
def made(request: pytest.FixtureRequest, source: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A format, and the folder of an export to it in three splits, with several shards where there are any."""
    folder = tmp_path_factory.mktemp(request.param) / "set"
    splits = parse_splits("train=0.6,validation=0.2,test=0.2")
    run_export(source, folder, request.param, splits=splits, shard_bytes=20_000)
    return request.param, folder


def test_all_formats_are_tested() -> None:
    assert tuple(ALL_FORMATS) == FORMATS


def test_every_face_is_there_once_with_its_bytes(made: tuple[str, Path]) -> None:
    faces = [face for split in SPLITS for face in load(made[1], made[0], split)]
    assert len(faces) == len(FACES)
    assert {face.face_id: face.content for face in faces} == CONTENTS


def test_the_classes_are_those_of_the_map(made: tuple[str, Path]) -> None:
    format, folder = made
    classes = read_csv(folder / "classes.csv")
    assert [row["class"] for row in classes] == [str(index) for index in range(len(LABELS))]
    labels = {f"{face.image_id}#0": face.label for face in FACES}
    for split in SPLITS:
        own = [row for row in classes if row["split"] == split]
        first = int(own[0]["class"]) if format in COUNTED_PER_SPLIT else 0
        for face in load(folder, format, split):
            row = classes[first + face.index]
            assert (row["split"], row["label"]) == (split, labels[face.face_id])


def test_the_class_map_is_the_same_in_all_forms(made: tuple[str, Path]) -> None:
    folder = made[1]
    classes = read_csv(folder / "classes.csv")
    assert {row["label"] for row in classes} == set(LABELS)
    assert {row["label"]: int(row["class"]) for row in classes} == json.loads((folder / "classes.json").read_text())
    assert [row["name"] for row in classes] == (folder / "classes.txt").read_text().splitlines()
    assert sum(int(row["faces"]) for row in classes) == len(FACES)


def test_no_identity_is_in_two_splits(made: tuple[str, Path]) -> None:
    labels = {f"{face.image_id}#0": face.label for face in FACES}
    parts = [{labels[face.face_id] for face in load(made[1], made[0], split)} for split in SPLITS]
    assert all(parts)
    assert sum(map(len, parts)) == len(set().union(*parts)) == len(LABELS)


def test_the_record_counts_and_proves_what_is_there(made: tuple[str, Path]) -> None:
    format, folder = made
    record = json.loads((folder / "export.json").read_text())
    for split in SPLITS:
        assert record["splits"][split]["faces"] == len(load(folder, format, split))
    assert record["counts"]["exported"] == len(FACES)
    listed = {file["name"]: (file["bytes"], file["sha256"]) for file in record["files"]}
    there = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    for name, found in listed.items():
        content = there.pop(name).read_bytes()
        assert (len(content), sha256(content).hexdigest()) == found
    if format in ("csv", "imagefolder"):
        proven = {row["path"]: row["sha256"] for split in SPLITS for row in read_csv(folder / f"{split}.csv")}
        for name, digest in proven.items():
            assert sha256(there.pop(name).read_bytes()).hexdigest() == digest
    assert there.keys() == {"export.json"}


def test_the_columns_of_the_face_come_along(made: tuple[str, Path]) -> None:
    format, folder = made
    for face in load(folder, format, "train"):
        if format == "tfrecord":
            assert face.face["face/landmarks"].dtype == np.float32
            landmarks, score = face.face["face/landmarks"].tolist(), face.face["face/score"][0]
        elif "left_eye_x" in face.face:
            landmarks = [float(value) for value in list(face.face.values())[-10:]]
            score = float(face.face["score"])
        else:
            landmarks, score = face.face["landmarks"], face.face["score"]
        assert landmarks == [landmarks[0] + point for point in range(10)]  # as `made_outputs` makes them
        assert score == 2 * landmarks[0] % 64 / 64


def test_the_units_and_their_order_do_not_matter(made: tuple[str, Path], tmp_path: Path) -> None:
    write_output(Folder(str(tmp_path / "source")), {"x": FACES[::-2], "y": FACES[-2::-2]})
    splits = parse_splits("test=0.2,validation=0.2,train=0.6")
    run_export(tmp_path / "source", tmp_path / "set", made[0], splits=splits, shard_bytes=20_000)
    found, expected = (
        {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in (tmp_path / "set", made[1])
    )
    assert found.keys() == expected.keys()
    assert [name for name in found if found[name] != expected[name]] == []


def test_another_seed_gives_another_order(source: Path, made: tuple[str, Path], tmp_path: Path) -> None:
    for seed in (1, 2):
        run_export(source, tmp_path / str(seed), made[0], seed=seed)
    orders = [[face.face_id for face in load(tmp_path / str(seed), made[0], "train")] for seed in (1, 2)]
    assert sorted(orders[0]) == sorted(orders[1]) == sorted(CONTENTS)
    assert orders[0] != orders[1]


def _count_members(path: Path) -> int:
    with tarfile.open(path) as tar:
        return len(tar.getnames())


def test_shards_are_even(made: tuple[str, Path]) -> None:
    format, folder = made
    if format == "webdataset":
        counts = [_count_members(path) // 3 for path in folder.glob("train-*.tar")]
    elif format == "hf":
        counts = [pq.read_metadata(path).num_rows for path in folder.glob("data/train-*.parquet")]
    else:
        pytest.skip("has no shards, or their names are tested with their faces")
    assert len(counts) == 3
    assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize("format", FORMATS)
def test_png_crops(format: str, tmp_path: Path) -> None:
    faces = [MadeFace(f"{n}.png", f"p{n % 2}", made_crop(n, image_format="PNG")) for n in range(6)]
    write_output(Folder(str(tmp_path / "source")), {"a": faces}, "write.image_format=png")
    run_export(tmp_path / "source", tmp_path / "set", format)
    found = {face.face_id: face.content for face in load(tmp_path / "set", format, "train")}
    assert found == {f"{face.image_id}#0": face.crop for face in faces}


@pytest.mark.parametrize("format", FORMATS)
def test_faces_without_a_label(format: str, tmp_path: Path) -> None:
    faces = [MadeFace(f"{number}.jpg", "anna" if number < 3 else None, made_crop(number)) for number in range(5)]
    write_output(Folder(str(tmp_path / "source")), {"a": faces})
    if format in ("imagefolder", "recordio"):
        with pytest.raises(ConfigError, match=f"{format} has no place for faces without a label"):
            run_export(tmp_path / "source", tmp_path / "set", format, unlabelled="keep")
        assert not (tmp_path / "set").exists()
        return
    run_export(tmp_path / "source", tmp_path / "set", format, unlabelled="keep")
    found = {face.face_id: face.index for face in load(tmp_path / "set", format, "train")}
    assert found == {"0.jpg#0": 0, "1.jpg#0": 0, "2.jpg#0": 0, "3.jpg#0": -1, "4.jpg#0": -1}


@pytest.mark.parametrize(("format", "kind"), [("webdataset", "tar"), ("tfrecord", "tfrecord")])
def test_labels_are_kept_when_an_export_is_read_again(format: str, kind: ShardKind, tmp_path: Path) -> None:
    faces = [*FACES, MadeFace("loose.jpg", None, made_crop(9))]
    write_output(Folder(str(tmp_path / "source")), {"a": faces})
    run_export(tmp_path / "source", tmp_path / "set", format, unlabelled="keep", shard_bytes=20_000)
    found: list[tuple[str | None, bytes | None]] = []
    for path in sorted((tmp_path / "set").glob("train-*")):
        unit = Unit("u", kind, (f"in/{path.name}",), (1,), 1)
        records = list(read_unit(unit, {"in": Folder(str(tmp_path / "set"))}, ReadOptions()))
        found += [(record.label, record.data) for record in records]
    assert len(found) == len(faces)
    assert set(found) == {(face.label, face.crop) for face in faces}


def test_imagefolder_folders_are_safe_on_any_system(source: Path, tmp_path: Path) -> None:
    run_export(source, tmp_path / "set", "imagefolder")
    names = list(find_classes(tmp_path / "set" / "train"))
    assert len({name.casefold() for name in names}) == len(names) == len(LABELS)
    assert all(len(name.encode()) <= 120 and name.isprintable() and name not in (".", "..") for name in names)
    assert {path.name for path in tmp_path.iterdir()} == {"set"}, "something was written beside the export"


def test_a_name_that_the_system_cannot_write_is_told(tmp_path: Path) -> None:
    files = ImageFiles(Folder(str(tmp_path)))
    files.add("train/\ud800/000000000.jpg", b"x")  # as any other than ASCII is where LC_ALL=C
    with pytest.raises(OutputError, match=r"ud800/000000000.jpg' cannot be written as utf-8; set PYTHONUTF8=1"):
        files.flush()


def test_recordio_has_the_ranges_of_the_identities(source: Path, tmp_path: Path) -> None:
    run_export(source, tmp_path / "set", "recordio")
    records = read_indexed(tmp_path / "set")
    assert (tmp_path / "set" / "property").read_text() == f"{len(LABELS)},24,24\n"
    (images_end, identities_end), number, content = unpack_image_record(records[0])
    assert (number, content) == (0, b"")
    assert (images_end, identities_end) == (len(FACES) + 1, len(FACES) + 1 + len(LABELS))
    expected = 1
    for index, key in enumerate(range(int(images_end), int(identities_end))):
        (start, stop), _, content = unpack_image_record(records[key])
        assert (start, content) == (expected, b"")
        assert {unpack_image_record(records[n])[0][0] for n in range(int(start), int(stop))} == {index}
        expected = int(stop)
    assert expected == images_end


def test_recordio_splits_share_no_label_when_they_are_read_again(source: Path, tmp_path: Path) -> None:
    run_export(source, tmp_path / "set", "recordio", splits=parse_splits("train=0.6,validation=0.2,test=0.2"))
    labels = []
    for folder, num_labels in zip((".", "validation", "test"), _ends_of_splits(tmp_path / "set"), strict=True):
        with (tmp_path / "set" / folder / "train.rec").open("rb") as file:
            labels.append({int(m.label or -1) for m in iterate_members(file, "recordio", limits=ReadLimits())})
        assert (tmp_path / "set" / folder / "property").read_text() == f"{num_labels},24,24\n"
        assert max(labels[-1]) == num_labels - 1
    assert sum(map(len, labels)) == len(set().union(*labels)) == len(LABELS)
    assert labels[0] == set(range(len(labels[0]))), "what InsightFace trains on"


def _ends_of_splits(folder: Path) -> list[int]:
    splits = json.loads((folder / "export.json").read_text())["splits"]
    return list(accumulate(splits[name]["classes"] for name in SPLITS))


def test_recordio_of_more_images_than_float32_can_count(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(to_recordio, "_MAX_EXACT", len(FACES))
    run_export(source, tmp_path / "set", "recordio")
    records = read_indexed(tmp_path / "set")
    assert sorted(records) == list(range(len(FACES)))
    assert {face.face_id: face.content for face in load(tmp_path / "set", "recordio", "train")} == CONTENTS


def test_hf_has_class_labels(source: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    run_export(source, tmp_path / "set", "hf")
    loaded = datasets.load_dataset(str(tmp_path / "set"), split="train", cache_dir=str(tmp_path / "cache"))
    assert isinstance(loaded.features["label"], datasets.ClassLabel)
    assert set(loaded.features["label"].names) == set(LABELS)
    assert [loaded.features["label"].int2str(row["label"]) for row in loaded] == loaded["identity"][:]
    assert loaded[0]["image"].size == (24, 24)
    streamed = datasets.load_dataset(str(tmp_path / "set"), split="train", streaming=True)
    assert streamed.features == loaded.features
    direct = datasets.Dataset.from_parquet(
        [str(path) for path in sorted((tmp_path / "set" / "data").glob("*.parquet"))], cache_dir=str(tmp_path / "cache")
    )
    assert direct.features == loaded.features


def test_hf_of_more_classes_than_can_be_named(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(to_hf, "_MAX_CLASS_NAMES", 10)
    monkeypatch.setattr(card, "_MAX_CLASS_NAMES", 10)
    run_export(source, tmp_path / "set", "hf")
    loaded = datasets.load_dataset(str(tmp_path / "set"), split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded.features["label"] == datasets.Value("int64")
    classes = {int(row["class"]): row["label"] for row in read_csv(tmp_path / "set" / "classes.csv")}
    assert [classes[row["label"]] for row in loaded] == loaded["identity"][:]


def test_lmdb_grows_with_faces_larger_than_their_crops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(to_lmdb, "_SPARE_BYTES", 1 << 17)
    faces = [MadeFace(f"{number}{'x' * 4000}.jpg", "y" * 4000, made_crop(number)) for number in range(100)]
    write_output(Folder(str(tmp_path / "source")), {"a": faces})
    run_export(tmp_path / "source", tmp_path / "set", "lmdb")
    assert len(load(tmp_path / "set", "lmdb", "train")) == 100


def test_lmdb_that_cannot_be_written_names_a_way_out(tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "train.lmdb"
    with (
        pytest.raises(OutputError, match=r"train.lmdb: .*; if the disk is full, --scratch"),
        to_lmdb._open(path, 1 << 20),
    ):
        pass


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_the_size_is_that_of_the_file(kind: str) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (96, 112)).save(buffer, kind)
    assert Sample(0, 0, "a", buffer.getvalue(), {}).size_wh == (96, 112)


def test_numbers_that_json_does_not_know_are_null(tmp_path: Path) -> None:
    columns = {"score": float("nan"), "yaw_deg": float("inf")}
    write_output(Folder(str(tmp_path / "source")), {"a": [MadeFace("a.jpg", "a", made_crop(1), columns=columns)]})
    run_export(tmp_path / "source", tmp_path / "set", "webdataset")
    (face,) = load(tmp_path / "set", "webdataset", "train")
    assert (face.face["score"], face.face["yaw_deg"]) == (None, None)


def test_hf_leaves_no_writer_behind_when_it_is_broken_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    complaints: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", complaints.append)
    shard = Shard(SelectedSplit("train", 0, 1, 0, 1), 0, 1, 0, 1, 1)
    target = Target(Destination(Folder(str(tmp_path))), None, tmp_path)  # type: ignore[arg-type]  # nobody asks for it
    with pytest.raises(KeyboardInterrupt), to_hf.HuggingFace().open_shard(target, shard):
        raise KeyboardInterrupt
    gc.collect()
    assert complaints == []
    assert list((tmp_path / "data").iterdir()) == []
