"""Choosing, dividing and ordering faces, against the same rules in plain Python."""

from __future__ import annotations

import random
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from hashlib import md5
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_outputs import MadeFace, write_output

from facemill.models.errors import ConfigError, OutputError
from facemill.pipeline.duplicates import DUPLICATES_SCHEMAS
from facemill.pipeline.export import face_database
from facemill.pipeline.export.face_database import select_faces
from facemill.pipeline.export.names import class_name
from facemill.pipeline.export.options import ExportOptions, parse_splits
from facemill.pipeline.export.selection import Selection
from facemill.pipeline.outputs import open_output
from facemill.transforms.ops.storage import Folder

THREE = parse_splits("train=0.6,validation=0.2,test=0.2")
Row = tuple[int, int, str | None, dict[str, Any]]


def made_faces() -> list[MadeFace]:
    """120 identities with 1 to 12 images, images without a label, and faces that were not kept."""
    faces = [
        MadeFace(f"photos/p{person:03d}/{number}.jpg", f"p{person:03d}", b"x")
        for person in range(120)
        for number in range(person % 12 + 1)
    ]
    faces += [MadeFace(f"photos/{number}.jpg", None, b"x") for number in range(40)]
    return faces + [MadeFace(f"photos/p000/rejected{number}.jpg", "p000", b"x", kept=False) for number in range(9)]


def in_units(faces: Iterable[MadeFace], num_units: int) -> dict[str, list[MadeFace]]:
    units: dict[str, list[MadeFace]] = {f"unit-{number}": [] for number in range(num_units)}
    for number, face in enumerate(faces):
        units[f"unit-{number % num_units}"].append(face)
    return units


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    write_output(Folder(str(folder)), in_units(made_faces(), 5))
    return folder


@contextmanager
def selected(source: Path, scratch: Path, *, by_class: bool = False, **options: Any) -> Iterator[Selection]:
    output = open_output(Folder(str(source)))
    with select_faces(output, ExportOptions(format="csv", **options), scratch, by_class=by_class) as selection:
        yield selection


def with_duplicates(source: Path, groups: list[list[str]]) -> Path:
    """The same output folder with tables of groups of images and of their faces, as in `facemill duplicates`."""
    folder = source.with_name(f"{source.name}-{len(list(source.parent.iterdir()))}")
    shutil.copytree(source, folder)
    (folder / "duplicates").mkdir()
    rows = [
        {"image_id": image, "face_id": f"{image}#0", "group": number, "place": place}
        for number, images in enumerate(groups)
        for place, image in enumerate(images, start=1)
    ]
    for name, schema in DUPLICATES_SCHEMAS.items():
        pq.write_table(pa.Table.from_pylist(rows, schema), folder / "duplicates" / f"{name}.parquet")
    return folder


def images_of(rows: Iterable[Row]) -> list[str]:
    return [face["image_id"] for *_, face in rows]


def draw(seed: int, face: MadeFace) -> str:
    return md5(f"{seed}/{face.image_id}#0".encode()).hexdigest()


LABELLED = [face for face in made_faces() if face.kept and face.label]


def test_all_labelled_faces_come_in_the_order_of_their_draw(source: Path, tmp_path: Path) -> None:
    with selected(source, tmp_path, seed=5) as selection:
        rows = list(selection.rows())
        assert [position for position, *_ in rows] == list(range(len(LABELLED)))
        assert images_of(rows) == [f.image_id for f in sorted(LABELLED, key=lambda face: draw(5, face))]
        assert (selection.counts.kept, selection.counts.unlabelled) == (len(LABELLED) + 40, 40)
        assert selection.counts.exported == selection.num_faces == len(LABELLED)


def test_the_columns_are_those_of_the_table(source: Path, tmp_path: Path) -> None:
    table = {row["face_id"]: row for row in open_output(Folder(str(source))).faces().to_table().to_pylist()}
    with selected(source, tmp_path) as selection:
        for *_, face in selection.rows():
            row = table[face["face_id"]]
            assert face == {name: row[name] for name in row if name not in ("unit", "crop", "kept", "reason")}


def test_classes_are_numbered_by_split_and_name(source: Path, tmp_path: Path) -> None:
    with selected(source, tmp_path, splits=THREE) as selection:
        classes = list(selection.classes())
        faces = Counter(face["label"] for *_, face in selection.rows())
        assert [found.index for found in classes] == list(range(120))
        order = {name: index for index, name in enumerate(["train", "validation", "test"])}
        assert classes == sorted(classes, key=lambda found: (order[found.split], found.name))
        assert all(found.num_faces == faces[found.label] for found in classes)
        assert [split.first_class for split in selection.splits] == [
            0,
            *([found.split for found in classes].index(name) for name in ("validation", "test")),
        ]
        by_label = {found.label: found.index for found in classes}
        assert all(index == by_label[face["label"]] for _, index, _, face in selection.rows())


