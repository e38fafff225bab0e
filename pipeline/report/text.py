"""Text from archives and stores, made fit to be shown: nothing unseen and nothing endless."""

from __future__ import annotations

import math

# Joiners that the spelling of names needs, and the space of Chinese and Japanese.
_UNSEEN_BUT_KEPT = frozenset("\u200c\u200d\u3000")
# Letters and marks that are blank, though Unicode does not call them spaces.
_BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
_TAIL_SHARE = 4  # of a shortened text one part in so many is its end
_MIN_SHARE = 0.001
_MINUS = "\N{MINUS SIGN}"


def visible(text: str) -> str:
    r"""`text` on one line, with all that would not be seen spelled out: `\n`, `\u202e`, `\x20` at its ends.

    That is, control characters, those that change the direction of writing, blanks that are no plain spaces, and code
    points that are no characters. Backslashes stay as they are, since names have theirs doubled already.
    """
    if not text.isprintable() or not _BLANK.isdisjoint(text):
        text = "".join(map(_spelled, text))
    core = text.strip(" ")
    start = len(text) - len(text.lstrip(" "))
    return "\\x20" * start + core + "\\x20" * (len(text) - start - len(core))


def _spelled(character: str) -> str:
    is_seen = character.isprintable() and character not in _BLANK
    if is_seen or character in _UNSEEN_BUT_KEPT:
        return character
    return character.encode("unicode_escape").decode("ascii")


def shortened(text: str, max_length: int) -> str:
    """`text`, with its middle left out where it is longer than about `max_length` characters."""
    if len(text) <= max_length:
        return text
    tail = max_length // _TAIL_SHARE
    return f"{text[: max_length - tail]} … {len(text) - max_length:,} more … {text[-tail:] if tail else ''}"


def percent(part: float, whole: float) -> str:
    """A share in words: `12.3 %`; what is not nothing and not all never reads as 0 or 100."""
    if whole <= 0 or part <= 0:
        return "0 %"
    share = part / whole
    if share < _MIN_SHARE:
        return "< 0.1 %"
    if 1 > share > 1 - _MIN_SHARE:
        return "> 99.9 %"
    return f"{100 * share:.1f} %" if share < 1 else "100 %"


def measure(value: float) -> str:
    """A number to three significant digits, and to the unit where it is larger: `0.98`, `12.3`, `1,234`, `1.2e-05`.

    What is a little below 1 does not read as 1 but as `0.9999`.
    """
    if not math.isfinite(value):
        return str(value)
    if 0.9995 <= value < 1:
        return f"{math.floor(value * 1e4) / 1e4:.4f}".rstrip("0")
    if value != 0 and not 1e-4 <= abs(value) < 1e9:
        return f"{value:.2e}".replace("-", _MINUS)
    num_decimals = max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0
    text = f"{value:,.{num_decimals}f}".replace("-", _MINUS)
    return text.rstrip("0").rstrip(".") if num_decimals else text


def duration(seconds: float) -> str:
    """Seconds as people say them: `0.4 s`, `7 min 10 s`, `3 h 02 min`."""
    if seconds < 60:
        return f"{measure(seconds)} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
