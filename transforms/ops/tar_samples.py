"""Samples as WebDataset has them: files of a tar that follow each other and differ behind the first dot of their names.

`000.jpg`, `000.cls` and `000.json` are one sample, and the latter two may say whose face the first one shows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from facemill.transforms.ops.members import is_ignored, number_label
from facemill.transforms.ops.tar_headers import TarEntry

_SIDECARS = ("json", "cls")
_LABEL_KEYS = ("label", "identity")
_MAX_SIDECAR_BYTES = 1 << 20
_MAX_MEMBERS = 32
_MAX_LARGE_BYTES = 16 << 20


class SampleBounds:
    """Says of one entry of a tar after the other whether a sample begins with it.

    A sample is held in memory until it ends. So one of more than 32 files counts as several, and so does one whose
    second large image takes it beyond 16 MiB; else names such as `2024.05.01-1.jpg` would make one of a whole archive.
    """

    def __init__(self) -> None:
        self._key = ""
        self._endings: set[str] = set()
        self._large_bytes = 0

    def begins_sample(self, entry: TarEntry) -> bool:
        """Whether `entry` does not belong to the ones before."""
        key, ending = _split_name(entry.name)
        is_new = key != self._key or ending in self._endings or not self._endings or self._is_full(entry)
        if is_new:
            self._key, self._endings, self._large_bytes = key, set(), 0
        self._endings.add(ending)
        self._large_bytes += entry.size if _is_large(entry) else 0
        return is_new

    def _is_full(self, entry: TarEntry) -> bool:
        is_second = _is_large(entry) and self._large_bytes > 0
        return len(self._endings) == _MAX_MEMBERS or (is_second and self._large_bytes + entry.size > _MAX_LARGE_BYTES)


def _is_large(entry: TarEntry) -> bool:
    return entry.size > _MAX_SIDECAR_BYTES and not is_ignored(entry.name)


def sidecar_of(entry: TarEntry) -> str | None:
    """`json` or `cls` where the entry is a file that may say the label of its sample."""
    ending = _split_name(entry.name)[1].lower()
    return ending if ending in _SIDECARS and entry.problem is None and entry.size <= _MAX_SIDECAR_BYTES else None


def sample_label(sidecars: Mapping[str, bytes], label_column: str | None = None) -> str | None:
    """The label that a sample's files say, by their endings.

    Args:
        sidecars: The contents of its `json` and `cls`.
        label_column: The key in the JSON; by default `label` or `identity`, and what `cls` says where there is neither.
    """
    values = _parse_object(sidecars.get("json", b""))
    for key in _LABEL_KEYS if label_column is None else (label_column,):
        if key in values and not isinstance(values[key], list | dict | bool):
            return _text(values[key])
    if label_column is not None:
        return None
    return sidecars.get("cls", b"").decode("utf-8", "backslashreplace").strip() or None


def _split_name(name: str) -> tuple[str, str]:
    """`people/000.left.jpg` -> `people/000` and `left.jpg`."""
    folder, slash, base = name.rpartition("/")
    stem, _, ending = base.partition(".")
    return folder + slash + stem, ending


def _parse_object(content: bytes) -> dict[str, object]:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str | None:
    if value is None:
        return None
    if isinstance(value, int | float):
        return number_label(value)
    return str(value).encode("utf-8", "backslashreplace").decode()  # JSON may hold halves of characters
