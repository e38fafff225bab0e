"""`facemill templates`."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from facemill.pipeline.commands.arguments import EXIT_DONE, add_template, uri


def add_parser(commands: Any) -> None:
    """Add the command to the parser."""
    templates = commands.add_parser(
        "templates",
        help="list and draw the crop templates",
        description="List the crop templates with their sizes and sources, and draw where a face goes in each.",
        epilog="docs/templates.md says what each of them does.",
    )
    templates.add_argument(
        "templates",
        nargs="*",
        metavar="TEMPLATE",
        help="names of templates, or YAML files with templates of your own (default: all that come with facemill)",
    )
    add_template(templates, default="all that come with facemill")
    templates.add_argument(
        "--json", action="store_true", help="print JSON, as a file of templates of your own would hold it"
    )
    templates.add_argument("--draw", type=uri, metavar="FILE", help="write a sheet of pictures into FILE, .png or .jpg")
    templates.add_argument(
        "--image", type=uri, metavar="PHOTO", help="with --draw, draw the crops of the first face in this picture"
    )
    templates.set_defaults(command=_templates)


def _templates(options: argparse.Namespace, _: list[str]) -> int:
    from facemill.models.errors import ConfigError
    from facemill.pipeline.template_files import choose_templates
    from facemill.pipeline.templates import as_json, as_text, draw
    from facemill.transforms.ops.alignment import AlignOptions
    from facemill.transforms.ops.templates import TEMPLATE_NAMES

    if options.image and not options.draw:
        raise ConfigError("--image goes with --draw FILE")
    named = [*options.templates, *options.template]
    chosen = choose_templates(named or TEMPLATE_NAMES, AlignOptions()).find_templates()
    if options.draw:
        draw(chosen, options.draw, image=options.image)
    sys.stdout.write((as_json if options.json else as_text)(chosen) + "\n")
    return EXIT_DONE
