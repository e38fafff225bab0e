"""Errors of facemill that went through a runner, which adds the place or keeps their text alone."""

from __future__ import annotations

import re

from facemill.models.errors import ConfigError, FacemillError, ModelLoadError, OutputError

_KNOWN: dict[str, type[FacemillError]] = {
    error.__name__: error for error in (ConfigError, FacemillError, ModelLoadError, OutputError)
}
_RAISED = re.compile(r"facemill\.models\.errors\.(?P<name>\w+): (?P<message>[^\n]*)")
_JAVA_FRAME = re.compile(r"\s*(at [\w.$/]+\(|at java\.|\.\.\. \d+ more|Driver stacktrace)")
_JAVA_NAME = re.compile(r"\b(?:[a-z]\w*\.)+(?=[A-Z])((?:\w|\$)+)")
_PIPELINE_STATE = re.compile(r"^Pipeline \S+ failed in state \w+: ")
_DEATH = re.compile(
    r"client cancelled|Process died|ExecutorLostFailure|TaskManager.* lost|heartbeat of TaskManager", re.I
)
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
    """What a runner's error comes down to, in one line: of a traceback in its text the last line or cause."""
    text = _PLACE.sub("", str(error))
    lines = [line.strip() for line in text.splitlines() if line.strip() and not _JAVA_FRAME.match(line)]
    causes = [line.removeprefix("Caused by: ") for line in lines if line.startswith("Caused by: ")]
    if not lines:
        return type(error).__name__
    if not (causes or _JAVA_NAME.search(lines[-1])):
        return f"{type(error).__name__}: {lines[-1]}"
    line = _JAVA_NAME.sub(r"\1", _PIPELINE_STATE.sub("", (causes or lines)[-1]))
    died = "a worker process died: " if _DEATH.search(line) else ""
    return died + re.sub(r"(\w+: )\1+", r"\1", line)
