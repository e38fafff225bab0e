"""The simulation behind docs/scaling.md: what it makes of cases that can be done by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scaling import (
    ShardTimes,
    cut,
    load_times,
    make_archive,
    merge,
    planned,
    policies,
    read_times,
    save_times,
    scan_rules,
)
from simulation import Cluster, Units, deal, restart_all, run_bundles

from facemill.pipeline.plan import append_units, read_plan
from facemill.transforms.ops.committing import UnitSummary
from facemill.transforms.ops.layout import marker_name
from facemill.transforms.ops.storage import Folder
from facemill.transforms.ops.units import Unit

GB = 10**9
SHARDS = [ShardTimes([10, 10], [100_000, 100_000], [1.0, 1.0]), ShardTimes([20], [4_000_000], [8.0])]


def arrays(*bundles: list[float]) -> list[np.ndarray]:
    return [np.array(bundle, float) for bundle in bundles]


@pytest.mark.parametrize(
    ("bundles", "num_workers", "overhead_s", "makespan_s"),
    [
        (arrays([3], [3], [2], [2], [2]), 2, 0, 7),
        (arrays([2], [2], [2], [3], [3]), 2, 0, 7),
        (arrays([4], [3], [2], [1]), 2, 0, 5),
        (arrays([4, 2], [3, 1]), 2, 0, 6),
        (arrays([4, 2], [3, 1]), 2, 0.5, 7),
        (arrays([4, 2], [3, 1], [1]), 2, 0, 6),
        (arrays([5]), 3, 0, 5),
    ],
)
def test_makespans_by_hand(bundles: list[np.ndarray], num_workers: int, overhead_s: float, makespan_s: float) -> None:
    outcome = run_bundles(bundles, Cluster(num_workers, unit_overhead_s=overhead_s))
    assert (outcome.makespan_s, outcome.num_failures) == (makespan_s, 0)


def test_a_slow_worker() -> None:
    cluster = Cluster(2, slow_share=0.5, slow_speed=0.5)
    assert sorted(cluster.speeds) == [0.5, 1.0]
    assert run_bundles(arrays([4], [4]), cluster).makespan_s == 8
    assert run_bundles(arrays(*[[1]] * 6), cluster).makespan_s == 4
    assert cluster.ideal_s(np.array([4.0, 5.0])) == 6


def test_the_tail_is_when_less_than_nine_of_ten_work() -> None:
    assert run_bundles(arrays(*[[1]] * 18, [5], [3]), Cluster(20)).tail_s == 4
    assert run_bundles(arrays(*[[1]] * 20), Cluster(20)).tail_s == 0


def test_dealing() -> None:
    assert [part.tolist() for part in deal(np.arange(5), 2)] == [[0, 2, 4], [1, 3]]
    assert [part.tolist() for part in deal(np.arange(2), 5)] == [[0], [1]]
    order = Units(np.array([1, 5, 3, 5]), np.array([0.1, 0.2, 0.3, 0.4])).largest_first()
    assert order.seconds.tolist() == [0.2, 0.4, 0.3, 0.1]


def test_failures_cost_time_and_lose_nothing() -> None:
    bundles = deal(np.full(200, 10.0), 4)
    calm, failing = Cluster(4), Cluster(4, failures_per_hour=20, restart_s=60)
    outcome = run_bundles(bundles, failing)
    assert outcome.num_failures > 0
    assert outcome.makespan_s >= 500 + 60
    assert outcome == run_bundles(bundles, failing)
    assert outcome != run_bundles(bundles, replace(failing, seed=1))
    assert run_bundles(bundles, calm).makespan_s == 500


def test_starting_all_again() -> None:
    bundles = deal(np.full(40, 10.0), 4)
    assert restart_all(bundles, Cluster(4), give_up_s=1e6) == 100
    failing = restart_all(bundles, Cluster(4, failures_per_hour=30), give_up_s=1e6)
    assert failing is not None
    assert failing > 100 + 120
    assert restart_all(deal(np.full(40, 1000.0), 4), Cluster(4, failures_per_hour=90), give_up_s=1e5) is None


def test_units_keep_what_the_archive_takes() -> None:
    archive = make_archive(SHARDS, 0, sizes=[5 * GB, 0.1 * GB, 0.1 * GB])
    assert archive.sizes == pytest.approx([5 * GB, 0.1 * GB, 0.1 * GB])
    units = cut(archive, 0.2 * GB)
    assert len(units) == 25 + 2
    assert units.num_bytes.max() <= 0.2 * GB * 1.001
    assert units.seconds.sum() == pytest.approx(float(archive.num_images @ archive.image_s), rel=0.01)
    assert len(cut(archive, 0.2 * GB, whole=np.array([True, False, False]))) == 3
    assert merge(make_archive(SHARDS, 0, images=[1, 2, 3, 4]), 2).num_images.tolist() == [3, 7]


def test_a_queue_beats_fixed_shares_and_a_seed_repeats_it() -> None:
    units = planned(make_archive(SHARDS, 0, images=[1000.0] * 50))
    cluster = Cluster(20, slow_share=0.1)
    outcomes = policies(units, cluster)
    assert outcomes == policies(units, cluster)
    ideal_s = cluster.ideal_s(units.seconds)
    assert ideal_s <= outcomes["queue"].makespan_s < 1.2 * ideal_s
    assert outcomes["round robin"].makespan_s > 1.7 * ideal_s


def test_the_rules_for_reading_tars_differ() -> None:
    rules = scan_rules([5 * GB] + [GB // 10] * 2000)
    assert rules["none"] == []
    assert rules["facemill's"] == rules["over 1/64 and 256 MiB"] == [0]
    assert len(rules["over 64 MiB"]) == 2001


def test_times_are_read_from_a_run_by_shard_and_kept(tmp_path: Path) -> None:
    output = Folder(str(tmp_path / "out"))
    units = [Unit(f"unit-{i}", "tar", (f"in/{i // 2}.tar",), (100,), 50, 50 * (i % 2)) for i in range(4)]
    append_units(output, read_plan(output), units)
    for index, unit in enumerate(units[:3]):
        summary = UnitSummary(unit.name, "f", num_images=index + 1, num_bytes=50, seconds=0.5 * index)
        output.write_bytes(marker_name(unit.name), summary.to_json())
    times = read_times(tmp_path / "out")
    assert times == [ShardTimes([1, 2], [50, 50], [0.0, 0.5]), ShardTimes([3], [50], [1.0])]
    save_times(times, tmp_path / "times.json")
    assert load_times(tmp_path / "times.json") == times
