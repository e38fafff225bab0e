"""Identities to splits, samples to shards."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facemill.pipeline.export.identity_splits import assign_split, shard_sizes
from facemill.pipeline.export.options import WHOLE, Split, parse_splits

THREE = parse_splits("train=0.8,validation=0.1,test=0.1")


@pytest.mark.parametrize(
    ("seed", "identity", "split"),
    [  # `printf 0/anna | md5sum` begins with b9, so the fraction is 0.72; of the others d6 (0.84), f1 (0.94), 55, b1
        (0, "anna", 0),
        (0, "lena", 1),
        (0, "berta", 2),
        (1, "anna", 0),
        (2, "anna", 0),
    ],
)
def test_assign_split(seed: int, identity: str, split: int) -> None:
    assert assign_split(identity, THREE, seed) == split


def test_shares_are_kept_about() -> None:
    counts = Counter(assign_split(f"person_{number}", THREE, 7) for number in range(20_000))
    # Binomial: the standard deviation is 57 of 16,000 and 42 of 2,000.
    assert abs(counts[0] - 16_000) < 5 * 57
    assert abs(counts[1] - 2000) < 5 * 42
    assert abs(counts[2] - 2000) < 5 * 42


def test_a_larger_share_takes_from_the_neighbour_alone() -> None:
    larger = (Split("train", 0.9), Split("validation", 0.1))
    for number in range(1000):
        if assign_split(str(number), THREE, 0) == 0:
            assert assign_split(str(number), larger, 0) == 0


def test_another_seed_divides_otherwise() -> None:
    assert {assign_split("anna", THREE, seed) for seed in range(100)} == {0, 1, 2}


def test_one_split_takes_all() -> None:
    assert {assign_split(str(number), WHOLE, 0) for number in range(1000)} == {0}


@pytest.mark.parametrize(
    ("num_samples", "num_bytes", "shard_bytes", "sizes"),
    [
        (10, 100, 100, [10]),
        (10, 101, 100, [5, 5]),
        (10, 250, 100, [4, 3, 3]),
        (2, 1000, 100, [1, 1]),  # never a shard without a sample
        (1, 0, 100, [1]),
        (0, 0, 100, [0]),
    ],
)
def test_shard_sizes(num_samples: int, num_bytes: int, shard_bytes: int, sizes: list[int]) -> None:
    assert shard_sizes(num_samples, num_bytes, shard_bytes) == sizes


@given(st.integers(1, 10**6), st.integers(0, 10**9), st.integers(10**5, 10**9))
def test_shards_hold_all_and_are_even(num_samples: int, num_bytes: int, shard_bytes: int) -> None:
    sizes = shard_sizes(num_samples, num_bytes, shard_bytes)
    assert sum(sizes) == num_samples
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) >= 1
