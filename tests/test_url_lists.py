"""Lists of URLs: which lines are URLs, where ranges are cut, and what of it becomes inputs and units."""

from __future__ import annotations

import io
import itertools
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pictures import write_loose

from facemill.models.errors import BadInputError, ConfigError
from facemill.pipeline.config import load_config
from facemill.pipeline.listing import list_inputs
from facemill.pipeline.plan import plan_new_inputs, read_plan
from facemill.pipeline.run import RunRequest, run
from facemill.transforms.ops.kinds import input_kind
from facemill.transforms.ops.options import RunOptions
from facemill.transforms.ops.reading import ReadOptions
from facemill.transforms.ops.storage import Folder
from facemill.transforms.ops.units import Unit
from facemill.transforms.ops.url_lists import Delimiter, UrlLine, delimiter_of, iterate_lines, split_lines

A, B = "https://h/a.jpg", "s3://b/b.jpg"


def read(text: str | bytes, *, delimiter: Delimiter = "\t", **options: Any) -> list[UrlLine]:
    data = text.encode() if isinstance(text, str) else text
    return list(iterate_lines(io.BytesIO(data), delimiter=delimiter, **options))


def urls(lines: list[UrlLine]) -> list[tuple[str, str | None]]:
    assert all((line.url is None) != (line.failure is None) for line in lines)
    return [(line.url or "failed", line.label) for line in lines]


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("a.urls", "urls"),
        ("a/b.URLS.txt", "urls"),
        ("a.urls.tsv", "urls"),
        ("a.urls.csv", "urls"),
        ("a.txt", "files"),
        ("urls.txt", "files"),
        ("a.urls.gz", "files"),
        ("a.urls/1.jpg", "files"),
        ("a.mp4", "videos"),
        ("a.tar", "tar"),
    ],
)
def test_the_kind_goes_by_the_ending(path: str, kind: str) -> None:
    assert input_kind(path) == kind
    assert delimiter_of(path) == ("," if path.endswith("csv") else "\t")


@pytest.mark.parametrize(
    ("text", "delimiter", "expected"),
    [
        (f"{A}\n{B}\n", "\t", [(A, None), (B, None)]),
        (f"{A}\r\n{B}", "\t", [(A, None), (B, None)]),
        (f"\n# a comment\n   \n  # another\n{A}\n", "\t", [(A, None)]),
        (f"{A}\tAnn Lee\n{B}\t\n {A} \t bob \tmore\n", "\t", [(A, "Ann Lee"), (B, None), (A, "bob")]),
        (f'{A},ann\n"https://h/a,b.jpg","Lee, Ann"\n', ",", [(A, "ann"), ("https://h/a,b.jpg", "Lee, Ann")]),
        (f"\ufeff{A}\n", "\t", [(A, None)]),
        (f"\ufeffurl,label\n{A},ann\n", ",", [(A, "ann")]),
        (f"label\tscore\turl\nann\t1\t{A}\nbob\n", "\t", [(A, "ann"), ("failed", "bob")]),
        (f"url\n{A}\n", "\t", [(A, None)]),
        ("https://h/grüße.jpg?x=1&y=a%20b#c\n", "\t", [("https://h/grüße.jpg?x=1&y=a%20b#c", None)]),
        ("# nothing else", "\t", []),
    ],
)
def test_lines_are_urls_and_labels(text: str, delimiter: Delimiter, expected: list[tuple[str, str | None]]) -> None:
    assert urls(read(text, delimiter=delimiter)) == expected


def test_columns_by_choice() -> None:
    text = f"person\tlink\tlabel\nann\t{A}\tx\n"
    assert urls(read(text, url_column="link", label_column="person")) == [(A, "ann")]
    assert urls(read(f"url\tperson\n{A}\tann\n", url_column="image", label_column="person")) == [(A, "ann")]
    assert urls(read(f"{A}\tann\n", url_column="image", label_column="person")) == [(A, "ann")]  # names no columns
    with pytest.raises(BadInputError, match="no column 'person', columns are: url, label"):
        read(f"url\tlabel\n{A}\tx\n", label_column="person")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a.jpg", "no URL"),
        ("/etc/passwd", "no URL"),
        ("https://", "no URL"),
        ("://h/a", "no URL"),
        ("https://h/a b.jpg", "spaces or control characters"),
        ("https://h/a\x00b", "spaces or control characters"),
        ("https://h/\x1b[31m", "spaces or control characters"),
        ("https://h/a\rb", "spaces or control characters"),
        ("https://h/\u202egpj.exe", "spaces or control characters"),
        (b"https://h/\xff", "not UTF-8"),
        ("https://h/" + "a" * 70_000, "a line of more than 65536 bytes"),
    ],
)
def test_what_is_no_url_is_told_with_its_line(line: str | bytes, message: str) -> None:
    text = line.encode() if isinstance(line, str) else line
    good, bad, last = read(f"{A}\n".encode() + text + f"\n{B}\n".encode())
    assert (good.url, last.url) == (A, B)
    assert (bad.name, bad.url) == ("00000002", None)
    assert bad.failure is not None
    assert bad.failure.reason == "read_error"
    assert message in bad.failure.message


