"""The plan: cut into units, written, read back, grown."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pictures import write_loose, write_parquet, write_tar, write_zip

from facemill.models.errors import ConfigError, OutputError
from facemill.pipeline.listing import Listing, list_inputs
from facemill.pipeline.plan import MAX_UNITS, Plan, append_units, plan_new_inputs, read_plan, size_units
from facemill.transforms.ops.options import RunOptions
from facemill.transforms.ops.reading import ReadOptions, read_unit
from facemill.transforms.ops.storage import Folder
from facemill.transforms.ops.units import Unit

MEMBERS = {f"person_{i % 4}/{i:02d}.jpg": random.Random(i).randbytes(1000) for i in range(30)}


def listing(*inputs: tuple[str, int], uri: str = "file:///data") -> Listing:
    return Listing(Folder(uri), [name for name, _ in inputs], [size for _, size in inputs], 0)


def empty_plan(folder: Path) -> Plan:
    return read_plan(Folder(str(folder / "no plan yet")))


def cut(sizes: Sequence[int], tmp_path: Path, **options: int) -> list[Unit]:
    inputs = listing(*((f"{i:04d}.jpg", size) for i, size in enumerate(sizes)))
    return plan_new_inputs(empty_plan(tmp_path), {"data": inputs}, RunOptions(**options))


@pytest.mark.parametrize(
    ("sizes", "unit_bytes", "unit_files", "runs"),
    [
        ([], 8, 10, []),
        ([4, 4, 4], 8, 10, [(4, 4), (4,)]),
        ([4, 5], 8, 10, [(4,), (5,)]),
        ([9], 8, 10, [(9,)]),
        ([3, 9, 3], 8, 10, [(3,), (9,), (3,)]),
        ([1, 1, 1, 1, 1], 8, 2, [(1, 1), (1, 1), (1,)]),
        ([0, 0, 0], 8, 10, [(0, 0, 0)]),
        ([8, 0, 1], 8, 10, [(8, 0), (1,)]),
    ],
)
def test_loose_files_are_cut_by_bytes_and_count(
    sizes: list[int], unit_bytes: int, unit_files: int, runs: list[tuple[int, ...]], tmp_path: Path
) -> None:
    units = cut(sizes, tmp_path, unit_bytes=unit_bytes, unit_files=unit_files)
    assert [unit.sizes for unit in units] == runs
    assert [unit.num_bytes for unit in units] == [sum(run) for run in runs]
    assert [unit.name for unit in units] == [f"unit-{i:06d}" for i in range(len(runs))]
    assert {unit.kind for unit in units} <= {"files"}


@given(
    sizes=st.lists(st.integers(0, 50), max_size=40),
    unit_bytes=st.integers(1, 100),
    unit_files=st.integers(1, 10),
    first=st.integers(0, 40),
)
def test_every_input_is_in_exactly_one_unit(
    sizes: list[int], unit_bytes: int, unit_files: int, first: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    output = Folder(str(tmp_path_factory.mktemp("plan")))
    inputs = [(f"{i:02d}.{'tar' if i % 7 == 3 else 'jpg'}", size) for i, size in enumerate(sizes)]
    options = RunOptions(unit_bytes=unit_bytes, unit_files=unit_files)
    plan = read_plan(output)
    for part in (inputs[:first], inputs):  # planned at once, or in two runs over a growing archive
        plan = append_units(output, plan, plan_new_inputs(plan, {"data": listing(*part)}, options))
    units = list(plan.units(plan.names))
    assert sorted(source for unit in units for source in unit.sources) == [f"data/{name}" for name, _ in inputs]
    assert plan.known_sizes() == {f"data/{name}": size for name, size in inputs}
    assert len(set(plan.names)) == len(plan)
    for unit in units:
        assert 1 <= len(unit.sources) <= unit_files
        assert unit.num_bytes <= unit_bytes or len(unit.sources) == 1


@pytest.mark.parametrize(("kind", "write"), [("tar", write_tar), ("zip", write_zip), ("parquet", write_parquet)])
def test_a_large_shard_is_cut_into_ranges_that_hold_every_member_once(
    kind: str, write: Callable[[Path, dict[str, bytes]], Path], tmp_path: Path
) -> None:
    shard = write(tmp_path / "in" / f"shard.{kind}", MEMBERS)
    told: list[str] = []
    inputs = list_inputs(str(shard.parent), ignored_extensions=())
    units = plan_new_inputs(
        empty_plan(tmp_path), {"in": inputs}, RunOptions(unit_bytes=9000), on_split=lambda source: told.append(source)
    )
    assert told == [f"in/shard.{kind}"]
    assert len(units) >= 3
    assert {(unit.kind, unit.sources, unit.sizes) for unit in units} == {
        (kind, (f"in/shard.{kind}",), (shard.stat().st_size,))
    }
    records = [list(read_unit(unit, {"in": inputs.root}, ReadOptions())) for unit in units]
    assert all(records), "a range without a member is a unit for nothing"
    assert [record.index for record in records[0]] == list(range(len(records[0])))
    assert sorted(record.data for part in records for record in part) == sorted(MEMBERS.values())
    assert len({record.image_id for part in records for record in part}) == len(MEMBERS)


@pytest.mark.parametrize(
    "write",
    [lambda path: write_tar(path / "a.tar.gz", MEMBERS, "w:gz"), lambda path: write_loose(path, {"a.tar": b"?"})],
)
def test_a_shard_that_cannot_be_cut_is_one_unit(write: Callable[[Path], Path], tmp_path: Path) -> None:
    write(tmp_path / "in")
    inputs = list_inputs(str(tmp_path / "in"), ignored_extensions=())
    (unit,) = plan_new_inputs(empty_plan(tmp_path), {"in": inputs}, RunOptions(unit_bytes=1))
    assert (unit.kind, unit.start, unit.stop) == ("tar", 0, None)


@pytest.mark.parametrize(
    ("sizes", "options", "expected"),
    [
        ([], {}, (8 << 20, 2000)),
        ([100_000] * 1000, {}, (8 << 20, 2000)),
        ([10**9] * 100_000, {}, (10**9, 2000)),  # 100 TB
        ([10**9 + 1], {"unit_bytes": 5}, (10_001, 2000)),
        ([1] * 300_000, {"unit_files": 2, "unit_bytes": 100}, (100, 3)),
        ([10**9] * 100_000, {"unit_bytes": 2 << 30}, (2 << 30, 2000)),
    ],
)
def test_units_grow_with_the_archive(sizes: list[int], options: dict[str, int], expected: tuple[int, int]) -> None:
    sized = size_units(sizes, RunOptions(**options))
    assert (sized.unit_bytes, sized.unit_files) == expected


def test_a_large_archive_has_about_as_many_units_as_there_may_be(tmp_path: Path) -> None:
    large = [10 * MAX_UNITS] * 300_000
    assert MAX_UNITS * 0.9 <= len(cut(large, tmp_path, unit_bytes=1, unit_files=1)) <= MAX_UNITS * 1.1


def test_a_small_shard_is_not_looked_into(tmp_path: Path) -> None:
    inputs = listing(("nowhere.tar", 18_000))
    (unit,) = plan_new_inputs(empty_plan(tmp_path), {"data": inputs}, RunOptions(unit_bytes=9000), on_split=pytest.fail)
    assert (unit.num_bytes, unit.stop) == (18_000, None)


def test_a_shard_that_has_gone_meanwhile_is_one_unit_for_its_failed_row(tmp_path: Path) -> None:
    inputs = listing(("nowhere.tar", 18_001), uri=tmp_path.as_uri())
    (unit,) = plan_new_inputs(empty_plan(tmp_path), {"data": inputs}, RunOptions(unit_bytes=9000))
    (record,) = read_unit(unit, {"data": inputs.root}, ReadOptions())
    assert record.failure is not None and record.failure.reason == "read_error"


def test_the_plan_is_only_ever_appended_to(tmp_path: Path) -> None:
    output = Folder(str(tmp_path))
    options = RunOptions(unit_files=2)
    first, second = [("b.jpg", 1), ("c.jpg", 2), ("d.jpg", 3)], [("a.jpg", 4), ("z.jpg", 5)]
    plan = read_plan(output)
    plan = append_units(output, plan, plan_new_inputs(plan, {"data": listing(*first)}, options))
    written = {path: path.read_bytes() for path in (tmp_path / "plan").iterdir()}
    plan = append_units(output, plan, plan_new_inputs(plan, {"data": listing(*first, *second)}, options))
    assert {path: path.read_bytes() for path in written} == written
    assert len(list((tmp_path / "plan").iterdir())) == 2
    units = {unit.name: unit.sources for unit in read_plan(output).units(plan.names)}
    assert units == {
        "unit-000000": ("data/b.jpg", "data/c.jpg"),
        "unit-000001": ("data/d.jpg",),
        "unit-000002": ("data/a.jpg", "data/z.jpg"),
    }
    assert plan.num_planned() == {"unit-000000": 2, "unit-000001": 1, "unit-000002": 2}


@pytest.mark.parametrize(("num_files", "names_each", "group_units"), [(70, 1, 64), (6000, 3000, 42), (2, 200_000, 1)])
def test_a_row_group_of_the_plan_is_small_enough_for_a_worker(
    num_files: int, names_each: int, group_units: int, tmp_path: Path
) -> None:
    units = [
        Unit(f"unit-{i:06d}", "files", ("data/a.jpg",) * names_each, (1,) * names_each, names_each)
        for i in range(max(2, num_files // names_each))
    ]
    append_units(Folder(str(tmp_path)), empty_plan(tmp_path), units)
    metadata = pq.read_metadata(tmp_path / "plan" / "00000000.parquet")
    assert metadata.row_group(0).num_rows == min(group_units, len(units))


def test_units_are_found_in_a_plan_of_many_parts(tmp_path: Path) -> None:
    output = Folder(str(tmp_path))
    plan = read_plan(output)
    planned = []
    for part in range(3):
        inputs = [(f"{part}-{i:03d}.jpg", i + 1) for i in range(150)]
        units = plan_new_inputs(plan, {"data": listing(*inputs)}, RunOptions(unit_files=1))
        plan = append_units(output, plan, units)
        planned += units
    names = [unit.name for unit in planned]
    random.Random(0).shuffle(names)
    by_name = {unit.name: unit for unit in planned}
    assert len(names) == 450
    assert list(read_plan(output).units(names)) == [by_name[name] for name in names]


def test_nothing_new_writes_nothing(tmp_path: Path) -> None:
    output = Folder(str(tmp_path))
    plan = append_units(output, read_plan(output), cut([1, 2], tmp_path))
    assert plan_new_inputs(plan, {"data": listing(("0000.jpg", 1), ("0001.jpg", 2))}, RunOptions()) == []
    assert append_units(output, plan, []) is plan
    assert [path.name for path in (tmp_path / "plan").iterdir()] == ["00000000.parquet"]


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    output = Folder(str(tmp_path))
    not_utf8 = os.fsdecode(b"data/\xff\xfe \xc3\xa9.jpg")
    units = [
        Unit("unit-000000", "files", (not_utf8, "data/\u4e2d'\".jpg"), (0, 2**40), 2**40),
        Unit("unit-000001", "tar", ("data/a.tar",), (100,), 60, 512, 1024),
        Unit("unit-000002", "zip", ("data/b.zip",), (7,), 7, 0, None),
    ]
    append_units(output, read_plan(output), units)
    plan = read_plan(output)
    assert list(plan.units(["unit-000002", "unit-000000", "unit-000001"])) == [units[2], units[0], units[1]]
    assert os.fsencode(next(iter(plan.known_sizes()))) == b"data/\xff\xfe \xc3\xa9.jpg"


def test_a_file_whose_name_is_no_utf8_is_planned_read_and_known_again(tmp_path: Path) -> None:
    with open(os.fsencode(tmp_path) + b"/\xff.jpg", "wb") as file:
        file.write(b"data")
    inputs = {"in": list_inputs(str(tmp_path), ignored_extensions=())}
    output = Folder(str(tmp_path / "out"))
    append_units(output, read_plan(output), plan_new_inputs(read_plan(output), inputs, RunOptions()))
    plan = read_plan(output)
    (unit,) = plan.units(plan.names)
    (record,) = read_unit(unit, {"in": inputs["in"].root}, ReadOptions())
    assert (record.image_id, record.data) == ("in/\\xff.jpg", b"data")
    assert plan_new_inputs(plan, inputs, RunOptions()) == []


def test_another_size_than_planned_is_refused(tmp_path: Path) -> None:
    output = Folder(str(tmp_path))
    plan = append_units(output, read_plan(output), cut([1, 2], tmp_path))
    changed = listing(("0000.jpg", 1), ("0001.jpg", 3))
    with pytest.raises(ConfigError, match=r"the input data/0001\.jpg had 2 bytes when it was planned and has 3 now"):
        plan_new_inputs(plan, {"data": changed}, RunOptions())


def test_an_input_that_is_gone_stays_planned(tmp_path: Path) -> None:
    output = Folder(str(tmp_path))
    plan = append_units(output, read_plan(output), cut([1, 2], tmp_path))
    assert plan_new_inputs(plan, {"data": listing(("0001.jpg", 2))}, RunOptions()) == []
    assert len(plan) == 1


def test_the_largest_unit_comes_first_and_equals_by_name(tmp_path: Path) -> None:
    plan = append_units(Folder(str(tmp_path)), empty_plan(tmp_path), cut([3, 7, 3, 9], tmp_path, unit_bytes=1))
    assert plan.pending(frozenset({"unit-000003"})) == [("unit-000001", 7), ("unit-000000", 3), ("unit-000002", 3)]
    assert plan.pending(frozenset(plan.names)) == []


def test_the_plan_holds_the_largest_unit_of_each_part_first(tmp_path: Path) -> None:
    output = Folder(str(tmp_path))
    plan = append_units(output, read_plan(output), cut([3, 7, 3, 9], tmp_path, unit_bytes=1))
    first = ["unit-000003", "unit-000001", "unit-000000", "unit-000002"]
    assert plan.names == read_plan(output).names == first
    units = plan_new_inputs(plan, {"data": listing(("x.jpg", 8), ("y.jpg", 9))}, RunOptions(unit_bytes=1))
    assert append_units(output, plan, units).names == read_plan(output).names == [*first, "unit-000005", "unit-000004"]


def test_the_roots_of_units(tmp_path: Path) -> None:
    inputs = {"a": listing(("1.jpg", 1), ("2.jpg", 2)), "b": listing(("1.tar", 3))}
    empty = empty_plan(tmp_path)
    plan = append_units(Folder(str(tmp_path)), empty, plan_new_inputs(empty, inputs, RunOptions()))
    assert len(plan) == 2
    assert plan.roots(plan.names) == {"a", "b"}
    assert plan.roots(["unit-000001"]) == {"b"}
    assert plan.roots([]) == empty.roots([]) == set()


def test_leftovers_of_a_killed_writer_are_no_plan(tmp_path: Path) -> None:
    write_loose(tmp_path / "plan", {".00000000.parquet.1-ab.tmp": b"half", ".x.parquet": b"half"})
    assert len(read_plan(Folder(str(tmp_path)))) == 0


@pytest.mark.parametrize("num_bytes_left", [0, 3, 200])
def test_a_damaged_plan_is_one_clear_error(num_bytes_left: int, tmp_path: Path) -> None:
    append_units(Folder(str(tmp_path)), empty_plan(tmp_path), cut([1], tmp_path))
    path = tmp_path / "plan" / "00000000.parquet"
    path.write_bytes(path.read_bytes()[:num_bytes_left])
    with pytest.raises(OutputError, match=r"the plan in .* is damaged"):
        read_plan(Folder(str(tmp_path)))
