"""`facemill demo`: the main job on public-domain photographs that come with installed packages."""

from __future__ import annotations

import io
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from facemill.models.errors import ConfigError
from facemill.pipeline.config import load_config
from facemill.pipeline.run import RunRequest, run
from facemill.transforms.ops.drawing import contact_sheet
from facemill.transforms.ops.layout import CROPS
from facemill.transforms.ops.storage import Folder

# Eileen Collins (NASA), Grace Hopper (US Navy) and the rocket (NASA) are in the public domain; the coffee cup and the
# cat are CC0.
_SKIMAGE_PHOTOS = {
    "people/astronaut.png": "astronaut.png",
    "scenes/cat.png": "chelsea.png",
    "scenes/coffee.png": "coffee.png",
    "scenes/rocket.jpg": "rocket.jpg",
}
_EXIF_ORIENTATION, _TURNED_RIGHT = 0x0112, 6


def run_demo(folder: str) -> bool:
    """Pack the photographs, run the pipeline on them, and write a contact sheet; returns whether all was done."""
    target = Path(folder)
    shard = target / "photos.tar"
    try:
        target.mkdir(parents=True, exist_ok=True)
        shard.write_bytes(_pack(dict(_photos())))
    except OSError as error:
        raise ConfigError(f"cannot write the demo to {target}: {error.strerror}") from error
    sys.stdout.write(f"packed {shard}\n")
    output = target / "output"
    result = run(RunRequest(inputs=[str(shard)], output=Folder(str(output)), config=load_config(), num_workers=1))
    sheet = target / "contact_sheet.png"
    Image.fromarray(contact_sheet(_crops(output / CROPS), columns=4)).save(sheet)
    sys.stdout.write(f"contact sheet of the crops: {sheet}\n")
    return result.is_complete


def _photos() -> Iterator[tuple[str, bytes]]:
    """Name and bytes: faces, scenes without one, a picture that EXIF must turn, and one that is cut off."""
    try:
        import matplotlib
        import skimage
    except ImportError as error:
        raise ConfigError(f'the demo needs {error.name}: pip install "facemill[demo]"') from error
    for name, file in _SKIMAGE_PHOTOS.items():
        yield name, (Path(skimage.__file__).parent / "data" / file).read_bytes()
    hopper = (Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg").read_bytes()
    yield "people/hopper.jpg", hopper
    yield "people/hopper_lying.jpg", _lying(hopper)
    yield "broken/cut_off.jpg", hopper[: len(hopper) // 2]
    yield "people/notes.txt", b"a sidecar, which is no input\n"


def _lying(data: bytes) -> bytes:
    """The photograph as a phone held sideways stores it: lying pixels, and the EXIF note to turn them."""
    upright = Image.open(io.BytesIO(data))
    exif = Image.Exif()
    exif[_EXIF_ORIENTATION] = _TURNED_RIGHT
    buffer = io.BytesIO()
    upright.transpose(Image.Transpose.ROTATE_90).save(buffer, "JPEG", quality=95, exif=exif)
    return buffer.getvalue()


def _pack(photos: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in photos.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def _crops(folder: Path) -> list[np.ndarray]:
    crops = []
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                file = tar.extractfile(member)
                assert file is not None
                crops.append(np.asarray(Image.open(io.BytesIO(file.read()))))
    return crops
