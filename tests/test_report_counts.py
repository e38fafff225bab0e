"""What the report counts: outcomes, identities, seconds, duplicates; and the flow that shows them."""

from __future__ import annotations

import itertools
import math
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tables_of_rows import Row, face_row, image_row, write_output

from facemill.models.errors import OutputError
from facemill.pipeline.outputs import Output, open_output
from facemill.pipeline.report.counts import Counts, count_outcomes
from facemill.pipeline.report.duplicates import read_duplicates
from facemill.pipeline.report.flow import Diagram, lay_out_flow
from facemill.pipeline.report.people import Band, Identity, count_people
from facemill.pipeline.report.speed import sum_speed
from facemill.pipeline.summary import LabelCounts
from facemill.transforms.ops.committing import UnitSummary


def failed(image_id: str, reason: str, **values: object) -> Row:
    return image_row(image_id, status="failed", reason=reason, message="", format=None, **values)


IMAGES = [
    *(image_row(f"a/{i}.jpg", label="Anna" if i < 4 else "Ben") for i in range(6)),
    image_row("a/7.jpg", label="Carl"),
    image_row("b/8.png", format="PNG"),
    failed("b/9.jpg", "truncated"),
    failed("b/10.jpg", "empty"),
    failed("b/11.jpg", "empty"),
]
FACES = [
    *(face_row(f"a/{i}.jpg", label="Anna" if i < 4 else "Ben") for i in range(5)),
    face_row("a/4.jpg", 1, reason="yaw", yaw_deg=40.0),
    face_row("a/5.jpg", 0, reason="yaw", yaw_deg=-33.0),
    face_row("a/5.jpg", 1, reason="score", score=0.4),
]


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Output:
    return open_output(write_output(tmp_path_factory.mktemp("made") / "out", IMAGES, FACES))


@pytest.fixture(scope="module")
def counts(output: Output) -> Counts:
    return count_outcomes(output.connect())


def test_outcomes_are_counted_by_root_and_reason(counts: Counts) -> None:
    assert counts.roots == ("a", "b")
    assert (counts.num_images(), counts.num_images(root="a"), counts.num_images(root="b")) == (11, 7, 4)
    assert [counts.num_images(status) for status in ("ok", "rejected", "no_face", "failed")] == [5, 1, 2, 3]
    assert counts.num_images("failed", reason="empty", root="b") == 2
    assert counts.num_images("failed", root="a") == 0
    assert counts.failure_reasons == ["empty", "truncated"]
    assert counts.rejection_reasons == ["yaw", "score"]
    assert (counts.num_faces(), counts.num_faces("kept"), counts.num_faces("rejected", reason="yaw")) == (8, 5, 2)
    assert [tuple(each) for each in counts.formats] == [("JPEG", 7, 0), ("", 3, 3), ("PNG", 1, 0)]


def test_many_roots_and_formats_are_put_together(tmp_path: Path) -> None:
    images = [image_row(f"root{i:02d}/{j}.jpg", format=f"F{i:02d}") for i in range(20) for j in range(20 - i)]
    counts = count_outcomes(open_output(write_output(tmp_path / "out", images)).connect())
    assert counts.roots == ("root00", "root01", "root02", "root03", "root04", "15 others")
    assert counts.num_images(root="15 others") == sum(range(1, 16))
    assert counts.num_images() == 210
    assert len(counts.formats) == 12
    assert tuple(counts.formats[-1]) == ("9 others", sum(range(1, 10)), 0)


def test_identities(output: Output) -> None:
    people = count_people(output.connect())
    assert (people.num_identities, people.num_unlabelled, people.num_shared, people.median_kept) == (3, 4, 0, 1)
    assert people.bands == (Band(0, 0, 1), Band(1, 1, 1), Band(2, 3, 0), Band(4, 7, 1))
    assert people.largest == (Identity("Anna", 4, 4), Identity("Ben", 2, 1), Identity("Carl", 1, 0))
    assert people.most_in_band == 1


