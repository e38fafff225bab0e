"""Reading videos: some of the frames of a file, decoded in their order by FFmpeg within OpenCV.

Frames are told by their times, since the number of frames is an estimate where their rate varies. A file is always read
from its start: seeking lands on other frames than counting does, so that no part of a file can be read on its own.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import cv2

from facemill.models.errors import BadInputError
from facemill.transforms.ops import heartbeat
from facemill.transforms.ops.members import (
    Member,
    ReadLimits,
    check_member_size,
    failed_member,
    failed_shard,
)
from facemill.transforms.ops.signatures import sniff_format
from facemill.transforms.ops.video_containers import HEAD_BYTES, Container, missing_bytes, sniff_container

_MAX_DAMAGED_FRAMES = 1000  # in a row; then the end of the video is taken for reached
_USUAL_RATE = 25.0
_ENVIRONMENT = {
    "OPENCV_FFMPEG_LOGLEVEL": "-8",  # none; what is wrong with a video is in its rows
    "OPENCV_FFMPEG_CAPTURE_OPTIONS": "fflags;discardcorrupt",  # no half picture at the end of a file that is cut off
    "OPENCV_FFMPEG_READ_ATTEMPTS": "1000000",  # so much sound may come between two pictures
}


@dataclass(frozen=True)
class FrameChoice:
    """Which frames of a video are images: every so many, or if that is None, one for so many seconds."""

    every_frames: int | None = None
    every_seconds: float = 1.0

    def period(self, number: int, seconds: float) -> int:
        """The period that a frame falls in by its number or time; the first of each period is chosen."""
        if self.every_frames is not None:
            return number // self.every_frames
        return math.floor(seconds / self.every_seconds + 1e-6)  # times are rounded to the units of the container


class _Frame(NamedTuple):
    number: int  # of the decoded frames, from 0
    seconds: float  # since the start
    num_damaged: int  # that could not be decoded right before it


def iterate_video(path: str, *, limits: ReadLimits, choice: FrameChoice) -> Iterator[Member]:
    """The chosen frames of a local video file as BMP files, named by their number and time.

    Frames that cannot be decoded are told by a failed member in their place. A member without name says that the file
    cannot be read, or not to its end.
    """
    _silence()
    try:
        container, num_missing = _examine(path)
        capture = _open(path, num_missing, limits)
    except BadInputError as error:
        yield failed_shard(error)
        return
    last: _Frame | None = None
    try:
        share = _Share(capture, os.path.getsize(path))
        period = -1
        for last in _frames(capture):
            if last.num_damaged:
                message = f"damaged: frames right before this one that cannot be decoded: {last.num_damaged}"
                yield failed_member(f"{_name(last)}-damaged", "decode_error", message)
            if choice.period(last.number, last.seconds) > period:
                period = choice.period(last.number, last.seconds)
                yield _member(capture, last, share.upto(last.seconds))
        if why := _why_early(capture, container, num_missing, last):
            yield failed_shard(why)
    finally:
        capture.release()


def _silence() -> None:
    """Keep OpenCV and FFmpeg from writing to standard error, for good: FFmpeg reads its part of it once."""
    os.environ.update(_ENVIRONMENT)
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def _examine(path: str) -> tuple[Container, int]:
    """The container, and how many bytes the file lacks of what it says."""
    with open(path, "rb") as file:
        head = file.read(256)
        if not head:
            raise BadInputError("empty", "the file has no bytes")
        container = sniff_container(head[:HEAD_BYTES])
        if container is None:
            what = sniff_format(head)
            raise BadInputError("unsupported_format", f"{what}, no video" if what else "no video of a known container")
        return container, missing_bytes(file, container)


def _open(path: str, num_missing: int, limits: ReadLimits) -> cv2.VideoCapture:
    # One thread, as the cores are the workers'; no graphics card, whose pixels may be others.
    options = [cv2.CAP_PROP_N_THREADS, 1, cv2.CAP_PROP_HW_ACCELERATION, cv2.VIDEO_ACCELERATION_NONE]
    capture = cv2.VideoCapture(path, cv2.CAP_FFMPEG, options)
    if not capture.isOpened():
        if num_missing:
            raise BadInputError("truncated", "cut short, without what says how its frames are to be decoded")
        raise BadInputError(
            "decode_error", "no video can be opened in it: damaged, or it holds none, such as sound alone"
        )
    width, height = (int(capture.get(side)) for side in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
    if failure := check_member_size(3 * width * height, limits):
        capture.release()
        raise BadInputError(failure.reason, f"a frame of {width} x {height} pixels takes {failure.message}")
    return capture


def _frames(capture: cv2.VideoCapture) -> Iterator[_Frame]:
    """Every frame that can be decoded, with its pixels for the asking until the next one."""
    number = num_damaged = 0
    seconds = -1 / _rate(capture)
    while num_damaged < _MAX_DAMAGED_FRAMES:
        heartbeat.beat()
        if not capture.grab():
            num_damaged += 1
            continue
        seconds = _seconds(capture, seconds)
        yield _Frame(number, seconds, num_damaged)
        number += 1
        num_damaged = 0


def _rate(capture: cv2.VideoCapture) -> float:
    rate = capture.get(cv2.CAP_PROP_FPS)
    return rate if math.isfinite(rate) and rate > 0 else _USUAL_RATE


def _seconds(capture: cv2.VideoCapture, previous: float) -> float:
    """The time of the frame in hand; where the file has none, or goes back in time, one frame after the previous."""
    seconds = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
    return seconds if math.isfinite(seconds) and seconds > previous else previous + 1 / _rate(capture)


def _name(frame: _Frame) -> str:
    return f"{frame.number:08d}-{frame.seconds:.3f}s"


def _member(capture: cv2.VideoCapture, frame: _Frame, stored_bytes: int) -> Member:
    try:
        decoded, pixels_bgr = capture.retrieve()
        encoded, data = cv2.imencode(".bmp", pixels_bgr) if decoded else (False, None)
    except cv2.error as error:
        return failed_member(_name(frame), "decode_error", f"damaged: {error.err}")
    if not encoded or data is None:
        return failed_member(_name(frame), "decode_error", "damaged: the frame has no pixels")
    return Member(_name(frame), data.tobytes(), stored_bytes=stored_bytes)


class _Share:
    """Deals the bytes of the file to its frames by their times, so that progress can be told."""

    def __init__(self, capture: cv2.VideoCapture, num_bytes: int) -> None:
        self._seconds = _duration(capture)
        self._num_bytes = num_bytes
        self._told = 0

    def upto(self, seconds: float) -> int:
        """The bytes of the file up to this time that were not dealt before."""
        reached = self._num_bytes if seconds >= self._seconds else int(self._num_bytes * seconds / self._seconds)
        share = max(0, reached - self._told)
        self._told += share
        return share


def _duration(capture: cv2.VideoCapture) -> float:
    """What the file says of its length in seconds; 0 where it does not."""
    num_frames = capture.get(cv2.CAP_PROP_FRAME_COUNT)
    return num_frames / _rate(capture) if math.isfinite(num_frames) and num_frames > 0 else 0.0


def _why_early(
    capture: cv2.VideoCapture, container: Container, num_missing: int, last: _Frame | None
) -> BadInputError | None:
    """Why there is no frame behind `last`, unless the video is at its end."""
    if num_missing:
        upto = f"after frame {last.number}" if last else "before its first frame"
        return BadInputError("truncated", f"cut short {upto}: {num_missing} bytes or more are missing")
    if last is None and not _duration(capture):
        return BadInputError("empty", "the video holds no frame")
    if last is None:
        codec = int(capture.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little").decode("ascii", "backslashreplace")
        why = f"(codec {codec!r}): damaged, or OpenCV has no decoder for it"
        return BadInputError("unsupported_format", f"none of its frames can be decoded {why}")
    # Other containers have an index, by which reading goes on behind damage. Matroska's lengths are too uncertain to
    # call a few frames missing.
    duration = _duration(capture)
    if container == "matroska" and last.seconds + 1 < 0.9 * duration:
        return BadInputError(
            "decode_error",
            f"no frame after {last.seconds:.3f} s of {duration:.3f} s: damaged, or another track is longer",
        )
    return None
