"""Names of classes, from labels of any kind."""

from __future__ import annotations

import re
import string
from unicodedata import category
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facemill.pipeline.export.names import MAX_NAME_BYTES, class_name, folded, marked_name


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("Aaron_Eckhart", "Aaron_Eckhart"),
        ("n000002", "n000002"),
        ("José María Aznar", "José María Aznar"),
        ("李小龙", "李小龙"),
        ("", "%"),
        (".", "%2E"),
        ("..", "%2E%2E"),
        (".hidden", "%2Ehidden"),
        ("dot.inside", "dot.inside"),
        ("dot at the end.", "dot at the end%2E"),
        (" spaces ", "%20spaces%20"),
        ("a/b", "a%2Fb"),
        ("../../etc/passwd", "%2E.%2F..%2Fetc%2Fpasswd"),
        (r"C:\Windows", "C%3A%5CWindows"),
        ('<script>"|?*', "%3Cscript%3E%22%7C%3F%2A"),
        ("100%", "100%25"),
        ("%2F", "%252F"),
        ("new\nline\ttab\0", "new%0Aline%09tab%00"),
        ("right-to-left \u202e", "right-to-left %E2%80%AE"),
        ("no-break\u00a0space", "no-break%C2%A0space"),
        ("CON", "%43ON"),
        ("con", "%63on"),
        ("nul.txt", "%6Eul.txt"),
        ("LPT9", "%4CPT9"),
        ("COM10", "COM10"),
        ("Conrad", "Conrad"),
    ],
)
def test_class_name(label: str, name: str) -> None:
    assert class_name(label) == name


def test_a_long_label_is_cut_and_marked() -> None:
    name = class_name("a" * 4000)
    assert re.fullmatch(r"a{102}%~[0-9a-f]{16}", name)
    assert class_name("a" * 4001) != name


def test_a_long_label_is_cut_between_characters() -> None:
    name = class_name("龙" * 200)
    assert re.fullmatch(r"龙{34}%~[0-9a-f]{16}", name)  # 34 * 3 = 102 bytes


def test_a_label_cannot_pretend_to_be_a_cut_one() -> None:
    assert class_name(class_name("a" * 4000)) != class_name("a" * 4000)


@pytest.mark.parametrize(
    ("first", "second", "is_same"),
    [
        ("Anna", "ANNA", True),
        ("straße", "STRASSE", True),
        ("Jose\u0301", "Jos\u00e9", True),  # e with an accent, and the two in one
        ("Anna", "Hanna", False),
    ],
)
def test_what_file_systems_take_for_one_name(first: str, second: str, is_same: bool) -> None:
    assert (folded(first) == folded(second)) == is_same


def test_marked_names_differ_where_plain_ones_are_one_on_some_systems() -> None:
    assert marked_name("Anna").startswith("Anna%~")
    assert folded(marked_name("Anna")) != folded(marked_name("ANNA"))


labels = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)


@given(labels)
def test_any_label_makes_a_safe_name(label: str) -> None:
    for name in (class_name(label), marked_name(label)):
        assert 0 < len(name.encode()) <= MAX_NAME_BYTES
        assert not set(name) & set('/\\:*?"<>|')
        assert not {category(character) for character in name} & {"Cc", "Cf", "Zl", "Zp"}
        assert name[0] not in ". "
        assert name[-1] not in ". "


@given(labels)
def test_the_label_can_be_told_from_a_name_that_is_not_cut(label: str) -> None:
    name = class_name(label)
    if "%~" not in name:
        assert name == "%" if not label else unquote(name, errors="strict") == label


@given(labels, labels)
def test_two_labels_have_two_names(first: str, second: str) -> None:
    assert (class_name(first) == class_name(second)) == (first == second)
    assert (marked_name(first) == marked_name(second)) == (first == second)


def test_ordinary_names_sort_as_their_labels() -> None:
    ordinary = [a + b for a in string.ascii_letters for b in ("_1", " B", "-c", "é")]
    assert sorted(ordinary, key=class_name) == sorted(ordinary)
