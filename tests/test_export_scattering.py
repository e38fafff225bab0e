"""Putting items in order by files."""

from __future__ import annotations

import random
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from facemill.models.errors import OutputError
from facemill.pipeline.export.scattering import Buckets


def test_items_come_back_in_order(tmp_path: Path) -> None:
    contents = [bytes([number % 251]) * (number % 7) for number in range(20_000)]  # some are empty
    items = list(enumerate(contents))
    random.Random(3).shuffle(items)
    buckets = Buckets(tmp_path, len(contents))
    buckets.fill(iter(items))
    assert len(list(tmp_path.glob("*.crops"))) == 5  # of 4,096
    assert list(buckets.drain()) == contents


def test_what_was_read_is_removed(tmp_path: Path) -> None:
    buckets = Buckets(tmp_path, 10_000)
    buckets.fill((position, b"x") for position in reversed(range(10_000)))
    reading = buckets.drain()
    for _ in range(5000):
        next(reading)
    assert len(list(tmp_path.glob("*.crops"))) == 2
    assert len(list(reading)) == 5000
    assert not list(tmp_path.glob("*.crops"))


def test_nothing_comes_back_of_nothing(tmp_path: Path) -> None:
    buckets = Buckets(tmp_path, 0)
    buckets.fill(iter([]))
    assert list(buckets.drain()) == []


@pytest.mark.parametrize("positions", [[0, 1], [0, 1, 1], [0, 1, 2, 2]], ids=["missing", "instead", "twice"])
def test_a_position_that_is_missing_or_there_twice_is_an_error(positions: list[int], tmp_path: Path) -> None:
    buckets = Buckets(tmp_path, 3)
    buckets.fill((position, b"x") for position in positions)
    with pytest.raises(OutputError, match=f"the export does not balance: {len(positions)} crops came for 3 faces"):
        list(buckets.drain())


def test_few_files_are_open_however_many_items_there_are(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (400, hard))  # of 1,024 on most systems
    try:
        buckets = Buckets(tmp_path, 10**9)
        buckets.fill(iter([(10**9 - 1, b"last")]))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(list(tmp_path.glob("*.crops"))) == 128


def test_a_full_disk_names_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "000.crops").symlink_to("/dev/full")
    buckets = Buckets(tmp_path, 3)
    with pytest.raises(OutputError, match="No space left on device; --scratch names a folder with room"):
        buckets.fill((position, bytes(100_000)) for position in range(3))


def test_errors_of_the_crops_themselves_are_not_told_as_those_of_the_disk(tmp_path: Path) -> None:
    def crops() -> Iterator[tuple[int, bytes]]:
        yield 0, b"x"
        raise ConnectionResetError("the store hung up")

    with pytest.raises(ConnectionResetError, match="the store hung up"):
        Buckets(tmp_path, 3).fill(crops())


def test_only_a_full_disk_is_told_as_full(tmp_path: Path) -> None:
    (tmp_path / "000.crops").mkdir()
    with pytest.raises(OutputError, match=r"cannot write .*000\.crops: Is a directory$"):
        Buckets(tmp_path, 3).fill(iter([(0, b"x")]))


@pytest.mark.parametrize("ending", ["crops", "index"])
def test_what_cannot_be_read_back_is_told(ending: str, tmp_path: Path) -> None:
    buckets = Buckets(tmp_path, 1)
    buckets.fill(iter([(0, b"x")]))
    (tmp_path / f"000.{ending}").unlink()
    with pytest.raises(OutputError, match=r"cannot read .*000\.crops: No such file or directory$"):
        list(buckets.drain())
