"""`facemill duplicates`."""

from __future__ import annotations

import argparse
import os
import sys
import time
from typing import TYPE_CHECKING, Any

from facemill.pipeline.commands.arguments import (
    EXIT_DONE,
    add_report,
    add_source,
    add_storage_options,
    positive,
    uri,
)

if TYPE_CHECKING:
    from facemill.pipeline.duplicates import GroupCounts

# An eighth of the bits; docs/duplicates.md has what other distances find.
_NEAR_DISTANCE = 32
_NUM_DRAWN = 60
_LINE_SECONDS = 10.0


def add_parser(commands: Any) -> None:
    """Add the command to the parser."""
    duplicates = commands.add_parser(
        "duplicates",
        help="groups of images that are the same file, and of faces that are the same picture",
        description="Find the images of an output folder that are equal to the byte, and the faces whose perceptual "
        "hashes are near: the same photograph, compressed, resized, lit or cut anew. No image is read. Writes "
        "OUT/duplicates/images.parquet and faces.parquet, with a row for each member of a group.",
    )
    add_source(duplicates)
    duplicates.add_argument(
        "--near-distance",
        type=int,
        default=_NEAR_DISTANCE,
        metavar="BITS",
        help="in how many of their 256 bits the hashes of near faces may differ, 0 to 64 (default: %(default)s)",
    )
    duplicates.add_argument("--all-faces", action="store_true", help="compare those that are not kept, too")
    duplicates.add_argument("--draw", type=uri, metavar="FILE", help="also draw groups of near faces as a PNG")
    duplicates.add_argument(
        "--draw-groups",
        type=positive,
        default=_NUM_DRAWN,
        metavar="N",
        help="with --draw, at most so many, those across labels first (default: %(default)s)",
    )
    add_report(duplicates)
    add_storage_options(duplicates)
    duplicates.set_defaults(command=_duplicates)


def _duplicates(options: argparse.Namespace, _: list[str]) -> int:
    from facemill.pipeline.duplicates import DuplicatesOptions, find_duplicates
    from facemill.pipeline.duplicates_sheet import check_drawable, draw_groups
    from facemill.pipeline.outputs import open_output
    from facemill.pipeline.report.renew import write_report
    from facemill.transforms.ops.layout import REPORT, duplicates_name
    from facemill.transforms.ops.storage import Folder

    wanted = DuplicatesOptions(near_distance=options.near_distance, all_faces=options.all_faces)
    output = open_output(Folder(options.source, options.storage_options))
    if options.draw is not None:
        check_drawable(output, options.draw)
    images, faces = find_duplicates(output, wanted, on_share=_Progress())
    uri = options.source.rstrip("/")
    _print("images", images, f"the same file: {uri}/{duplicates_name('images')}")
    _print("faces", faces, f"within {wanted.near_distance} of 256 bits: {uri}/{duplicates_name('faces')}")
    if options.draw is not None:
        folder, name = os.path.split(options.draw)
        target = Folder(folder or ".", options.storage_options)
        num_drawn = draw_groups(output, target, name, num_groups=options.draw_groups)
        where = options.draw if num_drawn else "there is none, so no sheet was made"
        sys.stdout.write(f"drawn {num_drawn:>12,}   groups of faces: {where}\n")
    if options.report and output.folder.exists(REPORT):
        write_report(output.folder, options.storage_options, out=sys.stdout, err=sys.stderr)
    return EXIT_DONE


def _print(what: str, counts: GroupCounts, how: str) -> None:
    rejected = counts.num_rejected
    others = f"; the {rejected:,} not kept are left out, --all-faces compares them, too" if rejected else ""
    lines = [
        (what, counts.num_compared, f"compared{others}"),
        ("  groups", counts.num_groups, how),
        ("    within", counts.num_groups - counts.num_across, "one label"),
        ("    across", counts.num_across, "labels"),
        ("  members", counts.num_members, f"in groups, {counts.largest:,} in the largest"),
        ("  to spare", counts.num_superfluous, "if one of each group stays"),
    ]
    sys.stdout.writelines(f"{name:<12}{number:>9,}   {text}\n" for name, number, text in lines)


class _Progress:
    """Says now and then how much has been compared."""

    def __init__(self) -> None:
        self._done = 0.0
        self._last_line_at = time.monotonic()

    def __call__(self, share: float) -> None:
        self._done += share
        now = time.monotonic()
        if now - self._last_line_at >= _LINE_SECONDS:
            self._last_line_at = now
            sys.stderr.write(f"{self._done:4.0%} of the faces' hashes compared\n")
            sys.stderr.flush()
