"""The networks: `FaceDetector` for images, `FaceLandmarkModel` for crops; names are imported when first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from facemill.models.boxes import box_iou, nms
    from facemill.models.cascade import Cascade, Detections, Proposals
    from facemill.models.detector import Face, FaceDetector, FaceLandmarkModel
    from facemill.models.options import DetectorOptions

__all__ = [
    "Cascade",
    "Detections",
    "DetectorOptions",
    "Face",
    "FaceDetector",
    "FaceLandmarkModel",
    "Proposals",
    "box_iou",
    "nms",
]

_MODULES = {
    "Cascade": "cascade",
    "Detections": "cascade",
    "DetectorOptions": "options",
    "Face": "detector",
    "FaceDetector": "detector",
    "FaceLandmarkModel": "detector",
    "Proposals": "cascade",
    "box_iou": "boxes",
    "nms": "boxes",
}


def __dir__() -> list[str]:
    return sorted(__all__)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
