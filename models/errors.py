"""The errors that facemill raises on purpose.

FacemillError
├── ConfigError      the command or the configuration is wrong: stop before any work
├── ModelLoadError   the networks cannot be loaded: stop the worker
├── OutputError      the output cannot be written: stop the run, what is committed stays valid
│   └── DamagedOutputError   the output folder cannot be gone on with
└── BadInputError    one input is at fault: record it and go on with the next
"""

from __future__ import annotations

from typing import Literal, get_args

FailureReason = Literal[
    "read_error",
    "empty",
    "unsupported_format",
    "decode_error",
    "truncated",
    "too_large",
    "too_small",
    "internal_error",
]
FAILURE_REASONS: tuple[str, ...] = get_args(FailureReason)


class FacemillError(Exception):
    """Root of the errors that facemill raises on purpose; the message is meant for the user."""


class ConfigError(FacemillError, ValueError):
    """An option, a configuration or a command line that cannot be carried out."""


class ModelLoadError(FacemillError):
    """The weights are missing, damaged or of the wrong shape."""


class OutputError(FacemillError):
    """The output cannot be written, or does not balance."""


class DamagedOutputError(OutputError):
    """The output folder lacks what says how it was made, so that nothing can be added to it."""


class BadInputError(FacemillError):
    """One input is at fault; `reason` is what the `images` table will say."""

    def __init__(self, reason: FailureReason, message: str) -> None:
        super().__init__(reason, message)
        self.reason: FailureReason = reason
        self.message = message

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"
