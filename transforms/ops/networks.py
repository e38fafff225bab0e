"""The cascade of a worker process."""

from __future__ import annotations

from functools import lru_cache

import cv2

from facemill.models.cascade import Cascade
from facemill.models.options import DetectorOptions


@lru_cache(maxsize=1)
def load_cascade(options: DetectorOptions) -> Cascade:
    """The networks, loaded once per process; OpenCV gets one thread, for workers use the cores."""
    cv2.setNumThreads(1)
    return Cascade(options)
