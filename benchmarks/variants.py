"""What a policy of decoding or an accelerator changes in the faces that are found, against the default configuration.

    python benchmarks/variants.py FOLDER... --judge JUDGE.py [--min-faces 20,40,80,160] [--skip PREFIX] [--rounds N]

FOLDER and JUDGE.py are those of `accuracy.py`. Every variant goes through the steps that `facemill run` takes from the
bytes of a picture to its faces, with the configuration that its settings give; the variants take turns on the same few
pictures. CPU milliseconds are the least of N rounds, one thread. A variant that cannot be used here is told below the
table.

Only faces of at least the smallest size looked for count: by the shorter side of the box, or, in a folder without
boxes, twice the larger of the distances from eye to eye and from the eyes to the mouth. Recall and precision are at IoU
0.5, over all detections. Without boxes, a face is found where a detection holds its points, and the precision is the
share of detections that hold the points of a face of any size. In folders where other faces than those in the truth may
be seen, they count as false, so that only the differences of the precision mean something.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
from accuracy import judge, look_up, rows
from steps import function_of
from workload import existing

from facemill.models import Face
from facemill.models.errors import ConfigError
from facemill.pipeline.config import Config, load_config, settle_accelerator
from facemill.transforms.decode import DecodeImages
from facemill.transforms.detect import DetectFaces
from facemill.transforms.elements import Batch, Element
from facemill.transforms.landmarks import LocateLandmarks
from facemill.transforms.ops.records import ImageRecord
from facemill.transforms.ops.reduction import ForDetection

DEFAULT = "default"
VARIANTS: dict[str, tuple[str, ...]] = {
    DEFAULT: (),
    "reduced": ("decode.policy=reduced",),
    "openvino": ("detect.accelerator=openvino",),
    "cuda": ("detect.accelerator=cuda",),
}
COLUMNS = ("set", "faces from, px", "variant", "pictures", "faces", "recall", "precision", "NME, %", "CPU ms")
_PICTURES_AT_ONCE = 16

Truth = list[dict[str, Any]]
Chain = Callable[[Sequence[ImageRecord]], list[ImageRecord]]


@dataclass
class Outcome:
    """What a variant gave on a folder."""

    seconds: float = 0.0
    predictions: list[str] = field(default_factory=list)  # JSON lines, as the judge takes them


@dataclass(frozen=True)
class Figures:
    """What the judge says of it."""

    faces: int
    recall: float
    precision: float
    nme_percent: float | None


def main() -> None:
    """Parse, measure, print a row per folder, size and variant."""
    options = parse_arguments()
    usable, absent = split_usable()
    print(f"| {' | '.join(COLUMNS)} |\n|{' --- |' * len(COLUMNS)}")
    for folder in options.folders:
        truth = read_truth(folder, options.skip)
        records = read_records(folder / "images", truth)
        for size_px in options.min_faces:
            configs = {name: configure(VARIANTS[name], size_px) for name in usable}
            outcomes = run_in_turn(configs, records, options.rounds)
            figures = {name: assess(options.judge, outcome, truth, size_px) for name, outcome in outcomes.items()}
            for name, outcome in outcomes.items():
                cells = (folder.name, size_px, name, len(records), figures[name].faces)
                compared = compare(figures[name], None if name == DEFAULT else figures[DEFAULT])
                if name != DEFAULT and outcome.predictions == outcomes[DEFAULT].predictions:
                    compared = ["the same faces", "", ""]
                milliseconds = f"{1000 * outcome.seconds / len(records):.1f}"
                print(f"| {' | '.join([*map(str, cells), *compared, milliseconds])} |", flush=True)
    for name, reason in absent.items():
        print(f"\n{name}: not measured, {reason}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=existing, metavar="FOLDER", help="has gt.jsonl and images/")
    parser.add_argument(
        "--judge", type=existing, required=True, help="program that compares predictions with the truth"
    )
    parser.add_argument("--min-faces", type=_sizes, default=(20, 40, 80, 160), help="px (default: 20,40,80,160)")
    parser.add_argument("--skip", help="leave out images whose names start so")
    parser.add_argument("--rounds", type=int, default=2, help="of each variant, in turn (default: %(default)s)")
    return parser.parse_args()


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(int(size) for size in text.split(","))


def split_usable() -> tuple[list[str], dict[str, str]]:
    """The variants that can be used on this machine, and why the others cannot."""
    usable, absent = [], {}
    for name, settings in VARIANTS.items():
        try:
            settle_accelerator(load_config(settings=settings))
            usable.append(name)
        except ConfigError as error:
            absent[name] = str(error)
    return usable, absent


def read_truth(folder: Path, skip: str | None) -> Truth:
    lines = [json.loads(line) for line in (folder / "gt.jsonl").read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if skip is None or not line["image"].startswith(skip)]


def read_records(folder: Path, truth: Truth) -> list[ImageRecord]:
    names = [line["image"] for line in truth]
    return [ImageRecord(i, name, "", "", data=(folder / name).read_bytes()) for i, name in enumerate(names)]


def configure(settings: Iterable[str], size_px: float) -> Config:
    return load_config(settings=[f"detect.min_face_size_px={size_px}", *settings])


def run_in_turn(configs: dict[str, Config], records: Sequence[ImageRecord], rounds: int) -> dict[str, Outcome]:
    """Every variant on all pictures, some pictures at a time."""
    chains = {name: open_chain(config) for name, config in configs.items()}
    outcomes = {name: Outcome() for name in configs}
    for chain in chains.values():
        chain(records[:1])  # the first call loads libraries
    for start in range(0, len(records), _PICTURES_AT_ONCE):
        part = records[start : start + _PICTURES_AT_ONCE]
        seconds = {name: [0.0] * rounds for name in chains}
        found: dict[str, list[ImageRecord]] = {}
        for number in range(rounds):
            for name, chain in chains.items():
                started_at = time.process_time()
                found[name] = chain(part)
                seconds[name][number] = time.process_time() - started_at
        for name, outcome in outcomes.items():
            outcome.seconds += min(seconds[name])
            outcome.predictions += predictions(found[name])
    return outcomes


def open_chain(config: Config) -> Chain:
    """The steps of a run from bytes to faces, without the runner."""
    steps = (
        DecodeImages(config.decode, config.run.batch_pixels, ForDetection(config.detect)),
        DetectFaces(config.detect),
        LocateLandmarks(config.detect, False),
    )
    functions = [function_of(step) for step in steps]

    def chain(records: Sequence[ImageRecord]) -> list[ImageRecord]:
        found: list[ImageRecord] = []
        for element in _flow(functions, Batch("unit", tuple(records))):
            assert isinstance(element, Batch)
            # As the writer does, keep no pixels.
            found += [
                ImageRecord(r.index, r.image_id, "", "", faces=r.faces, failure=r.failure) for r in element.records
            ]
        return found

    return chain


def _flow(functions: Sequence[beam.DoFn], element: Element) -> Iterator[Element]:
    if not functions:
        yield element
        return
    for made in functions[0].process(element):
        yield from _flow(functions[1:], made)


def predictions(records: Iterable[ImageRecord]) -> Iterator[str]:
    for record in records:
        if record.faces is None:
            raise RuntimeError(f"{record.image_id} failed: {record.failure}")
        found = zip(record.faces.boxes, record.faces.scores.tolist(), record.faces.landmarks, strict=True)
        faces = [Face(box, score, landmarks) for box, score, landmarks in found]
        yield from (json.dumps({"image": record.image_id, **row}) for row in rows(faces))


def assess(program: Path, outcome: Outcome, truth: Truth, size_px: float) -> Figures:
    """What the judge says, with faces below `size_px` neither asked for nor counted as false."""
    with_boxes = all(face.get("box") for line in truth for face in line["faces"])
    restricted = [
        {
            **line,
            "exhaustive": with_boxes,
            "faces": [{**face, "ignore": face.get("ignore") or side_px(face) < size_px} for face in line["faces"]],
        }
        for line in truth
    ]
    told = ask(program, outcome.predictions, restricted)
    nme = look_up(told, "landmarks/nme_iod/mean")
    nme_percent = None if nme is None else 100 * nme
    if with_boxes:
        faces = told["detection"]["side>=0"]
        return Figures(faces["faces"], faces["recall_all"], faces["precision_all"] or 0.0, nme_percent)
    everything = ask(program, outcome.predictions, truth)
    precision = everything["landmarks"]["matched"] / max(1, everything["detections"])
    return Figures(told["landmarks"]["faces"], 1 - told["landmarks"]["miss_rate"], precision, nme_percent)


def side_px(face: dict[str, Any]) -> float:
    """How large a face is, or seems by its points."""
    if face.get("box"):
        x1, y1, x2, y2 = face["box"]
        return float(min(x2 - x1, y2 - y1))
    left_eye, right_eye, _, left_mouth, right_mouth = np.array(face["points5"], np.float64)
    to_mouth = (left_eye + right_eye) / 2 - (left_mouth + right_mouth) / 2
    return 2 * float(max(np.linalg.norm(left_eye - right_eye), np.linalg.norm(to_mouth)))


def ask(program: Path, lines: Sequence[str], truth: Truth) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch:
        paths = [Path(scratch) / name for name in ("predictions.jsonl", "truth.jsonl", "subset.txt")]
        texts = (lines, [json.dumps(line) for line in truth], [line["image"] for line in truth])
        for path, text in zip(paths, texts, strict=True):
            path.write_text("\n".join(text), encoding="utf-8")
        return judge(program, *paths, "--sides", "0")


def compare(figures: Figures, default: Figures | None) -> list[str]:
    """Recall, precision and NME, and by how much they differ from the default's."""
    cells = []
    for name, places in (("recall", 4), ("precision", 4), ("nme_percent", 2)):
        value, reference = getattr(figures, name), getattr(default, name, None)
        if value is None:
            cells.append("-")
        elif reference is None:
            cells.append(f"{value:.{places}f}")
        else:
            difference = round(value - reference, places) + 0.0  # which is never -0.0
            cells.append(f"{value:.{places}f} ({difference:+.{places}f})")
    return cells


if __name__ == "__main__":
    sys.exit(main())
