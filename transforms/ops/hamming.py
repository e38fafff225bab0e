"""Pairs of hashes that differ in few bits: all of them, without comparing each with each.

Multi-index hashing (Norouzi, Punjani and Fleet 2012): where two hashes differ in no more than D bits, some of the bands
that the bits are cut into differ in no more than its share of D. So each hash is looked up, band by band, under all
keys that differ from its own in so few bits, and compared in full with what is found there. What that costs is known
beforehand, and the number of bands is chosen by it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from facemill.transforms.ops.perceptual_hash import HASH_BITS

WORDS = HASH_BITS // 64
# Any order finds the same pairs. Neighbours tell alike, so that they are of more use in different bands.
_BIT_ORDER = np.random.default_rng(0).permutation(HASH_BITS)

_LONGEST_BAND, _MOST_BANDS = 23, 64
_LOOKUP_BLOCK, _COMPARISON_BLOCK = 1 << 16, 1 << 20
# In ns, roughly: for each key that there is, key looked up, pair of hashes compared, and mask.
_KEY_COST, _LOOKUP_COST, _COMPARISON_COST, _MASK_COST = 4, 2, 25, 20_000
# A distance and a row in one number, so that the least is the nearest.
_ROW_BITS = 40
_NOTHING = np.iinfo(np.int64).max
# How many times more often than independent bits those of faces agree in a band.
_CROWDING = 4.0


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """Rows of two sets of hashes, and in how many bits they differ: three (K,) arrays."""

    left: np.ndarray
    right: np.ndarray
    distances: np.ndarray

    def __len__(self) -> int:
        return len(self.left)


def as_words(hashes: bytes) -> np.ndarray:
    """Hashes one after the other -> (N, 4) uint64."""
    return np.frombuffer(hashes, np.uint64).reshape(-1, WORDS)


def near_pairs(hashes: np.ndarray, max_distance: int, *, on_share: Callable[[float], None] | None = None) -> Pairs:
    """All pairs of rows, the lower one left, that differ in no more than `max_distance` bits: (N, 4) uint64 -> pairs.

    `on_share` is told, time and again, the share of the work that was done since; the shares add up to 1.
    """
    places, distances = [np.empty(0, np.int64)], [np.empty(0, np.int16)]
    for found in _search(hashes, None, max_distance, on_share):
        lower, upper = np.minimum(found.left, found.right), np.maximum(found.left, found.right)
        is_pair = lower < upper
        places.append((lower * len(hashes) + upper)[is_pair])
        distances.append(found.distances[is_pair])
    place, first = np.unique(np.concatenate(places), return_index=True)  # as several bands find the same pair
    return Pairs(*np.divmod(place, max(len(hashes), 1)), np.concatenate(distances)[first])


def nearest(
    left: np.ndarray, right: np.ndarray, max_distance: int, *, on_share: Callable[[float], None] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """For each row of one set the nearest of another and the bits in which they differ, if `max_distance` at most.

    (N, 4) and (M, 4) uint64 -> (N,) int64 rows of `right`, the first of equals, -1 where none is near, and (N,) int64
    distances, which say nothing there. `on_share` as in `near_pairs`.
    """
    best = np.full(len(left), _NOTHING)
    for found in _search(left, right, max_distance, on_share):
        np.minimum.at(best, found.left, found.distances.astype(np.int64) << _ROW_BITS | found.right)
    return np.where(best == _NOTHING, -1, best & (1 << _ROW_BITS) - 1), best >> _ROW_BITS


@dataclass(frozen=True, slots=True, eq=False)
class _Band:
    """Bits that are looked up together, and in how many of them a key may differ."""

    bits: np.ndarray
    radius: int

    @property
    def num_masks(self) -> int:
        return sum(math.comb(len(self.bits), count) for count in range(self.radius + 1))

    def masks(self) -> list[int]:
        """All keys with no more than `radius` bits set."""
        flips = (itertools.combinations(range(len(self.bits)), count) for count in range(self.radius + 1))
        return [sum(1 << place for place in flip) for flip in itertools.chain.from_iterable(flips)]

    def sort(self, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Hashes in the order of their keys, which are the band's bits as a number, so that what is compared is close.

        (N, 4) uint64 -> the keys (N,) int64, the hashes word by word (4, N), and the rows that they were.
        """
        keys = np.zeros(len(hashes), np.int64)
        for place, bit in enumerate(self.bits.tolist()):
            word, shift = divmod(bit, 64)
            keys |= (hashes[:, word] >> np.uint64(shift) & np.uint64(1)).astype(np.int64) << place
        order = np.argsort(keys, kind="stable")
        return keys[order], np.ascontiguousarray(hashes[order].T), order


