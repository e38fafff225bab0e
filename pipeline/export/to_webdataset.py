"""`--to webdataset`: tar shards with the crop, its class and its row, as the library webdataset reads them."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from facemill.pipeline.export.samples import Format, Sample, Shard, Target


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
                file.write(_member(f"{sample.key}{sample.extension}", sample.content))
                file.write(_member(f"{sample.key}.cls", str(sample.class_index).encode()))
                file.write(_member(f"{sample.key}.json", sample.to_json()))

            yield add
            end = file.tell() + 2 * tarfile.BLOCKSIZE
            file.write(bytes(2 * tarfile.BLOCKSIZE + -end % tarfile.RECORDSIZE))


def _member(name: str, content: bytes) -> bytes:
    """Header and content; time and owner are zero, so that the bytes depend on the faces alone."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    return member.tobuf(tarfile.USTAR_FORMAT) + content + bytes(-len(content) % tarfile.BLOCKSIZE)
