"""Options of the steps that have no file of options of their own, with their defaults."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from facemill.models.errors import ConfigError

DecodePolicy = Literal["full", "reduced"]


@dataclass(frozen=True)
class DecodeOptions:
    """Limits of what is decoded, and how large it is.

    Attributes:
        max_pixels: A larger image is `too_large`; checked before any pixel is decoded.
        min_side_px: An image with a shorter side is `too_small`.
        policy: `full`, or `reduced`: a JPEG at 1/2, 1/4 or 1/8 of its sides where the smallest face to look for is
            large enough for that, and anew, just large enough, only where a face that is found needs more.
    """

    max_pixels: int = 80_000_000
    min_side_px: int = 12
    policy: DecodePolicy = "full"

    def __post_init__(self) -> None:
        for name in ("max_pixels", "min_side_px"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be positive, got {getattr(self, name)}")
        if self.policy not in get_args(DecodePolicy):
            raise ConfigError(f"policy must be one of {', '.join(get_args(DecodePolicy))}, got {self.policy!r}")


@dataclass(frozen=True)
class LandmarkOptions:
    """Where the faces come from when they are known.

    Attributes:
        known_faces: URI of a Parquet table of faces that takes the place of detection.
        relocate: Place the five points anew on known faces that have them.
    """

    known_faces: str | None = None
    relocate: bool = False


@dataclass(frozen=True)
class RunOptions:
    """What changes the speed, the memory and the layout of the output, but not the result.

    Attributes:
        batch_bytes: Encoded bytes of a batch of images on its way from reading to decoding.
        batch_pixels: Pixels of a batch of decoded images, each counted in its full size.
        unit_bytes: About how many bytes of input make a unit; more where that would be over 100,000 units.
        unit_files: At most how many loose files make a unit, with the same exception.
        scan_bytes: At most how many bytes of large tars on an object store planning reads in order to split them.
        max_worker_deaths: How often an image may kill its worker until it is given up.
        stall_seconds: A worker that shows no sign of life for so long is taken for hung, and killed.
        report: Write report.html at the end.
    """

    batch_bytes: int = 4 << 20
    batch_pixels: int = 4 << 20
    unit_bytes: int = 8 << 20
    unit_files: int = 2000
    scan_bytes: int = 64 << 30
    max_worker_deaths: int = 3
    stall_seconds: float = 600.0
    report: bool = True

    def __post_init__(self) -> None:
        for name in ("batch_bytes", "batch_pixels", "unit_bytes", "unit_files", "max_worker_deaths", "stall_seconds"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be positive, got {getattr(self, name)}")
        if self.scan_bytes < 0:
            raise ConfigError(f"scan_bytes must not be negative, got {self.scan_bytes}")
