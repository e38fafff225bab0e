"""`--to csv`: a table of the faces, and their crops as files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from facemill.pipeline.export.image_files import ImageFiles, open_face_table
from facemill.pipeline.export.samples import Format, Sample, Shard, Target

_FILES_IN_A_FOLDER = 1000


class Csv(Format):
    """`train.csv`, and `train/000000/000000000.jpg`, a thousand in a folder."""

    is_sharded = False
    has_image_files = True

    def entries(self, split: str) -> tuple[str, ...]:
        """The folder and the table."""
        return split, f"{split}.csv"

    @contextmanager
    def open_shard(self, target: Target, shard: Shard) -> Iterator[Callable[[Sample], None]]:
        """All of a split."""
        files = ImageFiles(target.destination.folder)
        with open_face_table(target, shard.split.name, "path") as table:

            def add(sample: Sample) -> None:
                folder = f"{shard.split.name}/{sample.number // _FILES_IN_A_FOLDER:06d}"
                path = f"{folder}/{sample.key}{sample.extension}"
                files.add(path, sample.content)
                table.add(path, sample)

            yield add
            files.flush()
