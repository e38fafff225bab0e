"""Arguments that several commands take."""

from __future__ import annotations

import argparse
import json
import os
from typing import Any

from facemill.pipeline.presets import preset_names

EXIT_DONE, EXIT_LOST, EXIT_USAGE, EXIT_INTERRUPTED = 0, 1, 2, 130
EXIT_CODES = "Exit codes: 0 done, 1 something was lost or does not balance, 2 bad usage, 130 interrupted."
GOES_ON = "; what was committed is valid, and the same command goes on from there"


def add_source(parser: argparse.ArgumentParser) -> None:
    """`OUT`, an output folder that is read."""
    parser.add_argument("source", type=uri, metavar="OUT", help="the output folder of a run, local or any fsspec URL")


def add_new_output(parser: argparse.ArgumentParser) -> None:
    """`--output`, where it must not be that which is read."""
    parser.add_argument(
        "--output", required=True, type=uri, metavar="NEW", help="another folder, local or any fsspec URL"
    )


def add_config(parser: argparse.ArgumentParser, *, example: str = "detect.min_face_size_px=40") -> None:
    """`--config` and `--set`."""
    names = ", ".join(preset_names())
    parser.add_argument("--config", metavar="NAME|FILE", help=f"a preset ({names}) or a YAML file")
    add_settings(parser, f"one value of the configuration, e.g. {example}; may be given several times")


def add_settings(parser: argparse.ArgumentParser, text: str) -> None:
    """`--set`."""
    parser.add_argument("--set", action="append", default=[], dest="settings", metavar="KEY=VALUE", help=text)


def add_template(parser: argparse.ArgumentParser, *, default: str) -> None:
    """`--template`, of which there may be several."""
    parser.add_argument(
        "--template",
        nargs="+",
        action="extend",
        default=[],
        metavar="T",
        help=f"names of templates (a b or a,b), or YAML files with templates of your own (default: {default})",
    )


def add_moved(parser: argparse.ArgumentParser) -> None:
    """`--moved`."""
    parser.add_argument(
        "--moved",
        type=pair,
        action="append",
        default=[],
        metavar="NAME=URI",
        help="where an input folder of the earlier run lies now; NAME is what image_id begins with",
    )


def add_storage_options(parser: argparse.ArgumentParser) -> None:
    """`--storage-options`."""
    parser.add_argument(
        "--storage-options",
        type=mapping,
        default={},
        metavar="JSON",
        help='options of the fsspec file system, e.g. {"anon": true} for a public bucket',
    )


def add_retry_failed(parser: argparse.ArgumentParser) -> None:
    """`--retry-failed`."""
    parser.add_argument(
        "--retry-failed", action="store_true", help="do units with empty files, read or internal errors again"
    )


def add_report(parser: argparse.ArgumentParser) -> None:
    """`--no-report`."""
    parser.add_argument(
        "--no-report", action="store_false", dest="report", help="leave report.html as it is; facemill report makes it"
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
    parser.add_argument("--beam-options", type=uri, metavar="FILE", help="YAML file of options for the Beam runner")
    parser.add_argument("--detach", action="store_true", help="submit the runner's job and leave it to itself")


def uri(text: str) -> str:
    """The name of a file or folder."""
    if not text.strip():
        raise argparse.ArgumentTypeError("an empty name; for the folder you are in write .")
    return text


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
