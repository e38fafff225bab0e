"""The options of an export."""

from __future__ import annotations

import pytest

from facemill.models.errors import ConfigError
from facemill.pipeline.export.formats import FORMATS
from facemill.pipeline.export.options import FORMAT_NAMES, ExportOptions, Split, parse_splits


@pytest.mark.parametrize(
    ("text", "splits"),
    [
        ("train=1", [("train", 1.0)]),
        ("train=0.8,validation=0.1,test=0.1", [("train", 0.8), ("validation", 0.1), ("test", 0.1)]),
        ("test=.25, train=.75", [("train", 0.75), ("test", 0.25)]),  # always in the one order
    ],
)
def test_splits(text: str, splits: list[tuple[str, float]]) -> None:
    assert parse_splits(text) == tuple(Split(*split) for split in splits)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "--split wants NAME=SHARE with the names train, validation, test, such as train=0.9,test=0.1, got ''"),
        ("train=0.5,dev=0.5", "--split wants NAME=SHARE with the names train, validation, test"),
        ("train=0.5,train=0.5", "--split names train twice"),
        ("train", "--split wants name=share, such as train=0.9,test=0.1, got 'train'"),
        ("train=most", "--split wants name=share"),
        ("train=0.9,test=0", r"a share of --split must lie in \(0, 1\], such as 0.8 for 80 %, got 0 in"),
        ("train=1.2,test=-0.2", r"a share of --split must lie in \(0, 1\], such as 0.8 for 80 %, got 1.2"),
        ("train=nan", r"a share of --split must lie in \(0, 1\], such as 0.8 for 80 %, got nan"),
        ("train=0.8,test=0.1", "the shares of --split must add up to 1, got 0.9"),
    ],
)
def test_wrong_splits(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_splits(text)


def test_limits_that_leave_nothing() -> None:
    assert ExportOptions(format="csv", min_images=5, max_images=5).max_images == 5
    with pytest.raises(ConfigError, match="--max-images 4 is less than --min-images 5"):
        ExportOptions(format="csv", min_images=5, max_images=4)


def test_the_command_line_knows_the_formats() -> None:
    assert tuple(FORMATS) == FORMAT_NAMES
