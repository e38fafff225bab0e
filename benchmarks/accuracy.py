"""Accuracy of the detector and its landmarks on a folder with human ground truth.

    python benchmarks/accuracy.py FOLDER --judge JUDGE.py [--output PREDICTIONS.jsonl] [--skip PREFIX] [--every N]

FOLDER holds `gt.jsonl` and `images/`; JUDGE.py is a program that takes predictions (a JSON line per detection) and
ground truth (a JSON line per image) and prints its figures as JSON. Printed are those that facemill is held to, and the
CPU time of detection alone, per image, with one thread.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from workload import existing

from facemill.models import FaceDetector

FIGURES = {
    "AP, faces >= 20 px": "detection/side>=20/AP",
    "AP, faces >= 40 px": "detection/side>=40/AP",
    "false positives per image": "detection/side>=20/fp_per_image_all",
    "NME mean, of eye distance": "landmarks/nme_iod/mean",
    "NME median": "landmarks/nme_iod/median",
    "NME over 10 %": "landmarks/nme_iod/failure>10%",
    "faces missed": "landmarks/miss_rate",
    "AUC of |u| for frontal": "frontal/auc_abs_u_predicted_points/auc",
}


def main() -> None:
    options = parse_arguments()
    cv2.setNumThreads(1)
    lines = (options.folder / "gt.jsonl").read_text(encoding="utf-8").splitlines()
    names = [json.loads(line)["image"] for line in lines]
    names = [name for name in names if options.skip is None or not name.startswith(options.skip)]
    names = names[:: options.every]
    with tempfile.TemporaryDirectory() as scratch:
        predictions = options.output or Path(scratch) / "predictions.jsonl"
        seconds = detect_folder(options.folder / "images", names, predictions)
        subset = Path(scratch) / "subset.txt"
        subset.write_text("\n".join(names), encoding="utf-8")
        figures = judge(options.judge, predictions, options.folder / "gt.jsonl", subset)
    print(f"{options.folder.name}: {len(names)} images, {1000 * seconds / len(names):.1f} ms CPU per image")
    for label, path in FIGURES.items():
        value = look_up(figures, path)
        if value is not None:
            print(f"  {label:<28}{value:.4f}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=existing, help="has gt.jsonl and images/")
    parser.add_argument(
        "--judge", type=existing, required=True, help="program that compares predictions with the truth"
    )
    parser.add_argument("--output", type=Path, help="keep the predictions here")
    parser.add_argument("--skip", default=None, help="leave out images whose names start so")
    parser.add_argument("--every", type=int, default=1, help="take only each Nth image")
    return parser.parse_args()


def detect_folder(folder: Path, names: list[str], predictions: Path) -> float:
    """Writes one line per face, or one empty line per image without any; returns the CPU seconds of detection."""
    detector = FaceDetector()
    seconds = 0.0
    with predictions.open("w", encoding="utf-8") as file:
        for name in names:
            image = cv2.cvtColor(cv2.imread(str(folder / name)), cv2.COLOR_BGR2RGB)
            start = time.process_time()
            faces = detector.detect(image)
            seconds += time.process_time() - start
            file.writelines(json.dumps({"image": name, **row}) + "\n" for row in rows(faces))
    return seconds


def rows(faces: list[Any]) -> Iterator[dict[str, Any]]:
    if not faces:
        yield dict.fromkeys(("x1", "y1", "x2", "y2", "score", "landmarks"))
    for face in faces:
        box = dict(zip(("x1", "y1", "x2", "y2"), np.round(face.bbox.astype(float), 3).tolist(), strict=True))
        landmarks = np.round(face.landmarks.astype(float).ravel(), 3).tolist()
        yield {**box, "score": face.score, "landmarks": landmarks}


def judge(program: Path, predictions: Path, truth: Path, subset: Path, *further: str) -> dict[str, Any]:
    command = [sys.executable, str(program), str(predictions), str(truth), "--subset", str(subset), *further]
    figures: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return figures


def look_up(figures: Any, path: str) -> float | None:
    """The number at a path of keys, or None where the judge had nothing to say."""
    for key in path.split("/"):
        figures = figures.get(key) if isinstance(figures, dict) else None
    return figures


if __name__ == "__main__":
    main()
