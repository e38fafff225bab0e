"""Names of input roots, and inputs that are reached twice or belong to the output."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from facemill.models.errors import ConfigError
from facemill.pipeline.listing import Listing
from facemill.pipeline.roots import check_disjoint, check_not_moved, leave_out, name_roots
from facemill.transforms.ops.storage import Folder


def listing(uri: str, *names: str, num_ignored: int = 0) -> Listing:
    """A listing whose files have as many bytes as their names have letters."""
    return Listing(Folder(uri), list(names), [len(name) for name in names], num_ignored)


@pytest.mark.parametrize(
    ("uris", "earlier", "names"),
    [
        ([], {}, []),
        (["file:///data/photos"], {}, ["photos"]),
        (["file:///a/photos", "file:///b/photos", "s3://photos"], {}, ["photos", "photos-2", "photos-3"]),
        (["file:///"], {}, ["file"]),
        (["s3://bucket"], {}, ["bucket"]),
        (["https://host.org/a"], {}, ["a"]),
        (["file:///b/photos"], {"photos": "file:///a/photos"}, ["photos-2"]),
        (["file:///a/photos"], {"photos-2": "file:///a/photos", "photos": "file:///b/photos"}, ["photos-2"]),
        (["file:///a/x-2", "file:///b/x", "file:///c/x"], {}, ["x-2", "x", "x-3"]),
        (["file:///a/\udcff"], {}, ["\udcff"]),
    ],
)
def test_names(uris: Sequence[str], earlier: dict[str, str], names: list[str]) -> None:
    named = name_roots([listing(uri, "1.jpg") for uri in uris], earlier)
    assert list(named) == names
    assert [named[name].root.uri for name in names] == list(uris)


def test_names_do_not_depend_on_what_is_listed_again() -> None:
    first = name_roots([listing("file:///a/photos", "1"), listing("file:///b/photos", "1")], {})
    earlier = {name: part.root.uri for name, part in first.items()}
    again = name_roots([listing("file:///b/photos", "1"), listing("file:///a/photos", "1")], earlier)
    assert {name: part.root.uri for name, part in again.items()} == earlier


def test_listings_of_one_root_are_put_together() -> None:
    parts = [listing("file:///p", "b", "dd", num_ignored=1), listing("file:///p", "a", "b"), listing("file:///q", "c")]
    named = name_roots(parts, {})
    assert (named["p"].names, named["p"].sizes) == (["a", "b", "dd"], [1, 1, 2])
    assert named["q"].names == ["c"]
    assert parts[0].names == ["b", "dd"], "the argument is left alone"


OUTER, INNER, BESIDE = "file:///data", "file:///data/a", "file:///data/ab"


@pytest.mark.parametrize(
    ("listings", "earlier", "known"),
    [
        pytest.param({"data": (OUTER, "a/1"), "a": (INNER, "1")}, {}, {}, id="both now"),
        pytest.param({"a": (INNER, "1")}, {"data": OUTER}, {"data/a/1": 3}, id="the outer earlier"),
        pytest.param({"data": (OUTER, "a/1")}, {"a": INNER}, {"a/1": 3}, id="the inner earlier"),
    ],
)
def test_an_input_below_two_roots_is_refused(
    listings: dict[str, tuple[str, str]], earlier: dict[str, str], known: dict[str, int]
) -> None:
    named = {name: listing(*parts) for name, parts in listings.items()}
    with pytest.raises(ConfigError, match=r"a/1 lies below two input roots, file:///data and file:///data/a;"):
        check_disjoint(named, earlier, known)


OLD, KNOWN = {"old": "file:///old"}, {"old/a": 1, "old/bb": 2}


@pytest.mark.parametrize("names", [["a", "bb"], ["a", "bb", "c"], ["bb"]], ids=["all", "it has grown", "it has shrunk"])
def test_a_root_that_was_moved_is_refused(names: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"--moved old=file:///new; if these are others, --moved old=file:///old"):
        check_not_moved({"new": listing("file:///new", *names)}, OLD, KNOWN)


@pytest.mark.parametrize("others", [["c"], ["bb", "c", "d", "e"]], ids=["a part", "few of many"])
def test_a_root_that_shares_a_part_with_another_is_told(others: list[str]) -> None:
    (warning,) = check_not_moved({"new": listing("file:///new", "a", *others)}, OLD, KNOWN)
    share = len({"a", *others} & {"a", "bb"})
    assert warning.startswith(
        f"{share} of {1 + len(others)} inputs of file:///new have the name and size of one of old"
    )


def test_a_root_of_which_it_was_told_where_the_other_lies_is_taken() -> None:
    assert check_not_moved({"new": listing("file:///new", "a", "bb")}, OLD, KNOWN, told=["old"]) == []


@pytest.mark.parametrize(
    ("listings", "known"),
    [
        pytest.param({"new": listing("file:///new", "c", "d")}, KNOWN, id="other names"),
        pytest.param({"new": listing("file:///new", "a", "bb")}, {"old/a": 5, "old/bb": 5}, id="other sizes"),
        pytest.param({"new": listing("file:///new", "")}, {"old/": 0}, id="sizes that nobody knows"),
        pytest.param({"old": listing("file:///old", "a", "bb")}, KNOWN, id="the same root"),
        pytest.param(
            {"old": listing("file:///old", "a", "bb"), "new": listing("file:///new", "a", "bb")}, KNOWN, id="both named"
        ),
    ],
)
def test_roots_that_are_others_are_taken(listings: dict[str, Listing], known: dict[str, int]) -> None:
    assert check_not_moved(listings, OLD, known) == []


@pytest.mark.parametrize(
    ("listings", "earlier", "known"),
    [
        pytest.param({}, {}, {}, id="nothing"),
        pytest.param({"data": (OUTER, "b/1"), "a": (INNER, "1")}, {}, {}, id="other files"),
        pytest.param({"a": (INNER, "1"), "ab": (BESIDE, "1")}, {}, {}, id="a name that begins alike"),
        pytest.param({"a": (INNER, "2")}, {"data": OUTER}, {"data/a/1": 3}, id="other files earlier"),
        pytest.param({"data": (OUTER, "a/1")}, {"data": OUTER}, {"data/a/1": 3}, id="the same root again"),
    ],
)
def test_inputs_that_lie_apart_are_taken(
    listings: dict[str, tuple[str, str]], earlier: dict[str, str], known: dict[str, int]
) -> None:
    check_disjoint({name: listing(*parts) for name, parts in listings.items()}, earlier, known)


@pytest.mark.parametrize(
    ("output", "left"),
    [
        ("/data/out", ["1.jpg", "outer/1.jpg"]),
        ("/data/out/", ["1.jpg", "outer/1.jpg"]),
        ("/elsewhere", ["1.jpg", "out/1.jpg", "outer/1.jpg"]),
        ("/data", []),
        ("/", ["1.jpg", "out/1.jpg", "outer/1.jpg"]),
        ("memory://data/out", ["1.jpg", "out/1.jpg", "outer/1.jpg"]),
    ],
)
def test_the_output_is_no_input(output: str, left: list[str]) -> None:
    inputs = listing(OUTER, "1.jpg", "out/1.jpg", "outer/1.jpg")
    kept = leave_out(inputs, Folder(output))
    assert (kept.names, kept.sizes) == (left, [len(name) for name in left])


@pytest.mark.parametrize("linked", ["input", "output"])
def test_the_output_is_no_input_by_way_of_a_link_either(linked: str, tmp_path: Path) -> None:
    (tmp_path / "real" / "out").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    input_folder, output_folder = ("link", "real") if linked == "input" else ("real", "link")
    inputs = listing((tmp_path / input_folder).as_uri(), "1.jpg", "out/2.tar")
    assert leave_out(inputs, Folder(str(tmp_path / output_folder / "out"))).names == ["1.jpg"]