def _plan_bands(num_left: int, num_right: int, max_distance: int) -> list[_Band]:
    """The cheapest bands that miss no pair; for few hashes one band without bits, in which all meet."""
    plans = [_cut(number, max_distance) for number in range(math.ceil(HASH_BITS / _LONGEST_BAND), _MOST_BANDS + 1)]
    plans.append([_Band(_BIT_ORDER[:0], 0)])
    return min(plans, key=lambda bands: sum(_cost(band, num_left, num_right) for band in bands))


def _cut(num_bands: int, max_distance: int) -> list[_Band]:
    """Bands of which each pair of no more than `max_distance` meets in one: radius + 1 adds up to more than that."""
    share, rest = divmod(max_distance + 1, num_bands)
    parts = np.array_split(_BIT_ORDER, num_bands)
    return [
        _Band(bits, radius)
        for number, bits in enumerate(parts)
        if (radius := share - (number >= rest)) >= 0  # with fewer differing bits than bands, some are not needed
    ]


def _cost(band: _Band, num_left: int, num_right: int) -> float:
    num_keys = 2.0 ** len(band.bits)
    comparisons = num_left * num_right * min(_CROWDING * band.num_masks / num_keys, 1)
    lookups = num_left * band.num_masks
    return _KEY_COST * num_keys + _LOOKUP_COST * lookups + _COMPARISON_COST * comparisons + _MASK_COST * band.num_masks


def _search(
    left: np.ndarray, right: np.ndarray | None, max_distance: int, on_share: Callable[[float], None] | None
) -> Iterator[Pairs]:
    """The near pairs of two sets, or of one with itself; in any order, each as often as there are bands or less."""
    num_right = len(left) if right is None else len(right)
    bands = _plan_bands(len(left), num_right, max_distance) if len(left) and num_right else []
    for band in bands:
        yield from _search_band(left, right, band, max_distance)
        if on_share is not None:
            on_share(1 / len(bands))
    if on_share is not None and not bands:
        on_share(1.0)


def _search_band(left: np.ndarray, right: np.ndarray | None, band: _Band, max_distance: int) -> Iterator[Pairs]:
    left_keys, left_words, left_order = band.sort(left)
    right_keys, right_words, right_order = (left_keys, left_words, left_order) if right is None else band.sort(right)
    counts = np.bincount(right_keys, minlength=1 << len(band.bits)).astype(np.int32)
    is_filled, ends = counts > 0, counts.cumsum(dtype=np.int32)
    for first, mask in itertools.product(range(0, len(left), _LOOKUP_BLOCK), band.masks()):
        own_keys = left_keys[first : first + _LOOKUP_BLOCK]
        keys = own_keys ^ mask
        is_found = np.take(is_filled, keys, mode="clip")  # which is faster; no key is out of range
        if right is None:
            is_found &= keys >= own_keys  # the others are found from the other side
        found = np.flatnonzero(is_found)
        hits = keys[found]
        for a, b in _expand(first + found, ends[hits], counts[hits]):
            near = _compare(left_words, right_words, a, b, max_distance)
            yield Pairs(left_order[near.left], right_order[near.right], near.distances)


def _expand(rows: np.ndarray, ends: np.ndarray, counts: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Each row with each of the `counts` places before `ends`: three (K,) arrays -> blocks of two (L,)."""
    totals = counts.cumsum(dtype=np.int64)
    total = int(totals[-1]) if len(totals) else 0
    for low in range(0, total, _COMPARISON_BLOCK):
        high = min(low + _COMPARISON_BLOCK, total)
        first, last = np.searchsorted(totals, [low, high - 1], side="right")
        part = slice(first, last + 1)
        lengths = np.minimum(totals[part], high) - np.maximum(totals[part] - counts[part], low)
        yield np.repeat(rows[part], lengths), np.arange(low, high) + np.repeat(ends[part] - totals[part], lengths)


def _compare(left: np.ndarray, right: np.ndarray, a: np.ndarray, b: np.ndarray, max_distance: int) -> Pairs:
    """Those of the pairs that are near: the words of two sets, (4, N) and (4, M), and (L,) columns of each."""
    half = WORDS // 2
    near = np.flatnonzero(_distances(left[:half], right[:half], a, b) <= max_distance)  # half tells nearly all apart
    a, b = a[near], b[near]
    distances = _distances(left, right, a, b)
    near = np.flatnonzero(distances <= max_distance)
    return Pairs(a[near], b[near], distances[near])


def _distances(left: np.ndarray, right: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """In how many bits columns differ: (W, N) and (W, M) uint64, and (L,) columns of each -> (L,) int16."""
    distances = np.zeros(len(a), np.int16)
    for left_word, right_word in zip(left, right, strict=True):
        distances += np.bitwise_count(left_word[a] ^ right_word[b])
    return distances
