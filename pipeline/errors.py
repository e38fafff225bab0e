"""Errors of facemill that went through a runner, which adds the place or keeps their text alone."""

from __future__ import annotations

import re

from facemill.models.errors import ConfigError, FacemillError, ModelLoadError, OutputError

_KNOWN: dict[str, type[FacemillError]] = {
    error.__name__: error for error in (ConfigError, FacemillError, ModelLoadError, OutputError)
}
_RAISED = re.compile(r"facemill\.models\.errors\.(?P<name>\w+): (?P<message>[^\n]*)")
_JAVA_FRAME = re.compile(
    r"\s*(at [\w.$/]+\(|(at )?[\w.$/]+\(\w+\.(java|scala):\d+\)|\.\.\. \d+ more|Driver stacktrace)"
)
_GRPC_DETAILS = re.compile(r"details = \"(.+?)\"$", re.MULTILINE)
_JAVA_NAME = re.compile(r"\b(?:[a-z]\w*\.)+(?=[A-Z])((?:\w|\$)+)")
_PIPELINE_STATE = re.compile(r"^Pipeline \S+ failed in state \w+: ")
_DEATH = re.compile(
    r"client cancelled|process died|ExecutorLostFailure|task ?(manager|executor)\b.*(lost|timed out|closed|reachable)|"
    r"(lost|closed|heartbeat).*task ?(manager|executor)|indeterminate output",
    re.IGNORECASE,
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


def is_worker_death(error: BaseException) -> bool:
    """Whether a job failed because a process of its engine died, or was taken for dead."""
    return bool(_DEATH.search(str(error)))


def brief(error: BaseException) -> str:
    """What a runner's error comes down to, in one line: of a traceback in its text the last line or cause."""
    details = getattr(error, "details", None)  # of gRPC, whose errors are pages long
    text = _PLACE.sub("", str(details() if callable(details) else error))
    quoted = _GRPC_DETAILS.search(text)
    if quoted is not None:
        text = quoted[1]
    lines = [line.strip() for line in text.splitlines() if line.strip() and not _JAVA_FRAME.match(line)]
    causes = [line.removeprefix("Caused by: ") for line in lines if line.startswith("Caused by: ")]
    if not lines:
        return type(error).__name__
    if not (causes or _JAVA_NAME.search(lines[-1])):
        return f"{type(error).__name__}: {lines[-1]}"
    line = _JAVA_NAME.sub(r"\1", _PIPELINE_STATE.sub("", (causes or lines)[-1]))
    died = "a worker process died: " if _DEATH.search(line) else ""
    return died + re.sub(r"(\w+: )\1+", r"\1", line)
