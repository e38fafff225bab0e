"""`--to imagefolder`: a folder per class, as torchvision's ImageFolder reads it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from facemill.pipeline.export.image_files import ImageFiles, open_face_table
from facemill.pipeline.export.samples import Format, Sample, Shard, Target


class ImageFolder(Format):
    """`train/CLASS/NUMBER.jpg`, and `train.csv` with the rows.

    ImageFolder numbers the classes of a folder by their sorted names, which is their order within a split.
    """

    is_sharded = False
    is_by_class = True
    takes_unlabelled = False
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
                path = f"{shard.split.name}/{sample.class_name}/{sample.key}{sample.extension}"
                files.add(path, sample.content)
                table.add(path, sample)

            yield add
            files.flush()
