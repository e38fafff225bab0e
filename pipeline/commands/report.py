"""`facemill report`."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from facemill.pipeline.commands.arguments import EXIT_DONE, add_source, add_storage_options, positive, uri


def add_parser(commands: Any) -> None:
    """Add the command to the parser."""
    report = commands.add_parser(
        "report",
        help="one page on what a run did: counts, pictures, histograms",
        description="Write one self-contained page on an output folder, which facemill run has made already at its "
        "end: what came in and out and why, samples of kept, rejected and failed with their rows, histograms, "
        "identities, throughput and configuration. It works offline and on a phone.",
    )
    add_source(report)
    report.add_argument("--output", type=uri, metavar="FILE", help="where to write it (default: OUT/report.html)")
    report.add_argument(
        "--seed", type=int, default=0, metavar="N", help="another sample of pictures (default: %(default)s)"
    )
    report.add_argument(
        "--samples", type=positive, default=24, metavar="N", help="pictures of each outcome (default: %(default)s)"
    )
    add_storage_options(report)
    report.set_defaults(command=_report)


def _report(options: argparse.Namespace, _: list[str]) -> int:
    from facemill.models.errors import ConfigError
    from facemill.pipeline.report.make import ReportOptions, make_report
    from facemill.transforms.ops.storage import Folder

    target = None
    if options.output is not None:
        parent, slash, name = options.output.rpartition("/")
        if not name:
            raise ConfigError(f"--output {options.output} names no file")
        target = (Folder(parent + slash if slash else ".", options.storage_options), name)
    written = make_report(
        Folder(options.source, options.storage_options),
        ReportOptions(seed=options.seed, num_samples=options.samples, storage_options=options.storage_options),
        target=target,
    )
    sys.stdout.write(f"report: {written}\n")
    return EXIT_DONE
