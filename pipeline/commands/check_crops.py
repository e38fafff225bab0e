"""`facemill check-crops`."""

from __future__ import annotations

import argparse
from typing import Any

from facemill.pipeline.commands.arguments import EXIT_DONE, add_storage_options, add_template, positive, uri


def add_parser(commands: Any) -> None:
    """Add the command to the parser."""
    check = commands.add_parser(
        "check-crops",
        help="tell which template existing crops were made with",
        description="Find the landmarks in a sample of crops and say which template puts them there, or how they "
        "differ from the nearest. Crops may be loose, in folders, or in shards.",
        epilog="docs/templates.md says what is measured, and how sure the verdict is.",
    )
    check.add_argument("crops", type=uri, metavar="CROPS", help="folder, glob or file, local or any fsspec URL")
    check.add_argument(
        "--count", type=positive, default=200, metavar="N", help="crops to look at (default: %(default)s)"
    )
    check.add_argument("--seed", type=int, default=0, metavar="N", help="of the sample (default: %(default)s)")
    add_template(check, default="all that come with facemill; with files alone, these too")
    check.add_argument("--json", action="store_true", help="print JSON")
    add_storage_options(check)
    check.set_defaults(command=_check_crops)


def _check_crops(options: argparse.Namespace, _: list[str]) -> int:
    from facemill.pipeline.check_crops import check_crops
    from facemill.pipeline.template_files import choose_templates, is_file
    from facemill.transforms.ops.alignment import AlignOptions
    from facemill.transforms.ops.templates import TEMPLATE_NAMES

    ours = TEMPLATE_NAMES if all(map(is_file, options.template)) else ()
    check_crops(
        options.crops,
        options=choose_templates([*options.template, *ours], AlignOptions()),
        count=options.count,
        seed=options.seed,
        as_json=options.json,
        storage_options=options.storage_options,
    )
    return EXIT_DONE
