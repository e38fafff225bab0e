"""Groups of near hashes, each around one of them that represents it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np

from facemill.transforms.ops.hamming import near_pairs, nearest

_FIRST_CHUNK = 1024


def group_near(
    hashes: np.ndarray, max_distance: int, *, on_share: Callable[[float], None] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The row that represents each hash, and in how many bits they differ: (N, 4) uint64 -> two (N,) int64.

    A row represents itself, unless an earlier one that does so differs in no more than `max_distance` bits; then it is
    represented by the nearest of those that represent themselves, the first of equals. So no two representatives are
    near, nobody is far from the own one, and a chain of near pairs does not join its ends.

    Rows must be in an order that has nothing to do with what is near. They are taken in chunks that double in size,
    each compared with the representatives before it, and what is left of it with itself. Of a crowd of near rows a few
    come early, and represent nearly all that follow; so few pairs must be held at a time, however many there are
    (Blelloch, Fineman and Shun 2012). `on_share` is told, time and again, the share of the work that was done since.
    """
    bounds = [0, *(_FIRST_CHUNK << step for step in range(len(hashes).bit_length() + 1))]
    chunks = [(start, min(end, len(hashes))) for start, end in pairwise(bounds) if start < len(hashes)]
    total = sum((end - start) * end for start, end in chunks)

    def report(comparisons: int) -> Callable[[float], None] | None:
        return None if on_share is None else lambda share: on_share(share * comparisons / total)

    elected = np.empty(0, np.int64)
    for start, end in chunks:
        rows, size = np.arange(start, end), end - start
        represented, _ = nearest(hashes[rows], hashes[elected], max_distance, on_share=report(size * start))
        rows = rows[represented < 0]
        is_elected = _elect(hashes[rows], max_distance, on_share=report(size * size))
        elected = np.concatenate([elected, rows[is_elected]])
    return _assign(hashes, elected, max_distance)


def _elect(hashes: np.ndarray, max_distance: int, *, on_share: Callable[[float], None] | None) -> np.ndarray:
    """Which rows represent themselves, if none came before: (N, 4) -> (N,) bool."""
    is_elected = np.ones(len(hashes), bool)
    pairs = near_pairs(hashes, max_distance, on_share=on_share)
    rows, firsts = np.unique(pairs.left, return_index=True)
    for row, (first, end) in zip(rows, pairwise([*firsts, len(pairs)]), strict=True):
        if is_elected[row]:  # which is settled, as all pairs with earlier rows are done
            is_elected[pairs.right[first:end]] = False
    return is_elected


def _assign(hashes: np.ndarray, elected: np.ndarray, max_distance: int) -> tuple[np.ndarray, np.ndarray]:
    representatives, distances = np.arange(len(hashes)), np.zeros(len(hashes), np.int64)
    others = np.setdiff1d(representatives, elected)
    found, distances[others] = nearest(hashes[others], hashes[elected], max_distance)
    representatives[others] = elected[found]
    return representatives, distances