def test_no_identity_is_in_two_splits(source: Path, tmp_path: Path) -> None:
    with selected(source, tmp_path, splits=THREE) as selection:
        rows = list(selection.rows())
        parts = [rows[split.start : split.start + split.num_faces] for split in selection.splits]
    labels = [{face["label"] for *_, face in part} for part in parts]
    assert [len(part) for part in parts] == [split.num_faces for split in selection.splits]
    assert sum(map(len, labels)) == len(set().union(*labels)) == 120
    assert sum(map(len, parts)) == len(LABELLED)


def test_a_class_holds_together_where_it_must(source: Path, tmp_path: Path) -> None:
    with selected(source, tmp_path, by_class=True, splits=THREE) as selection:
        indexes = [index for _, index, _, _ in selection.rows()]
    assert indexes == sorted(indexes)


def test_an_identity_keeps_its_split_when_others_come(source: Path, tmp_path: Path) -> None:
    more = [*made_faces(), *(MadeFace(f"more/{n}.jpg", f"q{n}", b"x") for n in range(50))]
    write_output(Folder(str(tmp_path / "grown")), in_units(more, 2))
    found = []
    for number, folder in enumerate((source, tmp_path / "grown")):
        (scratch := tmp_path / str(number)).mkdir()
        with selected(folder, scratch, splits=THREE) as selection:
            found.append({known.label: known.split for known in selection.classes()})
    assert len(found[1]) == 170
    assert {label: found[1][label] for label in found[0]} == found[0]


def test_the_units_and_their_order_do_not_matter(source: Path, tmp_path: Path) -> None:
    faces = made_faces()
    random.Random(1).shuffle(faces)
    write_output(Folder(str(tmp_path / "other")), in_units(faces, 3))
    found = []
    for number, folder in enumerate((source, tmp_path / "other")):
        (scratch := tmp_path / str(number)).mkdir()
        with selected(folder, scratch, splits=THREE, max_images=4) as selection:
            found.append((images_of(selection.rows()), selection.digest, selection.counts))
    assert found[0] == found[1]