def test_labels_that_several_faces_share_are_counted(tmp_path: Path) -> None:
    labels = {"a/1.jpg": "Anna", "a/2.jpg": "Anna", "a/3.jpg": "Ben", "4.jpg": None}
    images = [image_row(image_id, label=label) for image_id, label in labels.items()]
    faces = [face_row(image_id, index, label=label) for image_id, label in labels.items() for index in range(2)]
    del faces[0]
    faces.append(face_row("a/1.jpg", 1, label="Anna", reason="yaw"))
    output = open_output(write_output(tmp_path / "out", images, faces))
    assert count_people(output.connect()).num_shared == 2
    assert output.count_labels() == LabelCounts(num_labels=2, num_shared=2)


def test_no_identities(tmp_path: Path) -> None:
    people = count_people(open_output(write_output(tmp_path / "out", [image_row("a/1.jpg")])).connect())
    assert (people.num_identities, people.num_unlabelled, people.median_kept, people.bands) == (0, 1, 0, ())


def test_speed_adds_up_what_took_time() -> None:
    units = [UnitSummary(f"unit-{i}", "", num_images=10 * i, num_bytes=1000 * i, seconds=float(i)) for i in range(6)]
    speed = sum_speed(units)
    assert speed is not None
    assert (speed.num_images, speed.num_bytes, speed.seconds) == (150, 15_000, 15.0)
    assert speed.quartiles_s == (1, 2, 3, 4, 5)
    assert [unit.unit for unit in speed.slowest] == ["unit-5", "unit-4", "unit-3", "unit-2", "unit-1"]
    assert sum_speed([UnitSummary("unit-0", "")]) is None


def write_duplicates(output: Output, name: str, rows: list[Row]) -> None:
    path = Path(output.folder.path) / "duplicates" / name
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def test_duplicates_are_those_across_labels_first(output: Output) -> None:
    assert read_duplicates(output, output.connect()) == []
    write_duplicates(
        output,
        "images.parquet",
        [{"image_id": f"a/{i}.jpg", "label": "Anna", "sha256": "0", "group": 0, "place": i + 1} for i in range(2)],
    )
    members = {0: [("a/0.jpg#0", "Anna"), ("a/1.jpg#0", "Anna"), ("a/2.jpg#0", "Anna")]}
    members[1] = [("a/3.jpg#0", "Anna"), ("a/4.jpg#0", "Ben")]
    write_duplicates(
        output,
        "faces.parquet",
        [
            {"face_id": f, "label": n, "group": g, "distance": 9 - place if place > 1 else 0, "place": place}
            for g, m in members.items()
            for place, (f, n) in reversed(list(enumerate(m, start=1)))
        ],
    )
    exact, near = read_duplicates(output, output.connect())
    assert (exact.table, exact.num_groups, exact.num_members, exact.num_across) == ("images", 1, 2, 0)
    assert [row["image_id"] for row in exact.groups[0].rows] == ["a/0.jpg", "a/1.jpg"]
    assert (near.table, near.num_groups, near.num_members, near.num_across) == ("faces", 2, 5, 1)
    assert [(group.size, group.num_labels) for group in near.groups] == [(2, 2), (3, 1)]
    assert [row["face_id"] for row in near.groups[0].rows] == ["a/3.jpg#0", "a/4.jpg#0"]
    by_place = [(row["face_id"], row["distance"]) for row in near.groups[1].rows]
    assert by_place == [("a/0.jpg#0", 0), ("a/1.jpg#0", 7), ("a/2.jpg#0", 6)]
    assert near.groups[0].rows[1]["width"] == 144, "the row of the image is below that of the face"


def test_damaged_duplicates_are_an_error(tmp_path: Path) -> None:
    output = open_output(write_output(tmp_path / "out", IMAGES))
    (tmp_path / "out" / "duplicates").mkdir()
    (tmp_path / "out" / "duplicates" / "faces.parquet").write_bytes(b"PAR1")
    with pytest.raises(OutputError, match="cannot read the tables"):
        read_duplicates(output, output.connect())


