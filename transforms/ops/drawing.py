"""Pictures for people: faces marked in an image, and sheets of crops."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

_DARK = (0, 0, 0)
_BOX_COLOR = (80, 255, 80)
# Yellow, cyan, red, magenta, orange: one per landmark, so that a swap of left and right is seen.
_POINT_COLORS = ((255, 255, 0), (0, 255, 255), (255, 60, 60), (255, 80, 255), (255, 160, 0))
_GREY = 128
_GAP_PX = 4
_CAPTION_PX = 16
_CAPTION_FONT_PX = 11


def draw_faces(image: np.ndarray, boxes: np.ndarray, scores: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """A copy of the image with boxes, scores and five points drawn in.

    Takes (H, W, 3) uint8 RGB, (N, 4) px, (N,) and (N, 5, 2) px. Lines and letters grow with the picture and have a dark
    edge, so that they can be read on any ground. Scores wider than their box are left out, and so is what is not
    finite.
    """
    return _with_scores(draw_marks(image, boxes, landmarks), boxes, scores, _line_px(image))


def draw_marks(image: np.ndarray, boxes: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """As `draw_faces`, without the scores."""
    canvas = np.array(image, order="C")
    line_px = _line_px(image)
    for box, points in zip(boxes, landmarks, strict=True):
        _draw_box(canvas, box, line_px)
        _draw_points(canvas, points, _dot_radius(box, line_px))
    return canvas


def contact_sheet(crops: Sequence[np.ndarray], *, columns: int, captions: Sequence[str] | None = None) -> np.ndarray:
    """Crops side by side on grey, row by row: N times (h, w, 3) uint8 RGB -> (H, W, 3) uint8.

    Every tile is as large as the largest crop, smaller ones are centred. A caption stands below its crop, on one line
    that is cut to the tile. ValueError for a number of columns or captions that cannot be.
    """
    if columns < 1:
        raise ValueError(f"columns must be at least 1, got {columns}")
    if captions is not None and len(captions) != len(crops):
        raise ValueError(f"there must be one caption per crop, got {len(captions)} for {len(crops)} crops")
    height, width = np.max([crop.shape[:2] for crop in crops], axis=0) if len(crops) else (0, 0)
    step_y, step_x = height + _GAP_PX + (0 if captions is None else _CAPTION_PX), width + _GAP_PX
    rows = -(-len(crops) // columns)
    sheet = np.full((rows * step_y + _GAP_PX, columns * step_x + _GAP_PX, 3), _GREY, np.uint8)
    for index, crop in enumerate(crops):
        top, left = _GAP_PX + index // columns * step_y, _GAP_PX + index % columns * step_x
        y, x = top + (height - crop.shape[0]) // 2, left + (width - crop.shape[1]) // 2
        sheet[y : y + crop.shape[0], x : x + crop.shape[1]] = crop
        if captions is not None:
            sheet[top + height : top + height + _CAPTION_PX, left : left + width] = _caption(captions[index], width)
    return sheet


def _line_px(image: np.ndarray) -> int:
    return max(1, round(max(image.shape[:2]) / 500))


def _draw_box(canvas: np.ndarray, box: np.ndarray, line_px: int) -> None:
    """Paint the outline of a box in place."""
    if np.isfinite(box).all():
        first, second = _pixels(canvas, np.reshape(box, (2, 2)))
        cv2.rectangle(canvas, first, second, _DARK, line_px + 2)
        cv2.rectangle(canvas, first, second, _BOX_COLOR, line_px)


def _dot_radius(box: np.ndarray, line_px: int) -> int:
    """Radius in px that suits both the picture and the face."""
    width = float(box[2] - box[0])
    return int(np.clip(width / 30, 1, line_px + 1)) if np.isfinite(width) else line_px + 1


def _draw_points(canvas: np.ndarray, points: np.ndarray, radius_px: int) -> None:
    """Paint (5, 2) landmarks in place, as dots with a dark rim."""
    for point, color in zip(points, _POINT_COLORS, strict=True):
        if np.isfinite(point).all():
            (center,) = _pixels(canvas, point[None])
            cv2.circle(canvas, center, radius_px + 1, _DARK, cv2.FILLED, cv2.LINE_AA)
            cv2.circle(canvas, center, radius_px, color, cv2.FILLED, cv2.LINE_AA)


def _with_scores(canvas: np.ndarray, boxes: np.ndarray, scores: np.ndarray, line_px: int) -> np.ndarray:
    """A copy with each score above its box or, at the top of the picture, below the box's upper edge."""
    picture = Image.fromarray(canvas)
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(8 + 5 * line_px)
    for box, score in zip(boxes, scores, strict=True):
        text = f"{score:.2f}"
        left, top, right, bottom = draw.textbbox((0, 0), text, font=font, stroke_width=line_px)
        if np.isfinite(box).all() and right - left <= box[2] - box[0]:
            ((x, y), _) = _pixels(canvas, np.reshape(box, (2, 2)))
            above = y - line_px - bottom
            place = (x - left, above if above + top >= 0 else y + 2 * line_px - top)
            draw.text(place, text, _BOX_COLOR, font=font, stroke_width=line_px, stroke_fill=_DARK)
    return np.array(picture)


def _caption(text: str, width: int) -> np.ndarray:
    """One line of text on grey: (_CAPTION_PX, width, 3) uint8."""
    strip = Image.new("RGB", (width, _CAPTION_PX), (_GREY,) * 3)
    ImageDraw.Draw(strip).text((1, 1), text, _DARK, font=ImageFont.load_default(_CAPTION_FONT_PX))
    return np.array(strip)


def _pixels(canvas: np.ndarray, points: np.ndarray) -> list[tuple[int, int]]:
    """(K, 2) px as whole numbers; what lies far outside is brought near, as cv2's integers would overflow."""
    extent_wh = np.array(canvas.shape[1::-1])
    near = np.clip(np.asarray(points, dtype=np.float64), -extent_wh, 2 * extent_wh)
    return [(int(x), int(y)) for x, y in np.rint(near)]
