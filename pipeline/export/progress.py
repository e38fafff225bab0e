"""Progress of an export or a filter: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TextIO, TypeVar

from tqdm import tqdm

_LINE_SECONDS = 10.0
_BAR = "{desc} {percentage:3.0f}% {n_fmt} of {total_fmt}, {rate_fmt}, {remaining} left"

Item = TypeVar("Item")


def track(items: Iterable[Item], total: int, what: str, stream: TextIO, *, unit: str = "faces") -> Iterator[Item]:
    """The items, while `stream` says how many of `total` have passed."""
    if stream.isatty():
        yield from tqdm(items, total=total, desc=what, file=stream, bar_format=_BAR, unit=f" {unit}", unit_scale=True)
        return
    stream.write(f"{what} {total:,} {unit}\n")
    stream.flush()
    said_at = time.monotonic()
    for number, item in enumerate(items, start=1):
        yield item
        if time.monotonic() - said_at >= _LINE_SECONDS:
            said_at = time.monotonic()
            stream.write(f"{what} {number / total:4.0%}, {number:,} of {total:,} {unit}\n")
            stream.flush()
