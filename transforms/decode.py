"""Decode: encoded files in, upright RGB pixels out."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import apache_beam as beam

from facemill.models.errors import BadInputError
from facemill.transforms.elements import Batch, Element, apply_step, fail
from facemill.transforms.ops.decoding import decode_pixels, read_header
from facemill.transforms.ops.options import DecodeOptions
from facemill.transforms.ops.records import Failure, ImageRecord
from facemill.transforms.ops.signatures import sniff_format


@dataclass
class DecodeImages(beam.PTransform):
    """Decodes the images of each batch, and cuts the batches to at most about `batch_pixels`.

    Args:
        options: Limits of size.
        batch_pixels: A batch is closed when its decoded images reach this many pixels.
    """

    options: DecodeOptions
    batch_pixels: int

    def expand(self, elements: beam.PCollection[Element]) -> beam.PCollection[Element]:
        """PCollection of `Element` -> the same with `image`, `sha256` and the header's fields."""
        decode = _DecodeFn(self.options, self.batch_pixels)
        return elements | "DecodeBatch" >> beam.ParDo(decode).with_output_types(Element)


class _DecodeFn(beam.DoFn):
    def __init__(self, options: DecodeOptions, batch_pixels: int) -> None:
        self._options = options
        self._batch_pixels = batch_pixels

    def process(self, element: Element) -> Iterator[Element]:
        if not isinstance(element, Batch):
            yield element
            return
        records: list[ImageRecord] = []
        num_pixels = 0
        for record in element.records:
            decoded = apply_step(record, self._decode)
            records.append(decoded)
            num_pixels += 0 if decoded.image is None else decoded.image.shape[0] * decoded.image.shape[1]
            if num_pixels >= self._batch_pixels:
                yield Batch(element.unit, tuple(records))
                records, num_pixels = [], 0
        if records:
            yield Batch(element.unit, tuple(records))

    def _decode(self, record: ImageRecord) -> ImageRecord:
        data = record.data or b""
        hashed = dataclasses.replace(record, sha256=hashlib.sha256(data).hexdigest(), data=None)
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
            image = decode_pixels(
                data, header, max_pixels=self._options.max_pixels, min_side_px=self._options.min_side_px
            )
            return dataclasses.replace(described, image=image)
        except BadInputError as error:
            return fail(described, Failure(error.reason, error.message))
