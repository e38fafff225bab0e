"""Reading from stores that may be slow, gone or forbidden, for at most some seconds."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

_READ_AHEAD = 2  # items at a time
_POLL_SECONDS = 0.2
_END = object()


class Source(NamedTuple):
    """Where some items come from: a place by its name, and what reads them; an error there ends all of the place."""

    place: str
    read: Callable[[], Iterator[Any]]


class _Note(NamedTuple):
    text: str


def fetch(sources: Sequence[Source], *, seconds: float, notes: list[str]) -> Iterator[Any]:
    """The items of the sources, one source after the other; what goes wrong is told in `notes`.

    They are read in a thread of its own, as a store that does not answer would hold up this one for minutes.
    """
    arrived: queue.Queue[Any] = queue.Queue(_READ_AHEAD)
    given_up = threading.Event()
    deadline = time.monotonic() + seconds
    reading = (sources, arrived, given_up)
    threading.Thread(target=_read_all, args=reading, name="facemill-fetch", daemon=True).start()
    try:
        while True:
            item = arrived.get(timeout=max(0.0, deadline - time.monotonic()))
            if item is _END:
                return
            if isinstance(item, _Note):
                notes.append(item.text)
            else:
                yield item
    except queue.Empty:
        notes.append("Reading took too long and was given up, so some pictures are missing.")
    finally:
        given_up.set()


def _read_all(sources: Sequence[Source], arrived: queue.Queue[Any], given_up: threading.Event) -> None:
    broken: set[str] = set()
    for place, read in sources:
        if place in broken:
            continue
        try:
            for item in read():
                if not _put(item, arrived, given_up):
                    return
        except Exception as error:  # the libraries behind the stores have errors of their own
            broken.add(place)
            _put(_Note(f"{place} could not be read: {error or type(error).__name__}"), arrived, given_up)
    _put(_END, arrived, given_up)


def _put(item: object, arrived: queue.Queue[Any], given_up: threading.Event) -> bool:
    """Hand an item over; False where nobody waits for it any more."""
    while not given_up.is_set():
        try:
            arrived.put(item, timeout=_POLL_SECONDS)
            return True
        except queue.Full:
            continue
    return False
