"""`facemill check-crops`: which template a folder of crops was made with."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TextIO

import numpy as np

from facemill.models.cascade import Cascade
from facemill.models.errors import BadInputError, ConfigError
from facemill.models.options import DetectorOptions
from facemill.pipeline.listing import list_inputs
from facemill.pipeline.sampling import sample_images
from facemill.transforms.ops.alignment import AlignOptions
from facemill.transforms.ops.crop_points import locate_crop_points
from facemill.transforms.ops.decoding import decode_image
from facemill.transforms.ops.layout import MANIFEST
from facemill.transforms.ops.networks import load_cascade
from facemill.transforms.ops.options import DecodeOptions
from facemill.transforms.ops.reading import ReadOptions
from facemill.transforms.ops.records import ImageRecord
from facemill.transforms.ops.storage import Folder
from facemill.transforms.ops.template_match import Fitting, TemplateMatch, rank_templates

Size = tuple[int, int]

# Fewer faces say nothing about a folder, and crops of which a smaller share has one size are of no template.
_MIN_FACES, _MIN_SHARE = 5, 0.5
_MIN_FACE_PX = 40.0
_FITTED: dict[Fitting, str] = {
    "same": "",
    "resized": "resized",
    "stretched": "stretched",
    "padded": "padded",
    "cut": "cut",
}


@dataclass
class CropSample:
    """What was found in a sample of crops.

    Attributes:
        num_failed: Those that cannot be read.
        sizes: How many of the others have which width and height, px.
        points: The landmarks of those in which a face is found, (5, 2) px each, by the crop's size.
    """

    num_failed: int = 0
    sizes: Counter[Size] = field(default_factory=Counter)
    points: dict[Size, list[np.ndarray]] = field(default_factory=dict)

    @property
    def num_read(self) -> int:
        """Those that can be read."""
        return sum(self.sizes.values())

    @property
    def size_wh(self) -> Size:
        """The most common size, which alone is looked at further."""
        return max(self.sizes, key=lambda size: (self.sizes[size], size))

    @property
    def faces(self) -> Sequence[np.ndarray]:
        """The landmarks in crops of that size."""
        return self.points.get(self.size_wh, [])

    @property
    def is_of_one_size(self) -> bool:
        """Whether that size is common enough for crops that were made with one template."""
        return self.sizes[self.size_wh] >= _MIN_SHARE * self.num_read


def check_crops(
    uri: str,
    *,
    options: AlignOptions,
    count: int,
    seed: int,
    as_json: bool = False,
    storage_options: Mapping[str, Any] | None = None,
    out: TextIO | None = None,
) -> None:
    """Print which of the templates in `options` the crops at `uri` were made with, by `count` of them.

    Raises:
        ConfigError: There is no image that can be read, or the store cannot be reached.
    """
    folder = Folder(uri, storage_options or {})
    listing = list_inputs(uri, ignored_extensions=ReadOptions().ignored_extensions, storage_options=storage_options)
    if folder.exists(MANIFEST):
        raise ConfigError(
            f"{uri} is an output folder of facemill; name the folder of its crops, {folder.join('crops')}"
        )
    if not listing.names:
        raise ConfigError(f"no image at {uri}: it holds no file that could be one")
    sample = look_at(
        sample_images(listing, count, seed=seed), load_cascade(DetectorOptions(min_face_size_px=_MIN_FACE_PX))
    )
    if not sample.sizes:
        raise ConfigError(f"none of {sample.num_failed} images of {uri} can be read")
    matches = match(sample, options)
    text = _as_json(sample, matches) if as_json else _as_text(sample, matches)
    (out or sys.stdout).write(text + "\n")
    if not as_json and not options.own and matches and not matches[0].fits and sample.is_of_one_size:
        (out or sys.stdout).write("a template of your own is compared as well with --template FILE.yaml\n")


def look_at(records: Iterable[ImageRecord], cascade: Cascade) -> CropSample:
    """Decode crops and find the landmarks in them."""
    limits, sample = DecodeOptions(), CropSample()
    for record in records:
        try:
            crop = decode_image(record.data or b"", max_pixels=limits.max_pixels, min_side_px=limits.min_side_px)
        except BadInputError:
            sample.num_failed += 1
            continue
        size_wh = (crop.shape[1], crop.shape[0])
        sample.sizes[size_wh] += 1
        points = locate_crop_points(cascade, crop)
        if points is not None:
            sample.points.setdefault(size_wh, []).append(points)
    return sample


def match(sample: CropSample, options: AlignOptions) -> tuple[TemplateMatch, ...]:
    """The sample's matches with the templates, the best first; none where there are too few faces."""
    if len(sample.faces) < _MIN_FACES:
        return ()
    return rank_templates(np.array(sample.faces), sample.size_wh, options.find_templates())


