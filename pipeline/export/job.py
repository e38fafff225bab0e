"""`facemill export`: the kept faces of an output folder as a training set."""

from __future__ import annotations

import sys
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, groupby, islice
from operator import itemgetter
from typing import Any, TextIO

from facemill.models.errors import ConfigError, OutputError
from facemill.pipeline.export.class_map import CLASS_MAP, write_class_map
from facemill.pipeline.export.destination import open_destination
from facemill.pipeline.export.duplicates import check_kind
from facemill.pipeline.export.face_database import select_faces
from facemill.pipeline.export.formats import FORMATS
from facemill.pipeline.export.identity_splits import shard_sizes
from facemill.pipeline.export.options import ExportOptions
from facemill.pipeline.export.progress import track
from facemill.pipeline.export.record import check_same, format_record, make_record
from facemill.pipeline.export.samples import Format, Sample, Shard, Target, check_image
from facemill.pipeline.export.scattering import Buckets
from facemill.pipeline.export.selection import Selection
from facemill.pipeline.output_folder import check_output, check_outside
from facemill.pipeline.outputs import Output, open_output
from facemill.pipeline.plan import count_units
from facemill.pipeline.summary import warn_of_shared_labels
from facemill.transforms.ops.storage import Folder


@dataclass(frozen=True)
class ExportRequest:
    """What the user asked for.

    Attributes:
        source: The output folder with the tables and crops.
        destination: The folder to write to.
        options: Which faces, in which format.
        scratch: A folder on this machine for the crops on their way, or None for the usual one.
    """

    source: Folder
    destination: Folder
    options: ExportOptions
    scratch: str | None = None


def export(request: ExportRequest, *, out: TextIO | None = None, err: TextIO | None = None) -> None:
    """Write a data set; the summary goes to `out`, by default standard output, all else to `err`.

    Raises:
        ConfigError: Nothing was written, as the request cannot be carried out.
        OutputError: The data set cannot be written, or does not balance; the same command does it anew.
    """
    out, err = out or sys.stdout, err or sys.stderr
    options = request.options
    writer = FORMATS[options.format]()
    writer.check()
    if options.unlabelled == "keep" and not writer.takes_unlabelled:
        raise ConfigError(f"{options.format} has no place for faces without a label; leave --unlabelled keep out")
    check_output(request.destination)
    check_outside(request.destination, request.source)
    output = open_output(request.source)
    _check_crops(output, options)
    if options.drop_duplicates is not None:
        check_kind(output, options.drop_duplicates)
    _warn_of_pending(output, err)
    with open_destination(request.destination) as destination, destination.scratch(request.scratch) as scratch:
        err.write(f"selecting faces of {len(output.units):,} units\n")
        with select_faces(output, options, scratch, by_class=writer.is_by_class) as selection:
            record = make_record(output, options, selection)
            earlier = destination.read_record()
            if earlier is None:
                target = Target(destination, selection, scratch)
                destination.begin([*CLASS_MAP, *(e for split in selection.splits for e in writer.entries(split.name))])
                _write(output, options, writer, target, err)
                destination.finish(record)
            else:
                check_same(earlier, record, request.destination.uri)
                if writer.has_image_files:
                    destination.check_image_files({split.name: split.num_faces for split in selection.splits})
                err.write("nothing to do: this export is there and complete\n")
    out.write(format_record(record, request.destination.uri) + "\n")
    if record["counts"]["shared"]:
        err.write(warn_of_shared_labels(record["counts"]["shared"], request.source))


def _check_crops(output: Output, options: ExportOptions) -> None:
    if output.store == "none":
        raise ConfigError(f"{output.folder.uri} holds tables alone, as write.crops is none; an export needs crops")
    output.check_crops(options.template)


def _warn_of_pending(output: Output, err: TextIO) -> None:
    num_pending = count_units(output.folder) - len(output.units)
    if num_pending > 0:
        err.write(f"warning: {num_pending:,} planned units are not done, and their faces are not exported\n")


def _write(output: Output, options: ExportOptions, writer: Format, target: Target, err: TextIO) -> None:
    selection = target.selection
    num_bytes = [0] * len(selection.splits)
    buckets = Buckets(target.scratch, selection.num_faces)
    crops = _read_crops(output, selection, options.template)
    buckets.fill(_weigh(track(crops, selection.num_faces, "reading", err), selection, num_bytes))
    writer.begin(target)
    rows = track(zip(selection.rows(), buckets.drain(), strict=True), selection.num_faces, "writing", err)
    for split, size in zip(selection.splits, num_bytes, strict=True):
        counts = shard_sizes(split.num_faces, size, options.shard_bytes) if writer.is_sharded else [split.num_faces]
        for index, (count, end) in enumerate(zip(counts, accumulate(counts), strict=True)):
            shard = Shard(split, index, len(counts), end - count, count, size)
            _write_shard(writer, target, shard, islice(rows, count))
    write_class_map(target.destination, selection.classes())
    writer.finish(target)


def _write_shard(
    writer: Format, target: Target, shard: Shard, rows: Iterator[tuple[tuple[int, int, str | None, Any], bytes]]
) -> None:
    number = shard.start
    with writer.open_shard(target, shard) as add:
        for (position, class_index, class_name, face), content in rows:
            if position != shard.split.start + number:
                raise OutputError(f"the export does not balance: face {position} came in the place of {number}")
            add(Sample(number, class_index, class_name, content, face))
            number += 1
    if number != shard.start + shard.num_samples:
        raise OutputError(f"the export does not balance: {shard.num_samples} faces selected, {number} written")


def _read_crops(output: Output, selection: Selection, template: str | None) -> Iterator[tuple[int, bytes]]:
    """Position and content of every selected crop, unit by unit.

    Raises:
        OutputError: One is missing, or is no image.
    """
    for unit, places in groupby(selection.places(), key=itemgetter(0)):
        positions = {crop: position for _, crop, position in places}
        for name, content in output.crops(unit, template):
            position = positions.pop(name, None)
            if position is not None:
                check_image(content, f"{name} of {unit} in {output.folder.uri}")
                yield position, content
        if positions:
            raise OutputError(
                f"the export does not balance: {len(positions):,} crops of {unit} are missing in {output.folder.uri}, "
                f"such as {min(positions)}"
            )


def _weigh(
    crops: Iterator[tuple[int, bytes]], selection: Selection, num_bytes: list[int]
) -> Iterator[tuple[int, bytes]]:
    """The same crops; their bytes are added up by split in `num_bytes`."""
    starts = [split.start for split in selection.splits]
    for position, content in crops:
        num_bytes[bisect_right(starts, position) - 1] += len(content)
        yield position, content
