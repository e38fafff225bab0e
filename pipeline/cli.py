"""The command line."""

from __future__ import annotations

import argparse
import difflib
import os
import signal
import sys
from collections.abc import Sequence
from importlib import metadata
from typing import NoReturn

from facemill.models.errors import ConfigError, DamagedOutputError, FacemillError
from facemill.pipeline.commands import (
    check_crops,
    crop,
    demo,
    detect,
    duplicates,
    export,
    filter,
    report,
    run,
    templates,
)
from facemill.pipeline.commands.arguments import EXIT_CODES, EXIT_INTERRUPTED, EXIT_LOST, EXIT_USAGE
from facemill.transforms.ops.credentials import redact

_COMMANDS = (run, report, crop, filter, duplicates, export, templates, check_crops, detect, demo)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        missing = message.partition("arguments are required: ")[2].partition(",")[0]
        if missing in ("OUT", "CROPS") and self._takes_several_templates:
            message += f"; name {missing} before --template, which takes all that follows"
        self.exit(EXIT_USAGE, f"{self.prog}: {message}\nSee {self.prog} --help\n")

    @property
    def _takes_several_templates(self) -> bool:
        action = self._option_string_actions.get("--template")
        return action is not None and action.nargs == "+"

    def refuse(self, arguments: Sequence[str]) -> NoReturn:
        """Say that these are unknown, and which option the first may be meant for."""
        near = difflib.get_close_matches(arguments[0], self._option_string_actions, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        self.error(f"unrecognized arguments: {' '.join(arguments)}{hint}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the `facemill` command; returns the exit code."""
    interrupts = _heed_interrupts()
    _fill_closed_streams()
    parser = _make_parser()
    known, unknown = parser.parse_known_args(arguments)
    if unknown and getattr(known, "runner", None) is None:
        known.parser.refuse(unknown)
    advice = getattr(known, "advice", "")
    try:
        code = int(known.command(known, unknown))
        sys.stdout.flush()  # a reader that went away is met here, not at the interpreter's exit
        return code
    except (KeyboardInterrupt, Exception) as error:
        # What is interrupted may raise another error, such as an extension module in the middle of its import.
        if interrupts or isinstance(error, KeyboardInterrupt):
            sys.stderr.write(f"\ninterrupted{advice}\n")
            return EXIT_INTERRUPTED
        return _tell(error, advice)


def _tell(error: Exception, advice: str) -> int:
    """Tell the user of an error; returns the exit code. What is not meant for users is raised again."""
    if isinstance(error, ConfigError):
        return _fail(error, EXIT_USAGE)
    if isinstance(error, DamagedOutputError):
        return _fail(error, EXIT_LOST)
    if isinstance(error, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that the exit does not complain again
        return EXIT_LOST
    if isinstance(error, FacemillError | OSError):  # as of a file of the output that may not be listed, read or locked
        return _fail(error, EXIT_LOST, advice)
    raise error


def _fill_closed_streams() -> None:
    """Open the null device for closed streams, as some file of the output would take their number."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is the stream's
            os.set_inheritable(descriptor, True)
            setattr(sys, name, open(descriptor, mode, closefd=False))  # noqa: SIM115


def _heed_interrupts() -> list[int]:
    """Let SIGINT and SIGTERM end the work, and return the list of those that came."""
    came: list[int] = []

    def interrupt(signum: int, frame: object) -> NoReturn:
        came.append(signum)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as in the background of a shell
        signal.signal(signal.SIGINT, interrupt)
    return came


def _fail(error: Exception, code: int, advice: str = "") -> int:
    sys.stderr.write(f"facemill: {redact(str(error))}{advice}\n")
    return code


def _make_parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="facemill", description="From archives of photographs to aligned face crops and tables.")
    parser.add_argument("--version", action="version", version=f"facemill {metadata.version('facemill')}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in _COMMANDS:
        command.add_parser(commands)
    for subparser in commands.choices.values():
        subparser.set_defaults(parser=subparser)
        subparser.epilog = f"{subparser.epilog} {EXIT_CODES}" if subparser.epilog else EXIT_CODES
    return parser


if __name__ == "__main__":
    sys.exit(main())
