"""Writing one unit: what a commit leaves, what it refuses, and what remains when a write fails."""

from __future__ import annotations

import dataclasses
import errno
import io
import json
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest

from facemill.models.errors import OutputError
from facemill.pipeline.summary import read_summaries
from facemill.transforms.ops import heartbeat
from facemill.transforms.ops.committing import UnitSummary, UnitWriter
from facemill.transforms.ops.crops import WriteOptions, encode_crop
from facemill.transforms.ops.quality import QUALITY_COLUMNS
from facemill.transforms.ops.records import Faces, Failure, ImageRecord
from facemill.transforms.ops.storage import AtomicFile, Folder

RED = np.full((8, 8, 3), (250, 10, 10), np.uint8)
GREEN = np.full((6, 5, 3), (10, 250, 10), np.uint8)


def record(
    index: int, reasons: tuple[str, ...] = (), *, crop: tuple[bytes, ...] | None = None, **changes: Any
) -> ImageRecord:
    """An image whose kept faces (reason "") have a red crop, or those given."""
    crop = (encode_crop(RED, WriteOptions()),) if crop is None else crop
    count = len(reasons)
    faces = Faces(
        boxes=np.arange(4 * count, dtype=np.float32).reshape(-1, 4),
        scores=np.full(count, 0.75, np.float32),
        landmarks=np.arange(10 * count, dtype=np.float32).reshape(-1, 5, 2),
        angles_deg=np.zeros((count, 3), np.float32),
        interocular_px=np.full(count, 2, np.float32),
        quality=np.full((count, len(QUALITY_COLUMNS)), 0.5, np.float32),
        phashes=("0f" * 32,) * count,
        reasons=reasons,
        crops=tuple(None if reason else crop for reason in reasons),
    )
    made = ImageRecord(index, f"in/{index}.jpg", f"in/{index}.jpg", "", label="anna", num_bytes=100, faces=faces)
    return dataclasses.replace(made, **changes)


def failed(index: int) -> ImageRecord:
    return record(index, faces=None, failure=Failure("truncated", "it ends early"))


UNIT = [record(0, ("", "yaw")), record(1), failed(2), record(3, ("yaw", "small")), record(4, ("", ""), num_capped=7)]


def commit(
    output: Path,
    records: list[ImageRecord],
    *,
    num_images: int | None = None,
    templates: tuple[str, ...] = ("arcface112",),
    **options: Any,
) -> UnitSummary:
    writer = UnitWriter(Folder(str(output)), "unit-7", WriteOptions(**options), "f00d", templates)
    try:
        for one in records:
            writer.add(one)
        return writer.commit(num_images=len(records) if num_images is None else num_images, started_at=time.time())
    except BaseException:
        writer.discard()
        raise


def files(output: Path) -> set[str]:
    return {str(path.relative_to(output)) for path in output.rglob("*") if path.is_file()}


COMMITTED = {"crops/unit-7.tar", "faces/unit-7.parquet", "images/unit-7.parquet", "_units/unit-7.json"}


def test_the_summary_adds_up(tmp_path: Path) -> None:
    summary = commit(tmp_path, UNIT)
    assert dataclasses.replace(summary, seconds=0.0) == UnitSummary(
        unit="unit-7",
        fingerprint="f00d",
        num_images=5,
        num_faces=6,
        num_kept=3,
        num_crops=3,
        num_capped=7,
        num_bytes=500,
        seconds=0.0,
        statuses={"ok": 2, "no_face": 1, "failed": 1, "rejected": 1},
        failure_reasons={"truncated": 1},
        rejection_reasons={"yaw": 2, "small": 1},
    )
    assert files(tmp_path) == COMMITTED
    assert UnitSummary.from_json((tmp_path / "_units" / "unit-7.json").read_bytes(), "unit-7.json") == summary


def test_the_tables_as_another_reader_sees_them(tmp_path: Path) -> None:
    commit(tmp_path, UNIT)
    images = duckdb.sql(
        f"select image_id, unit, status, reason, num_faces, num_kept, label from '{tmp_path}/images/*.parquet'"
    ).fetchall()
    assert images == [
        ("in/0.jpg", "unit-7", "ok", None, 2, 1, "anna"),
        ("in/1.jpg", "unit-7", "no_face", None, 0, 0, "anna"),
        ("in/2.jpg", "unit-7", "failed", "truncated", 0, 0, "anna"),
        ("in/3.jpg", "unit-7", "rejected", None, 2, 0, "anna"),
        ("in/4.jpg", "unit-7", "ok", None, 2, 2, "anna"),
    ]
    faces = duckdb.sql(
        f"select face_id, kept, reason, crop, x2, landmarks from '{tmp_path}/faces/*.parquet'"
    ).fetchall()
    first, second = [float(i) for i in range(10)], [float(i) for i in range(10, 20)]
    assert faces == [
        ("in/0.jpg#0", True, None, "unit-7-000000-00.jpg", 2.0, first),
        ("in/0.jpg#1", False, "yaw", None, 6.0, second),
        ("in/3.jpg#0", False, "yaw", None, 2.0, first),
        ("in/3.jpg#1", False, "small", None, 6.0, second),
        ("in/4.jpg#0", True, None, "unit-7-000004-00.jpg", 2.0, first),
        ("in/4.jpg#1", True, None, "unit-7-000004-01.jpg", 6.0, second),
    ]


