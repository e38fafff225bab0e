"""Large shards on an object store: which are read in order to split them, and that it changes no result."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import apache_beam as beam
import fsspec
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from hypothesis import given
from hypothesis import strategies as st
from pictures import archive, read_table, write_parquet, write_recordio, write_tar, write_tfrecord, write_zip

from facemill.models.errors import ConfigError
from facemill.pipeline import splitting
from facemill.pipeline.config import load_config
from facemill.pipeline.graph import process_units
from facemill.pipeline.job import Job
from facemill.pipeline.listing import list_inputs
from facemill.pipeline.plan import Plan, plan_new_inputs, read_plan
from facemill.pipeline.splitting import choose_scans
from facemill.transforms.ops.options import RunOptions
from facemill.transforms.ops.storage import Folder
from facemill.transforms.ops.units import Unit

MIB, GIB = 2**20, 2**30
FILES = archive(24)
WRITERS: dict[str, Callable[[Path, dict[str, bytes]], Path]] = {
    "tar": write_tar,
    "zip": write_zip,
    "parquet": write_parquet,
    "tfrecord": write_tfrecord,
    "rec": write_recordio,
}


@pytest.mark.parametrize(
    ("sizes", "whole_bytes", "scan_bytes", "chosen"),
    [
        ([], 0, 32 * GIB, []),
        ([MIB] * 3, 0, 32 * GIB, []),  # done in seconds
        ([100 * MIB] * 1000 + [5 * GIB] + [100 * MIB] * 1000, 0, 32 * GIB, [1000]),  # not 200 GB for 100 MB less
        ([GIB, 5 * GIB, 3 * GIB], 0, 32 * GIB, [1, 2, 0]),
        ([GIB] * 400, 0, 1000 * GIB, list(range(400))),
        ([GIB] * 400, 0, 32 * GIB, []),  # the others would be as large as ever
        ([GIB] * 600, 0, 2000 * GIB, []),
        ([3 * GIB, 5 * GIB, 3 * GIB], 0, 8 * GIB, [1]),
        ([3 * GIB, 9 * GIB, 3 * GIB], 0, 8 * GIB, []),
        ([3 * GIB, 9 * GIB], 4 * GIB, 32 * GIB, [1]),  # the run waits for the 4 GiB anyhow
        ([5 * GIB], 0, 0, []),
    ],
)
def test_tars_that_hold_up_the_others_are_scanned_the_largest_first(
    sizes: list[int], whole_bytes: int, scan_bytes: int, chosen: list[int]
) -> None:
    assert choose_scans(sizes, whole_bytes, scan_bytes) == chosen


@given(
    sizes=st.lists(st.integers(0, 5000), max_size=12),
    whole_mib=st.integers(0, 3000),
    scan_mib=st.integers(0, 20_000),
)
def test_no_other_choice_of_tars_costs_less(sizes: list[int], whole_mib: int, scan_mib: int) -> None:
    def cost(chosen: Collection[int]) -> float:
        left = [size for index, size in enumerate(sizes) if index not in chosen]
        return sum(sizes[index] for index in chosen) + 500 * max(64, whole_mib, *left)

    chosen = choose_scans([size * MIB for size in sizes], whole_mib * MIB, scan_mib * MIB)
    others = [
        other
        for count in range(min(len(sizes), 4) + 1)
        for other in itertools.combinations(range(len(sizes)), count)
        if sum(sizes[index] for index in other) <= scan_mib
    ]
    assert sum(sizes[index] for index in chosen) <= scan_mib
    assert others
    assert cost(chosen) <= min(cost(other) for other in others)


def test_scan_bytes_may_be_zero_but_not_negative() -> None:
    assert RunOptions(scan_bytes=0).scan_bytes == 0
    with pytest.raises(ConfigError, match="scan_bytes must not be negative, got -1"):
        RunOptions(scan_bytes=-1)


@pytest.fixture
def every_shard_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splitting, "MIN_SCANNED_BYTES", 1)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[str]:
    fs = fsspec.filesystem("memory")
    yield f"memory://{tmp_path.name}"
    fs.rm(f"/{tmp_path.name}", recursive=True)


def upload(store: str, path: Path) -> None:
    fsspec.filesystem("memory").pipe_file(f"{store}/{path.name}", path.read_bytes())


def plan_store(store: str, told: list[str], **options: int) -> list[Unit]:
    inputs = list_inputs(store, ignored_extensions=())
    empty = Plan(read_plan(Folder("memory://no-plan-yet")).table)
    return plan_new_inputs(
        empty,
        {"in": inputs},
        RunOptions(**options),
        on_split=told.append,
        on_whole=lambda message: told.append(message),
    )


def tables(units: Sequence[Unit], store: str, output: Path) -> tuple[list[Any], list[Any]]:
    """The rows of a run over these units, without what names the unit."""
    job = Job(load_config(), {"in": Folder(store)}, Folder(str(output)))
    options = PipelineOptions(flags=[], direct_running_mode="in_memory")
    with beam.Pipeline(runner=FnApiRunner(), options=options) as pipeline:
        process_units(pipeline | beam.Create(units, reshuffle=False), job=job, quarantined={})
    images, faces = read_table(output, "images"), read_table(output, "faces")
    for row in [*images, *faces]:
        for column in ("unit", "crop"):
            row.pop(column, None)
    return images, faces


@pytest.mark.usefixtures("every_shard_is_large")
@pytest.mark.parametrize("kind", WRITERS)
def test_a_split_shard_on_a_store_gives_the_tables_of_a_whole_one(kind: str, store: str, tmp_path: Path) -> None:
    upload(store, WRITERS[kind](tmp_path / f"shard.{kind}", FILES))
    told: list[str] = []
    split = plan_store(store, told, unit_bytes=20_000)
    (whole,) = plan_store(store, [], unit_bytes=2**30)
    assert told == [f"in/shard.{kind}"]
    assert len(split) >= 3
    images, faces = tables(split, store, tmp_path / "split")
    assert len(images) == len(FILES)
    assert len(faces) >= 24
    assert (images, faces) == tables([whole], store, tmp_path / "whole")


@pytest.mark.usefixtures("every_shard_is_large")
def test_several_shards_are_split_in_their_order(store: str, tmp_path: Path) -> None:
    for number in range(20):
        upload(store, write_tar(tmp_path / f"{number:02d}.tar", FILES))
    told: list[str] = []
    units = plan_store(store, told, unit_bytes=30_000)
    assert told == [f"in/{number:02d}.tar" for number in range(20)]
    assert [unit.sources[0] for unit in units] == sorted(unit.sources[0] for unit in units)
    (first,) = plan_store(f"{store}/00.tar", [], unit_bytes=2**30)
    for source in told:
        ranges = [(unit.start, unit.stop) for unit in units if unit.sources == (source,)]
        assert len(ranges) >= 3
        assert [start for start, _ in ranges] == [0, *(stop for _, stop in ranges[:-1])]
        assert ranges[-1][1] == first.num_bytes


def test_a_tar_that_is_no_large_share_is_left_alone(store: str, tmp_path: Path) -> None:
    upload(store, write_tar(tmp_path / "shard.tar", FILES))
    told: list[str] = []
    (unit,) = plan_store(store, told, unit_bytes=20_000)
    assert (unit.start, unit.stop, told) == (0, None, [])


@pytest.mark.usefixtures("every_shard_is_large")
def test_tars_beyond_what_may_be_read_stay_whole_and_are_told(store: str, tmp_path: Path) -> None:
    for name in ("a", "b"):
        upload(store, write_tar(tmp_path / f"{name}.tar", FILES))
    told: list[str] = []
    assert len(plan_store(store, told, unit_bytes=20_000, scan_bytes=1000)) == 2
    assert told == [
        "in/a.tar (0.0 GB) and 1 more stay one unit each: splitting means reading more here than run.scan_bytes=1000"
    ]


@pytest.mark.usefixtures("every_shard_is_large")
def test_a_gzipped_tar_stays_whole_and_is_told(store: str, tmp_path: Path) -> None:
    upload(store, write_tar(tmp_path / "a.tar.gz", FILES, "w:gz"))
    upload(store, write_tar(tmp_path / "b.tgz", {"x.jpg": FILES["scenes/cup.jpg"]}, "w:gz"))
    told: list[str] = []
    units = plan_store(store, told, unit_bytes=20_000)
    assert [(unit.kind, unit.start, unit.stop) for unit in units] == [("tar", 0, None)] * 2
    assert told == ["in/a.tar.gz (0.0 GB) stays one unit: a gzipped shard cannot be split; a plain one can"]


class Unreadable(fsspec.AbstractFileSystem):
    """Lists a shard, and breaks with `error` when it is read."""

    protocol = "unreadable"
    error: ClassVar[Exception] = OSError()

    def ls(self, path: str, detail: bool = True, **options: Any) -> list[Any]:
        return [{"name": f"{self._strip_protocol(path)}/a.tar", "size": 100_000, "type": "file"}]

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        return {"name": self._strip_protocol(path), "size": 0, "type": "directory"}

    def open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        raise self.error


@pytest.mark.usefixtures("every_shard_is_large")
@pytest.mark.parametrize("error", [PermissionError("forbidden"), RuntimeError("an error of the store's library")])
def test_a_shard_that_cannot_be_read_now_stays_whole(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec.register_implementation("unreadable", Unreadable, clobber=True)
    monkeypatch.setattr(Unreadable, "error", error)
    told: list[str] = []
    (unit,) = plan_store("unreadable://archive", told, unit_bytes=20_000)
    assert (unit.start, unit.stop, unit.num_bytes) == (0, None, 100_000)
    assert told[0] == "in/a.tar"
    assert told[1].startswith("in/a.tar stays one unit, as it cannot be looked through: ")
    assert str(error) in told[1]


@pytest.mark.usefixtures("every_shard_is_large")
def test_an_interrupt_ends_the_readers(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    upload(store, write_tar(tmp_path / "a.tar", FILES))
    reading = threading.Event()

    def read_for_ever(file: Any, kind: str, target_bytes: int) -> list[Any]:
        reading.set()
        until = time.monotonic() + 60
        while time.monotonic() < until:
            file.seek(0)
            file.read(1)
        pytest.fail("nothing ended the reader")

    def interrupt(*arguments: Any) -> Iterator[Any]:
        submitted = original(*arguments)
        assert reading.wait(30)
        del submitted
        raise KeyboardInterrupt

    original = splitting.ThreadPoolExecutor.map
    monkeypatch.setattr(splitting, "split_shard", read_for_ever)
    monkeypatch.setattr(splitting.ThreadPoolExecutor, "map", interrupt)
    with pytest.raises(KeyboardInterrupt):
        plan_store(store, [], unit_bytes=20_000)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("split")]
