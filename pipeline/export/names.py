"""Names of classes that any file system and archive takes, made from labels that nobody has checked."""

from __future__ import annotations

import re
from hashlib import sha256
from unicodedata import category, normalize

MAX_NAME_BYTES = 120
_DIGEST_DIGITS = 16
_MARK = "%~"  # in no other name, as a percent sign of the label is written %25
_KEPT_BYTES = MAX_NAME_BYTES - len(_MARK) - _DIGEST_DIGITS
_ORDINARY = re.compile(r"[A-Za-z0-9_-]+")
_UNSAFE = frozenset('<>:"/\\|?*%')
_UNSEEN = frozenset(("Cc", "Cf", "Co", "Zl", "Zp", "Zs"))
_RESERVED = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³])\s*(\..*)?", re.IGNORECASE | re.DOTALL)


def class_name(label: str) -> str:
    """The name of a label's class: the label itself where it can be a folder's name on any system.

    Characters that cannot be in one, or cannot be seen, are percent-encoded as in a URL; so is the first one of names
    that Windows reserves, a first dot or space, and a last one. The empty label is `%`. Too long ones are cut off and
    marked with a digest. Two labels never have the same name.
    """
    name = _encode(label)
    return name if len(name.encode()) <= MAX_NAME_BYTES else marked_name(label)


def marked_name(label: str) -> str:
    """The name of a label's class where the one of `class_name` differs from another's by case alone."""
    start = _encode(label).encode()[:_KEPT_BYTES].decode(errors="ignore")
    return f"{start}{_MARK}{sha256(label.encode()).hexdigest()[:_DIGEST_DIGITS]}"


def folded(name: str) -> str:
    """What two names have in common that some file systems take for one: case, and how accents are put together."""
    return normalize("NFC", normalize("NFC", name).casefold())


def _encode(label: str) -> str:
    if not label:
        return "%"
    last = len(label) - 1
    is_reserved = _RESERVED.fullmatch(label) is not None
    if _ORDINARY.fullmatch(label) and not is_reserved:
        return label
    return "".join(
        _percent(character)
        if character in _UNSAFE
        or (character != " " and category(character) in _UNSEEN)
        or (index in (0, last) and character in ". ")
        or (index == 0 and is_reserved)
        else character
        for index, character in enumerate(label)
    )


def _percent(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode())
