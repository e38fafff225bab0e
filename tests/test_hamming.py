"""Near pairs and groups of hashes, against comparing each with each, and on hashes made by hand."""

from __future__ import annotations

import time
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facemill.transforms.ops import grouping, hamming
from facemill.transforms.ops.grouping import group_near
from facemill.transforms.ops.hamming import as_words, near_pairs, nearest


def flipped(hash_: int, *bits: int) -> int:
    for bit in bits:
        hash_ ^= 1 << bit
    return hash_


def words(*hashes: int) -> np.ndarray:
    return as_words(b"".join(hash_.to_bytes(32, "big") for hash_ in hashes))


def families(seed: int, count: int, share: float) -> np.ndarray:
    """Random hashes, each a copy of one of a fifth as many with a share of its bits turned: (N, 4) uint64."""
    rng = np.random.default_rng(seed)
    origins = rng.integers(0, 2, (max(count // 5, 1), 256), np.uint8)
    bits = origins[rng.integers(0, len(origins), count)] ^ (rng.random((count, 256)) < share)
    return as_words(np.packbits(bits, axis=1).tobytes())


def all_distances(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """By the bytes: (N, 4) and (M, 4) uint64 -> (N, M)."""
    a, b = (np.unpackbits(hashes.view(np.uint8).reshape(len(hashes), 32), axis=1) for hashes in (left, right))
    return np.array([(b != row).sum(axis=1) for row in a], np.int64).reshape(len(left), len(right))


def grouped_one_by_one(distances: np.ndarray, max_distance: int) -> list[int]:
    """The rule of `group_near` as it is stated."""
    elected: list[int] = []
    for row in range(len(distances)):
        if all(distances[row, other] > max_distance for other in elected):
            elected.append(row)
    return [
        row if row in elected else min(elected, key=lambda other: (distances[row, other], other))
        for row in range(len(distances))
    ]


@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(0, 60),
    share=st.sampled_from([0.0, 0.01, 0.05, 0.1, 0.2, 0.5]),
    max_distance=st.integers(0, 64),
    num_bands=st.none() | st.integers(18, 64),
)
@settings(max_examples=80)
def test_all_near_pairs_are_found_and_no_others(
    seed: int, count: int, share: float, max_distance: int, num_bands: int | None
) -> None:
    hashes = families(seed, count, share)
    distances = all_distances(hashes, hashes)
    left, right = np.nonzero(np.triu(distances <= max_distance, 1))
    with pytest.MonkeyPatch.context() as patch:
        if num_bands is not None:  # so few hashes would be compared each with each
            patch.setattr(hamming, "_plan_bands", lambda *_: hamming._cut(num_bands, max_distance))
        pairs = near_pairs(hashes, max_distance)
        representatives, own_distances = group_near(hashes, max_distance)
    np.testing.assert_array_equal(pairs.left, left)
    np.testing.assert_array_equal(pairs.right, right)
    np.testing.assert_array_equal(pairs.distances, distances[left, right])
    assert representatives.tolist() == grouped_one_by_one(distances, max_distance)
    np.testing.assert_array_equal(own_distances, distances[np.arange(count), representatives])


@given(
    seed=st.integers(0, 2**32 - 1),
    sizes=st.tuples(st.integers(0, 40), st.integers(0, 40)),
    max_distance=st.integers(0, 64),
)
@settings(max_examples=40)
def test_the_nearest_is_the_first_of_the_least_distant(seed: int, sizes: tuple[int, int], max_distance: int) -> None:
    hashes = families(seed, sum(sizes), 0.08)
    left, right = hashes[: sizes[0]], hashes[sizes[0] :]
    distances = all_distances(left, right)
    rows, least = nearest(left, right, max_distance)
    for row in range(sizes[0]):
        near = np.flatnonzero(distances[row] <= max_distance)
        if len(near):
            assert rows[row] == near[np.argmin(distances[row, near])]
            assert least[row] == distances[row].min()
        else:
            assert rows[row] == -1


@pytest.mark.parametrize("max_distance", [0, 7, 32, 48])
def test_many_hashes_as_well(max_distance: int) -> None:
    hashes = families(5, 2500, 0.06)
    distances = all_distances(hashes, hashes)
    pairs = near_pairs(hashes, max_distance)
    assert len(pairs) == np.count_nonzero(np.triu(distances <= max_distance, 1))
    representatives, _ = group_near(hashes, max_distance)
    assert representatives.tolist() == grouped_one_by_one(distances, max_distance)


@pytest.mark.parametrize("max_distance", [0, 1, 20, 32, 35, 64])
@pytest.mark.parametrize("count", [2, 10**3, 10**6, 10**8])
def test_no_pair_can_slip_between_the_bands(max_distance: int, count: int) -> None:
    bands = hamming._plan_bands(count, count, max_distance)
    used = np.concatenate([band.bits for band in bands])
    assert len(np.unique(used)) == len(used) <= 256
    if len(used):  # else each is compared with each
        # A pair that no band finds differs in at least radius + 1 of its bits.
        assert sum(band.radius + 1 for band in bands) > max_distance
        assert all(0 <= band.radius < len(band.bits) <= hamming._LONGEST_BAND for band in bands)
    else:
        assert count <= 1000


@pytest.mark.parametrize("block", [1, 3, 1000])
def test_the_size_of_the_blocks_does_not_matter(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = families(6, 90, 0.05)
    expected = near_pairs(hashes, 32)
    assert len(expected) > 100
    monkeypatch.setattr(hamming, "_LOOKUP_BLOCK", block)
    monkeypatch.setattr(hamming, "_COMPARISON_BLOCK", block)
    pairs = near_pairs(hashes, 32)
    np.testing.assert_array_equal(np.stack([pairs.left, pairs.right]), np.stack([expected.left, expected.right]))


@pytest.mark.parametrize("first_chunk", [1, 7, 4096])
def test_the_size_of_the_chunks_does_not_matter(first_chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = families(7, 400, 0.06)
    monkeypatch.setattr(grouping, "_FIRST_CHUNK", first_chunk)
    representatives, _ = group_near(hashes, 32)
    assert representatives.tolist() == grouped_one_by_one(all_distances(hashes, hashes), 32)


def test_a_chain_does_not_join_its_ends() -> None:
    chain = words(*(flipped(0, *range(30 * step)) for step in range(5)))  # each 30 bits from the next
    representatives, distances = group_near(chain, 32)
    assert representatives.tolist() == [0, 0, 2, 2, 4]
    assert distances.tolist() == [0, 30, 0, 30, 0]


def test_the_distance_counts_to_the_last_bit() -> None:
    pair = words(0, flipped(0, *range(100, 132)))
    assert near_pairs(pair, 32).distances.tolist() == [32]
    assert len(near_pairs(pair, 31)) == 0


@pytest.mark.parametrize("count", [0, 1])
def test_nothing_to_compare(count: int) -> None:
    hashes = families(1, count, 0)
    assert len(near_pairs(hashes, 32)) == 0
    assert group_near(hashes, 32)[0].tolist() == list(range(count))
    assert nearest(hashes, hashes[:0], 32)[0].tolist() == [-1] * count


def test_a_crowd_of_near_hashes_takes_no_quadratic_time_or_memory() -> None:
    rng = np.random.default_rng(2)
    bits = rng.integers(0, 2, 256, np.uint8) ^ (rng.random((30_000, 256)) < 0.02)
    hashes = np.unique(as_words(np.packbits(bits.astype(np.uint8), axis=1).tobytes()), axis=0)
    assert len(hashes) > 29_000  # hardly two are equal, and there are 450 million near pairs
    started = time.process_time()
    representatives, distances = group_near(rng.permutation(hashes), 32)
    assert time.process_time() - started < 20
    assert len(np.unique(representatives)) < 50
    assert distances.max() <= 32


def test_the_shares_of_the_work_add_up() -> None:
    shares: list[float] = []
    group_near(families(3, 5000, 0.05), 32, on_share=shares.append)
    assert sum(shares) == pytest.approx(1)
    assert all(earlier >= 0 and later >= 0 for earlier, later in pairwise(shares))
