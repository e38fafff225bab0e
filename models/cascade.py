"""The cascade of Zhang et al. 2016: P-Net proposes windows, R-Net sorts them out, O-Net refines them and adds points.

Inside this module a box gives the outer edges of pixels: the box 0, 0, W, H is the whole image. What comes in and goes
out counts from the centre of the first pixel, half a pixel less.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facemill.models.boxes import box_iou, nms, shift_edges, square_boxes
from facemill.models.graphs import build_graph
from facemill.models.options import DetectorOptions
from facemill.models.patches import cut_patches
from facemill.models.pyramid import cell_edges, pyramid_sizes, split_strips
from facemill.models.sessions import Session
from facemill.models.weights import load_weights

__all__ = ["Cascade", "Detections", "DetectorOptions", "Proposals"]

_RNET_PX = 24
_ONET_PX = 48
# A patch shows more than its window: all around half a pixel of the patch for R-Net, a quarter for O-Net. Measured
# against human points: without it R-Net's windows are worse, and the points lie too far out (NME 4.2 % instead of 4.0 %
# on cnn_facepoint).
_RNET_CONTEXT = 1 + 1 / _RNET_PX
_ONET_CONTEXT = 1 + 0.5 / _ONET_PX
# What O-Net says about one face varies with the window; the mean over the windows that agree about the face is better
# than the best window's (cnn_facepoint NME 4.0 % instead of 4.5 %, wider AP at IoU 0.7 0.72 instead of 0.70).
_AGREEING_IOU = 0.8
# Bounds the memory of a run; makes no difference to the result.
_PATCHES_PER_RUN = 64


@dataclass(frozen=True, slots=True, eq=False)
class Proposals:
    """Square windows that may hold a face, best score first."""

    boxes: NDArray[np.float32]  # (N, 4) px
    scores: NDArray[np.float32]  # (N,)
    num_capped: int = 0  # windows that max_candidates cut


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """Faces, best score first; boxes and landmarks may lie beyond the image's edge."""

    boxes: NDArray[np.float32]  # (N, 4) px
    scores: NDArray[np.float32]  # (N,)
    landmarks: NDArray[np.float32]  # (N, 5, 2) px
    num_capped: int = 0


