"""Head pose and size from the five landmarks."""

from __future__ import annotations

import numpy as np

# Left eye, right eye, nose tip, left and right mouth corner in mm: x to the right of the image, y down, z towards the
# camera. Vertices 468, 473, 1, 61 and 291 of the generic face that MediaPipe publishes (face_model_with_iris.obj,
# Apache-2.0), rounded; its eyes are 64 mm apart, as adults' are in the mean (Dodgson 2004).
_FACE_MM = np.array(
    [[-31.8, -26.4, 38.3], [31.8, -26.4, 38.3], [0.0, 11.3, 74.8], [-24.6, 43.4, 42.8], [24.6, 43.4, 42.8]]
)
_AFFINE_FIT = np.linalg.pinv(_FACE_MM - _FACE_MM.mean(axis=0))  # (3, 5)

# The smaller over the larger extent of a fitted face at which its points count as lying on one line.
_DEGENERATE = 1e-6


def estimate_pose(landmarks: np.ndarray) -> np.ndarray:
    """Yaw, pitch and roll of each face: (N, 5, 2) px -> (N, 3) float32 degrees.

    yaw > 0: the face looks to the right of the image; within [-90, 90]. pitch > 0: it looks up. roll > 0: the head is
    turned clockwise in the image as seen; it is the direction of the line between the eyes, so that a turn of the
    image changes nothing else. The rotation is Rz(roll) Ry(yaw) Rx(pitch).

    A generic face is fitted by least squares under an affine camera, which is then replaced by the nearest scaled
    orthographic one (polar decomposition). The full least-squares fit of a scaled orthographic camera sorts frontal
    faces worse, because it reads each departure from the generic proportions as a turn of the head.

    Faces without a pose have three NaN: points that are not finite, all equal, or all on one line.
    """
    points = np.asarray(landmarks, dtype=np.float64)
    with np.errstate(all="ignore"):  # degenerate faces become NaN on the way
        points = points - points[:, :1]
        points = points / np.abs(points).max(axis=(1, 2), keepdims=True)
        camera = np.einsum("dk,nkc->ncd", _AFFINE_FIT, points)  # (N, 2, 3)
        rotation = _nearest_rotation(camera)
        sideways = np.hypot(rotation[:, 0, 0], rotation[:, 1, 0])
        angles = [
            np.arctan2(-rotation[:, 2, 0], sideways),
            np.arctan2(rotation[:, 2, 1], rotation[:, 2, 2]),
            np.arctan2(rotation[:, 1, 0], rotation[:, 0, 0]),
        ]
        return np.degrees(np.stack(angles, axis=-1)).astype(np.float32)


def _nearest_rotation(camera: np.ndarray) -> np.ndarray:
    """The rotation whose first two rows are nearest to the affine camera's up to scale: (N, 2, 3) -> (N, 3, 3)."""
    # The orthogonal factor is (A A^T)^(-1/2) A, and a symmetric 2x2 matrix G has the root (G + sqrt(det G) I) up to
    # scale; the scale is taken out by normalising the rows.
    gram = camera @ camera.transpose(0, 2, 1)
    trace = gram[:, 0, 0] + gram[:, 1, 1]
    root_det = np.sqrt(np.maximum(gram[:, 0, 0] * gram[:, 1, 1] - gram[:, 0, 1] ** 2, 0))
    root_det = np.where(root_det > _DEGENERATE * trace, root_det, np.nan)
    adjugate = np.stack(
        [gram[:, 1, 1] + root_det, -gram[:, 0, 1], -gram[:, 0, 1], gram[:, 0, 0] + root_det], axis=-1
    ).reshape(-1, 2, 2)
    rows = adjugate @ camera
    rows = rows / np.linalg.norm(rows, axis=2, keepdims=True)
    return np.concatenate([rows, np.cross(rows[:, 0], rows[:, 1])[:, None]], axis=1)


def interocular_px(landmarks: np.ndarray) -> np.ndarray:
    """Distance between the eyes in the image: (N, 5, 2) px -> (N,) float32 px. It shrinks when the head turns."""
    eyes = np.asarray(landmarks, dtype=np.float64)[:, :2]
    with np.errstate(all="ignore"):
        return np.hypot(*(eyes[:, 1] - eyes[:, 0]).T).astype(np.float32)
