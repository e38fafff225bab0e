"""Progress of a run: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TextIO

from tqdm import tqdm

from facemill.pipeline.local import Activity

_LINE_SECONDS = 10.0
_BAR = "{percentage:3.0f}% {remaining} left, {desc}"  # fits 80 columns with millions of images


class Progress:
    """Shows what the workers do, measured in bytes of input, since shards do not say how many images they hold."""

    def __init__(self, total_bytes: int, stream: TextIO) -> None:
        self._stream = stream
        self._total_bytes = total_bytes
        self._started_at = time.monotonic()
        self._last_line_at = self._started_at
        self._activity = Activity()
        self._bar = tqdm(total=total_bytes, file=stream, bar_format=_BAR, leave=True) if stream.isatty() else None

    def update(self, activity: Activity) -> None:
        """Show `activity`, the sums of the whole run so far."""
        self._activity = activity
        now = time.monotonic()
        if self._bar is not None:
            self._bar.set_description_str(self._counts(now), refresh=False)
            self._bar.n = min(activity.num_bytes, self._total_bytes)
            self._bar.refresh()
        elif now - self._last_line_at >= _LINE_SECONDS:
            self._last_line_at = now
            self._print_line(now)

    def close(self, *, is_complete: bool) -> None:
        """Leave the last state standing; complete is 100 %, though archives hold more bytes than their images."""
        now = time.monotonic()
        if is_complete:
            self._activity = replace(self._activity, num_bytes=self._total_bytes)
        if self._bar is not None:
            self._bar.n = min(self._activity.num_bytes, self._total_bytes)
            self._bar.set_description_str(self._counts(now))
            self._bar.close()
        elif self._activity.num_images:
            self._print_line(now)

    def _counts(self, now: float) -> str:
        a = self._activity
        rate = a.num_images / max(now - self._started_at, 1e-6)
        return f"{a.num_images:,} images, {rate:.1f}/s, {a.num_kept:,} kept, {a.num_failed:,} failed"

    def _print_line(self, now: float) -> None:
        elapsed = now - self._started_at
        share = min(self._activity.num_bytes / max(self._total_bytes, 1), 1.0)
        left = f", {_clock(elapsed / share - elapsed)} left" if 0 < share < 1 else ""
        line = f"{share:4.0%} {self._counts(now)}, {_clock(elapsed)} gone{left}"
        self._stream.write(line + "\n")
        self._stream.flush()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes:02d}:{rest:02d}"
