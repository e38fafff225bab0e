"""Asking a store again, after ever longer pauses, as long as that may help."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import tenacity

from facemill.transforms.ops import heartbeat
from facemill.transforms.ops.store_errors import is_passing

_PATIENCE_SECONDS = 60.0
_MIN_ATTEMPTS = 3  # also of what takes longer than that, such as a large file
_FIRST_PAUSE_SECONDS = 0.25  # at most, as are the next ones, each up to twice the one before
_LONGEST_PAUSE_SECONDS = 10.0
_TOLD_ATTEMPT = 3  # those before it are everyday matters

_logger = logging.getLogger(__name__)
_Result = TypeVar("_Result")


class CutShortError(ConnectionError):
    """Less came, or was done, than there is."""


def keep_asking(operation: Callable[[], _Result], explained: Callable[[BaseException], OSError]) -> _Result:
    """What `operation` returns, which must be safe to repeat.

    Args:
        operation: Sends a request.
        explained: Makes the error that is raised, or told, of the driver's.
    """

    def tell(state: tenacity.RetryCallState) -> None:
        heartbeat.beat()
        error = state.outcome.exception() if state.outcome is not None else None
        if error is not None and state.attempt_number == _TOLD_ATTEMPT:
            _logger.warning("%s; trying again", explained(error))

    retrying = tenacity.Retrying(
        stop=tenacity.stop_after_delay(_PATIENCE_SECONDS) & tenacity.stop_after_attempt(_MIN_ATTEMPTS),
        wait=tenacity.wait_random_exponential(_FIRST_PAUSE_SECONDS, max=_LONGEST_PAUSE_SECONDS),
        retry=tenacity.retry_if_exception(is_passing),
        before_sleep=tell,
        reraise=True,
    )
    try:
        return retrying(operation)
    except Exception as error:  # the libraries behind the stores have errors of their own
        raise explained(error) from error