def explain(sample: CropSample, matches: Sequence[TemplateMatch]) -> str:
    """The verdict in words."""
    if not sample.is_of_one_size:
        return "no template fits: the crops are of many sizes, so they were not made with one template"
    if not matches:
        found = f"faces are found in {len(sample.faces)} of {sample.num_read} crops"
        return f"no template can be told: {found}, fewer than the {_MIN_FACES} it takes"
    best = matches[0]
    if best.fits:
        return f"the crops were made with {_name(best, sample)}"
    if not best.is_near:
        how = "aligned, but as by no template here" if best.is_aligned else "not aligned"
        return f"no template fits: the faces are {how}"
    if best.is_aligned:
        return f"no template fits: the crops are aligned as by {_name(best, sample)}, but {_difference(best)}"
    nearest = f"the nearest is {_name(best, sample)}, but {_difference(best)}"
    return f"no template fits: the faces are not aligned, and {nearest}"


def _name(match: TemplateMatch, sample: CropSample) -> str:
    width, height = sample.size_wh
    fitted = _FITTED[match.fitting]
    return f"{match.template.name} {fitted} to {width}x{height}" if fitted else match.template.name


def _difference(match: TemplateMatch) -> str:
    across, down = match.shift_px
    return (
        f"the faces are {match.scale:.2f} times as large, "
        f"{abs(across):.1f} px farther {'right' if across > 0 else 'left'} and "
        f"{abs(down):.1f} px {'down' if down > 0 else 'up'} (of {'x'.join(map(str, match.template.size_wh))}), and "
        f"turned {abs(match.turn_deg):.1f} degrees {'clockwise' if match.turn_deg > 0 else 'anticlockwise'}"
    )


def _as_text(sample: CropSample, matches: Sequence[TemplateMatch]) -> str:
    sizes = ", ".join(f"{count} of {width}x{height}" for (width, height), count in sample.sizes.most_common(5))
    lines = [
        f"crops     {sample.num_read:>5}   {sizes}{', ...' if len(sample.sizes) > 5 else ''}",
        f"  faces   {len(sample.faces):>5}   with landmarks, in crops of the most common size",
    ]
    if sample.num_failed:
        lines.append(f"  failed  {sample.num_failed:>5}   cannot be read")
    if matches:
        lines += [
            "",
            f"{'template':<40}{'fits':>5}{'distance':>10}{'spread':>9}{'scale':>8}{'shift':>15}{'turn':>8}{'spread':>9}",
        ]
        lines += [_row(match, sample) for match in _by_distance(matches)]
        lines += [
            "",
            "The best comes first, then what fits as well, then the others by their distance.",
            "distance: of the landmarks from where the template puts them, in % of the face (the larger of the",
            "distances between the eyes and from eyes to mouth); scale, shift in px of the template and turn in",
            "degrees: of the faces against the template; all in the median. spread: the range of the middle half.",
        ]
    return "\n".join([*lines, "", f"verdict: {explain(sample, matches)}"])


def _by_distance(matches: Sequence[TemplateMatch]) -> list[TemplateMatch]:
    """The best and those that fit stay in front, as their limits differ; the others by their distance."""
    return sorted(matches, key=lambda match: 0.0 if match.fits or match is matches[0] else match.distance)


def _row(match: TemplateMatch, sample: CropSample) -> str:
    across, down = match.shift_px
    return (
        f"{_name(match, sample):<40}{'yes' if match.fits else 'no':>5}"
        f"{100 * match.distance:>8.1f} %{100 * match.distance_spread:>7.1f} %"
        f"{match.scale:>8.2f}{across:>8.1f},{down:>6.1f}{match.turn_deg:>8.1f}{match.turn_spread_deg:>9.1f}"
    )


def _as_json(sample: CropSample, matches: Sequence[TemplateMatch]) -> str:
    fits = bool(matches) and matches[0].fits and sample.is_of_one_size
    content = {
        "crops": sample.num_read,
        "failed": sample.num_failed,
        "faces": len(sample.faces),
        "size": list(sample.size_wh),
        "verdict": matches[0].template.name if fits else None,
        "explanation": explain(sample, matches),
        "matches": [
            {
                "template": match.template.name,
                "fitting": match.fitting,
                "fits": match.fits,
                "distance": match.distance,
                "distance_spread": match.distance_spread,
                "scale": match.scale,
                "shift_px": list(match.shift_px),
                "turn_deg": match.turn_deg,
                "turn_spread_deg": match.turn_spread_deg,
                "leftover": match.leftover,
            }
            for match in matches
        ],
    }
    return json.dumps(content, indent=2)
