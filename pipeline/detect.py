"""`facemill detect`: the faces of some images as JSON, and as pictures."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, TextIO

import numpy as np

from facemill.models.cascade import Detections
from facemill.models.errors import BadInputError, ConfigError
from facemill.models.pyramid import ImagePyramid
from facemill.pipeline.config import Config, settle_accelerator
from facemill.pipeline.listing import list_inputs
from facemill.transforms.ops.credentials import separate_signatures
from facemill.transforms.ops.crops import WriteOptions, encode_crop
from facemill.transforms.ops.decoding import decode_image
from facemill.transforms.ops.drawing import draw_faces
from facemill.transforms.ops.networks import load_cascade
from facemill.transforms.ops.reading import printable
from facemill.transforms.ops.storage import Folder

_KEYPOINTS = ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")
_STANDARD_INPUT = "-"
_DRAWN = {".jpg": WriteOptions(), ".jpeg": WriteOptions(), ".png": WriteOptions(image_format="png")}


@dataclass(frozen=True, eq=False)
class _Source:
    """An image by its folder and the name below it; without a folder, standard input."""

    folder: Folder | None
    name: str

    @property
    def shown(self) -> str:
        """How the user would write it."""
        if self.folder is None:
            return self.name
        uri = self.folder.path if self.folder.is_local else self.folder.uri
        return printable(f"{uri.rstrip('/')}/{self.name}")


def detect_images(
    images: Sequence[str],
    *,
    config: Config,
    draw_folder: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
    standard_input: BinaryIO | None = None,
    out: TextIO | None = None,
    err: TextIO | None = None,
) -> bool:
    """Print the faces of each image; returns whether every image could be read.

    For a single image that is a list in the schema of the mtcnn package; for several, or for a folder or glob, one line
    of JSON per image: `{"image": ..., "faces": [...]}`, or `{"image": ..., "error": {"reason", "message"}}`.

    Raises:
        ConfigError: An input does not exist, or the accelerator cannot be used.
        OutputError: A picture cannot be written.
    """
    out, err = out or sys.stdout, err or sys.stderr
    if draw_folder is not None and Path(draw_folder).is_file():
        raise ConfigError(f"--draw {draw_folder} is a file; name a folder")
    config = settle_accelerator(config)
    images, storage_options = separate_signatures(images, storage_options or {})
    sources = _list_sources(images, config, storage_options)
    is_single = (
        len(sources) == 1 and len(images) == 1 and PurePosixPath(sources[0].name).name == PurePosixPath(images[0]).name
    )
    targets = {} if draw_folder is None else _place_drawings(Path(draw_folder), sources)
    num_failed = 0
    for source in sources:
        try:
            image = _decode(source, config, standard_input)
        except BadInputError as error:
            num_failed += 1
            err.write(f"facemill: {source.shown}: {error}\n")
            if not is_single:
                _print_line(out, source, {"error": {"reason": error.reason, "message": error.message}})
            continue
        found = _detect(image, config)
        if is_single:
            out.write(json.dumps(_as_mtcnn(found), indent=2) + "\n")
        else:
            _print_line(out, source, {"faces": _as_mtcnn(found)})
        if draw_folder is not None:
            _draw(targets[source], image, found)
    return num_failed == 0


def _list_sources(images: Sequence[str], config: Config, storage_options: Mapping[str, Any]) -> list[_Source]:
    sources = []
    for image in images:
        if image == _STANDARD_INPUT:
            sources.append(_Source(None, image))
            continue
        listing = list_inputs(image, ignored_extensions=config.read.ignored_extensions, storage_options=storage_options)
        if not listing.names:
            raise ConfigError(f"no image at {image}: it holds no file that could be one")
        sources += [_Source(listing.root, name) for name in listing.names]
    return sources


def _decode(source: _Source, config: Config, standard_input: BinaryIO | None) -> np.ndarray:
    try:
        if source.folder is None:
            data = (standard_input or sys.stdin.buffer).read()
        else:
            data = source.folder.read_bytes(source.name)
    except OSError as error:
        raise BadInputError("read_error", error.strerror or str(error)) from error
    return decode_image(data, max_pixels=config.decode.max_pixels, min_side_px=config.decode.min_side_px)


def _detect(image: np.ndarray, config: Config) -> Detections:
    cascade = load_cascade(config.detect)
    pyramid = ImagePyramid(image)
    return cascade.refine(pyramid, cascade.propose(pyramid).boxes)


def _as_mtcnn(found: Detections) -> list[dict[str, Any]]:
    """Faces in the schema of the mtcnn package, unrounded: box is x, y, width, height."""
    return [
        {
            "box": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
            "confidence": score,
            "keypoints": dict(zip(_KEYPOINTS, points, strict=True)),
        }
        for box, score, points in zip(
            found.boxes.tolist(), found.scores.tolist(), found.landmarks.tolist(), strict=True
        )
    ]


def _print_line(out: TextIO, source: _Source, content: dict[str, Any]) -> None:
    out.write(json.dumps({"image": source.shown, **content}) + "\n")
    out.flush()


def _place_drawings(folder: Path, sources: Sequence[_Source]) -> dict[_Source, Path]:
    """Where each picture is drawn; raises ConfigError if that would replace one of the images."""
    images = {os.path.realpath(s.folder.join(s.name)) for s in sources if s.folder is not None and s.folder.is_local}
    taken: set[str] = set()
    targets = {}
    for source in sources:
        name = "standard-input.png" if source.folder is None else printable(source.name)
        known = PurePosixPath(name).suffix.lower() in _DRAWN
        targets[source] = folder.absolute() / _free_path(name if known else f"{name}.png", taken)
        if os.path.realpath(targets[source]) in images:
            raise ConfigError(f"--draw {folder} would replace {source.shown}; choose another folder")
    return targets


def _draw(target: Path, image: np.ndarray, found: Detections) -> None:
    picture = draw_faces(image, found.boxes, found.scores, found.landmarks)
    content = encode_crop(picture, _DRAWN[target.suffix.lower()])
    Folder(os.fspath(target.parent)).write_bytes(target.name, content)


def _free_path(name: str, taken: set[str]) -> str:
    path = PurePosixPath(name)
    number, free = 1, name
    while free in taken:
        number += 1
        free = str(path.with_name(f"{path.stem}-{number}{path.suffix}"))
    taken.add(free)
    return free
