"""How well the pose tells frontal faces, and which of them the default verdict keeps, with predicted points.

    python benchmarks/frontal.py FOLDER --judge JUDGE.py [--skip PREFIX]

FOLDER and JUDGE.py are those of `accuracy.py`; the truth has a `pose_class` and five points for one face of each
picture. The face of a picture is the one whose points are nearest to the true ones. Printed are:

- the share of each class that the default verdict keeps;
- the AUC for frontal faces of |yaw|, and of the offset of the nose along the line between the eyes alone, with the
  predicted and with the true points; the former also as JUDGE.py has it, which matches faces by rules of its own;
- the AUC of a linear discriminant of |yaw| and further cues from the points and the box, each fitted to nine tenths of
  the faces and asked of the last, ten times.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from accuracy import judge, look_up, rows
from workload import existing

from facemill.models import Face, FaceDetector
from facemill.transforms.ops.pose import estimate_pose, interocular_px
from facemill.transforms.ops.quality import QUALITY_COLUMNS
from facemill.transforms.ops.records import Faces
from facemill.transforms.ops.verdict import JudgeOptions, judge_faces

FOLDS = 10


@dataclass(frozen=True, eq=False)
class Labelled:
    """The face of each picture that the truth is about.

    Attributes:
        classes: (N,) labels.
        points: (N, 5, 2) px, predicted.
        boxes: (N, 4) px, predicted.
        true_points: (N, 5, 2) px.
        kept: (N,) whether the default verdict keeps it.
        lines: What was found in all pictures, as JUDGE.py takes it.
        num_missed: Pictures without any face.
    """

    classes: np.ndarray
    points: np.ndarray
    boxes: np.ndarray
    true_points: np.ndarray
    kept: np.ndarray
    lines: list[str]
    num_missed: int


def main() -> None:
    options = parse_arguments()
    cv2.setNumThreads(1)
    truth = [json.loads(line) for line in (options.folder / "gt.jsonl").read_text(encoding="utf-8").splitlines()]
    truth = [line for line in truth if options.skip is None or not line["image"].startswith(options.skip)]
    found = detect(options.folder / "images", truth)
    print(f"{options.folder.name}: {len(truth)} pictures, {found.num_missed} without any face\n")
    tell_kept(found)
    tell_scores(found, ask(options.judge, found.lines, options.folder / "gt.jsonl", truth))
    tell_combinations(found)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=existing, help="has gt.jsonl and images/")
    parser.add_argument(
        "--judge", type=existing, required=True, help="program that compares predictions with the truth"
    )
    parser.add_argument("--skip", help="leave out images whose names start so")
    return parser.parse_args()


def detect(folder: Path, truth: Sequence[dict[str, Any]]) -> Labelled:
    detector = FaceDetector()
    columns: dict[str, list[Any]] = {name: [] for name in ("classes", "points", "boxes", "true_points", "kept")}
    lines: list[str] = []
    for line in truth:
        image = cv2.cvtColor(cv2.imread(str(folder / line["image"])), cv2.COLOR_BGR2RGB)
        found = detector.detect(image)
        kept = verdict(found, (image.shape[1], image.shape[0]))
        lines += [json.dumps({"image": line["image"], **row}) for row in rows_with_pose(found)]
        if not found:
            continue
        true_points = np.array(line["faces"][0]["points5"])
        nearest = min(range(len(found)), key=lambda face: float(np.linalg.norm(found[face].landmarks - true_points)))
        values = (line["faces"][0]["pose_class"], found[nearest].landmarks, found[nearest].bbox, true_points)
        for name, value in zip(columns, (*values, kept[nearest]), strict=True):
            columns[name].append(value)
    arrays = {name: np.array(values) for name, values in columns.items()}
    return Labelled(**arrays, lines=lines, num_missed=len(truth) - len(arrays["classes"]))


def verdict(found: Sequence[Face], image_wh: tuple[int, int]) -> list[bool]:
    if not found:
        return []
    landmarks = np.array([face.landmarks for face in found])
    faces = Faces(
        np.array([face.bbox for face in found]),
        np.array([face.score for face in found], np.float32),
        landmarks,
        estimate_pose(landmarks),
        interocular_px(landmarks),
        np.full((len(found), len(QUALITY_COLUMNS)), np.nan, np.float32),  # by default no limit minds it
    )
    return [not reason for reason in judge_faces(faces, image_wh=image_wh, options=JudgeOptions())]


def rows_with_pose(found: list[Face]) -> list[dict[str, Any]]:
    yaw_deg = estimate_pose(np.array([face.landmarks for face in found]).reshape(-1, 5, 2))[:, 0]
    scores = [-abs(float(yaw)) for yaw in yaw_deg] or [None]
    return [{**row, "frontal": score} for row, score in zip(rows(found), scores, strict=True)]


def ask(program: Path, lines: Sequence[str], truth_file: Path, truth: Sequence[dict[str, Any]]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch:
        predictions, subset = Path(scratch) / "predictions.jsonl", Path(scratch) / "subset.txt"
        predictions.write_text("\n".join(lines), encoding="utf-8")
        subset.write_text("\n".join(line["image"] for line in truth), encoding="utf-8")
        return judge(program, predictions, truth_file, subset, "--frontal-col", "frontal")


def tell_kept(found: Labelled) -> None:
    frontal = found.classes == "frontal"
    groups = {"frontal": frontal, "not frontal": ~frontal}
    groups |= {f"  {name}": found.classes == name for name in sorted({*found.classes} - {"frontal"})}
    for name, members in groups.items():
        share = 100 * found.kept[members].mean()
        print(f"{name:16} {np.count_nonzero(members):5,} faces, {share:5.1f} % kept by the default verdict")


def tell_scores(found: Labelled, judged: dict[str, Any]) -> None:
    frontal = found.classes == "frontal"
    print()
    for name, points in (("predicted", found.points), ("true", found.true_points)):
        of_yaw = auc(-np.abs(estimate_pose(points)[:, 0]), frontal)
        print(f"AUC for frontal with {name} points: |yaw| {of_yaw:.4f}, nose {auc(-nose_offset(points), frontal):.4f}")
    of_judge = [
        look_up(judged, f"frontal/{key}/auc") for key in ("auc_frontal_higher_is_frontal", "auc_abs_u_predicted_points")
    ]
    print("AUC by the judge, predicted points: |yaw| {:.4f}, nose {:.4f}".format(*of_judge))


def nose_offset(points: np.ndarray) -> np.ndarray:
    """The nose's distance from the middle of the eyes, along their line, over their distance: (N, 5, 2) -> (N,)."""
    eyes = points[:, 1] - points[:, 0]
    nose = points[:, 2] - points[:, :2].mean(axis=1)
    return np.abs((nose * eyes).sum(axis=1)) / (eyes**2).sum(axis=1)


