"""Which rows become pictures, and how these are had."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pictures import jpeg, portrait, write_loose, write_tar
from PIL import Image
from tables_of_rows import POINTS, Row, face_row, image_row, write_output

from facemill.pipeline.outputs import Output, open_output
from facemill.pipeline.plan import read_plan
from facemill.pipeline.report import originals
from facemill.pipeline.report.fetching import Source, fetch
from facemill.pipeline.report.pictures import Picture, take_pictures
from facemill.pipeline.report.rows import RowKey, fetch_rows
from facemill.pipeline.report.sample import Sample, Stratum, choose_units, draw_samples
from facemill.pipeline.summary import read_summaries
from facemill.transforms.ops.committing import UnitSummary
from facemill.transforms.ops.units import Unit


def summary(number: int, **reasons: int) -> UnitSummary:
    return UnitSummary(f"unit-{number:06d}", "", num_images=500, num_kept=100, rejection_reasons=reasons)


def test_few_units_are_chosen_and_rare_outcomes_with_them() -> None:
    summaries = [summary(i, yaw=50, **({"rare": 1} if i % 100 == 7 else {})) for i in range(1000)]
    summaries[555].failure_reasons["truncated"] = 1
    chosen = choose_units(summaries, seed=0, num_samples=24)
    assert list(chosen) == sorted(set(chosen))
    assert {f"unit-{number:06d}" for number in (7, 107, 907, 555)} <= set(chosen)
    assert len(chosen) == 11, "the common outcomes need no other units than these"
    assert choose_units(summaries, seed=0, num_samples=24) == chosen
    assert choose_units([summary(i, yaw=50) for i in range(1000)], seed=0, num_samples=24) != choose_units(
        [summary(i, yaw=50) for i in range(1000)], seed=1, num_samples=24
    )


def test_units_are_bounded_however_many_outcomes_there_are() -> None:
    summaries = [summary(i, **{f"reason_{i}": 1}) for i in range(300)]
    chosen = choose_units(summaries, seed=0, num_samples=24)
    assert len(chosen) == 300, "each outcome has one unit"
    spread = [summary(i, **{f"reason_{i % 40}": 1}) for i in range(1000)]
    assert len(choose_units(spread, seed=0, num_samples=24)) <= 64 + 40


def rows_of_many() -> tuple[list[Row], list[Row]]:
    images = [image_row(f"a/{i:03d}.jpg", unit=f"unit-{i // 50:06d}") for i in range(400)]
    faces = []
    for i, image in enumerate(images[:320]):
        yaw = float((i * 37) % 90) - 45
        reason = "yaw" if abs(yaw) > 21 else "score" if i % 19 == 0 else None
        score = 0.3 + 0.001 * i if reason == "score" else 0.9
        faces.append(face_row(image["image_id"], unit=image["unit"], yaw_deg=yaw, reason=reason, score=score))
    for i, image in enumerate(images[390:]):
        image |= {"status": "failed", "reason": "empty" if i else "truncated", "message": "m", "format": None}
    return images, faces


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Output:
    return open_output(write_output(tmp_path_factory.mktemp("many") / "out", *rows_of_many()))


def draw(output: Output, *, seed: int = 0, num_samples: int = 24) -> list[Sample]:
    return draw_samples(output, read_summaries(output.folder, output.units), seed=seed, num_samples=num_samples)


def test_every_outcome_has_its_sample(many: Output) -> None:
    samples = draw(many)
    assert [sample.stratum.key for sample in samples] == [
        *("kept", "rejected-yaw", "rejected-score", "no_face", "failed-empty", "failed-truncated"),
    ]
    assert [len(sample.rows) for sample in samples[:2]] == [24, 24]
    assert len(samples[-1].rows) == 1
    for sample in samples:
        for row in sample.rows:
            assert row["width"] == 144
            if sample.stratum.is_of_faces:
                assert (row["reason"] or "") == sample.stratum.reason


def test_samples_are_drawn_by_chance_and_the_same_again(many: Output) -> None:
    first, again, other = draw(many), draw(many), draw(many, seed=1)
    assert first == again
    ids = [{row["face_id"] for row in samples[0].rows} for samples in (first, other)]
    assert len(ids[0] & ids[1]) < 20
    units = {row["unit"] for row in first[0].rows}
    assert len(units) >= 3, "they come from several units"


def test_what_was_decided_narrowly_comes_first(many: Output) -> None:
    samples = {sample.stratum.key: sample for sample in draw(many)}
    yaws = [abs(row["yaw_deg"]) for row in samples["rejected-yaw"].rows]
    assert yaws == sorted(yaws) and yaws[0] < yaws[-1], "limits from above: the least first"
    scores = [row["score"] for row in samples["rejected-score"].rows]
    assert scores == sorted(scores, reverse=True) and scores[0] > scores[-1], "limits from below: the largest first"
    assert Stratum("rejected", "yaw").decisive({"yaw_deg": -30.0}) == ("yaw_deg", -30.0)
    occluded = {"eye_occlusion": 0.2, "mouth_occlusion": 0.9}
    assert Stratum("rejected", "occluded").decisive(occluded) == ("mouth_occlusion", 0.9)
    assert Stratum("rejected", "yaw").decisive({"yaw_deg": float("nan")}) is None
    assert Stratum("no_face").decisive({}) is None


def test_many_outcomes_have_fewer_samples_each(tmp_path: Path) -> None:
    images = [image_row(f"a/{i:04d}.jpg") for i in range(1200)]
    faces = [face_row(image["image_id"], reason=f"why_{i % 40:02d}") for i, image in enumerate(images)]
    samples = draw(open_output(write_output(tmp_path / "out", images, faces)))
    assert len(samples) == 40
    assert {len(sample.rows) for sample in samples} == {8}


def test_fetching_gives_up_a_store_that_does_not_answer() -> None:
    never = threading.Event()

    def read() -> Iterator[int]:
        yield 1
        never.wait()
        yield 2

    notes: list[str] = []
    started_at = time.monotonic()
    assert list(fetch([Source("here", read)], seconds=0.3, notes=notes)) == [1]
    assert time.monotonic() - started_at < 3
    assert notes == ["Reading took too long and was given up, so some pictures are missing."]
    never.set()


def test_an_error_ends_its_place_alone() -> None:
    def fail() -> Iterator[int]:
        yield 1
        raise PermissionError("no credentials")

    calls = []

    def count() -> Iterator[int]:
        calls.append(1)
        yield 2

    notes: list[str] = []
    sources = [Source("The input a", fail), Source("The input a", count), Source("The input b", count)]
    assert list(fetch(sources, seconds=10, notes=notes)) == [1, 2]
    assert len(calls) == 1
    assert notes == ["The input a could not be read: no credentials"]


def test_who_stops_listening_stops_the_reading() -> None:
    read = []

    def endless() -> Iterator[int]:
        for number in range(10**9):
            read.append(number)
            yield number

    items = fetch([Source("here", endless)], seconds=60, notes=[])
    assert next(items) == 0
    items.close()  # type: ignore[attr-defined]
    deadline = time.monotonic() + 10
    while any(thread.name.startswith("facemill-fetch") for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert len(read) < 10


FILES = {f"{i}.jpg": portrait(i) for i in range(8)}


def take(output: Output, ids: list[str], **options: float) -> tuple[dict[RowKey, Picture], list[str]]:
    notes: list[str] = []
    table = "faces" if "#" in ids[0] else "images"
    rows = fetch_rows(output.connect(), table, ids)  # type: ignore[arg-type]
    assert len(rows) == len(ids)
    seconds = options.get("seconds", 30.0)
    pictures = take_pictures(output, read_plan(output.folder), rows, storage_options={}, seconds=seconds, notes=notes)
    return pictures, notes


def loose_output(folder: Path, **options: object) -> Output:
    """Eight portraits; each has one face that was rejected."""
    photos = write_loose(folder / "photos", FILES)
    names = sorted(FILES)
    unit = Unit("unit-000000", "files", tuple(f"photos/{n}" for n in names), tuple(len(FILES[n]) for n in names), 1)
    images = [image_row(f"photos/{name}") for name in names]
    faces = [face_row(f"photos/{name}", reason="yaw") for name in names]
    inputs = {"photos": photos.as_uri()}
    return open_output(write_output(folder / "out", images, faces, inputs=inputs, units=[unit], **options))  # type: ignore[arg-type]


def test_faces_are_cut_from_loose_files_with_box_and_points(tmp_path: Path) -> None:
    output = loose_output(tmp_path)
    (tmp_path / "photos" / "7.jpg").unlink()  # which is not asked for
    pictures, notes = take(output, ["photos/3.jpg#0"])
    assert notes == []
    picture = pictures[RowKey(True, "photos/3.jpg#0")]
    # The window of 152 px around a box of 60 x 80 px is larger than the picture of 144 px, so that all of it is shown.
    assert picture.size_wh == (160, 160)
    scale = 160 / 144
    corner = (20 + 0.5) * scale - 0.5
    assert picture.box[0] == pytest.approx((corner, corner))
    assert picture.points[0] == pytest.approx(((POINTS[0] + 0.5) * scale - 0.5, (POINTS[1] + 0.5) * scale - 0.5))
    shown = np.asarray(Image.open(io.BytesIO(picture.jpeg)), np.float64)
    original = Image.open(io.BytesIO(FILES["3.jpg"])).resize((160, 160), Image.Resampling.BILINEAR)
    assert np.abs(shown - np.asarray(original)).mean() < 6


def test_inputs_are_shown_whole(tmp_path: Path) -> None:
    pictures, notes = take(loose_output(tmp_path), ["photos/1.jpg", "photos/2.jpg"])
    assert notes == []
    assert [picture.size_wh for picture in pictures.values()] == [(144, 144)] * 2
    assert all(picture.box == picture.points == () for picture in pictures.values())


@pytest.mark.parametrize("gone", ["folder", "file", "changed"])
def test_what_is_gone_leaves_a_gap(tmp_path: Path, gone: str) -> None:
    output = loose_output(tmp_path)
    if gone == "folder":
        (tmp_path / "photos").rename(tmp_path / "elsewhere")
    elif gone == "file":
        (tmp_path / "photos" / "1.jpg").unlink()
    else:
        (tmp_path / "photos" / "1.jpg").write_bytes(jpeg(np.zeros((50, 60, 3), np.uint8)))
    pictures, notes = take(output, ["photos/1.jpg#0", "photos/2.jpg#0"])
    assert len(pictures) == (0 if gone == "folder" else 1)
    assert len(notes) == 1
    assert ("is not there any more" if gone == "folder" else "Of 1 the files are gone, or are not those") in notes[0]


def shard_output(folder: Path) -> Output:
    shard = write_tar(folder / "shards" / "one.tar", FILES)
    unit = Unit("unit-000000", "tar", ("shards/one.tar",), (shard.stat().st_size,), shard.stat().st_size)
    images = [image_row(f"shards/one.tar/{name}", source="shards/one.tar", member=name) for name in sorted(FILES)]
    return open_output(write_output(folder / "out", images, inputs={"shards": shard.parent.as_uri()}, units=[unit]))


def test_members_are_read_from_their_shard_up_to_the_last_that_is_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = shard_output(tmp_path)
    seen = []
    read_unit = originals.read_unit

    def spy(*arguments: object) -> Iterator[object]:
        for record in read_unit(*arguments):  # type: ignore[arg-type]
            seen.append(record.image_id)
            yield record

    monkeypatch.setattr(originals, "read_unit", spy)
    pictures, notes = take(output, ["shards/one.tar/1.jpg", "shards/one.tar/4.jpg"])
    assert (len(pictures), notes) == (2, [])
    assert len(seen) == 5, "0.jpg to 4.jpg"


def test_a_place_is_read_for_some_bytes_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = shard_output(tmp_path)
    monkeypatch.setattr(originals, "_MAX_BYTES_LOCAL", len(FILES["0.jpg"]) + 1)
    pictures, notes = take(output, ["shards/one.tar/0.jpg", "shards/one.tar/7.jpg"])
    assert len(pictures) == 1
    assert len(notes) == 1 and notes[0].startswith("The input shards could not be read: too many bytes")


def test_a_store_that_does_not_answer_is_given_up(tmp_path: Path) -> None:
    images = [image_row(f"web/{i}.jpg", unit=f"unit-{i:06d}") for i in range(3)]
    units = [Unit(f"unit-{i:06d}", "files", (f"web/{i}.jpg",), (9,), 9) for i in range(3)]
    output = open_output(write_output(tmp_path / "out", images, inputs={"web": "http://127.0.0.1:9/a"}, units=units))
    started_at = time.monotonic()
    pictures, notes = take(output, [f"web/{i}.jpg" for i in range(3)], seconds=0.5)
    assert time.monotonic() - started_at < 20, "the store itself is asked for a minute"
    assert (pictures, notes) == ({}, ["Reading took too long and was given up, so some pictures are missing."])


def test_an_input_whose_driver_is_missing_is_told(tmp_path: Path) -> None:
    unit = Unit("unit-000000", "files", ("a/1.jpg",), (9,), 9)
    inputs = {"a": "nosuchstore://bucket/a"}
    output = open_output(write_output(tmp_path / "out", [image_row("a/1.jpg")], inputs=inputs, units=[unit]))
    pictures, notes = take(output, ["a/1.jpg"])
    assert pictures == {}
    assert len(notes) == 1 and notes[0].startswith("The input a could not be read: ")


def test_rows_that_the_plan_does_not_know_have_no_picture(tmp_path: Path) -> None:
    output = open_output(write_output(tmp_path / "out", [image_row("a/1.jpg")]))
    pictures, notes = take(output, ["a/1.jpg"])
    assert pictures == {}
    assert len(notes) == 1
