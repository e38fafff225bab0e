"""Arguments that several commands take."""

from __future__ import annotations

import argparse
import json
import os
from typing import Any

EXIT_DONE, EXIT_LOST, EXIT_USAGE, EXIT_INTERRUPTED = 0, 1, 2, 130
GOES_ON = "; what was committed is valid, and the same command goes on from there"


def add_config(parser: argparse.ArgumentParser, *, example: str = "detect.min_face_size_px=40") -> None:
    """`--config` and `--set`."""
    parser.add_argument(
        "--config", metavar="NAME|FILE", help="a preset (default, recognition, annotation) or a YAML file"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="settings",
        metavar="KEY=VALUE",
        help=f"e.g. {example}",
    )


def add_storage_options(parser: argparse.ArgumentParser) -> None:
    """`--storage-options`."""
    parser.add_argument("--storage-options", type=mapping, default={}, metavar="JSON", help="for fsspec, such as keys")


def add_retry_failed(parser: argparse.ArgumentParser) -> None:
    """`--retry-failed`."""
    parser.add_argument(
        "--retry-failed", action="store_true", help="do units with empty files, read or internal errors again"
    )


def add_report(parser: argparse.ArgumentParser) -> None:
    """`--no-report`."""
    parser.add_argument(
        "--no-report", action="store_false", dest="report", help="make no report.html at the end; facemill report does"
    )


def add_workers(parser: argparse.ArgumentParser) -> None:
    """`--workers` and the options of Beam's runners."""
    parser.add_argument(
        "--workers",
        type=positive,
        default=num_cores(),
        metavar="N",
        help="processes on this machine (default: %(default)s); a cluster has its own",
    )
    parser.add_argument("--runner", metavar="R", help="FlinkRunner, SparkRunner, DataflowRunner or another of Beam's")
    parser.add_argument("--beam-options", metavar="FILE", help="YAML file of options for the Beam runner")
    parser.add_argument("--detach", action="store_true", help="submit the runner's job and leave it to itself")


def positive(text: str) -> int:
    """A whole number from 1."""
    try:
        value = int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"must be a whole number, got {text!r}") from error
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def mapping(text: str) -> dict[str, Any]:
    """A JSON object."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise argparse.ArgumentTypeError(f"not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError('must be a JSON object such as {"key": "..."}')  # it may hold a secret
    return value


def pair(text: str) -> tuple[str, str]:
    """`NAME=VALUE`, neither of them empty."""
    name, _, value = text.partition("=")
    if not (name and value):
        raise argparse.ArgumentTypeError(f"must be NAME=VALUE, got {text!r}")
    return name, value


def num_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