def _tar(output: Path) -> dict[str, bytes]:
    with tarfile.open(output / "crops" / "unit-7.tar") as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]


def _loose(output: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (output / "files" / "unit-7").iterdir()}


def _parquet(output: Path) -> dict[str, bytes]:
    return {row["crop"]: row["image"] for row in pq.read_table(output / "crops" / "unit-7.parquet").to_pylist()}


@pytest.mark.parametrize("image_format", ["jpeg", "png"])
@pytest.mark.parametrize(("store", "read"), [("tar", _tar), ("files", _loose), ("parquet", _parquet)])
def test_every_store_holds_the_crops_in_colour(
    store: str, read: Callable[[Path], dict[str, bytes]], image_format: str, tmp_path: Path
) -> None:
    encoded = encode_crop(RED, WriteOptions(image_format=image_format))  # type: ignore[arg-type]
    unit = [record(one.index, one.faces.reasons if one.faces else (), crop=(encoded,)) for one in UNIT]
    commit(tmp_path, unit, crops=store, image_format=image_format)
    extension = {"jpeg": "jpg", "png": "png"}[image_format]
    crops = read(tmp_path)
    assert sorted(crops) == [f"unit-7-{key}.{extension}" for key in ("000000-00", "000004-00", "000004-01")]
    for content in crops.values():
        blue_green_red = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
        assert np.abs(blue_green_red.astype(int) - RED[..., ::-1]).max() <= 6


@pytest.mark.parametrize("table", ["images", "faces"])
def test_the_tables_name_the_models_and_the_configuration(table: str, tmp_path: Path) -> None:
    commit(tmp_path, UNIT)
    made_by = json.loads(pq.read_schema(tmp_path / table / "unit-7.parquet").metadata[b"facemill"])
    assert made_by["fingerprint"] == "f00d"
    assert {len(digest) for digest in made_by["models"].values()} == {64}


def test_without_crops_the_tables_still_say_what_is_kept(tmp_path: Path) -> None:
    summary = commit(tmp_path, UNIT, crops="none")
    assert (summary.num_kept, summary.num_crops) == (3, 0)
    assert files(tmp_path) == COMMITTED - {"crops/unit-7.tar"}
    assert set(pq.read_table(tmp_path / "faces" / "unit-7.parquet")["crop"].to_pylist()) == {None}


def test_a_unit_without_images(tmp_path: Path) -> None:
    summary = commit(tmp_path, [])
    assert (summary.num_images, summary.num_faces, summary.statuses) == (0, 0, {})
    assert files(tmp_path) == COMMITTED
    assert pq.read_table(tmp_path / "faces" / "unit-7.parquet").num_rows == 0


def test_the_bytes_depend_on_the_records_alone(tmp_path: Path) -> None:
    for name in ("first", "second"):
        commit(tmp_path / name, UNIT)
    for name in COMMITTED - {"_units/unit-7.json"}:  # which holds the seconds
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


def test_a_second_attempt_replaces_what_the_first_left(tmp_path: Path) -> None:
    commit(tmp_path, UNIT[:1])
    (tmp_path / "_units" / "unit-7.json").unlink()
    assert commit(tmp_path, UNIT).num_images == 5
    assert len(_tar(tmp_path)) == 3


def test_a_second_attempt_takes_away_the_crops_of_the_first(tmp_path: Path) -> None:
    commit(tmp_path, UNIT, crops="files")
    commit(tmp_path, [*UNIT[:4], failed(4)], crops="files")
    assert sorted(_loose(tmp_path)) == ["unit-7-000000-00.jpg"]


@pytest.mark.parametrize(
    ("records", "num_images"),
    [
        pytest.param(UNIT[:2] + UNIT[3:], 5, id="missing"),
        pytest.param(UNIT[:4], 5, id="the last missing"),
        pytest.param([UNIT[1], UNIT[0], *UNIT[2:]], 5, id="in another order"),
        pytest.param([*UNIT, UNIT[4]], 5, id="twice"),
        pytest.param([*UNIT[:3], UNIT[2], UNIT[4]], 5, id="one twice and one missing"),
        pytest.param(UNIT, 4, id="one too many"),
        pytest.param([], 1, id="none"),
    ],
)
@pytest.mark.parametrize(
    "store",
    [
        "tar",
        "none",
        pytest.param(
            "parquet",
        ),
    ],
)
def test_what_does_not_balance_is_refused_and_leaves_nothing(
    store: str, records: list[ImageRecord], num_images: int, tmp_path: Path
) -> None:
    with pytest.raises(OutputError, match=f"unit unit-7 does not balance: {num_images} images were read"):
        commit(tmp_path, records, num_images=num_images, crops=store)
    assert files(tmp_path) == set()


