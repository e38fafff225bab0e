"""Progress of a job on other machines, from the commit markers that appear."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from facemill.pipeline.local import Activity
from facemill.pipeline.summary import committed_units, read_summaries
from facemill.transforms.ops.storage import Folder

_POLL_SECONDS = 2.0
_LISTING_SHARE = 10  # looking takes at most one part in so many of the time


@contextmanager
def following(output: Folder, on_activity: Callable[[Activity], None]) -> Iterator[None]:
    """Inside the block, tell every few seconds what has been committed since its beginning."""
    ended = threading.Event()
    known = committed_units(output)
    thread = threading.Thread(target=_follow, args=(output, known, on_activity, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _follow(
    output: Folder, known: frozenset[str], on_activity: Callable[[Activity], None], ended: threading.Event
) -> None:
    activity = Activity()
    pause = _POLL_SECONDS
    is_last = False
    while not is_last:
        is_last = ended.wait(pause)
        started_at = time.monotonic()
        with contextlib.suppress(Exception):  # of the store, which the job itself meets as well
            found = committed_units(output)
            activity = _add(activity, output, found - known)
            known = found
            on_activity(activity)
        pause = max(_POLL_SECONDS, _LISTING_SHARE * (time.monotonic() - started_at))


def _add(activity: Activity, output: Folder, units: frozenset[str]) -> Activity:
    for unit in read_summaries(output, units):
        activity = replace(
            activity,
            num_bytes=activity.num_bytes + unit.num_bytes,
            num_images=activity.num_images + unit.num_images,
            num_kept=activity.num_kept + unit.num_kept,
            num_failed=activity.num_failed + unit.statuses.get("failed", 0),
        )
    return activity