def test_tables_of_many_parts(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(face_database, "_BATCH_ROWS", 50)
    with selected(source, tmp_path) as selection:
        assert images_of(selection.rows()) == [f.image_id for f in sorted(LABELLED, key=lambda face: draw(0, face))]
        assert len(list(selection.classes())) == 120


def test_places_are_those_of_the_rows(source: Path, tmp_path: Path) -> None:
    table = {row["crop"]: row["face_id"] for row in open_output(Folder(str(source))).faces().to_table().to_pylist()}
    with selected(source, tmp_path, splits=THREE) as selection:
        places = list(selection.places())
        rows = [face["face_id"] for *_, face in selection.rows()]
    assert len(places) == len(LABELLED)
    assert [unit for unit, _, _ in places] == sorted(unit for unit, _, _ in places)
    assert all(rows[position] == table[crop] for _, crop, position in places)


def test_small_identities_are_left_out(source: Path, tmp_path: Path) -> None:
    with selected(source, tmp_path, min_images=5) as selection:
        sizes = Counter(face["label"] for *_, face in selection.rows())
        counts = selection.counts
    assert sorted(sizes.values()) == sorted(size for size in range(5, 13) for _ in range(10))
    assert (counts.too_few, counts.identities_too_few) == (10 * (1 + 2 + 3 + 4), 40)


def test_large_identities_are_sampled_by_the_draw(source: Path, tmp_path: Path) -> None:
    by_label = defaultdict(list)
    for face in LABELLED:
        by_label[face.label].append(face)
    expected = {f.image_id for faces in by_label.values() for f in sorted(faces, key=lambda face: draw(9, face))[:3]}
    with selected(source, tmp_path, seed=9, max_images=3) as selection:
        assert set(images_of(selection.rows())) == expected
        assert selection.counts.too_many == len(LABELLED) - len(expected)


def test_faces_without_a_label(source: Path, tmp_path: Path) -> None:
    (kept := tmp_path / "kept").mkdir()
    with selected(source, kept, unlabelled="keep", splits=THREE, min_images=3) as selection:
        loose = [row for row in selection.rows() if row[1] == -1]
        assert len(loose) == selection.counts.exported_unlabelled == 40
        assert all(name is None and face["label"] is None for _, _, name, face in loose)
        places = {position for position, *_ in loose}
        assert all(places & set(range(split.start, split.start + split.num_faces)) for split in selection.splits)
    (refused := tmp_path / "refused").mkdir()
    with pytest.raises(ConfigError, match="40 kept faces have no label"), selected(source, refused, unlabelled="error"):
        pass


@pytest.mark.parametrize("kind", ["exact", "near"])
def test_the_first_of_each_group_of_duplicates_remains(kind: str, source: Path, tmp_path: Path) -> None:
    groups = [
        ["photos/p011/2.jpg", "photos/p011/0.jpg", "photos/p011/1.jpg"],
        ["photos/p023/7.jpg", "photos/p022/3.jpg"],  # of two identities
        ["photos/p000/rejected1.jpg", "photos/p059/4.jpg"],  # the first is not kept
    ]
    with selected(with_duplicates(source, groups), tmp_path, drop_duplicates=kind) as selection:
        left = set(images_of(selection.rows()))
        assert selection.counts.duplicates == 3
    gone = {"photos/p011/0.jpg", "photos/p011/1.jpg", "photos/p022/3.jpg"}
    assert {face.image_id for face in LABELLED} - left == gone


def test_duplicates_do_not_count_as_images_of_an_identity(source: Path, tmp_path: Path) -> None:
    folder = with_duplicates(source, [["photos/p001/0.jpg", "photos/p001/1.jpg"]])
    with selected(folder, tmp_path, drop_duplicates="exact", min_images=2) as selection:
        assert "p001" not in {face["label"] for *_, face in selection.rows()}
        assert selection.counts.identities_too_few == 11  # ten have one image from the start


def test_labels_that_some_file_systems_take_for_one_get_two_names(tmp_path: Path) -> None:
    labels = ["Anna", "anna", "ANNA", "Berta", "a/b", "", "..", "x" * 4000, "caf\\xe9", "new\nline", "CON"]
    faces = [MadeFace(f"photos/{number}.jpg", label, b"x") for number, label in enumerate(labels)]
    write_output(Folder(str(tmp_path / "hostile")), {"unit-0": faces})
    (scratch := tmp_path / "scratch").mkdir()
    with selected(tmp_path / "hostile", scratch) as selection:
        names = {found.label: found.name for found in selection.classes()}
    assert set(names) == set(labels)
    assert len({name.casefold() for name in names.values()}) == len(labels)
    assert all(name.startswith(f"{label}%~") for label, name in names.items() if label.lower() == "anna")
    assert all(name == class_name(label) for label, name in names.items() if label.lower() != "anna")


def test_kept_faces_without_a_crop_are_refused(tmp_path: Path) -> None:
    faces = [MadeFace("1.jpg", "a", b"x"), MadeFace("2.jpg", "a", b"x", columns={"crop": None})]
    write_output(Folder(str(tmp_path / "out")), {"u": faces})
    (scratch := tmp_path / "scratch").mkdir()
    with pytest.raises(ConfigError, match=r"1 of 2 kept faces of .* have no crop"), selected(tmp_path / "out", scratch):
        pass


def test_an_empty_split_is_refused(source: Path, tmp_path: Path) -> None:
    splits = parse_splits("train=0.9999,test=0.0001")
    with (
        pytest.raises(ConfigError, match="none of the 120 identities falls into test"),
        selected(source, tmp_path, splits=splits),
    ):
        pass


def test_nothing_to_export_is_refused(source: Path, tmp_path: Path) -> None:
    with (
        pytest.raises(ConfigError) as refused,
        selected(
            with_duplicates(source, [["photos/p001/0.jpg", "photos/p001/1.jpg"]]),
            tmp_path,
            min_images=99,
            drop_duplicates="near",
        ),
    ):
        pass
    assert str(refused.value).partition(" is left to export: ")[2] == (
        "of 829 faces, 9 not kept (facemill filter judges anew), 40 without a label (--unlabelled keep takes them; "
        "docs/inputs.md says what gives a label), 1 near duplicates, "
        "779 of 120 identities with fewer than --min-images 99"
    )


def test_a_table_without_faces_is_told(tmp_path: Path) -> None:
    write_output(Folder(str(tmp_path / "none")), {"u": []})
    (scratch := tmp_path / "scratch").mkdir()
    with (
        pytest.raises(ConfigError, match=r"no face of .* is left to export: of 0 faces$"),
        selected(tmp_path / "none", scratch),
    ):
        pass


def test_a_table_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    write_output(Folder(str(tmp_path / "damaged")), in_units(made_faces(), 2))
    table = tmp_path / "damaged" / "faces" / "unit-1.parquet"
    table.write_bytes(table.read_bytes()[:-200])
    (scratch := tmp_path / "scratch").mkdir()
    with pytest.raises(OutputError, match=r"unit-1\.parquet is damaged"), selected(tmp_path / "damaged", scratch):
        pass
