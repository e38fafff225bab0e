"""`facemill crop`."""

from __future__ import annotations

import argparse
from typing import Any

from facemill.pipeline.commands.arguments import (
    EXIT_DONE,
    EXIT_LOST,
    GOES_ON,
    add_moved,
    add_new_output,
    add_report,
    add_retry_failed,
    add_settings,
    add_source,
    add_storage_options,
    add_template,
    add_workers,
)


def add_parser(commands: Any) -> None:
    """Add the command to the parser."""
    crop = commands.add_parser(
        "crop",
        help="new crops of the faces of an earlier output, in one or more templates",
        description="Cut the kept faces of an earlier output folder anew, without detecting again: from the original "
        "images, of which only those with a kept face are decoded, once for all templates. NEW gets the same tables.",
        epilog="To keep other faces than the earlier run did: facemill filter. All templates: facemill templates. "
        "With --runner, all further options go to Beam.",
    )
    add_source(crop)
    add_new_output(crop)
    add_template(crop, default="that of OUT")
    add_settings(crop, "of the sections align, write, decode and run, e.g. write.image_format=png; otherwise as in OUT")
    add_moved(crop)
    add_retry_failed(crop)
    add_report(crop)
    add_storage_options(crop)
    add_workers(crop)
    crop.set_defaults(command=_crop, advice=GOES_ON)


def _crop(options: argparse.Namespace, beam_arguments: list[str]) -> int:
    from facemill.pipeline.crop import crop_config
    from facemill.pipeline.run import RunRequest, run
    from facemill.transforms.ops.storage import Folder

    tables = Folder(options.source, options.storage_options)
    output = Folder(options.output, options.storage_options)
    result = run(
        RunRequest(
            inputs=(),
            tables=tables,
            output=output,
            config=crop_config(tables, output=output, templates=options.template, settings=options.settings),
            num_workers=options.workers,
            runner=options.runner,
            beam_arguments=beam_arguments,
            beam_options=options.beam_options,
            detach=options.detach,
            storage_options=options.storage_options,
            retry_failed=options.retry_failed,
            report=options.report,
            moved=dict(options.moved),
        )
    )
    return EXIT_DONE if result.is_complete else EXIT_LOST
