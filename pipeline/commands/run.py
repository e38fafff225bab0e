"""`facemill run`."""

from __future__ import annotations

import argparse
import json
from typing import Any

from facemill.pipeline.commands.arguments import (
    EXIT_DONE,
    EXIT_LOST,
    GOES_ON,
    add_config,
    add_report,
    add_retry_failed,
    add_storage_options,
    add_workers,
)


def add_parser(commands: Any) -> None:
    """Add the command to the parser."""
    run = commands.add_parser(
        "run",
        help="images or shards in, aligned crops and tables out",
        description="Detect, landmark, judge and align every face of an archive. Interrupt it anywhere: the same "
        "command goes on. With more input, only the new is done.",
        epilog="With --runner, all further options go to Beam; docs/running.md has a page for each engine. "
        "Exit codes: 0 done, 1 something was lost or does not balance, 2 bad usage or configuration, 130 interrupted.",
    )
    run.add_argument(
        "--input",
        nargs="+",
        action="extend",
        default=[],
        metavar="URI",
        help="folders, globs or files: images, videos, tar, zip, Parquet, TFRecord and RecordIO shards, lists of URLs; "
        "local or any fsspec URL. "
        "Without it, an output folder's earlier plan is finished",
    )
    run.add_argument("--output", required=True, metavar="URI", help="the output folder, local or any fsspec URL")
    add_config(run)
    run.add_argument("--faces", metavar="URI", help="a Parquet table of known faces, instead of detecting")
    add_retry_failed(run)
    add_report(run)
    add_storage_options(run)
    add_workers(run)
    run.set_defaults(command=_run, advice=GOES_ON)


def _run(options: argparse.Namespace, beam_arguments: list[str]) -> int:
    from facemill.pipeline.config import load_config
    from facemill.pipeline.manifest import configuration_of
    from facemill.pipeline.run import RunRequest, run
    from facemill.transforms.ops.storage import Folder

    output = Folder(options.output, options.storage_options)
    settings = [*options.settings, *([f"landmarks.known_faces={json.dumps(options.faces)}"] if options.faces else [])]
    is_bare = not (options.input or options.config or settings)  # it finishes what was begun, as it was begun
    config = (configuration_of(output) if is_bare else None) or load_config(options.config, settings)
    result = run(
        RunRequest(
            inputs=options.input,
            output=output,
            config=config,
            num_workers=options.workers,
            runner=options.runner,
            beam_arguments=beam_arguments,
            beam_options=options.beam_options,
            detach=options.detach,
            storage_options=options.storage_options,
            report=options.report,
            retry_failed=options.retry_failed,
        )
    )
    return EXIT_DONE if result.is_complete else EXIT_LOST
