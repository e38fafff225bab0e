"""`facemill export`."""

from __future__ import annotations

import argparse
from typing import Any, get_args

from facemill.pipeline.commands.arguments import (
    EXIT_DONE,
    add_new_output,
    add_source,
    add_storage_options,
    positive,
    uri,
)
from facemill.pipeline.export.options import FORMAT_NAMES, Duplicates, ExportOptions, Unlabelled, parse_splits


def add_parser(commands: Any) -> None:
    """Add the command to the parser."""
    export = commands.add_parser(
        "export",
        help="a run's kept faces as a training set, in the format of your trainer",
        description="Write the kept faces of an output folder as a training set: shuffled, sharded, split by identity, "
        "with a class map. The crops are copied byte by byte. docs/export.md says what is written and how to load it.",
    )
    add_source(export)
    export.add_argument(
        "--to", required=True, choices=FORMAT_NAMES, metavar="FORMAT", help=f"one of {', '.join(FORMAT_NAMES)}"
    )
    add_new_output(export)
    export.add_argument("--template", metavar="NAME", help="which crops, where a run made them with several templates")
    export.add_argument(
        "--split",
        metavar="SHARES",
        help="shares of the identities, e.g. train=0.8,validation=0.1,test=0.1 (default: all train)",
    )
    export.add_argument(
        "--min-images",
        type=positive,
        default=ExportOptions.min_images,
        metavar="N",
        help="leave out identities with fewer (default: %(default)s)",
    )
    export.add_argument(
        "--max-images", type=positive, metavar="N", help="of identities with more take a sample of so many"
    )
    export.add_argument(
        "--unlabelled",
        choices=get_args(Unlabelled),
        default=ExportOptions.unlabelled,
        help="faces without a label (default: %(default)s); kept, they have the class -1",
    )
    export.add_argument(
        "--drop-duplicates", choices=get_args(Duplicates), help="take one of a group that facemill duplicates has found"
    )
    export.add_argument(
        "--seed",
        type=int,
        default=ExportOptions.seed,
        metavar="N",
        help="of the order, splits and samples (default: %(default)s)",
    )
    export.add_argument(
        "--shard-bytes",
        type=positive,
        default=ExportOptions.shard_bytes,
        metavar="N",
        help="bytes of crops in a shard, about (default: %(default)s)",
    )
    export.add_argument(
        "--scratch",
        type=uri,
        metavar="DIR",
        help="a folder here with room for all crops (default: in the output, or $TMPDIR)",
    )
    add_storage_options(export)
    export.set_defaults(command=_export, advice="; the same command begins anew")


def _export(options: argparse.Namespace, _: list[str]) -> int:
    from facemill.pipeline.export.job import ExportRequest, export
    from facemill.transforms.ops.storage import Folder

    export(
        ExportRequest(
            source=Folder(options.source, options.storage_options),
            destination=Folder(options.output, options.storage_options),
            options=ExportOptions(
                format=options.to,
                template=options.template,
                seed=options.seed,
                shard_bytes=options.shard_bytes,
                splits=ExportOptions.splits if options.split is None else parse_splits(options.split),
                min_images=options.min_images,
                max_images=options.max_images,
                unlabelled=options.unlabelled,
                drop_duplicates=options.drop_duplicates,
            ),
            scratch=options.scratch,
        )
    )
    return EXIT_DONE
