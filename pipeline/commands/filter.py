"""`facemill filter`."""

from __future__ import annotations

import argparse
from typing import Any

from facemill.pipeline.commands.arguments import (
    EXIT_DONE,
    GOES_ON,
    add_config,
    add_new_output,
    add_report,
    add_source,
    add_storage_options,
    num_cores,
    positive,
)


def add_parser(commands: Any) -> None:
    """Add the command to the parser."""
    filter_ = commands.add_parser(
        "filter",
        help="other limits for the faces of an earlier output, without reading any image",
        description="Judge the faces of an earlier output folder anew, by its tables alone: NEW gets the same tables "
        "with other verdicts, and OUT is not changed. Interrupt it anywhere: the same command goes on.",
        epilog="--config and --set are laid over the configuration of OUT and change judge.* alone. "
        "Crops of faces that had none before: facemill crop NEW --output CUT.",
    )
    add_source(filter_)
    add_new_output(filter_)
    add_config(filter_, example="judge.min_sharpness=0.9")
    filter_.add_argument(
        "--workers", type=positive, default=num_cores(), metavar="N", help="threads (default: %(default)s)"
    )
    add_report(filter_)
    add_storage_options(filter_)
    filter_.set_defaults(command=_filter, advice=GOES_ON)


def _filter(options: argparse.Namespace, _: list[str]) -> int:
    from facemill.pipeline.filter import filter_output
    from facemill.transforms.ops.storage import Folder

    filter_output(
        Folder(options.source, options.storage_options),
        Folder(options.output, options.storage_options),
        source=options.config,
        settings=options.settings,
        num_workers=options.workers,
        report=options.report,
    )
    return EXIT_DONE
