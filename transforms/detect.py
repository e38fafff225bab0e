"""Detect: pixels in, face candidates of P-Net and R-Net out; or the faces of a table."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass

import apache_beam as beam

from facemill.models.cascade import Cascade
from facemill.models.options import DetectorOptions
from facemill.models.pyramid import ImagePyramid
from facemill.transforms.elements import Batch, Element, map_images
from facemill.transforms.ops.known_faces import KnownFaces
from facemill.transforms.ops.networks import load_cascade
from facemill.transforms.ops.records import ImageRecord
from facemill.transforms.ops.reduction import pixel_grid
from facemill.transforms.ops.storage import Folder


@dataclass
class DetectFaces(beam.PTransform):
    """Runs P-Net and R-Net on each image; what they propose goes to `candidates`.

    Args:
        options: Face size, pyramid, thresholds and caps.
    """

    options: DetectorOptions

    def expand(self, elements: beam.PCollection[Element]) -> beam.PCollection[Element]:
        """PCollection of `Element` -> the same with `candidates`."""
        return elements | "ProposeFaces" >> beam.ParDo(_DetectFn(self.options)).with_output_types(Element)


class _DetectFn(beam.DoFn):
    def __init__(self, options: DetectorOptions) -> None:
        self._options = options
        self._cascade: Cascade | None = None

    def setup(self) -> None:
        self._cascade = load_cascade(self._options)

    def process(self, element: Element) -> Iterator[Element]:
        yield map_images(element, self._propose)

    def _propose(self, record: ImageRecord) -> ImageRecord:
        assert self._cascade is not None and record.image is not None
        pyramid = ImagePyramid(record.image, record.reduction)
        proposals = self._cascade.propose(pyramid)
        return dataclasses.replace(
            record,
            pyramid=pyramid,
            candidates=pixel_grid(record).from_corner(proposals.boxes),
            num_capped=proposals.num_capped,
            data=record.data if len(proposals.boxes) else None,
        )


@dataclass
class LookUpFaces(beam.PTransform):
    """Takes the faces of each image from a Parquet table instead of detecting them.

    Args:
        table: A Parquet file or a folder of them, with the columns that `KnownFaces` asks for.
    """

    table: Folder

    def expand(self, elements: beam.PCollection[Element]) -> beam.PCollection[Element]:
        """PCollection of `Element` -> the same with `known`."""
        return elements | "LookUpFaces" >> beam.ParDo(_LookUpFn(self.table)).with_output_types(Element)


class _LookUpFn(beam.DoFn):
    def __init__(self, table: Folder) -> None:
        self._table = table
        self._known: KnownFaces | None = None

    def setup(self) -> None:
        self._known = KnownFaces.load(self._table.uri, json.dumps(dict(self._table.storage_options), sort_keys=True))

    def process(self, element: Element) -> Iterator[Element]:
        assert self._known is not None
        if not isinstance(element, Batch):
            yield element
            return
        found = self._known.look_up([record.image_id for record in element.records])
        yield map_images(element, lambda record: dataclasses.replace(record, known=found[record.image_id]))
