"""Which split an identity belongs to, and how many samples each shard gets."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import md5
from itertools import accumulate

from facemill.pipeline.export.options import Split

_HEX_DIGITS = 13  # 52 bits, which a float holds exactly


def assign_split(identity: str, splits: Sequence[Split], seed: int) -> int:
    """The index of the split of an identity, by itself, so that it stays when others come or go.

    The first 13 hexadecimal digits of the MD5 of `seed/identity`, as a fraction, fall into one of the shares, which
    follow each other in the order of the splits.
    """
    digits = md5(f"{seed}/{identity}".encode(), usedforsecurity=False).hexdigest()[:_HEX_DIGITS]
    fraction = int(digits, 16) / 16**_HEX_DIGITS
    ends = list(accumulate(split.share for split in splits))
    return next((index for index, end in enumerate(ends) if fraction < end), len(splits) - 1)


def shard_sizes(num_samples: int, num_bytes: int, shard_bytes: int) -> list[int]:
    """How many samples each shard gets: as even as can be, so that data-parallel readers end together.

    The larger ones come first; at least one shard, though it be empty.
    """
    num_shards = max(1, min(-(-num_bytes // shard_bytes), num_samples))
    return [num_samples // num_shards + (index < num_samples % num_shards) for index in range(num_shards)]
