"""Align: kept faces in, crops at the template's points out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import apache_beam as beam

from facemill.transforms.elements import Element, map_images
from facemill.transforms.ops.alignment import AlignOptions, align_face
from facemill.transforms.ops.records import ImageRecord
from facemill.transforms.ops.templates import get_template


@dataclass
class AlignFaces(beam.PTransform):
    """Cuts an aligned crop of each kept face and lets go of the image's pixels.

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
        assert record.faces is not None and record.image is not None
        crops = tuple(
            None if reason else align_face(record.image, points, self._template, border=self._options.border)
            for points, reason in zip(record.faces.landmarks, record.faces.reasons, strict=True)
        )
        return dataclasses.replace(record, faces=dataclasses.replace(record.faces, crops=crops), image=None)
