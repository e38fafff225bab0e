"""Errors of facemill that went through a runner, which adds the place or keeps their text alone."""

from __future__ import annotations

import re

from facemill.models.errors import ConfigError, FacemillError, ModelLoadError, OutputError

_KNOWN: dict[str, type[FacemillError]] = {
    error.__name__: error for error in (ConfigError, FacemillError, ModelLoadError, OutputError)
}
_RAISED = re.compile(r"facemill\.models\.errors\.(?P<name>\w+): (?P<message>[^\n]*)")
_PLACE = re.compile(r" \[while running '[^']*'\]")


def known_error(error: Exception) -> FacemillError | None:
    """The FacemillError that a runner's error is or quotes, as it was before the runner; None for all else."""
    if isinstance(error, FacemillError):
        return type(error)(_PLACE.sub("", str(error)))
    found = list(_RAISED.finditer(str(error)))
    if not found or found[-1]["name"] not in _KNOWN:
        return None
    return _KNOWN[found[-1]["name"]](_PLACE.sub("", found[-1]["message"]).strip().strip('"'))


def brief(error: BaseException) -> str:
    """What a runner's error comes down to, in one line: of a traceback in its text the last line."""
    lines = [line.strip() for line in _PLACE.sub("", str(error)).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1]}" if lines else type(error).__name__
