"""The cascade of Zhang et al. 2016: P-Net proposes windows, R-Net sorts them out, O-Net refines them and adds points.

Inside this module a box gives the outer edges of pixels: the box 0, 0, W, H is the whole image. What comes in and goes
out counts from the centre of the first pixel, half a pixel less.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from facemill.models.accelerators import resolve_accelerator
from facemill.models.boxes import box_iou, nms, shift_edges, square_boxes
from facemill.models.cells import cell_edges, num_cells, split_tiles, suppress_cells
from facemill.models.options import DetectorOptions, smallest_face_px
from facemill.models.patches import cut_patches
from facemill.models.pyramid import ImagePyramid, Level
from facemill.models.sessions import Network, open_session
from facemill.models.weights import load_weights

__all__ = ["Cascade", "Detections", "DetectorOptions", "Proposals"]


@dataclass(frozen=True, slots=True)
class _Stage:
    """How a network looks at windows.

    A patch shows more than its window, which it is enlarged by `context`: all around half a pixel of the patch for
    R-Net, a quarter for O-Net. Measured against human points: without it R-Net's windows are worse, and the points lie
    too far out (NME 4.2 % instead of 4.0 % on cnn_facepoint).
    """

    patch_px: int
    context: float
    samples_per_axis: int  # of a patch's pixel; more make no difference to the accuracy
    num_heads: int


_RNET = _Stage(patch_px=24, context=1 + 1 / 24, samples_per_axis=1, num_heads=5)
_ONET = _Stage(patch_px=48, context=1 + 0.5 / 48, samples_per_axis=2, num_heads=15)
# Bounds the memory of patches; makes no difference to the result.
_PATCHES_AT_ONCE = 64
# What O-Net says about one face varies with the window; the mean over the windows that agree about the face is better
# than the best window's (cnn_facepoint NME 4.0 % instead of 4.7 %, wider AP at IoU 0.7 0.72 instead of 0.70).
_AGREEING_IOU = 0.8


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

    Images are (H, W, 3) uint8 RGB, in an `ImagePyramid`; boxes are finite, in px of the original. Raises ModelLoadError
    when the networks cannot be loaded, ConfigError when the accelerator cannot be used.
    """

    def __init__(self, options: DetectorOptions | None = None) -> None:
        options = options or DetectorOptions()
        accelerator = resolve_accelerator(options.accelerator)
        self.options = replace(options, accelerator=accelerator)
        self._pnet = open_session("pnet", load_weights("pnet"), accelerator)
        self._rnet = open_session("rnet", load_weights("rnet"), accelerator)
        self._onet = open_session("onet", load_weights("onet"), accelerator)

    def propose(self, pyramid: ImagePyramid) -> Proposals:
        """Windows that P-Net found and R-Net confirmed, moved by both, made square."""
        windows, num_capped = self._scan(pyramid)
        edges = square_boxes(shift_edges(windows.edges, windows.offsets))
        heads = _run_on_windows(self._rnet, pyramid, edges, _RNET)
        confirmed = _Windows(edges, probabilities(heads[:, 0]), heads[:, 1:5])
        confirmed = confirmed.above(self.options.score_thresholds[1]).suppress(self.options.nms_image_threshold)
        edges = square_boxes(shift_edges(confirmed.edges, confirmed.offsets))
        return Proposals(_from_edges(edges), confirmed.scores, num_capped)

    def refine(self, pyramid: ImagePyramid, boxes: NDArray[np.float32]) -> Detections:
        """O-Net on proposed windows (N, 4): those that it takes for faces, moved, with landmarks.

        Box and points of a face are means, weighted by score, over all windows that O-Net moved to nearly its place.
        """
        windows = _to_edges(boxes)
        heads = _run_on_windows(self._onet, pyramid, windows, _ONET)
        scores = probabilities(heads[:, 0])
        passed = scores > self.options.score_thresholds[2]
        windows, scores, heads = windows[passed], scores[passed], heads[passed]
        faces = shift_edges(windows, heads[:, 1:5])
        kept = nms(faces, scores, self.options.nms_face_threshold, "min")
        means = _average_agreeing(faces, place_points(heads[:, 5:], windows), scores, kept)
        return Detections(_from_edges(means[:, :4]), scores[kept], _from_edges(means[:, 4:]).reshape(-1, 5, 2))

    def locate(
        self, pyramid: ImagePyramid, boxes: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """O-Net's scores (N,) and landmarks (N, 5, 2) on known face boxes (N, 4), in their order, none left out."""
        windows = square_boxes(_to_edges(boxes))
        heads = _run_on_windows(self._onet, pyramid, windows, _ONET)
        return probabilities(heads[:, 0]), _from_edges(place_points(heads[:, 5:], windows))

    def _scan(self, pyramid: ImagePyramid) -> tuple[_Windows, int]:
        """P-Net's windows of all levels, and how many the cap cut."""
        shown = pyramid.levels(
            min_face_size_px=smallest_face_px(self.options, pyramid.size_wh), scale_factor=self.options.scale_factor
        )
        scanned = [self._scan_level(level) for level in shown]
        if not scanned:
            return _Windows(np.zeros((0, 4)), np.zeros(0, np.float32), np.zeros((0, 4), np.float32)), 0
        levels = np.repeat(np.arange(len(scanned)), [len(level.cells) for level in scanned])
        cells, heads = (np.concatenate([getattr(level, name) for level in scanned]) for name in ("cells", "heads"))
        pixel_whs = np.array([level.pixel_wh for level in scanned])
        kept = suppress_cells(
            [level.map_shape for level in scanned], levels, cells, heads[:, 0], self.options.nms_level_threshold
        )
        levels, cells, heads = levels[kept], cells[kept], heads[kept]
        windows = _Windows(cell_edges(cells, pixel_whs[levels]), probabilities(heads[:, 0]), heads[:, 1:])
        if _may_overlap(pixel_whs, self.options.nms_image_threshold):
            windows = windows.suppress(self.options.nms_image_threshold)
        best = windows.take(_best(windows.scores, self.options.max_candidates))
        return best, sum(level.num_capped for level in scanned) + len(windows.scores) - len(best.scores)

    def _scan_level(self, level: Level) -> _ScannedLevel:
        threshold = _logit(self.options.score_thresholds[0])
        cells, heads, num_found = np.zeros((0, 2), np.int64), np.zeros((0, 5), np.float32), 0
        for corner, tile in split_tiles(level.pixels):
            (tile_heads,) = self._pnet(tile[np.newaxis])
            rows, columns = np.nonzero(tile_heads[0] > threshold)
            if not len(rows):
                continue
            num_found += len(rows)
            heads = np.concatenate([heads, tile_heads[:, rows, columns].T])
            cells = np.concatenate([cells, np.stack([rows, columns], axis=1) + corner])
            best = _best(heads[:, 0], self.options.max_candidates)
            heads, cells = heads[best], cells[best]
        height, width = level.pixels.shape[:2]
        return _ScannedLevel(
            cells, heads, level.pixel_wh, (num_cells(height), num_cells(width)), num_found - len(cells)
        )


class _ScannedLevel(NamedTuple):
    """P-Net's best cells of one level."""

    cells: NDArray[np.int64]  # (N, 2), row and column
    heads: NDArray[np.float32]  # (N, 5), the logit of a face and the offsets
    pixel_wh: tuple[float, float]
    map_shape: tuple[int, int]
    num_capped: int


@dataclass(frozen=True, slots=True, eq=False)
class _Windows:
    edges: NDArray[np.float64]  # (N, 4)
    scores: NDArray[np.float32]  # (N,)
    offsets: NDArray[np.float32]  # (N, 4), where the network would move the edges

    def take(self, indices: NDArray[Any]) -> _Windows:
        return _Windows(self.edges[indices], self.scores[indices], self.offsets[indices])

    def above(self, threshold: float) -> _Windows:
        return self.take(self.scores > threshold)

    def suppress(self, iou_threshold: float) -> _Windows:
        return self.take(nms(self.edges, self.scores, iou_threshold))


def _best(scores: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """The indices of the `count` highest scores, ties by position, in the order they have."""
    if len(scores) <= count:
        return np.arange(len(scores))
    return np.sort(np.argsort(-scores, kind="stable")[:count])


def _may_overlap(pixel_whs: NDArray[np.float64], iou_threshold: float) -> bool:
    """Whether windows of different levels can overlap by more: at most by the ratio of their areas."""
    areas = pixel_whs.prod(axis=1)  # grows from level to level
    return bool((areas[:-1] > iou_threshold * (1 - 1e-9) * areas[1:]).any())


def probabilities(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """The logistic function."""
    values: NDArray[np.float32] = np.float32(0.5) * (1 + np.tanh(logits * np.float32(0.5)))
    return values


def _logit(probability: float) -> float:
    if probability in (0, 1):
        return -math.inf if probability == 0 else math.inf
    return math.log(probability / (1 - probability))


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
    network: Network, pyramid: ImagePyramid, windows: NDArray[np.float64], stage: _Stage
) -> NDArray[np.float32]:
    """A network's outputs (N, channels) on what the image shows in the windows (N, 4)."""
    half = (windows[:, 2:] - windows[:, :2]) * (stage.context - 1) / 2
    shown = windows + np.hstack([-half, half])
    heads = np.zeros((len(windows), stage.num_heads), np.float32)
    for start in range(0, len(windows), _PATCHES_AT_ONCE):
        part = slice(start, start + _PATCHES_AT_ONCE)
        patches = cut_patches(pyramid, shown[part], stage.patch_px, stage.samples_per_axis)
        heads[part] = network(patches)
    return heads


def _to_edges(boxes: NDArray[np.float32]) -> NDArray[np.float64]:
    return np.asarray(boxes, dtype=np.float64).reshape(-1, 4) + 0.5


def _from_edges(edges: NDArray[np.float64]) -> NDArray[np.float32]:
    return (edges - 0.5).astype(np.float32)
