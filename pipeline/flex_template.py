"""The program that Dataflow's launcher runs for a Flex Template: the template's parameters become a detached run."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence

from facemill.pipeline.cli import main
from facemill.pipeline.commands.arguments import EXIT_USAGE


def to_arguments(parameters: Sequence[str]) -> list[str]:
    """The command line of a run for the parameters as the launcher hands them over, each as `--name=value`.

    `input` and `set` may hold several values, separated and quoted as in a shell. An empty parameter is one that was
    not given. Whatever else there is, of the template or of the launcher itself, is Beam's.

    Raises:
        ValueError: Names the parameter and what is wrong with it.
    """
    ours, of_beam = _make_parser().parse_known_args(parameters)
    if ours.retry_failed not in ("", "false", "true"):
        raise ValueError(f"retry_failed must be true or false, got {ours.retry_failed!r}")
    for name in ("output", "sdk_container_image"):
        if not getattr(ours, name):
            raise ValueError(f"{name} is missing")
    inputs, settings = _split("input", ours.input), _split("set", ours.set)
    return [
        "run",
        *(f"--input={uri}" for uri in inputs),
        f"--output={ours.output}",
        *([f"--config={ours.config}"] if ours.config else []),
        *(f"--set={setting}" for setting in settings),
        *([f"--faces={ours.faces}"] if ours.faces else []),
        *(["--retry-failed"] if ours.retry_failed == "true" else []),
        "--runner=DataflowRunner",
        "--detach",
        f"--sdk_container_image={ours.sdk_container_image}",
        *(argument for argument in of_beam if not argument.endswith("=")),
    ]


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(allow_abbrev=False, add_help=False)
    for name in ("input", "output", "config", "set", "faces", "retry_failed", "sdk_container_image", "runner"):
        parser.add_argument(f"--{name}", default="")
    return parser


def _split(name: str, text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ValueError(f"{name} has quotes that do not match: {text}") from error


def launch(parameters: Sequence[str]) -> int:
    """Submit the job; returns the exit code, as of `facemill run`."""
    try:
        arguments = to_arguments(parameters)
    except ValueError as error:
        sys.stderr.write(f"facemill: {error}\n")
        return EXIT_USAGE
    return main(arguments)


if __name__ == "__main__":
    sys.exit(launch(sys.argv[1:]))
