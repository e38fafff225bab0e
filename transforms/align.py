"""Align: kept faces in, crops at the template's points out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import apache_beam as beam
import numpy as np

from facemill.transforms.elements import Element, map_images
from facemill.transforms.ops.alignment import AlignOptions, align_face, estimate_similarity, similarity_scale
from facemill.transforms.ops.records import ImageRecord
from facemill.transforms.ops.reduction import at_least, crop_reduction, pixel_grid
from facemill.transforms.ops.templates import get_template


@dataclass
class AlignFaces(beam.PTransform):
    """Cuts an aligned crop of each kept face and lets go of the image's pixels.

    An image that was reduced too far for a crop is decoded anew.

    Args:
        options: Template and border rule.
    """

    options: AlignOptions

    def expand(self, elements: beam.PCollection[Element]) -> beam.PCollection[Element]:
        """PCollection of `Element` -> the same with `crops`, without `image`."""
        return elements | "AlignBatch" >> beam.ParDo(_AlignFn(self.options)).with_output_types(Element)


class _AlignFn(beam.DoFn):
    def __init__(self, options: AlignOptions) -> None:
        self._options = options
        self._template = get_template(options.template)

    def process(self, element: Element) -> Iterator[Element]:
        yield map_images(element, self._align)

    def _align(self, record: ImageRecord) -> ImageRecord:
        assert record.faces is not None
        kept = [
            points for points, reason in zip(record.faces.landmarks, record.faces.reasons, strict=True) if not reason
        ]
        crops = iter(self._cut(record, kept) if kept else ())
        faces = dataclasses.replace(
            record.faces, crops=tuple(None if reason else next(crops) for reason in record.faces.reasons)
        )
        return dataclasses.replace(record, faces=faces, image=None, reduction=1, data=None)

    def _cut(self, record: ImageRecord, kept: Sequence[np.ndarray]) -> list[np.ndarray]:
        record = self._sharpen(record, kept)
        assert record.image is not None
        image, grid = record.image, pixel_grid(record)
        return [align_face(image, grid.from_original(p), self._template, border=self._options.border) for p in kept]

    def _sharpen(self, record: ImageRecord, kept: Sequence[np.ndarray]) -> ImageRecord:
        """Decode anew what was reduced so far that a crop would have more pixels than the image."""
        if record.reduction == 1:
            return record
        scale = max(similarity_scale(estimate_similarity(points, self._template.points)) for points in kept)
        return at_least(record, crop_reduction(scale))
