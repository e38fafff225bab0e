"""Reading an output folder back."""

from __future__ import annotations

import shutil
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pictures import archive, read_crops, read_table, write_loose
from tables_of_rows import face_row, image_row, write_output

from facemill.models.errors import ConfigError, OutputError
from facemill.pipeline.config import load_config
from facemill.pipeline.duplicates import open_database
from facemill.pipeline.export.face_database import select_faces
from facemill.pipeline.export.options import ExportOptions
from facemill.pipeline.filter import filter_output
from facemill.pipeline.outputs import open_output
from facemill.pipeline.report.make import make_report
from facemill.pipeline.run import RunRequest, run
from facemill.transforms.ops.layout import CropStore, faces_name, marker_name
from facemill.transforms.ops.reading import ReadOptions
from facemill.transforms.ops.recalling import recall_unit
from facemill.transforms.ops.storage import Folder
from facemill.transforms.ops.units import Unit


@pytest.fixture(scope="module", params=["tar", "files", "parquet", "none"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[CropStore, Path]:
    folder = tmp_path_factory.mktemp(request.param)
    photos = write_loose(folder / "photos", archive(6))
    config = load_config(None, [f"write.crops={request.param}", "run.unit_files=3"])
    run(RunRequest(inputs=[str(photos)], output=Folder(str(folder / "out")), config=config))
    return request.param, folder / "out"


def test_the_tables_are_those_of_the_files(made: tuple[CropStore, Path]) -> None:
    output = open_output(Folder(str(made[1])))
    assert sorted(output.faces().to_table().to_pylist(), key=lambda row: row["face_id"]) == read_table(made[1], "faces")
    assert sorted(output.images().to_table().to_pylist(), key=lambda row: row["image_id"]) == read_table(
        made[1], "images"
    )


def test_the_crops_are_those_of_the_kept_faces(made: tuple[CropStore, Path]) -> None:
    output = open_output(Folder(str(made[1])))
    crops = dict(crop for unit in output.units for crop in output.crops(unit))
    named = {row["crop"] for row in read_table(made[1], "faces") if row["kept"]} - {None}
    assert len(named) == (0 if made[0] == "none" else 6)
    assert crops.keys() == named
    assert all(content.startswith(b"\xff\xd8") for content in crops.values())
    if made[0] == "tar":
        assert crops == read_crops(made[1])


def test_the_views_can_be_asked(made: tuple[CropStore, Path]) -> None:
    connection = open_output(Folder(str(made[1]))).connect()
    assert connection.execute("select count(*), sum(num_faces) from images").fetchone() == (9, 6)
    assert connection.execute("select count(*) from faces where kept").fetchone() == (6,)


@pytest.mark.parametrize("name", ["[a]*b?", "it's", "label=7"])
def test_the_views_take_any_folder_name_literally(made: tuple[CropStore, Path], tmp_path: Path, name: str) -> None:
    for folder in (name, "a"):  # what the first would match as a pattern
        shutil.copytree(made[1], tmp_path / folder)
    shutil.rmtree(tmp_path / "a" / "images")
    connection = open_output(Folder(str(tmp_path / name))).connect()
    assert connection.execute("select count(*) from images").fetchone() == (9,)
    assert set(connection.execute("select label from faces").fetchall()) == {(f"person_{i}",) for i in range(3)}


def test_the_views_of_a_store_are_those_of_its_files(made: tuple[CropStore, Path]) -> None:
    store = fsspec.filesystem("memory")
    store.put(f"{made[1]}/", "/views/[out]", recursive=True)
    output = open_output(Folder("memory://views/[out]"))
    connection = output.connect()
    assert connection.execute("select count(*), sum(num_faces) from images").fetchone() == (9, 6)
    assert connection.execute("select * from faces order by face_id").fetchall() == [
        tuple(row.values()) for row in read_table(made[1], "faces")
    ]
    assert output.connect().execute("select count(*) from faces").fetchone() == (6,)


def test_many_views_are_read_without_a_hang(made: tuple[CropStore, Path]) -> None:
    output = open_output(Folder(str(made[1])))
    for _ in range(50):
        connection = output.connect()
        assert connection.execute("select count(*) from images").fetchone() == (9,)
        assert output.faces().scanner(columns=["kept"]).to_reader().read_all().num_rows == 6
        connection.close()


@pytest.mark.parametrize("damage", ["gone", "empty", "cut", "without"])
def test_damaged_tables_are_named(made: tuple[CropStore, Path], tmp_path: Path, damage: str) -> None:
    shutil.copytree(made[1], tmp_path / "out")
    output = open_output(Folder(str(tmp_path / "out")))
    table = tmp_path / "out" / faces_name(output.units[-1])
    rows, content = pq.read_table(table), table.read_bytes()
    table.unlink()
    if damage == "without":
        pq.write_table(rows.drop_columns(["landmarks"]), table)
    elif damage != "gone":
        table.write_bytes(content[:-60] if damage == "cut" else b"")
    with pytest.raises(OutputError, match=f"{table} is (damaged|missing)"), open_database(output) as connection:
        connection.execute("select landmarks from faces").fetchall()


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [
        ("images", "status", None),
        ("images", "num_faces", None),
        ("images", "num_kept", None),
        ("faces", "kept", None),
        ("faces", "landmarks", None),
        ("faces", "landmarks", [1.0] * 8),
        ("faces", "landmarks", [1.0] * 9 + [None]),
    ],
)
def test_rows_that_lack_a_value_are_told_by_every_command(
    table: str, column: str, value: object, tmp_path: Path
) -> None:
    unit = Unit("unit-000000", "files", ("photos/a.jpg", "photos/b.jpg"), (1, 1), 1)
    names = ["photos/a.jpg", "photos/b.jpg"]
    faces = [face_row(name, phash="0" * 64, crop=f"{name}#0", label="a") for name in names]
    output = write_output(tmp_path / "out", [image_row(name) for name in names], faces, units=[unit])
    for name in ("images", "faces"):
        path = tmp_path / "out" / name / "unit-000000.parquet"
        rows = pq.read_table(path)
        damaged = rows.to_pylist()
        if name == table:
            damaged[1][column] = value
        schema = rows.schema.with_metadata({"facemill": "{}"})
        pq.write_table(pa.Table.from_pylist(damaged, schema=schema), path)
    message = rf"{table}/unit-000000\.parquet( in .*)? is damaged: the column {column} (lacks|holds) [^\n]*$"
    with pytest.raises(OutputError, match=message):
        make_report(output)
    with pytest.raises(OutputError, match=message.replace(" in ", " (in|or) ")):
        filter_output(output, Folder(str(tmp_path / "new")), settings=["judge.min_score=0.95"])
    with pytest.raises(OutputError, match=message):
        list(recall_unit(unit, output, {}, ReadOptions()))
    if table == "faces":
        scratch = tmp_path / "scratch"
        scratch.mkdir()
        options = ExportOptions(format="csv")
        with (
            pytest.raises(OutputError, match=message),
            select_faces(open_output(output), options, scratch, by_class=False),
        ):
            pass


def test_only_committed_units_are_read(made: tuple[CropStore, Path], tmp_path: Path) -> None:
    folder = tmp_path / "out"
    shutil.copytree(made[1], folder)
    first = open_output(Folder(str(folder))).units[0]
    (folder / marker_name(first)).unlink()
    units = set(open_output(Folder(str(folder))).images().to_table()["unit"].to_pylist())
    assert len(units) >= 1
    assert first not in units


def test_a_folder_without_a_committed_unit_has_empty_tables(made: tuple[CropStore, Path], tmp_path: Path) -> None:
    shutil.copy(made[1] / "manifest.json", tmp_path)
    output = open_output(Folder(str(tmp_path)))
    assert output.faces().count_rows() == 0
    assert output.connect().execute("select count(*) from images").fetchone() == (0,)


def test_what_is_no_output_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no output folder of facemill: it holds no manifest\.json"):
        open_output(Folder(str(tmp_path)))


def test_another_template_is_refused(made: tuple[CropStore, Path]) -> None:
    output = open_output(Folder(str(made[1])))
    with pytest.raises(ConfigError, match="holds no crops of the template 'ffhq256'; there are arcface112"):
        next(output.crops(output.units[0], "ffhq256"))


def test_damaged_crops_are_an_error(made: tuple[CropStore, Path], tmp_path: Path) -> None:
    if made[0] not in ("tar", "parquet"):
        pytest.skip("has no file that holds several crops")
    shutil.copytree(made[1], tmp_path / "out")
    output = open_output(Folder(str(tmp_path / "out")))
    path = next((tmp_path / "out" / "crops").glob(f"{output.units[0]}.*"))
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(OutputError, match="cannot read the crops"):
        list(output.crops(output.units[0]))