class Cascade:
    """The three networks, loaded, with their options; nothing of an image is kept for the next.

    Images are (H, W, 3) uint8 RGB. Raises ModelLoadError when the networks cannot be loaded.
    """

    def __init__(self, options: DetectorOptions | None = None) -> None:
        self.options = options or DetectorOptions()
        self._pnet = Session(build_graph("pnet", load_weights("pnet")))
        self._rnet = Session(build_graph("rnet", load_weights("rnet")))
        self._onet = Session(build_graph("onet", load_weights("onet")))

    def propose(self, image: NDArray[np.uint8]) -> Proposals:
        """Windows that P-Net found and R-Net confirmed, moved by both, made square."""
        windows, num_capped = self._scan(image)
        edges = square_boxes(shift_edges(windows.edges, windows.offsets))
        scores, offsets = _run_on_windows(self._rnet, image, edges, _RNET_PX, _RNET_CONTEXT)
        confirmed = _Windows(edges, scores, offsets).above(self.options.score_thresholds[1])
        confirmed = confirmed.suppress(self.options.nms_image_threshold)
        edges = square_boxes(shift_edges(confirmed.edges, confirmed.offsets))
        return Proposals(_from_edges(edges), confirmed.scores, num_capped)

    def refine(self, image: NDArray[np.uint8], boxes: NDArray[np.float32]) -> Detections:
        """O-Net on proposed windows (N, 4): those that it takes for faces, moved, with landmarks.

        Box and points of a face are means, weighted by score, over all windows that O-Net moved to nearly its place.
        """
        windows = _to_edges(boxes)
        scores, offsets, points = _run_on_windows(self._onet, image, windows, _ONET_PX, _ONET_CONTEXT)
        passed = scores > self.options.score_thresholds[2]
        windows, scores, offsets, points = windows[passed], scores[passed], offsets[passed], points[passed]
        faces = shift_edges(windows, offsets)
        kept = nms(faces, scores, self.options.nms_face_threshold, "min")
        means = _average_agreeing(faces, place_points(points, windows), scores, kept)
        return Detections(_from_edges(means[:, :4]), scores[kept], _from_edges(means[:, 4:]).reshape(-1, 5, 2))

    def locate(
        self, image: NDArray[np.uint8], boxes: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """O-Net's scores (N,) and landmarks (N, 5, 2) on known face boxes (N, 4), in their order, none left out."""
        windows = square_boxes(_to_edges(boxes))
        scores, _, points = _run_on_windows(self._onet, image, windows, _ONET_PX, _ONET_CONTEXT)
        return scores, _from_edges(place_points(points, windows))

    def _scan(self, image: NDArray[np.uint8]) -> tuple[_Windows, int]:
        """P-Net's windows of all levels, best first, and how many the cap cut."""
        sizes = pyramid_sizes(
            (image.shape[1], image.shape[0]),
            min_face_size_px=self.options.min_face_size_px,
            scale_factor=self.options.scale_factor,
        )
        levels = [self._scan_level(image, level_wh) for level_wh in sizes]
        found = _Windows.join([windows for windows, _ in levels]).suppress(self.options.nms_image_threshold)
        best = found.best(self.options.max_candidates)
        return best, sum(num_capped for _, num_capped in levels) + len(found.scores) - len(best.scores)

    def _scan_level(self, image: NDArray[np.uint8], level_wh: tuple[int, int]) -> tuple[_Windows, int]:
        import cv2

        level = np.asarray(cv2.resize(image, level_wh, interpolation=cv2.INTER_AREA), dtype=np.uint8)
        windows, num_found = _Windows.join([]), 0
        for first_row, strip in split_strips(level):
            scores, offsets = self._pnet(strip[np.newaxis].astype(np.float32))
            rows, columns = np.nonzero(scores[0] > self.options.score_thresholds[0])
            edges = cell_edges(rows + first_row, columns, level_wh, (image.shape[1], image.shape[0]))
            found = _Windows(edges, scores[0, rows, columns], offsets[0, rows, columns])
            num_found += len(found.scores)
            windows = _Windows.join([windows, found]).best(self.options.max_candidates)
        return windows.suppress(self.options.nms_level_threshold), num_found - len(windows.scores)


@dataclass(frozen=True, slots=True, eq=False)
class _Windows:
    edges: NDArray[np.float64]  # (N, 4)
    scores: NDArray[np.float32]  # (N,)
    offsets: NDArray[np.float32]  # (N, 4), where the network would move the edges

    @staticmethod
    def join(parts: Sequence[_Windows]) -> _Windows:
        nothing = _Windows(np.zeros((0, 4)), np.zeros(0, np.float32), np.zeros((0, 4), np.float32))
        parts = [nothing, *parts]
        return _Windows(
            np.concatenate([part.edges for part in parts]),
            np.concatenate([part.scores for part in parts]),
            np.concatenate([part.offsets for part in parts]),
        )

    def take(self, indices: NDArray[Any]) -> _Windows:
        return _Windows(self.edges[indices], self.scores[indices], self.offsets[indices])

    def above(self, threshold: float) -> _Windows:
        return self.take(self.scores > threshold)

    def best(self, count: int) -> _Windows:
        """The `count` with the highest scores, ties by position, in the order they have."""
        if len(self.scores) <= count:
            return self
        return self.take(np.sort(np.argsort(-self.scores, kind="stable")[:count]))

    def suppress(self, iou_threshold: float) -> _Windows:
        return self.take(nms(self.edges, self.scores, iou_threshold))


def place_points(points: NDArray[np.float32], windows: NDArray[np.float64]) -> NDArray[np.float64]:
    """O-Net's fractions (N, 10), five x then five y, of the windows (N, 4) -> (N, 5, 2) from the image's corner."""
    fractions = points.reshape(-1, 2, 5).swapaxes(1, 2).astype(np.float64)
    return windows[:, np.newaxis, :2] + fractions * (windows[:, 2:] - windows[:, :2])[:, np.newaxis]


def _average_agreeing(
    faces: NDArray[np.float64], landmarks: NDArray[np.float64], scores: NDArray[np.float32], kept: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Mean box and points per kept face over all that nearly coincide with it: (N, 4), (N, 5, 2) -> (K, 14)."""
    places = np.hstack([faces, landmarks.reshape(-1, 10)])
    means = np.empty((len(kept), 14))
    for mean, index in zip(means, kept, strict=True):
        agrees = box_iou(faces[index], faces)[0] > _AGREEING_IOU
        agrees[index] = True  # an empty box overlaps nothing, itself included
        mean[...] = np.average(places[agrees], axis=0, weights=scores[agrees])
    return means


def _run_on_windows(
    session: Callable[[NDArray[np.float32]], list[NDArray[np.float32]]],
    image: NDArray[np.uint8],
    windows: NDArray[np.float64],
    patch_px: int,
    context: float,
) -> list[NDArray[np.float32]]:
    """A network's outputs on the windows (N, 4), each enlarged `context` times."""
    half = (windows[:, 2:] - windows[:, :2]) * (context - 1) / 2
    shown = windows + np.hstack([-half, half])
    starts = range(0, max(len(shown), 1), _PATCHES_PER_RUN)  # one run even without windows, for its empty outputs
    runs = [session(cut_patches(image, shown[start : start + _PATCHES_PER_RUN], patch_px)) for start in starts]
    return [np.concatenate(outputs) for outputs in zip(*runs, strict=True)]


def _to_edges(boxes: NDArray[np.float32]) -> NDArray[np.float64]:
    return np.asarray(boxes, dtype=np.float64).reshape(-1, 4) + 0.5


def _from_edges(edges: NDArray[np.float64]) -> NDArray[np.float32]:
    return (edges - 0.5).astype(np.float32)
