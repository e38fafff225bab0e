"""`facemill demo`."""

from __future__ import annotations

import argparse
from typing import Any

from facemill.pipeline.commands.arguments import EXIT_DONE, EXIT_LOST, uri


def add_parser(commands: Any) -> None:
    """Add the command to the parser."""
    demo = commands.add_parser(
        "demo",
        help="run the main job on public-domain photographs that come with installed packages",
        description="Pack photographs of scikit-image and matplotlib into a tar shard and run the main job on it. "
        'They come with: pip install "facemill[demo]"',
    )
    demo.add_argument(
        "--output", type=uri, default="facemill-demo", metavar="DIR", help="a folder here (default: %(default)s)"
    )
    demo.set_defaults(command=_demo)


def _demo(options: argparse.Namespace, _: list[str]) -> int:
    from facemill.pipeline.demo import run_demo

    return EXIT_DONE if run_demo(options.output) else EXIT_LOST
