"""Landmarks: candidates in, faces with five points out (O-Net)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import apache_beam as beam
import numpy as np

from facemill.models.cascade import Cascade
from facemill.models.options import DetectorOptions
from facemill.models.pyramid import ImagePyramid
from facemill.transforms.elements import Element, map_images
from facemill.transforms.ops.networks import load_cascade
from facemill.transforms.ops.records import Faces, ImageRecord, KnownRows
from facemill.transforms.ops.reduction import at_least, landmark_reduction, pixel_grid


@dataclass
class LocateLandmarks(beam.PTransform):
    """Runs O-Net: it refines and scores detected candidates, and places five points on each face.

    An image that was reduced too far for its smallest candidate is decoded anew.

    Args:
        options: Thresholds and overlaps.
        relocate: For faces of a table, place the points anew even where the table has them.
    """

    options: DetectorOptions
    relocate: bool

    def expand(self, elements: beam.PCollection[Element]) -> beam.PCollection[Element]:
        """PCollection of `Element` -> the same with `faces`."""
        locate = _LandmarksFn(self.options, self.relocate)
        return elements | "PlacePoints" >> beam.ParDo(locate).with_output_types(Element)


class _LandmarksFn(beam.DoFn):
    def __init__(self, options: DetectorOptions, relocate: bool) -> None:
        self._options = options
        self._relocate = relocate
        self._cascade: Cascade | None = None

    def setup(self) -> None:
        self._cascade = load_cascade(self._options)

    def process(self, element: Element) -> Iterator[Element]:
        yield map_images(element, self._locate)

    def _locate(self, record: ImageRecord) -> ImageRecord:
        assert self._cascade is not None and record.image is not None
        if record.known is not None:
            return dataclasses.replace(record, faces=self._complete(record.image, record.known), known=None)
        assert record.candidates is not None
        return self._refine(at_least(record, landmark_reduction(record.candidates)))

    def _refine(self, record: ImageRecord) -> ImageRecord:
        assert self._cascade is not None and record.image is not None and record.candidates is not None
        grid = pixel_grid(record)
        pyramid = record.pyramid or ImagePyramid(record.image, record.reduction)  # none where it was decoded anew
        found = self._cascade.refine(pyramid, grid.to_corner(record.candidates))
        return dataclasses.replace(
            record,
            faces=Faces(grid.from_corner(found.boxes), found.scores, grid.from_corner(found.landmarks)),
            pyramid=None,
            candidates=None,
            num_capped=record.num_capped + found.num_capped,
            data=record.data if len(found.boxes) else None,
        )

    def _complete(self, image: np.ndarray, known: KnownRows) -> Faces:
        """The faces of a table, with O-Net's points and scores where the table has none."""
        assert self._cascade is not None
        without_points = np.isnan(known.landmarks).any(axis=(1, 2)) | self._relocate
        without_score = np.isnan(known.scores)
        scores, landmarks = known.scores.copy(), known.landmarks.copy()
        asked = np.flatnonzero(without_points | without_score)
        if len(asked):
            found_scores, found_landmarks = self._cascade.locate(ImagePyramid(image), known.boxes[asked])
            scores[asked] = np.where(without_score[asked], found_scores, scores[asked])
            landmarks[asked] = np.where(without_points[asked, None, None], found_landmarks, landmarks[asked])
        return Faces(known.boxes, scores, landmarks)
