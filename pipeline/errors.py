"""Errors of facemill that went through a runner, which keeps their text alone."""

from __future__ import annotations

import re

from facemill.models.errors import ConfigError, FacemillError, ModelLoadError, OutputError

_KNOWN: dict[str, type[FacemillError]] = {
    error.__name__: error for error in (ConfigError, FacemillError, ModelLoadError, OutputError)
}
_RAISED = re.compile(r"facemill\.models\.errors\.(?P<name>\w+): (?P<message>[^\n]*)")
_PLACE = re.compile(r" \[while running '[^']*'\]$")


def raise_known_error(error: BaseException) -> None:
    """Raise the FacemillError that the text of a runner's error quotes; returns where it quotes none."""
    found = list(_RAISED.finditer(str(error)))
    if found and found[-1]["name"] in _KNOWN:
        message = _PLACE.sub("", found[-1]["message"].strip().strip('"'))
        raise _KNOWN[found[-1]["name"]](message) from error