def tell_combinations(found: Labelled) -> None:
    print()
    frontal, cues = found.classes == "frontal", further_cues(found)
    yaw_deg = np.abs(estimate_pose(found.points)[:, 0])
    combinations = {"|yaw| alone": [yaw_deg], **{f"|yaw| and {name}": [yaw_deg, cue] for name, cue in cues.items()}}
    for name, columns in {**combinations, "all of them": [yaw_deg, *cues.values()]}.items():
        print(f"AUC, fitted and cross-validated, of {name}: {cross_validated(np.column_stack(columns), frontal):.4f}")


def further_cues(found: Labelled) -> dict[str, np.ndarray]:
    """What else is alike on both sides of a frontal face, or narrow on a turned one: (N,) each."""
    left_eye, right_eye, nose, left_mouth, right_mouth = found.points.transpose(1, 0, 2).astype(np.float64)
    eyes, height = distance(left_eye, right_eye), distance(left_eye + right_eye, left_mouth + right_mouth) / 2
    centre = (found.boxes[:, 0] + found.boxes[:, 2]) / 2
    width = found.boxes[:, 2] - found.boxes[:, 0]
    return {
        "the nose's offset": nose_offset(found.points),
        "nose to eyes, left and right": np.abs(np.log(distance(nose, left_eye) / distance(nose, right_eye))),
        "nose to mouth, left and right": np.abs(np.log(distance(nose, left_mouth) / distance(nose, right_mouth))),
        "eye to mouth, left and right": np.abs(
            np.log(distance(left_eye, left_mouth) / distance(right_eye, right_mouth))
        ),
        "the eyes' distance over the height": eyes / height,
        "the nose's place in the box": np.abs(nose[:, 0] - centre) / width,
        "the eyes' place in the box": np.abs((left_eye[:, 0] + right_eye[:, 0]) / 2 - centre) / width,
        "the eyes' distance over the box": eyes / width,
    }


def distance(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.linalg.norm(one - other, axis=1)


def cross_validated(cues: np.ndarray, positive: np.ndarray) -> float:
    """AUC of Fisher's linear discriminant on faces that it was not fitted to: (N, C) and (N,) bool."""
    order = np.random.default_rng(0).permutation(len(cues))
    scores = np.zeros(len(cues))
    for fold in range(FOLDS):
        asked = order[fold::FOLDS]
        fitted = np.setdiff1d(order, asked)
        groups = cues[fitted][positive[fitted]], cues[fitted][~positive[fitted]]
        within = sum(np.atleast_2d(np.cov(group.T)) for group in groups)
        direction = np.linalg.solve(within, groups[0].mean(axis=0) - groups[1].mean(axis=0))
        scores[asked] = cues[asked] @ direction / np.abs(direction @ (groups[0].mean(axis=0) - groups[1].mean(axis=0)))
    return auc(scores, positive)


def auc(scores: np.ndarray, positive: np.ndarray) -> float:
    """Share of the pairs of a positive and a negative in which the positive scores higher, ties counting half."""
    difference = scores[positive][:, None] - scores[~positive][None]
    return float(np.mean((difference > 0) + 0.5 * (difference == 0)))


if __name__ == "__main__":
    main()
