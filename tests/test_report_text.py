"""Text that is fit to be shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facemill.pipeline.report.text import duration, measure, percent, shortened, visible


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("", ""),
        ("Anna Müller 3.jpg", "Anna Müller 3.jpg"),
        ("<script>alert('1')</script>", "<script>alert('1')</script>"),
        ("two\nlines\tand\r", r"two\nlines\tand\r"),
        ("\x1b[31mred\x00", r"\x1b[31mred\x00"),
        ("\u202egpj.exe", r"\u202egpj.exe"),
        ("\u2066a\u2069", r"\u2066a\u2069"),
        ("a\u200bb\ufeff", r"a\u200bb\ufeff"),
        ("a\u00a0b\u2003c", r"a\xa0b\u2003c"),
        ("blank\u3164\u2800", r"blank\u3164\u2800"),
        ("\U000e0041tag", r"\U000e0041tag"),
        ("half \ud800", r"half \ud800"),
        (" ends ", r"\x20ends\x20"),
        ("  ", r"\x20\x20"),
        ("山田\u3000太郎", "山田\u3000太郎"),
        ("क्\u200dष", "क्\u200dष"),
        ("שלום", "שלום"),
        (r"a\\xff", r"a\\xff"),
    ],
)
def test_what_cannot_be_seen_is_spelled_out(text: str, seen: str) -> None:
    assert visible(text) == seen


@given(st.text())
def test_nothing_unseen_is_left(text: str) -> None:
    seen = visible(text)
    assert seen.replace("\u200c", "").replace("\u200d", "").replace("\u3000", "").isprintable()
    assert not seen.startswith(" ") and not seen.endswith(" ")
    assert visible(seen) == seen


def test_long_text_loses_its_middle() -> None:
    text = "a" * 90 + "b" * 10
    assert shortened(text, 100) == text
    assert shortened(text, 40) == "a" * 30 + " … 60 more … " + "b" * 10
    assert shortened("x" * 4000, 4) == "xxx … 3,996 more … x"
    assert shortened("xyz", 2) == "xy … 1 more … "


@pytest.mark.parametrize(
    ("part", "whole", "words"),
    [
        (0, 7, "0 %"),
        (0, 0, "0 %"),
        (7, 7, "100 %"),
        (1, 3, "33.3 %"),
        (1, 100_000, "< 0.1 %"),
        (99_999, 100_000, "> 99.9 %"),
    ],
)
def test_percent(part: int, whole: int, words: str) -> None:
    assert percent(part, whole) == words


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0, "0"),
        (1, "1"),
        (0.98, "0.98"),
        (0.99949, "0.999"),
        (0.99951, "0.9995"),
        (0.999999, "0.9999"),
        (12.345, "12.3"),
        (-3.14159, "\N{MINUS SIGN}3.14"),
        (1234.4, "1,234"),
        (0.00012345, "0.000123"),
        (0.0000123, "1.23e\N{MINUS SIGN}05"),
        (float("nan"), "nan"),
        (float("inf"), "inf"),
    ],
)
def test_measure(value: float, words: str) -> None:
    assert measure(value) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0.4 s"), (12.34, "12.3 s"), (61, "1 min 01 s"), (3600, "1 h 00 min"), (100_000, "27 h 46 min")],
)
def test_duration(seconds: float, words: str) -> None:
    assert duration(seconds) == words
