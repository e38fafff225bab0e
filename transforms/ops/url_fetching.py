"""Fetching what URLs lead to: a few at a time, in their order, patiently, and never more bytes than are allowed."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing
from http.client import responses
from typing import Any

import tenacity

from facemill.models.errors import BadInputError
from facemill.transforms.ops import heartbeat
from facemill.transforms.ops.local_files import check_regular
from facemill.transforms.ops.members import Member, ReadLimits, failed_member, member_of
from facemill.transforms.ops.storage import Folder
from facemill.transforms.ops.store_errors import explain, is_passing
from facemill.transforms.ops.url_access import Place, locate
from facemill.transforms.ops.url_lists import UrlLine

_NUM_CONNECTIONS = 4
_NUM_AHEAD = 8  # lines whose files are fetched, or wait for it, before their turn
_MAX_BYTES_AHEAD = 16 << 20  # of each of these; a larger file is fetched anew when its turn has come
_MAX_ATTEMPTS = 4
_PATIENCE_SECONDS = 60.0  # no attempt begins later
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.5, 10.0  # at most; each up to twice the one before
_LONGEST_WISH_SECONDS = 30.0  # of a server that asks to be left alone for a while
_DOWNLOAD_SECONDS = 120.0
_BEAT_SECONDS, _BEATING_SECONDS = 5.0, 300.0
_CHUNK_BYTES = 1 << 20


def fetch_members(lines: Iterable[UrlLine], lists: Folder, limits: ReadLimits) -> Iterator[Member]:
    """What the lines of a list in the folder `lists` lead to, in their order; the next ones are fetched meanwhile."""
    with closing(_Fetcher(lists, limits)) as fetcher:
        ahead: deque[tuple[UrlLine, Future[bytes]]] = deque()
        for line in lines:
            ahead.append((line, fetcher.begin(line)))
            if len(ahead) > _NUM_AHEAD:
                yield fetcher.finish(*ahead.popleft())
        while ahead:
            yield fetcher.finish(*ahead.popleft())


class _Fetcher:
    """Some threads that fetch, and what ends them."""

    def __init__(self, lists: Folder, limits: ReadLimits) -> None:
        self._lists = lists
        self._max_bytes = limits.max_member_bytes
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(_NUM_CONNECTIONS, thread_name_prefix="fetch")

    def begin(self, line: UrlLine) -> Future[bytes]:
        return self._submit(line, min(self._max_bytes, _MAX_BYTES_AHEAD))

    def finish(self, line: UrlLine, begun: Future[bytes]) -> Member:
        try:
            return member_of(line.name, self._data(line, begun), label=line.label)
        except BadInputError as error:
            return failed_member(line.name, error.reason, error.message, label=line.label)

    def close(self) -> None:
        self._stop.set()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _submit(self, line: UrlLine, max_bytes: int) -> Future[bytes]:
        try:
            if line.failure is not None:
                raise BadInputError(*line.failure)
            # Here and not in a thread, as fsspec has a driver, with its connections, for each thread that asks.
            return self._pool.submit(_fetch, locate(line.url or "", self._lists), max_bytes, self._stop)
        except BadInputError as error:
            refused: Future[bytes] = Future()
            refused.set_exception(error)
            return refused

    def _data(self, line: UrlLine, begun: Future[bytes]) -> bytes:
        try:
            return _await(begun)
        except BadInputError as error:
            if error.reason != "too_large" or self._max_bytes <= _MAX_BYTES_AHEAD:
                raise
        return _await(self._submit(line, self._max_bytes))


def _await(future: Future[bytes]) -> bytes:
    """The future's result; meanwhile signs of life are given, though not for ever."""
    until = time.monotonic() + _BEATING_SECONDS
    while not wait([future], timeout=_BEAT_SECONDS).done:
        if time.monotonic() < until:
            heartbeat.beat()
    return future.result()


def _fetch(place: Place, max_bytes: int, stop: threading.Event) -> bytes:
    """The content of the file at `place`.

    Raises:
        BadInputError: It cannot be had, or is larger than `max_bytes`.
    """
    # Not `keep_asking`, which has patience with the one store of a run: of the many hosts of a list some never answer.
    # It also does not wait as long as a server asks, nor ends its pauses when nobody waits for the file any more.
    retrying = tenacity.Retrying(
        stop=tenacity.stop_after_attempt(_MAX_ATTEMPTS) | tenacity.stop_after_delay(_PATIENCE_SECONDS),
        wait=_pause_seconds,
        retry=tenacity.retry_if_exception(is_passing),
        sleep=tenacity.sleep_using_event(stop),
        reraise=True,
    )
    try:
        return retrying(_read, place, max_bytes, stop)
    except BadInputError:
        raise
    except Exception as error:  # the libraries behind the stores have errors of their own
        attempts = retrying.statistics["attempt_number"]
        times = f" ({attempts} attempts)" if attempts > 1 else ""
        raise BadInputError("read_error", f"{_describe(error, place)}{times}") from error


def _read(place: Place, max_bytes: int, stop: threading.Event) -> bytes:
    if place.is_local:
        check_regular(place.path)
    # fsspec asks a web server for the size of a file before it opens it, unless it is told one, which a stream ignores.
    how: dict[str, Any] = {"block_size": 0, "size": 1} if place.store == "http" else {"block_size": _CHUNK_BYTES}
    until = time.monotonic() + _DOWNLOAD_SECONDS
    chunks = []
    num_bytes = 0
    with closing(place.fs.open(place.path, "rb", **how)) as file:
        while chunk := file.read(min(_CHUNK_BYTES, max_bytes + 1 - num_bytes)):
            chunks.append(chunk)
            num_bytes += len(chunk)
            if num_bytes > max_bytes:
                raise BadInputError("too_large", f"more than {max_bytes} bytes, which is the limit")
            if stop.is_set() or time.monotonic() > until:
                raise TimeoutError(f"not all of it came within {_DOWNLOAD_SECONDS:.0f} s")
    return b"".join(chunks)


def _pause_seconds(state: tenacity.RetryCallState) -> float:
    """A random pause that grows with the attempts, or as long as the server wishes."""
    error = state.outcome.exception() if state.outcome else None
    wish = str((getattr(error, "headers", None) or {}).get("Retry-After", ""))
    pause = tenacity.wait_random_exponential(_FIRST_PAUSE_SECONDS, max=_LONGEST_PAUSE_SECONDS)(state)
    return max(pause, min(float(wish), _LONGEST_WISH_SECONDS) if wish.isdecimal() else 0.0)


def _describe(error: Exception, place: Place) -> str:
    status = 404 if isinstance(error, FileNotFoundError) and place.store == "http" else getattr(error, "status", None)
    if isinstance(status, int):
        return f"HTTP status {status} {responses.get(status, '')}".rstrip()
    return str(explain(error, place.path, place.store).strerror)
