"""Judge: faces in, their pose and the verdict on each out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import apache_beam as beam

from facemill.transforms.elements import Element, map_images
from facemill.transforms.ops.pose import estimate_pose, interocular_px
from facemill.transforms.ops.records import ImageRecord
from facemill.transforms.ops.verdict import JudgeOptions, judge_faces


@dataclass
class JudgeFaces(beam.PTransform):
    """Measures the pose of each face and says whether it is kept, or why not; nothing is dropped.

    Args:
        options: Limits, and which of the faces that meet them to keep.
    """

    options: JudgeOptions

    def expand(self, elements: beam.PCollection[Element]) -> beam.PCollection[Element]:
        """PCollection of `Element` -> the same with the pose and the `reasons` of `faces`."""
        return elements | "JudgeBatch" >> beam.ParDo(_JudgeFn(self.options)).with_output_types(Element)


class _JudgeFn(beam.DoFn):
    def __init__(self, options: JudgeOptions) -> None:
        self._options = options

    def process(self, element: Element) -> Iterator[Element]:
        yield map_images(element, self._judge)

    def _judge(self, record: ImageRecord) -> ImageRecord:
        assert record.faces is not None
        faces = record.faces
        angles_deg = estimate_pose(faces.landmarks)
        eye_distance_px = interocular_px(faces.landmarks)
        reasons = judge_faces(
            faces.boxes,
            faces.scores,
            faces.landmarks,
            angles_deg,
            eye_distance_px,
            image_wh=record.size_wh,
            options=self._options,
        )
        judged = dataclasses.replace(faces, angles_deg=angles_deg, interocular_px=eye_distance_px, reasons=reasons)
        return dataclasses.replace(record, faces=judged)
