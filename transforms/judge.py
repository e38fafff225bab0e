"""Judge: faces in, their pose, quality, perceptual hash and the verdict on each out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import apache_beam as beam
import numpy as np

from facemill.transforms.elements import Element, map_images
from facemill.transforms.ops.canonical import canonical_crops, canonical_matrices
from facemill.transforms.ops.cutting import largest_scale
from facemill.transforms.ops.perceptual_hash import perceptual_hash
from facemill.transforms.ops.pose import estimate_pose, interocular_px
from facemill.transforms.ops.quality import QUALITY_COLUMNS, measure_face
from facemill.transforms.ops.records import ImageRecord
from facemill.transforms.ops.reduction import at_least, crop_reduction, pixel_grid
from facemill.transforms.ops.verdict import JudgeOptions, judge_faces


@dataclass
class JudgeFaces(beam.PTransform):
    """Measures pose, quality and hash of each face and says whether it is kept, or why not; nothing is dropped.

    An image that was reduced too far for the crop in which all this is measured is decoded anew.

    Args:
        options: Limits, and which of the faces that meet them to keep.
    """

    options: JudgeOptions

    def expand(self, elements: beam.PCollection[Element]) -> beam.PCollection[Element]:
        """PCollection of `Element` -> the same with pose, quality, hashes and `reasons` of `faces`."""
        return elements | "JudgeBatch" >> beam.ParDo(_JudgeFn(self.options)).with_output_types(Element)


class _JudgeFn(beam.DoFn):
    def __init__(self, options: JudgeOptions) -> None:
        self._options = options

    def process(self, element: Element) -> Iterator[Element]:
        yield map_images(element, lambda record: self._judge(_measure(record)))

    def _judge(self, record: ImageRecord) -> ImageRecord:
        assert record.faces is not None
        reasons = judge_faces(record.faces, image_wh=record.size_wh, options=self._options)
        return dataclasses.replace(record, faces=dataclasses.replace(record.faces, reasons=reasons))


def _measure(record: ImageRecord) -> ImageRecord:
    """The record with all that its faces are judged by."""
    faces = record.faces
    assert faces is not None
    matrices = canonical_matrices(faces.landmarks, record.size_wh)
    scale = largest_scale([None if matrix is None else (matrix,) for matrix in matrices])
    record = at_least(record, crop_reduction(scale))
    assert record.image is not None
    grid = pixel_grid(record)
    in_image = (None if matrix is None else grid.matrix_from_original(matrix) for matrix in matrices)
    qualities, phashes = [], []
    # One crop at a time, as a crowd's would fill the memory.
    for crop, matrix, box in zip(canonical_crops(record.image, in_image), matrices, faces.boxes, strict=True):
        qualities.append(measure_face(crop, matrix, box, record.size_wh))
        phashes.append(None if crop is None else perceptual_hash(crop))
    measured = dataclasses.replace(
        faces,
        angles_deg=estimate_pose(faces.landmarks),
        interocular_px=interocular_px(faces.landmarks),
        quality=np.array(qualities, np.float32).reshape(-1, len(QUALITY_COLUMNS)),
        phashes=tuple(phashes),
    )
    return dataclasses.replace(record, faces=measured)
