"""A sample of the images below an input: loose files and members of shards, drawn with a seed."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from typing import TypeVar

from facemill.models.errors import ConfigError
from facemill.pipeline.listing import Listing
from facemill.transforms.ops.kinds import input_kind
from facemill.transforms.ops.reading import ReadOptions, read_unit
from facemill.transforms.ops.records import ImageRecord
from facemill.transforms.ops.units import Unit

# Shards are looked into no further than this, as all that comes before a member must be read.
_MAX_SHARDS = 16
_MEMBERS_PER_SHARD = 1000
T = TypeVar("T")


def sample_images(listing: Listing, count: int, *, seed: int) -> Iterator[ImageRecord]:
    """At most `count` images of a listing, about evenly by their bytes, in its order; what cannot be read is `failed`.

    Of many shards some are drawn, and of each of them its first members.

    Raises:
        ConfigError: The store cannot be reached.
    """
    generator = random.Random(seed)
    sized = list(zip(listing.names, listing.sizes, strict=True))
    loose = [(name, size) for name, size in sized if input_kind(name) == "files"]
    shards = [(name, size) for name, size in sized if input_kind(name) != "files"]
    num_bytes = sum(size for _, size in sized) or 1
    num_loose = count if not shards else round(count * sum(size for _, size in loose) / num_bytes)
    try:
        if loose:
            yield from _read_loose(listing, _draw(loose, num_loose, generator))
        if shards:
            yield from _read_shards(listing, _draw(shards, _MAX_SHARDS, generator), count - num_loose, generator)
    except OSError as error:
        raise ConfigError(f"cannot read {listing.root.uri}: {error.strerror or error}") from error


def _read_loose(listing: Listing, files: Sequence[tuple[str, int]]) -> Iterator[ImageRecord]:
    if files:
        sources, sizes = tuple(f"root/{name}" for name, _ in files), tuple(size for _, size in files)
        yield from read_unit(Unit("", "files", sources, sizes, sum(sizes)), {"root": listing.root}, ReadOptions())


def _read_shards(
    listing: Listing, shards: Sequence[tuple[str, int]], count: int, generator: random.Random
) -> Iterator[ImageRecord]:
    for index, (name, size) in enumerate(shards):
        share = count * (index + 1) // len(shards) - count * index // len(shards)
        if not share:
            continue
        unit = Unit("", input_kind(name), (f"root/{name}",), (size,), size)
        members = itertools.islice(read_unit(unit, {"root": listing.root}, ReadOptions()), _MEMBERS_PER_SHARD)
        yield from _draw_streamed(members, share, generator)


def _draw(items: Sequence[T], count: int, generator: random.Random) -> list[T]:
    """At most `count` of them, in their order."""
    return [items[index] for index in sorted(generator.sample(range(len(items)), min(count, len(items))))]


def _draw_streamed(items: Iterator[ImageRecord], count: int, generator: random.Random) -> list[ImageRecord]:
    """At most `count` of an unknown number, in their order; no more are held in memory (Vitter 1985, algorithm R)."""
    drawn: list[tuple[int, ImageRecord]] = []
    for index, item in enumerate(items):
        if index < count:
            drawn.append((index, item))
        elif (place := generator.randrange(index + 1)) < count:
            drawn[place] = (index, item)
    return [item for _, item in sorted(drawn, key=lambda pair: pair[0])]
