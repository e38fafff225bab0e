"""Which of a photograph and its copies `facemill duplicates` takes for the best.

    python benchmarks/best_copies.py FOLDER [--every N]

Of every N-th picture below the folder copies are made, and the largest face is found in each by a run. Printed is, for
each kind of copy, in how many pictures the original is better than it.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from pathlib import Path

import cv2
import duckdb
from near_faces import jpeg, read, resize
from PIL import Image
from workload import FACEMILL, existing

from facemill.pipeline.duplicates import QUALITY

COPIES = {
    "JPEG, quality 70": jpeg(70),
    "JPEG, quality 40": jpeg(40),
    "JPEG, quality 20": jpeg(20),
    "half the size": resize(0.5),
    "0.75 of the size": resize(0.75),
    "blurred by 1 px": lambda image: cv2.GaussianBlur(image, (0, 0), 1),
    "blurred by 2 px": lambda image: cv2.GaussianBlur(image, (0, 0), 2),
    "twice the size": resize(2),
    "sharpened": lambda image: cv2.addWeighted(image, 1.5, cv2.GaussianBlur(image, (0, 0), 1), -0.5, 0),
}
RUN = ["--config", "annotation", "--no-report", "--set", "judge.keep=largest", "--set", "write.crops=none"]
COMPARED = f"""
    with faces as (
        select split_part(image_id, '/', 2) as photo, split_part(image_id, '/', 3) as kind, {QUALITY} as quality
        from read_parquet($faces) where kept
    )
    select copy.kind, count(*) filter (original.quality > copy.quality), count(*)
    from faces copy join faces original using (photo)
    where original.kind = 'original.png' and copy.kind <> 'original.png' group by copy.kind order by copy.kind
"""


def main() -> None:
    """Make the copies, run on them, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=existing, metavar="FOLDER")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="take every N-th (default: %(default)s)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        photos, output = Path(scratch, "photos"), Path(scratch, "out")
        for number, path in enumerate(sorted(filter(Path.is_file, options.folder.rglob("*")))[:: options.every]):
            write_copies(path, photos / f"{number:06d}")
        command = [*FACEMILL, "run", "--input", str(photos), "--output", str(output), *RUN]
        subprocess.run(command, check=True, capture_output=True)
        compared = duckdb.execute(COMPARED, {"faces": str(output / "faces" / "*.parquet")}).fetchall()
    print(f"{'copy':<24}{'original better':>16}{'of':>8}")
    for kind, num_better, num_photos in compared:
        print(f"{Path(kind).stem:<24}{num_better:>16,}{num_photos:>8,}")


def write_copies(path: Path, folder: Path) -> None:
    """The picture and its copies, as PNG, so that nothing but the change changes."""
    image = read(path)
    if image is None:
        return
    folder.mkdir(parents=True)
    Image.fromarray(image).save(folder / "original.png")
    for name, change in COPIES.items():
        Image.fromarray(change(image)).save(folder / f"{name}.png")


if __name__ == "__main__":
    main()
