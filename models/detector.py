"""Detect faces in one image, or place the five points on a face that is already cut out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facemill.models.accelerators import AcceleratorChoice, resolve_accelerator
from facemill.models.cascade import Cascade, place_points, probabilities
from facemill.models.errors import BadInputError
from facemill.models.options import DetectorOptions
from facemill.models.pyramid import ImagePyramid
from facemill.models.sessions import open_session
from facemill.models.weights import load_landmark_npy, load_weights

_ONET_PX = 48


@dataclass(frozen=True, slots=True, eq=False)
class Face:
    """One face; coordinates are pixels of the image, counted from the centre of its first pixel."""

    bbox: NDArray[np.float32]  # (4,) x1, y1, x2, y2; may reach beyond the image
    score: float
    landmarks: NDArray[
        np.float32
    ]  # (5, 2): left eye, right eye, nose, left and right mouth corner, as seen in the image


class FaceDetector:
    """P-Net, R-Net and O-Net on single images.

    Takes a `DetectorOptions`, or its fields as keywords: `FaceDetector(min_face_size_px=40)`. Raises ConfigError for
    impossible values, ModelLoadError when the networks cannot be loaded.
    """

    def __init__(self, options: DetectorOptions | None = None, **fields: Any) -> None:
        if options is not None and fields:
            raise TypeError("FaceDetector takes either a DetectorOptions or its fields, not both")
        self._cascade = Cascade(options or DetectorOptions(**fields))

    @property
    def options(self) -> DetectorOptions:
        """The options in force."""
        return self._cascade.options

    def detect(self, image: NDArray[np.uint8]) -> list[Face]:
        """The faces in an (H, W, 3) uint8 RGB image, best score first; raises BadInputError for any other array."""
        check_image(image)
        pyramid = ImagePyramid(image)
        found = self._cascade.refine(pyramid, self._cascade.propose(pyramid).boxes)
        return [
            Face(box, float(score), landmarks)
            for box, score, landmarks in zip(found.boxes, found.scores, found.landmarks, strict=True)
        ]


class FaceLandmarkModel:
    """O-Net on crops of single faces.

    `path` is a `landmark_detector_weights.npy`, a pickled dict of arrays as facenet's `det3.npy`; without it the
    default cascade's O-Net is taken. Raises ModelLoadError when the file does not hold such a network.
    """

    def __init__(self, path: str | Path | None = None, *, accelerator: AcceleratorChoice = "cpu") -> None:
        weights = load_weights("onet") if path is None else load_landmark_npy(path)
        self._onet = open_session("onet", weights, resolve_accelerator(accelerator))

    def face_landmarks(self, crop: NDArray[np.uint8]) -> tuple[float, NDArray[np.float32]]:
        """The score in [0, 1], over 0.95 for a clear face, and the five landmarks (5, 2) in pixels of the crop.

        The crop is an (H, W, 3) uint8 RGB image, cut close around the face; its aspect ratio is not kept.
        """
        import cv2

        check_image(crop)
        patch = cv2.resize(crop, (_ONET_PX, _ONET_PX), interpolation=cv2.INTER_AREA)
        heads = self._onet(np.asarray(patch, dtype=np.uint8)[np.newaxis])
        height, width = crop.shape[:2]
        landmarks = place_points(heads[:, 5:], np.array([[0.0, 0.0, width, height]]))[0] - 0.5
        return float(probabilities(heads[:, 0])[0]), landmarks.astype(np.float32)


def check_image(image: Any) -> None:
    """Raises BadInputError unless `image` is a non-empty (H, W, 3) uint8 array."""
    if not isinstance(image, np.ndarray):
        raise BadInputError("unsupported_format", f"image must be a numpy array, got {type(image).__name__}")
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        found = f"{image.shape} {image.dtype}"
        raise BadInputError("unsupported_format", f"image must be a non-empty (H, W, 3) uint8 RGB array, got {found}")
