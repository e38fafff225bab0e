"""`facemill run`."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from typing import Any

from facemill.pipeline.commands.arguments import (
    EXIT_DONE,
    EXIT_LOST,
    GOES_ON,
    add_config,
    add_moved,
    add_report,
    add_retry_failed,
    add_storage_options,
    add_template,
    add_workers,
    uri,
)


def add_parser(commands: Any) -> None:
    """Add the command to the parser."""
    run = commands.add_parser(
        "run",
        help="images or shards in, aligned crops and tables out",
        description="Detect, landmark, judge and align every face of an archive. Interrupt it anywhere: the same "
        "command goes on. With more input, only the new is done.",
        epilog="By default near-frontal faces are kept; --config annotation keeps those of any pose, and so does "
        "facemill filter OUT --config annotation afterwards. docs/configuration.md has the presets and keys. "
        "With --runner, all further options go to Beam; docs/running.md has a page for each engine.",
    )
    run.add_argument(
        "--input",
        nargs="+",
        action="extend",
        default=[],
        type=uri,
        metavar="URI",
        help="folders, globs or files: images, videos, tar, zip, Parquet, TFRecord and RecordIO shards, lists of URLs; "
        "local or any fsspec URL. Without it, what OUT has planned is finished",
    )
    run.add_argument(
        "--output", required=True, type=uri, metavar="OUT", help="the output folder, local or any fsspec URL"
    )
    add_config(run)
    add_template(run, default="that of the configuration")
    run.add_argument("--faces", type=uri, metavar="URI", help="a Parquet table of known faces, instead of detecting")
    add_moved(run)
    add_retry_failed(run)
    add_report(run)
    add_storage_options(run)
    add_workers(run)
    run.set_defaults(command=_run, advice=GOES_ON)


def _run(options: argparse.Namespace, beam_arguments: list[str]) -> int:
    from facemill.pipeline.config import load_config
    from facemill.pipeline.manifest import configuration_of
    from facemill.pipeline.run import RunRequest, run
    from facemill.pipeline.template_files import choose_templates
    from facemill.transforms.ops.storage import Folder

    output = Folder(options.output, options.storage_options)
    settings = [*options.settings, *([f"landmarks.known_faces={json.dumps(options.faces)}"] if options.faces else [])]
    # Without any of these it finishes what was begun, as it was begun.
    is_bare = not (options.input or options.config or options.template or settings)
    config = (configuration_of(output) if is_bare else None) or load_config(options.config, settings)
    if options.template:
        config = replace(config, align=choose_templates(options.template, config.align))
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
            moved=dict(options.moved),
        )
    )
    return EXIT_DONE if result.is_complete else EXIT_LOST
