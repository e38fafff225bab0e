"""What new crops from the tables cost beside the run that found the faces.

    python benchmarks/recropping.py [--images FOLDER] [--template T ...] [--rounds N]

First `facemill run` with the defaults, then `facemill crop` from its tables, in all templates in one pass.
Every figure is of whole processes, from their start to their end, their children's CPU seconds included; one worker.
"Without the start" are CPU seconds less those that one picture takes.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from tqdm import tqdm
from workload import FACEMILL, Cost, existing, load_pictures, measure, pack_shard, run_command

from facemill.transforms.ops.templates import TEMPLATE_NAMES

MAX_CPU_RATIO = 0.40
PICTURE_WH = (640, 480)


def main() -> None:
    """Parse, measure, report."""
    parser = argparse.ArgumentParser(description="New crops from the tables beside the run that made them.")
    parser.add_argument("--images", type=existing, metavar="FOLDER", help="pictures (default: made of scikit-image's)")
    parser.add_argument("--template", nargs="+", default=list(TEMPLATE_NAMES), help="default: all there are")
    parser.add_argument("--rounds", type=int, default=3, help="repetitions (default: %(default)s)")
    arguments = parser.parse_args()
    pictures = load_pictures(arguments.images, size_wh=PICTURE_WH)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pack_shard(folder / "all" / "0.tar", pictures)
        pack_shard(folder / "single" / "0.tar", pictures[:1])
        rounds = [_measure_round(folder / "all", arguments.template) for _ in tqdm(range(arguments.rounds))]
        starts = [_measure_round(folder / "single", arguments.template) for _ in range(arguments.rounds)]
    _report(rounds, starts, len(pictures))


def _measure_round(shards: Path, templates: Sequence[str]) -> tuple[Cost, Cost, int]:
    """The cost of the run and of the crops from its tables, and how many crops they were."""
    with tempfile.TemporaryDirectory() as name:
        found, cut = Path(name) / "found", Path(name) / "cut"
        run = measure(run_command(shards, found, "--workers", "1"))
        command = [*FACEMILL, "crop", str(found), "--output", str(cut), "--workers", "1", "--template", *templates]
        crop = measure(command)
        markers = [json.loads(path.read_bytes()) for path in (cut / "_units").glob("*.json")]
    return run, crop, sum(marker["num_crops"] for marker in markers) * len(templates)


def _report(
    rounds: list[tuple[Cost, Cost, int]],
    starts: list[tuple[Cost, Cost, int]],
    num_images: int,
) -> None:
    run_start_s, crop_start_s = (median(costs[i].cpu_s for costs in starts) for i in (0, 1))
    ratio = median(crop.cpu_s / run.cpu_s for run, crop, _ in rounds)
    steady = median((crop.cpu_s - crop_start_s) / (run.cpu_s - run_start_s) for run, crop, _ in rounds)
    run_s, crop_s = (median(costs[i].cpu_s for costs in rounds) for i in (0, 1))
    sys.stdout.write(
        f"{num_images} images, {rounds[0][2]} crops, medians of {len(rounds)} rounds\n"
        f"CPU s: run {run_s:.1f}, of which {run_start_s:.1f} to start; crop {crop_s:.1f}, of which {crop_start_s:.1f}\n"
        f"crop / run, CPU: {ratio:.3f} with the start, {steady:.3f} without (at most {MAX_CPU_RATIO})\n"
    )


if __name__ == "__main__":
    main()
