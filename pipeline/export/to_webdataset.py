"""`--to webdataset`: tar shards with the crop, its class and its row, as the library webdataset reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from facemill.pipeline.export.samples import Format, Sample, Shard, Target
from facemill.transforms.ops.tar_writing import tar_end, tar_member


class WebDataset(Format):
    """`train-000000.tar` with `KEY.jpg`, `KEY.cls` and `KEY.json` for each face."""

    def entries(self, split: str) -> tuple[str, ...]:
        """The shards."""
        return (f"{split}-*.tar",)

    @contextmanager
    def open_shard(self, target: Target, shard: Shard) -> Iterator[Callable[[Sample], None]]:
        """One tar."""
        with target.destination.create(f"{shard.split.name}-{shard.index:06d}.tar") as file:

            def add(sample: Sample) -> None:
                file.write(tar_member(f"{sample.key}{sample.extension}", sample.content))
                file.write(tar_member(f"{sample.key}.cls", str(sample.class_index).encode()))
                file.write(tar_member(f"{sample.key}.json", sample.to_json()))

            yield add
            file.write(tar_end(file.tell()))
