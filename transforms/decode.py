"""Decode: encoded files in, upright RGB pixels out."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass

import apache_beam as beam

from facemill.models.errors import BadInputError
from facemill.transforms.elements import Batch, Element, apply_step, fail
from facemill.transforms.ops.decoding import check_limits, decode_at, read_header
from facemill.transforms.ops.options import DecodeOptions
from facemill.transforms.ops.records import Failure, ImageRecord
from facemill.transforms.ops.reduction import ReductionRule
from facemill.transforms.ops.signatures import sniff_format

_OTHER = Failure("read_error", "the file is another than the one in which its faces were found: its SHA-256 differs")


@dataclass
class DecodeImages(beam.PTransform):
    """Decodes the images of each batch, and cuts the batches to at most about `batch_pixels`.

    Args:
        options: Limits of size, and the policy.
        batch_pixels: A batch is closed when its images, in their full size, reach this many pixels.
        reduction: With the policy `reduced`, rules how far each image may be reduced; None, and all are decoded in
            full.
    """

    options: DecodeOptions
    batch_pixels: int
    reduction: ReductionRule | None = None

    def expand(self, elements: beam.PCollection[Element]) -> beam.PCollection[Element]:
        """PCollection of `Element` -> the same with `image`, `sha256` and the header's fields."""
        decode = _DecodeFn(self.options, self.batch_pixels, self.reduction)
        return elements | "DecodeBatch" >> beam.ParDo(decode).with_output_types(Element)


class _DecodeFn(beam.DoFn):
    def __init__(self, options: DecodeOptions, batch_pixels: int, reduction: ReductionRule | None) -> None:
        self._options = options
        self._batch_pixels = batch_pixels
        self._reduction = reduction if options.policy == "reduced" else None

    def process(self, element: Element) -> Iterator[Element]:
        if not isinstance(element, Batch):
            yield element
            return
        records: list[ImageRecord] = []
        num_pixels = 0
        for record in element.records:
            records.append(apply_step(record, self._decode))  # held here alone, so that it goes with its batch
            # A reduced image counts in full as well, for it may be decoded anew.
            num_pixels += 0 if records[-1].image is None else math.prod(records[-1].size_wh)
            if num_pixels >= self._batch_pixels:
                yield Batch(element.unit, tuple(records))
                records, num_pixels = [], 0
        if records:
            yield Batch(element.unit, tuple(records))

    def _decode(self, record: ImageRecord) -> ImageRecord:
        data = record.data
        if data is None:
            return record  # of earlier tables, without a face that is to be cut
        sha256 = hashlib.sha256(data).hexdigest()
        if record.sha256 not in (None, sha256):
            return fail(record, _OTHER)
        hashed = dataclasses.replace(record, sha256=sha256, data=None)
        try:
            header = read_header(data)
        except BadInputError as error:
            return fail(dataclasses.replace(hashed, format=sniff_format(data)), Failure(error.reason, error.message))
        described = dataclasses.replace(
            hashed,
            format=header.format,
            width=header.width,
            height=header.height,
            exif_orientation=header.exif_orientation,
        )
        try:
            check_limits(header, max_pixels=self._options.max_pixels, min_side_px=self._options.min_side_px)
            reduction = 1 if self._reduction is None else self._reduction(described)
            image, reduction = decode_at(data, header, reduction=reduction)
        except BadInputError as error:
            return fail(described, Failure(error.reason, error.message))
        return dataclasses.replace(
            described, image=image, reduction=reduction, data=record.data if reduction > 1 else None
        )
