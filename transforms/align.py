"""Align: kept faces in, their crops in every template out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import apache_beam as beam

from facemill.transforms.elements import Element, map_images
from facemill.transforms.ops.alignment import AlignOptions
from facemill.transforms.ops.crops import WriteOptions
from facemill.transforms.ops.cutting import CropMatrices, cut_crops, largest_scale, place_crops
from facemill.transforms.ops.records import ImageRecord
from facemill.transforms.ops.reduction import at_least, crop_reduction, pixel_grid


@dataclass
class AlignFaces(beam.PTransform):
    """Cuts and encodes crops of each kept face, one per template, and lets go of the image's pixels.

    An image that was reduced too far for a crop is decoded anew. A face that determines no crop in one of the
    templates is not kept.

    Args:
        options: Templates and border rule.
        write: How crops are encoded; none are cut where none are stored.
    """

    options: AlignOptions
    write: WriteOptions

    def expand(self, elements: beam.PCollection[Element]) -> beam.PCollection[Element]:
        """PCollection of `Element` -> the same with `crops`, without `image`."""
        return elements | "AlignBatch" >> beam.ParDo(_AlignFn(self.options, self.write)).with_output_types(Element)


class _AlignFn(beam.DoFn):
    def __init__(self, options: AlignOptions, write: WriteOptions) -> None:
        self._options = options
        self._write = write
        self._templates = options.find_templates()

    def process(self, element: Element) -> Iterator[Element]:
        yield map_images(element, self._align)

    def _align(self, record: ImageRecord) -> ImageRecord:
        assert record.faces is not None
        faces, matrices = place_crops(record.faces, self._templates, record.size_wh)
        if self._write.crops != "none":
            faces = dataclasses.replace(faces, crops=self._cut(record, matrices))
        return dataclasses.replace(record, faces=faces, image=None, reduction=1, data=None)

    def _cut(self, record: ImageRecord, matrices: CropMatrices) -> tuple[tuple[bytes, ...] | None, ...]:
        if not any(matrices):
            return (None,) * len(matrices)
        record = at_least(record, crop_reduction(largest_scale(matrices)))
        assert record.image is not None
        grid = pixel_grid(record)
        matrices = [placed and tuple(map(grid.matrix_from_original, placed)) for placed in matrices]
        return cut_crops(record.image, matrices, self._templates, self._options, self._write)
