"""`facemill export`."""

from __future__ import annotations

import argparse
from typing import Any

from facemill.pipeline.commands.arguments import EXIT_DONE, add_storage_options, positive

_FORMATS = ("webdataset", "imagefolder", "hf", "tfrecord", "recordio", "lmdb", "csv")


def add_parser(commands: Any) -> None:
    """Add the command to the parser."""
    export = commands.add_parser(
        "export",
        help="a run's kept faces as a training set, in the format of your trainer",
        description="Write the kept faces of an output folder as a training set: shuffled, sharded, split by identity, "
        "with a class map. The crops are copied byte by byte. docs/export.md says what is written and how to load it.",
        epilog="Exit codes: 0 done, 1 something was lost or does not balance, 2 bad usage, 130 interrupted.",
    )
    export.add_argument("source", metavar="OUT", help="the output folder of a run")
    export.add_argument("--to", required=True, choices=_FORMATS, metavar="FORMAT", help=", ".join(_FORMATS))
    export.add_argument("--output", required=True, metavar="URI", help="a new folder, local or any fsspec URL")
    export.add_argument("--template", metavar="NAME", help="which crops, where a run made them with several templates")
    export.add_argument(
        "--split", default="train=1", metavar="SHARES", help="of the identities: train=0.8,validation=0.1,test=0.1"
    )
    export.add_argument("--min-images", type=positive, default=1, metavar="N", help="leave out identities with fewer")
    export.add_argument("--max-images", type=positive, metavar="N", help="take a sample of identities with more")
    export.add_argument(
        "--unlabelled",
        choices=("drop", "keep", "error"),
        default="drop",
        help="faces without a label (default: %(default)s); kept, they have the class -1",
    )
    export.add_argument(
        "--drop-duplicates", choices=("exact", "near"), help="take one of a group that facemill duplicates has found"
    )
    export.add_argument("--seed", type=int, default=0, help="of the order, splits and samples (default: %(default)s)")
    export.add_argument(
        "--shard-bytes", type=positive, default=256_000_000, metavar="N", help="of crops, about (default: %(default)s)"
    )
    export.add_argument(
        "--scratch",
        metavar="DIR",
        help="a folder here with room for all crops (default: in the output, or $TMPDIR)",
    )
    add_storage_options(export)
    export.set_defaults(command=_export, advice="; the same command begins anew")


def _export(options: argparse.Namespace, _: list[str]) -> int:
    from facemill.pipeline.export.job import ExportRequest, export
    from facemill.pipeline.export.options import ExportOptions, parse_splits
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
                splits=parse_splits(options.split),
                min_images=options.min_images,
                max_images=options.max_images,
                unlabelled=options.unlabelled,
                drop_duplicates=options.drop_duplicates,
            ),
            scratch=options.scratch,
        )
    )
    return EXIT_DONE
