"""`facemill detect`."""

from __future__ import annotations

import argparse
from typing import Any

from facemill.pipeline.commands.arguments import EXIT_DONE, EXIT_LOST, add_config, add_storage_options, uri


def add_parser(commands: Any) -> None:
    """Add the command to the parser."""
    detect = commands.add_parser(
        "detect",
        help="print the faces of images as JSON",
        description="Print the faces of images as JSON, in the schema of the mtcnn package: box (x, y, width, "
        "height), confidence, keypoints. For one image a list; for several, a line of JSON per image.",
    )
    detect.add_argument(
        "images", nargs="+", type=uri, metavar="IMAGE", help="files, folders, globs, URLs, or - for standard input"
    )
    detect.add_argument(
        "--draw", type=uri, metavar="DIR", help="also write each picture with its boxes and points into DIR"
    )
    add_config(detect)
    add_storage_options(detect)
    detect.set_defaults(command=_detect)


def _detect(options: argparse.Namespace, _: list[str]) -> int:
    from facemill.pipeline.config import load_config
    from facemill.pipeline.detect import detect_images

    config = load_config(options.config, options.settings)
    all_read = detect_images(
        options.images, config=config, draw_folder=options.draw, storage_options=options.storage_options
    )
    return EXIT_DONE if all_read else EXIT_LOST
