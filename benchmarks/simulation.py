"""Workers that do units: a queue, fixed shares, and anything between the two, with slow and failing workers."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SKIP_S = 0.03  # to find a unit committed: a request to the store
_TAIL_SHARE = 0.9


@dataclass(frozen=True)
class Cluster:
    """Workers of one core each, some slower, all failing now and then."""

    num_workers: int
    slow_share: float = 0.0
    slow_speed: float = 0.5
    unit_overhead_s: float = 0.0
    failures_per_hour: float = 0.0
    restart_s: float = 120.0
    seed: int = 0

    @property
    def speeds(self) -> np.ndarray:
        """Of each worker, (W,)."""
        speeds = np.ones(self.num_workers)
        slow = np.random.default_rng(self.seed).permutation(self.num_workers)
        speeds[slow[: round(self.slow_share * self.num_workers)]] = self.slow_speed
        return speeds

    def ideal_s(self, seconds: np.ndarray) -> float:
        """The least possible time for units of these seconds, (N,): no overhead, and no worker ever idle."""
        return float(seconds.sum() / self.speeds.sum())


@dataclass(frozen=True)
class Units:
    """Units in the order in which they are handed out."""

    num_bytes: np.ndarray  # (N,), what a plan knows
    seconds: np.ndarray  # (N,), what they take

    def __len__(self) -> int:
        return len(self.seconds)

    def __getitem__(self, index: np.ndarray) -> Units:
        return Units(self.num_bytes[index], self.seconds[index])

    def largest_first(self) -> Units:
        """By bytes, as the seconds are not known before."""
        return self[np.argsort(-self.num_bytes, kind="stable")]

    def one_by_one(self) -> list[np.ndarray]:
        """Each unit in a bundle of its own."""
        return list(self.seconds[:, None])


@dataclass(frozen=True)
class Outcome:
    """How long it took."""

    makespan_s: float
    tail_s: float  # in which less than 90 % of the workers were busy
    num_failures: int


def deal(seconds: np.ndarray, num_bundles: int) -> list[np.ndarray]:
    """Units dealt to bundles in turn, as by round robin; (N,) -> at most `num_bundles` arrays."""
    return [seconds[number::num_bundles] for number in range(min(num_bundles, len(seconds)))]


def run_bundles(bundles: Sequence[np.ndarray], cluster: Cluster) -> Outcome:
    """Idle workers take the next bundle, in order; as many bundles as workers are fixed shares.

    Units of a bundle are committed one by one. A worker that fails loses the unit in its hand and comes back after a
    while; the next idle worker takes the bundle again, and finds what is committed.
    """
    random = np.random.default_rng(cluster.seed + 1)
    speeds = cluster.speeds.tolist()
    failure_s = 3600 / cluster.failures_per_hour if cluster.failures_per_hour else np.inf
    sums = [float(bundle.sum()) + len(bundle) * cluster.unit_overhead_s for bundle in bundles]
    idle = [(0.0, worker) for worker in range(cluster.num_workers)]
    again: list[tuple[float, int, int]] = []  # when, which bundle, units committed
    ends = [0.0] * cluster.num_workers
    num_failures = 0
    position = 0
    while position < len(bundles) or again:
        now, worker = heapq.heappop(idle)
        if again and (again[0][0] <= now or position == len(bundles)):
            ready_at, number, num_done = heapq.heappop(again)
            now = max(now, ready_at)
        else:
            number, num_done = position, 0
            position += 1
        work_s = sums[number] if not num_done else _left(bundles[number], num_done, cluster)
        end = now + work_s / speeds[worker]
        fails_at = now + random.exponential(failure_s) if cluster.failures_per_hour else np.inf
        if fails_at < end:
            num_failures += 1
            done = _num_done(bundles[number], num_done, (fails_at - now) * speeds[worker], cluster)
            heapq.heappush(again, (fails_at + cluster.restart_s, number, done))
            end = fails_at + cluster.restart_s
        else:
            ends[worker] = end
        heapq.heappush(idle, (end, worker))
    ordered = sorted(ends)
    num_idle = int((1 - _TAIL_SHARE) * cluster.num_workers)
    return Outcome(ordered[-1], ordered[-1] - ordered[num_idle], num_failures)


def _left(bundle: np.ndarray, num_done: int, cluster: Cluster) -> float:
    rest = bundle[num_done:]
    return float(rest.sum()) + len(rest) * cluster.unit_overhead_s + num_done * SKIP_S


def _num_done(bundle: np.ndarray, num_done: int, worked_s: float, cluster: Cluster) -> int:
    ends = num_done * SKIP_S + np.cumsum(bundle[num_done:] + cluster.unit_overhead_s)
    return num_done + int(np.searchsorted(ends, worked_s, side="right"))


def restart_all(bundles: Sequence[np.ndarray], cluster: Cluster, *, give_up_s: float) -> float | None:
    """The makespan of fixed shares where one worker's failure starts all of them again; None after `give_up_s`."""
    random = np.random.default_rng(cluster.seed + 1)
    longest = max(len(bundle) for bundle in bundles)
    ends = np.full((len(bundles), longest + 1), np.inf)  # when each unit is done, of its worker's own time
    ends[:, 0] = 0
    for row, (bundle, speed) in enumerate(zip(bundles, cluster.speeds, strict=False)):
        ends[row, 1 : len(bundle) + 1] = np.cumsum(bundle + cluster.unit_overhead_s) / speed
    counts = np.array([len(bundle) for bundle in bundles])
    done = np.zeros(len(bundles), int)
    rows = np.arange(len(bundles))
    now = 0.0
    rate = cluster.failures_per_hour * cluster.num_workers / 3600
    while now < give_up_s:
        skipped_s = done * SKIP_S
        left_s = float((ends[rows, counts] - ends[rows, done] + skipped_s).max())
        lasts_s = random.exponential(1 / rate) if rate else np.inf
        if left_s <= lasts_s:
            return now + left_s
        reached = ends[rows, done] + np.maximum(0, lasts_s - skipped_s)
        done = np.maximum(done, (ends <= reached[:, None]).sum(axis=1) - 1)
        now += lasts_s + cluster.restart_s
    return None
