"""Speed and memory of facemill beside facenet-pytorch and mtcnn, on the same pictures with the same settings.

    python benchmarks/peers_env.py DIR
    python benchmarks/peers.py [FOLDER ...] --peers-env DIR [--count N] [--min-face PX ...] [--large PHOTO ...]

Measured is the whole way from a file's bytes in memory to boxes and points, one picture at a time. Each program is a
process of its own that stays, with one thread; they take turns at a few pictures, in changing order, so that whatever
else the machine does meets all. Each has seen some pictures before it counts; of several rounds a picture's least time
counts. Ratios are over the pictures that both programs finished.

mtcnn's pyramid has as many levels at any `min_face_size`, so that from some 24 px on it finds nothing, without a word;
above 20 px it is measured at its default of 20 as well, which is what it takes to have its faces.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image
from workload import existing, load_pictures

from facemill.models.errors import ConfigError
from facemill.transforms.ops.members import is_ignored

WORKER = Path(__file__).with_name("peers_worker.py")
MTCNN_MIN_FACE_PX = 20.0
MADE_WH = (1000, 750)
ONE_THREAD = {
    **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"),
    **dict.fromkeys(("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"), "1"),
    "CUDA_VISIBLE_DEVICES": "",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}
RATIOS = ("CPU ratio", "wall ratio", "median ratio")
COLUMNS = ("program", "images/s", "CPU s per MP", "peak MB", "over start", "faces", *RATIOS, "remarks")


@dataclass(frozen=True)
class PictureSet:
    name: str
    paths: list[Path]
    megapixels: list[float]


@dataclass(frozen=True)
class Contestant:
    label: str
    program: str
    python: str
    min_face_px: float
    accelerator: str = "cpu"


@dataclass
class Record:
    """What one program took for the pictures of one set."""

    least: dict[int, dict[str, Any]] = field(default_factory=dict)  # picture -> its least answer
    errors: dict[int, str] = field(default_factory=dict)
    start_mb: float = 0.0
    peak_mb: float = 0.0

    def add(self, index: int, answer: dict[str, Any]) -> None:
        if "error" in answer:
            self.errors[index] = answer["error"]
            self.least.pop(index, None)
        elif index not in self.least or answer["cpu_s"] < self.least[index]["cpu_s"]:
            self.least[index] = answer

    def sum(self, key: str, indices: Sequence[int] | None = None) -> float:
        return float(sum(self.least[index][key] for index in (self.least if indices is None else indices)))


def main() -> None:
    options = parse_arguments()
    with tempfile.TemporaryDirectory() as scratch:
        for pictures in picture_sets(options, Path(scratch)):
            for min_face_px in options.min_face or [20.0]:
                members = contestants(options, min_face_px)
                records = measure(pictures, members, options)
                print_table(pictures, min_face_px, members, records)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=existing, nargs="*", metavar="FOLDER", help="a set each; none: made pictures")
    parser.add_argument("--peers-env", type=existing, help="what peers_env.py made; without it facemill alone runs")
    parser.add_argument("--count", type=int, default=100, help="take so many of each folder, evenly spaced")
    parser.add_argument("--min-face", type=float, action="append", metavar="PX", help="repeatable; default 20")
    parser.add_argument(
        "--large", type=existing, nargs="+", default=[], metavar="PHOTO", help="as they are and enlarged"
    )
    parser.add_argument("--megapixels", type=float, nargs="*", default=[12.0, 24.0], help="enlarge the photos to these")
    parser.add_argument(
        "--accelerator",
        action="append",
        metavar="NAME[=PYTHON]",
        help="facemill's, repeatable: cpu (default), openvino, ..., with the interpreter of an environment that has it",
    )
    parser.add_argument("--rounds", type=int, default=2, help="how often each picture; its least time counts")
    parser.add_argument("--block", type=int, default=5, help="pictures that a program does before the next's turn")
    parser.add_argument("--memory-gb", type=float, default=12.0, help="what one process may take")
    return parser.parse_args()


def picture_sets(options: argparse.Namespace, scratch: Path) -> Iterator[PictureSet]:
    for folder in options.folders:
        paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and not is_ignored(path.name)]
        if not paths:
            raise ConfigError(f"no pictures in {folder}")
        yield picture_set(str(folder), evenly(paths, options.count))
    if options.large:
        yield picture_set("large photographs", options.large)
        for megapixels in options.megapixels:
            enlarged = [enlarge(photo, megapixels, scratch) for photo in options.large]
            yield picture_set(f"large photographs, enlarged to {megapixels:g} megapixels", enlarged)
    if not options.folders and not options.large:
        made = [scratch / f"{number:02}.jpg" for number in range(48)]
        for path, data in zip(made, load_pictures(None, size_wh=MADE_WH), strict=True):
            path.write_bytes(data)
        yield picture_set("made pictures", evenly(made, options.count))


def picture_set(name: str, paths: list[Path]) -> PictureSet:
    megapixels = []
    for path in paths:
        with Image.open(path) as image:
            megapixels.append(image.width * image.height / 1e6)
    return PictureSet(name, paths, megapixels)


def evenly(paths: list[Path], count: int) -> list[Path]:
    return [paths[number * len(paths) // count] for number in range(count)] if count < len(paths) else paths


def enlarge(photo: Path, megapixels: float, scratch: Path) -> Path:
    path = scratch / f"{photo.stem}_{megapixels:g}.jpg"
    with Image.open(photo) as image:
        factor = (megapixels * 1e6 / (image.width * image.height)) ** 0.5
        size_wh = (round(image.width * factor), round(image.height * factor))
        image.convert("RGB").resize(size_wh, Image.Resampling.LANCZOS).save(path, quality=90)
    return path


def contestants(options: argparse.Namespace, min_face_px: float) -> list[Contestant]:
    members = []
    for choice in options.accelerator or ["cpu"]:
        name, _, python = choice.partition("=")
        label = "facemill" if name == "cpu" else f"facemill, {name}"
        members.append(Contestant(label, "facemill", python or sys.executable, min_face_px, name))
    if options.peers_env:
        python = str(options.peers_env / "bin" / "python")
        members.append(Contestant("facenet-pytorch", "facenet-pytorch", python, min_face_px))
        members.append(Contestant("mtcnn", "mtcnn", python, min_face_px))
        if min_face_px > MTCNN_MIN_FACE_PX:
            label = f"mtcnn at {MTCNN_MIN_FACE_PX:g} px"
            members.append(Contestant(label, "mtcnn", python, MTCNN_MIN_FACE_PX))
    return members


class Child:
    """A program's process; started again when it died."""

    def __init__(self, contestant: Contestant, pictures: PictureSet, memory_mb: int) -> None:
        self.contestant = contestant
        self.record = Record()
        self.description = ""
        self._paths = json.dumps([str(path.resolve()) for path in pictures.paths])
        self._memory_mb = memory_mb
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115, closed by __exit__
        self._start()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.stdin.close()
        self._process.wait()
        self._errors.close()

    def do(self, index: int) -> dict[str, Any]:
        if index in self.record.errors:
            return {"error": self.record.errors[index]}
        answer = self._ask(str(index))
        if answer is None:
            answer = {"error": self._reason_of_death()}
            self.record.add(index, answer)
            self._start()
        return answer

    def look_at_memory(self) -> None:
        answer = self._ask("") or {"start_mb": 0.0, "peak_mb": 0.0}
        self.record.start_mb = answer["start_mb"]
        self.record.peak_mb = max(self.record.peak_mb, answer["peak_mb"])

    def _start(self) -> None:
        chosen = self.contestant
        command = [chosen.python, str(WORKER), chosen.program, f"{chosen.min_face_px}", chosen.accelerator]
        self._process: Any = subprocess.Popen(
            [*command, str(self._memory_mb)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={**os.environ, **ONE_THREAD},
        )
        loaded = self._ask(self._paths)
        if loaded is None:
            sys.exit(f"{chosen.label} does not start ({chosen.python}): {self._last_words()}")
        self.description = loaded["description"]
        self._errors.truncate(0)

    def _ask(self, line: str) -> Any:
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            return None
        answer = self._process.stdout.readline()
        return json.loads(answer) if answer else None

    def _reason_of_death(self) -> str:
        _, status, usage = os.wait4(self._process.pid, 0)
        self._process.returncode = os.waitstatus_to_exitcode(status)
        self.record.peak_mb = max(self.record.peak_mb, usage.ru_maxrss / 1024)
        words = self._last_words()
        if "alloc" in words or "memory" in words:
            return "out of memory"
        return f"died with {self._process.returncode} at {usage.ru_maxrss / 1024:.0f} MB"

    def _last_words(self) -> str:
        self._errors.seek(0)
        return " ".join(self._errors.read().strip().splitlines()[-1:])[:200]


def measure(pictures: PictureSet, members: list[Contestant], options: argparse.Namespace) -> list[Record]:
    with ExitStack() as stack:
        memory_mb = int(options.memory_gb * 1024)
        children = [stack.enter_context(Child(member, pictures, memory_mb)) for member in members]
        for child in children:
            print(f"{child.contestant.label}: {child.description}, min_face_size {child.contestant.min_face_px:g}")
        for child in children:
            for index in range(min(options.block, len(pictures.paths))):
                child.do(index)
        for turn, block in enumerate(blocks(len(pictures.paths), options.block) * options.rounds):
            first = turn % len(children)
            for child in children[first:] + children[:first]:
                for index in block:
                    child.record.add(index, child.do(index))
        for child in children:
            child.look_at_memory()
        return [child.record for child in children]


def blocks(num_pictures: int, block: int) -> list[range]:
    return [range(first, min(first + block, num_pictures)) for first in range(0, num_pictures, block)]


def print_table(pictures: PictureSet, min_face_px: float, members: list[Contestant], records: list[Record]) -> None:
    total = sum(pictures.megapixels)
    print(f"\n{pictures.name}: {len(pictures.paths)} images, {total:.1f} megapixels, faces from {min_face_px:g} px\n")
    rows = [row(pictures, member, record, records[0]) for member, record in zip(members, records, strict=True)]
    widths = [max(len(line[column]) for line in [COLUMNS, *rows]) for column in range(len(COLUMNS))]
    ruler = ["-" * width for width in widths]
    for line in [COLUMNS, ruler, *rows]:
        print("|", " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)), "|")
    print(flush=True)
    for variant, ours in zip(members[1:], records[1:], strict=True):
        if variant.program == "facemill":
            print_ratios(variant, ours, members, records)


def print_ratios(variant: Contestant, ours: Record, members: list[Contestant], records: list[Record]) -> None:
    """The ratios against another facemill than the table's first row."""
    for member, record in zip(members, records, strict=True):
        if record is not ours:
            named = [f"{name} {value}" for name, value in zip(RATIOS, ratios(record, ours), strict=True)]
            print(f"{member.label} over {variant.label}: {', '.join(named)}")
    print(flush=True)


def row(pictures: PictureSet, member: Contestant, record: Record, ours: Record) -> list[str]:
    done = record.least
    if not done:
        return [member.label, *["-"] * (len(COLUMNS) - 2), remarks(record, ours)]
    megapixels = sum(pictures.megapixels[index] for index in done)
    return [
        member.label,
        f"{len(done) / record.sum('wall_s'):.2f}",
        f"{record.sum('cpu_s') / megapixels:.3f}",
        f"{record.peak_mb:.0f}",
        f"{record.peak_mb - record.start_mb:.0f}",
        f"{record.sum('faces'):.0f}",
        *ratios(record, ours),
        remarks(record, ours),
    ]


def ratios(record: Record, ours: Record) -> list[str]:
    """A program's time over facemill's: CPU and wall seconds of all pictures, median of the pictures' CPU ratios."""
    both = [index for index in record.least if index in ours.least]
    if not both or record is ours or finds_nothing(record, ours):
        return ["-"] * 3
    singles = [record.least[index]["cpu_s"] / ours.least[index]["cpu_s"] for index in both]
    totals = [record.sum(key, both) / ours.sum(key, both) for key in ("cpu_s", "wall_s")]
    return [f"{value:.2f}" for value in (*totals, statistics.median(singles))]


def finds_nothing(record: Record, ours: Record) -> bool:
    return ours.sum("faces") > 0 and record.sum("faces") == 0


def remarks(record: Record, ours: Record) -> str:
    notes = [] if not record.least or not finds_nothing(record, ours) else ["finds nothing: not comparable"]
    num_all = len(record.least) + len(record.errors)
    for error in sorted(set(record.errors.values())):
        notes.append(f"{error}: {list(record.errors.values()).count(error)} of {num_all} images")
    if record.least and record.sum("cpu_s") > 1.05 * record.sum("wall_s"):
        notes.append("used more than one thread")
    return "; ".join(notes)


if __name__ == "__main__":
    main()