@pytest.fixture(scope="module")
def diagram(counts: Counts) -> Diagram:
    return lay_out_flow(counts)


def test_bars_are_as_high_as_their_counts(diagram: Diagram) -> None:
    """11 inputs are 300 px; 6 of them show the 8 faces, which are as high as these 6."""
    bars = {bar.name: bar for bar in diagram.bars}
    assert list(bars) == [
        *("a", "b", "face found", "no face", "failed: empty", "failed: truncated"),
        *("faces", "kept", "rejected: yaw", "rejected: score"),
    ]
    for name, count in {"a": 7, "b": 4, "face found": 6, "no face": 2, "failed: empty": 2}.items():
        assert bars[name].count == count
        assert bars[name].height == pytest.approx(300 * count / 11)
    for name, count in {"faces": 8, "kept": 5, "rejected: yaw": 2, "rejected: score": 1}.items():
        assert bars[name].count == count
        assert bars[name].height == pytest.approx(300 * 6 / 11 * count / 8)
    assert bars["failed: empty"].link == "failed-empty"
    assert (bars["kept"].kind, bars["kept"].link) == ("kept", "kept")


def ends(path: str) -> tuple[float, float, float, float]:
    """Heights and tops of a band at its left and at its right."""
    numbers = [float(number) for number in re.findall(r"[\d.]+", path)]
    top_left, top_right, bottom_right, bottom_left = numbers[1], numbers[7], numbers[8], numbers[-1]
    return bottom_left - top_left, bottom_right - top_right, top_left, top_right


def test_bands_fill_the_bars_that_they_join(diagram: Diagram) -> None:
    bars = {bar.name: bar for bar in diagram.bars}
    lefts = dict.fromkeys(("a", "b", "faces"), 0.0)
    for band in diagram.bands[:-1]:
        source = band.title.split(":")[0]
        if source in lefts:
            height, _, top, _ = ends(band.path)
            assert top == pytest.approx(bars[source].y + lefts[source], abs=0.2)
            lefts[source] += height
    for name in ("a", "b"):
        assert lefts[name] == pytest.approx(bars[name].height, abs=0.5)
    assert [band.title for band in diagram.bands[:5]] == [
        "a: 6 face found",
        "a: 1 no face",
        "b: 1 no face",
        "b: 2 failed: empty",
        "b: 1 failed: truncated",
    ]
    assert "6 inputs show 8 faces" in {band.title for band in diagram.bands}


def test_labels_have_room_even_where_bars_are_thin(tmp_path: Path) -> None:
    images = [image_row(f"a/{i}.jpg") for i in range(3000)]
    images += [failed(f"a/{reason}.jpg", reason) for reason in (f"reason_{i:02d}" for i in range(30))]
    faces = [face_row("a/0.jpg", i, reason=f"why_{i:02d}") for i in range(30)]
    counts = count_outcomes(open_output(write_output(tmp_path / "out", images, faces)).connect())
    diagram = lay_out_flow(counts)
    assert len(diagram.bars) < 30
    assert [bar.name for bar in diagram.bars if "more" in bar.name] == ["23 more reasons", "22 more reasons"]
    assert sum(bar.count for bar in diagram.bars if bar.x_percent == 31) == 3030
    for column in {bar.x_percent for bar in diagram.bars}:
        places = [bar.label_y for bar in diagram.bars if bar.x_percent == column]
        assert all(low + 20 <= high for low, high in itertools.pairwise(places))
        assert places[-1] < diagram.height
    assert all(bar.height >= 2 and bar.y + bar.height <= diagram.height for bar in diagram.bars)


def test_a_flow_without_faces_ends_at_the_inputs(tmp_path: Path) -> None:
    output = open_output(write_output(tmp_path / "out", [failed("a/1.jpg", "empty")]))
    diagram = lay_out_flow(count_outcomes(output.connect()))
    assert [(bar.name, bar.count) for bar in diagram.bars] == [("a", 1), ("face found", 0), ("failed: empty", 1)]
    assert math.isfinite(diagram.height)
