"""The local mode: worker processes, each running the graph in memory on one unit after the other.

Each worker is a process pool of one, so that a worker that dies takes nothing along but the unit in its hand, and no
lock or pipe is shared between workers that a dying one could leave closed.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from typing import Any

from facemill.models.errors import ConfigError, FacemillError, ModelLoadError, OutputError
from facemill.pipeline.errors import brief
from facemill.pipeline.job import Job
from facemill.pipeline.worker import run_unit, start_worker
from facemill.transforms.ops.committing import UnitSummary
from facemill.transforms.ops.heartbeat import Slot
from facemill.transforms.ops.units import Unit

_POLL_SECONDS = 0.25
_MAX_ATTEMPTS = 3  # of a unit that raises, for instance because a store does not answer
_MAX_DEATHS_PER_UNIT = 12  # of a unit that kills its workers in ever other places
_MAX_LOST_IN_A_ROW = 5  # then something is wrong that the next unit will meet as well
_MAX_DEATHS_AT_START = 6  # in a row, before any worker could set itself up


@dataclass(frozen=True)
class Activity:
    """What the workers are at: committed units and those in hand, added up."""

    num_bytes: int = 0
    num_images: int = 0
    num_kept: int = 0
    num_failed: int = 0


@dataclass
class LocalOutcome:
    """How the units ended.

    Attributes:
        num_committed: Units committed.
        lost: Why a unit was given up in this run, by its name.
        quarantined: Positions of the images that killed their worker, by unit.
        num_deaths: How often a worker died.
    """

    num_committed: int = 0
    lost: dict[str, str] = field(default_factory=dict)
    quarantined: dict[str, tuple[int, ...]] = field(default_factory=dict)
    num_deaths: int = 0


def run_local(
    job: Job, units: Iterable[Unit], *, num_workers: int, on_activity: Callable[[Activity], None]
) -> LocalOutcome:
    """Process units in `num_workers` processes until none is left.

    Raises:
        OutputError: The output cannot be written, so going on makes no sense.
        ModelLoadError, ConfigError: No worker can start.
    """
    crew = _Crew(job, iter(units), num_workers, on_activity)
    try:
        crew.work()
    finally:
        crew.stop()
    return crew.outcome


class _Worker:
    """One process, and the shared memory in which it says what it does."""

    def __init__(self, job: Job) -> None:
        context = multiprocessing.get_context("spawn")
        self.slots: Any = context.RawArray("q", len(Slot))
        self._pool = ProcessPoolExecutor(1, context, initializer=start_worker, initargs=(job, self.slots))
        self.unit: Unit | None = None
        self._seen_beats = -1
        self._seen_at = time.monotonic()

    def submit(self, unit: Unit, quarantined: tuple[int, ...]) -> Future[UnitSummary]:
        self.unit = unit
        self.slots[Slot.IMAGE_INDEX] = -1
        for slot in (Slot.NUM_BYTES, Slot.NUM_IMAGES, Slot.NUM_KEPT, Slot.NUM_FAILED):
            self.slots[slot] = 0
        self._seen_at = time.monotonic()
        with _interrupts_kept_from_children():
            return self._pool.submit(run_unit, unit, quarantined)

    def is_stalled(self, stall_seconds: float) -> bool:
        """Whether the worker has shown no sign of life for so long."""
        beats, now = self.slots[Slot.BEATS], time.monotonic()
        if beats != self._seen_beats:
            self._seen_beats, self._seen_at = beats, now
        return now - self._seen_at > stall_seconds

    def kill(self) -> None:
        if self.slots[Slot.PID]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.slots[Slot.PID], getattr(signal, "SIGKILL", signal.SIGTERM))

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)  # the process is dead: this ends the pool's thread


class _Crew:
    """Hands units to workers, and deals with those that fail or die."""

    def __init__(
        self, job: Job, units: Iterator[Unit], num_workers: int, on_activity: Callable[[Activity], None]
    ) -> None:
        self.outcome = LocalOutcome()
        self._job = job
        self._units = units
        self._again: list[Unit] = []
        self._idle = [_Worker(job) for _ in range(num_workers)]
        self._busy: dict[Future[UnitSummary], _Worker] = {}
        self._errors: Counter[str] = Counter()
        self._deaths: Counter[str] = Counter()
        self._blamed: Counter[tuple[str, int]] = Counter()
        self._deaths_at_start = 0
        self._num_lost_in_a_row = 0
        self._done = Activity()
        self._on_activity = on_activity

    def work(self) -> None:
        while self._hand_out() or self._busy:
            finished, _ = wait(self._busy, timeout=_POLL_SECONDS, return_when=FIRST_COMPLETED)
            for future in finished:
                self._take_back(future)
            for worker in self._busy.values():
                if worker.is_stalled(self._job.config.run.stall_seconds):
                    worker.kill()
            self._report()

    def stop(self) -> None:
        """End all workers at once; their units in hand are not committed, and harm nothing."""
        workers = [*self._idle, *self._busy.values()]
        for child in multiprocessing.active_children():
            child.kill()
        for worker in workers:
            worker.close()
        for child in multiprocessing.active_children():
            child.join()

    def _hand_out(self) -> bool:
        handed = False
        while self._idle:
            unit = self._again.pop() if self._again else next(self._units, None)
            if unit is None:
                break
            worker = self._idle.pop()
            self._busy[worker.submit(unit, self.outcome.quarantined.get(unit.name, ()))] = worker
            handed = True
        return handed

    def _take_back(self, future: Future[UnitSummary]) -> None:
        worker = self._busy.pop(future)
        unit = worker.unit
        assert unit is not None
        try:
            summary = future.result()
        except BrokenProcessPool:
            self._replace(worker)
            self._after_death(unit, worker)
        except (ModelLoadError, ConfigError):
            raise
        except Exception as error:
            if isinstance(error, OutputError) and self._job.output.is_local:
                raise  # the next unit would meet the same full or forbidden disk
            # Whatever a unit stumbles over, the others must go on; this one is tried again, then reported.
            self._idle.append(worker)
            self._after_error(unit, brief(error))
        else:
            self._idle.append(worker)
            self._num_lost_in_a_row = 0
            self.outcome.num_committed += 1
            self._count(summary)

    def _replace(self, worker: _Worker) -> None:
        worker.close()
        self._idle.append(_Worker(self._job))

    def _after_death(self, unit: Unit, worker: _Worker) -> None:
        """Try the unit again, without the image that has now killed its worker too often."""
        self.outcome.num_deaths += 1
        self._deaths_at_start = 0 if worker.slots[Slot.PID] else self._deaths_at_start + 1
        if self._deaths_at_start >= _MAX_DEATHS_AT_START:
            raise OutputError("the worker processes die as they start; see the messages above")
        image_index = worker.slots[Slot.IMAGE_INDEX]
        self._deaths[unit.name] += 1
        if self._deaths[unit.name] >= _MAX_DEATHS_PER_UNIT:
            self._give_up(unit, f"its worker died {_MAX_DEATHS_PER_UNIT} times")
            return
        if image_index >= 0:
            self._blamed[unit.name, image_index] += 1
            if self._blamed[unit.name, image_index] >= self._job.config.run.max_worker_deaths:
                earlier = self.outcome.quarantined.get(unit.name, ())
                self.outcome.quarantined[unit.name] = (*earlier, image_index)
        self._again.append(unit)

    def _after_error(self, unit: Unit, message: str) -> None:
        self._errors[unit.name] += 1
        if self._errors[unit.name] < _MAX_ATTEMPTS:
            self._again.insert(0, unit)
            return
        self._give_up(unit, message)

    def _give_up(self, unit: Unit, message: str) -> None:
        self.outcome.lost[unit.name] = message
        self._num_lost_in_a_row += 1
        if self._num_lost_in_a_row >= _MAX_LOST_IN_A_ROW:
            raise FacemillError(
                f"{self._num_lost_in_a_row} units in a row could not be done, the last because of {message}"
            )

    def _count(self, summary: UnitSummary) -> None:
        self._done = Activity(
            self._done.num_bytes + summary.num_bytes,
            self._done.num_images + summary.num_images,
            self._done.num_kept + summary.num_kept,
            self._done.num_failed + summary.statuses.get("failed", 0),
        )

    def _report(self) -> None:
        slots = [worker.slots for worker in self._busy.values()]
        self._on_activity(
            Activity(
                self._done.num_bytes + sum(slot[Slot.NUM_BYTES] for slot in slots),
                self._done.num_images + sum(slot[Slot.NUM_IMAGES] for slot in slots),
                self._done.num_kept + sum(slot[Slot.NUM_KEPT] for slot in slots),
                self._done.num_failed + sum(slot[Slot.NUM_FAILED] for slot in slots),
            )
        )


@contextlib.contextmanager
def _interrupts_kept_from_children() -> Iterator[None]:
    """Processes started inside never get SIGINT; one sent meanwhile reaches this process at the end."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
