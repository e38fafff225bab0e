"""What a worker is busy with, told to the process that watches it.

A worker that dies cannot say on which image, so it notes the image before it starts on it, in memory that it shares
with its parent and that needs no lock. Where nobody watches, every call does nothing.
"""

from __future__ import annotations

from collections.abc import MutableSequence
from enum import IntEnum


class Slot(IntEnum):
    """The places of the shared array of int64."""

    PID = 0
    IMAGE_INDEX = 1  # position in the unit of the image in hand, or -1
    NUM_BYTES = 2  # of the unit in hand
    NUM_IMAGES = 3  # of the unit in hand, likewise the next
    NUM_KEPT = 4
    NUM_FAILED = 5
    BEATS = 6  # grows with every sign of life


_array: MutableSequence[int] | None = None


def install(array: MutableSequence[int]) -> None:
    """From now on, write into `array`, which has a place for each `Slot`."""
    global _array
    _array = array


def begin_unit() -> None:
    """Clear the counts for a new unit."""
    if _array is None:
        return
    _array[Slot.IMAGE_INDEX] = -1
    for slot in (Slot.NUM_BYTES, Slot.NUM_IMAGES, Slot.NUM_KEPT, Slot.NUM_FAILED):
        _array[slot] = 0
    _array[Slot.BEATS] += 1


def begin_image(index: int) -> None:
    """Note that the image at position `index` of its unit is in hand."""
    if _array is not None:
        _array[Slot.IMAGE_INDEX] = index
        _array[Slot.BEATS] += 1


def end_image() -> None:
    """Note that no image is in hand."""
    if _array is not None:
        _array[Slot.IMAGE_INDEX] = -1
        _array[Slot.BEATS] += 1


def beat() -> None:
    """Show a sign of life."""
    if _array is not None:
        _array[Slot.BEATS] += 1


def count_image(*, num_bytes: int, num_kept: int, failed: bool) -> None:
    """Count an image that is through."""
    if _array is None:
        return
    _array[Slot.NUM_BYTES] += num_bytes
    _array[Slot.NUM_IMAGES] += 1
    _array[Slot.NUM_KEPT] += num_kept
    _array[Slot.NUM_FAILED] += failed
    _array[Slot.BEATS] += 1