def test_the_case_of_a_scheme_does_not_matter() -> None:
    assert urls(read("HTTPS://h/A.jpg\nS3://b/b.jpg")) == [("https://h/A.jpg", None), (B, None)]


def test_names_are_line_numbers_and_urls_without_credentials() -> None:
    signed = "https://h/a.jpg?id=5&X-Amz-Signature=abc&X-Amz-Expires=9"
    names = [
        line.name for line in read(f"\n{A}\n#\n{A}\nhttps://me:secret@h/a.jpg?b=@\n{signed}\nhttps://h/{'x' * 2000}")
    ]
    assert names == [
        f"00000002/{A}",
        f"00000004/{A}",
        "00000005/https://h/a.jpg?b=@",
        "00000006/https://h/a.jpg?id=5",
        f"00000007/https://h/{'x' * 990}",
    ]


def test_an_empty_list() -> None:
    with pytest.raises(BadInputError) as caught:
        read("")
    assert caught.value.reason == "empty"
    assert split_lines(io.BytesIO(b""), 10) == [(0, 0, 0)]


lines = st.sampled_from([A, f"{B}\tlabel", "", "# comment", "no url", "url\tlabel", "x" * 66_000, "\ufeff", "\r"])


@given(lines=st.lists(lines, max_size=12), ends=st.booleans(), target_lines=st.integers(1, 5))
def test_all_ranges_together_are_the_whole(lines: list[str], ends: bool, target_lines: int) -> None:
    data = "\n".join(lines).encode() + (b"\n" if ends else b"")
    ranges = split_lines(io.BytesIO(data), target_lines)
    assert all(part.stop - part.start <= target_lines for part in ranges)
    assert [first.stop for first in ranges[:-1]] == [second.start for second in ranges[1:]]
    if data:
        parts = [read(data, start=part.start, stop=part.stop) for part in ranges]
        assert list(itertools.chain(*parts)) == read(data)


def test_a_very_long_list_is_cut_into_a_thousand_ranges() -> None:
    ranges = split_lines(io.BytesIO(b"\n" * 1_000_000), 40)
    assert (len(ranges), ranges[0]) == (1000, (0, 1000, 100_000_000))


@given(st.binary(max_size=300), st.sampled_from(["\t", ","]))
def test_anything_is_read_to_its_end(data: bytes, delimiter: Delimiter) -> None:
    if data:
        numbers = [int(line.name[:8]) for line in read(data, delimiter=delimiter)]
        assert numbers == sorted(set(numbers))
        assert all(1 <= number <= data.count(b"\n") + 1 for number in numbers)


def plan(folder: Path, **options: int) -> list[Unit]:
    listing = list_inputs(str(folder), ignored_extensions=ReadOptions().ignored_extensions)
    told: list[str] = []
    empty = read_plan(Folder("memory://no-plan"))
    units = plan_new_inputs(empty, {"in": listing}, RunOptions(**options), on_split=told.append)
    assert not told
    return units


def test_lists_are_inputs_and_cut_by_their_lines(tmp_path: Path) -> None:
    many = "".join(f"https://h/{number}.jpg\n" for number in range(100)).encode()
    files = {"a.urls": many, "b/c.urls.txt": f"{A}\n".encode(), "b/notes.txt": b"text", ".hidden.urls.txt": b"text"}
    units = plan(write_loose(tmp_path, files))
    assert [(unit.kind, unit.sources, unit.start, unit.stop) for unit in units] == [
        ("urls", ("in/a.urls",), 0, 40),
        ("urls", ("in/a.urls",), 40, 80),
        ("urls", ("in/a.urls",), 80, 100),
        ("urls", ("in/b/c.urls.txt",), 0, None),
    ]
    assert [unit.num_bytes for unit in units] == [4_000_000, 4_000_000, 2_000_000, 100_000]
    assert {unit.num_planned for unit in units} == {None}


def test_long_lists_make_larger_units(tmp_path: Path) -> None:
    many = b"".join(b"https://hhhhhhhhhhhh/%054d.jpg\n" % number for number in range(20_000))  # 80 bytes each
    units = plan(write_loose(tmp_path, {"a.urls": many}))
    assert [(unit.stop or 0) - unit.start for unit in units] == [312] * 64 + [32]  # 20,000 / 64
    units = plan(tmp_path, unit_files=100)
    assert len(units) == 200


def test_a_text_file_that_is_no_list_is_told(tmp_path: Path) -> None:
    (tmp_path / "photos.txt").write_text(A)
    request = RunRequest([str(tmp_path / "photos.txt")], Folder(str(tmp_path / "out")), load_config())
    with pytest.raises(ConfigError, match=r"a list of URLs is called \*\.urls\.txt"):
        run(request)