def test_a_kept_face_without_its_crop_is_refused(tmp_path: Path) -> None:
    faces = dataclasses.replace(record(0, ("", "")).faces, crops=((b"jpeg",), None))  # type: ignore[type-var]
    with pytest.raises(OutputError, match="2 faces kept, 1 crops in 1 templates"):
        commit(tmp_path, [record(0, faces=faces)])
    assert files(tmp_path) == set()


@pytest.mark.parametrize("full_at", range(4))
def test_a_full_disk_never_leaves_a_marker(full_at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commits: list[str] = []
    original = AtomicFile.commit

    def commit_or_fail(self: AtomicFile) -> None:
        if len(commits) == full_at:
            raise OSError(errno.ENOSPC, "No space left on device")
        original(self)
        commits.append(self._path)

    monkeypatch.setattr(AtomicFile, "commit", commit_or_fail)
    with pytest.raises(OutputError, match=r"No space left on device"):
        commit(tmp_path, UNIT)
    assert not [name for name in files(tmp_path) if name.startswith("_units") or name.endswith(".tmp")]
    monkeypatch.undo()
    assert commit(tmp_path, UNIT).num_images == 5
    assert files(tmp_path) == COMMITTED


def test_the_marker_comes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    appeared: list[set[str]] = []
    original = AtomicFile.commit
    monkeypatch.setattr(AtomicFile, "commit", lambda self: (original(self), appeared.append(files(tmp_path)))[0])
    commit(tmp_path, UNIT)
    assert appeared[-1] == COMMITTED
    assert all("_units/unit-7.json" not in seen for seen in appeared[:-1])


def test_discarding_twice_or_after_a_commit_is_harmless(tmp_path: Path) -> None:
    for store in ("tar", "parquet", "files", "none"):
        writer = UnitWriter(Folder(str(tmp_path / store)), "unit-7", WriteOptions(crops=store), "f00d", ("arcface112",))  # type: ignore[arg-type]
        writer.add(UNIT[0])
        writer.commit(num_images=1, started_at=0.0)
        before = files(tmp_path)
        writer.discard()
        writer.discard()
        assert files(tmp_path) == before


def test_an_output_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "crops").write_bytes(b"a file where the folder should be")
    with pytest.raises(OutputError, match=r"cannot write .*crops"):
        commit(tmp_path, UNIT)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"unit": "unit-7"}', b"\xff", b"[" * 100_000])
def test_a_damaged_marker_is_one_clear_error(content: bytes) -> None:
    with pytest.raises(OutputError, match=r"the commit marker out/unit-7\.json is damaged \([^\n]+\); remove it"):
        UnitSummary.from_json(content, "out/unit-7.json")


@pytest.mark.parametrize(
    "changed",
    [
        {"unit": 7},
        {"num_images": "5"},
        {"num_kept": None},
        {"num_faces": 1.5},
        {"seconds": "1"},
        {"statuses": None},
        {"statuses": {"ok": "2"}},
        {"rejection_reasons": ["yaw"]},
        {"crops_digest": None},
    ],
)
def test_a_marker_of_other_types_is_damaged_and_named(changed: dict[str, object], tmp_path: Path) -> None:
    output = Folder(str(tmp_path))
    marker = {**dataclasses.asdict(UnitSummary("unit-7", "f00d", seconds=1)), **changed}
    output.write_bytes("_units/unit-7.json", json.dumps(marker).encode())
    match = rf"the commit marker {tmp_path}/_units/unit-7\.json is damaged \({next(iter(changed))} is "
    with pytest.raises(OutputError, match=match):
        read_summaries(output, ["unit-7"])


def test_a_store_in_memory() -> None:
    output = Folder("memory://committing")
    writer = UnitWriter(output, "unit-7", WriteOptions(), "f00d", ("arcface112",))
    for one in UNIT:
        writer.add(one)
    assert not output.exists("crops/unit-7.tar")
    writer.commit(num_images=5, started_at=0.0)
    assert all(output.exists(name) for name in COMMITTED)
    assert pq.read_table(io.BytesIO(output.read_bytes("images/unit-7.parquet"))).num_rows == 5


def test_the_heartbeat_counts_what_is_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slots = [0] * len(heartbeat.Slot)
    monkeypatch.setattr(heartbeat, "_array", None)  # so that the watcher is gone after the test
    heartbeat.install(slots)
    commit(tmp_path, UNIT)
    counted = (heartbeat.Slot.NUM_IMAGES, heartbeat.Slot.NUM_KEPT, heartbeat.Slot.NUM_FAILED, heartbeat.Slot.NUM_BYTES)
    assert [slots[slot] for slot in counted] == [5, 3, 1, 500]
