"""One run at a time per output folder."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from filelock import FileLock, Timeout

from facemill.models.errors import ConfigError
from facemill.transforms.ops.storage import Folder

LOCK = "_run.lock"
_BEAT_SECONDS = 20.0
_STALE_SECONDS = 90.0


@contextmanager
def hold_lock(output: Folder, *, keeps_file: bool = True) -> Iterator[None]:
    """Keep other runs out of `output` inside the block.

    On a local disk the operating system holds the lock and gives it back when this process ends, however it ends. On an
    object store, which has no locks, a small file with the time is renewed; a run that ended without a word keeps
    others out until that file is 90 seconds old.

    Args:
        output: The output folder.
        keeps_file: Leave the local lock's empty file there at the end.

    Raises:
        ConfigError: Another run holds it, or the output cannot be written to.
    """
    if output.is_local:
        with _hold_local(output, keeps_file=keeps_file):
            yield
    else:
        with _hold_remote(output):
            yield


def _refusal(output: Folder, holder: str = "") -> ConfigError:
    return ConfigError(f"another run is writing to {output.uri}{holder}; wait for it or choose another output folder")


def _unusable(output: Folder, error: OSError) -> ConfigError:
    """The refusal of an output folder whose first file cannot be written; stores lack nothing but their buckets."""
    is_missing = isinstance(error, FileNotFoundError) and not output.is_local
    why = "there is no such bucket or container; make it first" if is_missing else error.strerror or str(error)
    return ConfigError(f"cannot write {output.shown(LOCK)}: {why}")


@contextmanager
def _hold_local(output: Folder, *, keeps_file: bool) -> Iterator[None]:
    lock = FileLock(output.join(LOCK))
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise _refusal(output) from error
    except OSError as error:
        raise _unusable(output, error) from error
    try:
        yield
    finally:
        if not keeps_file:
            with contextlib.suppress(OSError):  # Windows removes no open file
                os.unlink(output.join(LOCK))  # before the release: whoever has it open sees that it guards nothing
        lock.release()


@contextmanager
def _hold_remote(output: Folder) -> Iterator[None]:
    holder = f"process {os.getpid()} on {platform.node()}"
    try:
        _check_free(output)
        _beat(output, holder)
    except OSError as error:
        raise _unusable(output, error) from error
    ended = threading.Event()
    thread = threading.Thread(target=_keep_beating, args=(output, holder, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        with contextlib.suppress(OSError):  # it is stale soon, and must not hide how the run ended
            output.remove(LOCK)


def _check_free(output: Folder) -> None:
    try:
        held = json.loads(output.read_bytes(LOCK))
        is_fresh, other = time.time() - held["time"] < _STALE_SECONDS, held["holder"]
    except FileNotFoundError:
        return
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"{output.shown(LOCK)} is damaged; remove it if no other run writes there") from error
    if is_fresh:
        raise _refusal(output, f" ({other})")


def _keep_beating(output: Folder, holder: str, ended: threading.Event) -> None:
    while not ended.wait(_BEAT_SECONDS):
        with contextlib.suppress(OSError):  # one beat that is missed does no harm
            _beat(output, holder)


def _beat(output: Folder, holder: str) -> None:
    output.fs.pipe_file(output.join(LOCK), json.dumps({"holder": holder, "time": time.time()}).encode())
