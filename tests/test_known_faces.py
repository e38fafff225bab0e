"""Faces of a Parquet table: which tables are taken, how they are looked up, and that O-Net completes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pictures import astronaut

from facemill.models.errors import ConfigError
from facemill.models.pyramid import ImagePyramid
from facemill.transforms.ops.known_faces import KnownFaces
from facemill.transforms.ops.networks import load_cascade
from facemill.transforms.ops.records import KnownRows
from facemill.transforms.ops.storage import Folder

TEN = [float(i) for i in range(10)]
COLUMNS: dict[str, Any] = {
    "image_id": ["in/a.jpg", "in/a.jpg", "in/b.jpg"],
    "x1": [1.5, 2.5, 3.5],
    "y1": [4.0, 5.0, 6.0],
    "x2": [11.0, 12.0, 13.0],
    "y2": [14.0, 15.0, 16.0],
}


def load(path: Path) -> KnownFaces:
    return KnownFaces(Folder(str(path)))


def write(path: Path, columns: dict[str, Any] | None = None, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(COLUMNS if columns is None else columns), path, **options)
    return path


def assert_faces_of_a(rows: KnownRows) -> None:
    assert rows.boxes.tolist() == [[1.5, 4.0, 11.0, 14.0], [2.5, 5.0, 12.0, 15.0]]
    assert rows.boxes.dtype == rows.scores.dtype == rows.landmarks.dtype == np.float32


@pytest.mark.parametrize(
    "options",
    [{}, {"write_statistics": False}, {"row_group_size": 1}, {"use_dictionary": False, "compression": "zstd"}],
    ids=str,
)
def test_however_the_file_is_written(options: dict[str, Any], tmp_path: Path) -> None:
    known = load(write(tmp_path / "faces.parquet", **options))
    assert known.num_rows == 3
    found = known.look_up(["in/b.jpg", "in/a.jpg", "in/unknown.jpg"])
    assert set(found) == {"in/a.jpg", "in/b.jpg", "in/unknown.jpg"}
    assert_faces_of_a(found["in/a.jpg"])
    assert found["in/b.jpg"].boxes.tolist() == [[3.5, 6.0, 13.0, 16.0]]


def test_an_image_that_the_table_does_not_name_has_no_face(tmp_path: Path) -> None:
    rows = load(write(tmp_path / "faces.parquet")).look_up(["in/c.jpg"])["in/c.jpg"]
    assert (rows.boxes.shape, rows.scores.shape, rows.landmarks.shape) == ((0, 4), (0,), (0, 5, 2))
    assert load(tmp_path / "faces.parquet").look_up([]) == {}


def test_a_table_without_rows(tmp_path: Path) -> None:
    path = tmp_path / "faces.parquet"
    pq.write_table(pa.table(COLUMNS).slice(0, 0), path)
    known = load(path)
    assert (known.num_rows, len(known.look_up(["in/a.jpg"])["in/a.jpg"].boxes)) == (0, 0)


def test_a_folder_of_files_is_one_table_in_the_order_of_their_names(tmp_path: Path) -> None:
    for number, first in enumerate(("2.parquet", "sub/3.parquet", "1.parquet")):
        write(tmp_path / first, COLUMNS | {"x1": [float(number)] * 3})
    (tmp_path / "README.md").write_text("not a table")
    known = load(tmp_path)
    assert known.num_rows == 9
    assert known.look_up(["in/b.jpg"])["in/b.jpg"].boxes[:, 0].tolist() == [2.0, 0.0, 1.0]


@pytest.mark.parametrize("column", list(COLUMNS))
def test_a_missing_column_is_named(column: str, tmp_path: Path) -> None:
    path = write(tmp_path / "faces.parquet", {name: values for name, values in COLUMNS.items() if name != column})
    with pytest.raises(ConfigError, match=rf"faces\.parquet lacks the column '{column}'"):
        load(path)


def test_no_table_at_all(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nothing.parquet"):
        with pytest.raises(ConfigError, match=f"no Parquet file of known faces at {path}$"):
            load(path)


def test_a_file_that_is_no_parquet_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "faces.parquet").write_bytes(b"x1,y1,x2,y2")
    with pytest.raises(ConfigError, match=r"faces\.parquet"):
        load(tmp_path / "faces.parquet")


@pytest.mark.parametrize(
    "ids",
    [
        pa.array(COLUMNS["image_id"], pa.large_string()),
        pa.array(COLUMNS["image_id"]).dictionary_encode(),
        pytest.param(
            pa.array(COLUMNS["image_id"], pa.string_view()),
        ),
    ],
    ids=lambda ids: str(ids.type),
)
def test_the_string_types_of_other_writers(ids: pa.Array, tmp_path: Path) -> None:
    found = load(write(tmp_path / "faces.parquet", COLUMNS | {"image_id": ids})).look_up(["in/a.jpg"])
    assert_faces_of_a(found["in/a.jpg"])


@pytest.mark.parametrize(
    ("ids", "num_rows"), [(["in/a.jpg", None, "in/b.jpg"], 1), ([None, None, None], 0)], ids=["one", "all"]
)
def test_rows_without_an_image_are_nobodys(ids: list[str | None], num_rows: int, tmp_path: Path) -> None:
    path = write(tmp_path / "faces.parquet", COLUMNS | {"image_id": pa.array(ids, pa.string())})
    assert len(load(path).look_up(["in/a.jpg"])["in/a.jpg"].boxes) == num_rows


@pytest.mark.parametrize(
    "landmarks",
    [
        [TEN, TEN, TEN],
        [np.reshape(TEN, (5, 2)).tolist()] * 3,
        pa.array([TEN] * 3, pa.list_(pa.float64(), 10)),
    ],
    ids=["flat", "pairs", "fixed size"],
)
def test_landmarks_are_x_then_y_of_each_point(landmarks: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "faces.parquet", COLUMNS | {"landmarks": landmarks, "score": [0.5, None, 0.25]})
    rows = load(path).look_up(["in/a.jpg"])["in/a.jpg"]
    assert rows.landmarks.tolist() == [[[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]] * 2
    np.testing.assert_array_equal(rows.scores, np.array([0.5, np.nan], np.float32))


@pytest.mark.parametrize("absent", [None, [], [*TEN[:9], None]], ids=["null", "empty", "a null inside"])
def test_landmarks_that_a_row_lacks_are_not_numbers(absent: list[float | None] | None, tmp_path: Path) -> None:
    path = write(tmp_path / "faces.parquet", COLUMNS | {"landmarks": [TEN, absent, TEN]})
    landmarks = load(path).look_up(["in/a.jpg"])["in/a.jpg"].landmarks
    assert np.isnan(landmarks).any(axis=(1, 2)).tolist() == [False, True]


def test_landmarks_of_another_number_are_a_clear_error(tmp_path: Path) -> None:
    path = write(tmp_path / "faces.parquet", COLUMNS | {"landmarks": [TEN[:4]] * 3})
    with pytest.raises(ConfigError, match="landmarks"):
        load(path).look_up(["in/a.jpg"])


def test_only_the_row_groups_that_may_hold_an_image_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [f"in/{i:03d}.jpg" for i in range(100)]
    columns = {name: [1.0] * 100 for name in COLUMNS} | {"image_id": ids}
    known = load(write(tmp_path / "faces.parquet", columns, row_group_size=10))
    read: list[int] = []
    original = pq.ParquetFile.read_row_group
    monkeypatch.setattr(
        pq.ParquetFile, "read_row_group", lambda self, i, **options: (read.append(i), original(self, i, **options))[1]
    )
    for image_id in ids:
        assert len(known.look_up([image_id])[image_id].boxes) == 1
    assert read == list(range(10))


@pytest.mark.parametrize(
    ("column", "values", "wanted"),
    [
        ("image_id", pa.array([1, 2]), "strings"),
        ("image_id", pa.array([b"a", b"b"]), "strings"),
        ("x1", pa.array(["1", "2"]), "numbers"),
        ("score", pa.array([[0.5], [0.5]]), "numbers"),
        ("landmarks", pa.array(["1", "2"]), "lists of numbers"),
    ],
)
def test_a_column_of_another_type_is_refused(column: str, values: pa.Array, wanted: str, tmp_path: Path) -> None:
    columns = {"image_id": ["a", "b"], **{name: [1.0, 2.0] for name in ("x1", "y1", "x2", "y2")}}
    pq.write_table(pa.table(columns | {column: values}), tmp_path / "faces.parquet")
    with pytest.raises(ConfigError, match=f"in '{column}'; it must be {wanted}"):
        KnownFaces(Folder(str(tmp_path / "faces.parquet")))


def test_a_table_is_indexed_once_per_process(tmp_path: Path) -> None:
    path = str(write(tmp_path / "faces.parquet"))
    assert KnownFaces.load(path) is KnownFaces.load(path)
    nested = '{"client_kwargs": {"endpoint_url": "http://localhost"}}'
    assert KnownFaces.load(path, nested) is KnownFaces.load(path, nested)


# Read off the enlarged photograph by eye; good to about 3 px.
ASTRONAUT_POINTS = np.array([[204.6, 101.1], [246.9, 102.9], [225, 127], [204.3, 140.3], [244, 141.4]])


def test_onet_places_points_on_boxes_that_have_none() -> None:
    from facemill.models.cascade import DetectorOptions

    boxes = np.array([[176, 64, 268, 176], [180, 70, 262, 172]], np.float32)
    scores, landmarks = load_cascade(DetectorOptions()).locate(ImagePyramid(astronaut()), boxes)
    assert (scores > 0.9).all()
    assert np.abs(landmarks - ASTRONAUT_POINTS).max() < 6
