"""`--to recordio`: InsightFace's training sets, `train.rec` with `train.idx` and `property`."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from facemill.pipeline.export.files import ExportWriter
from facemill.pipeline.export.image_files import open_face_table
from facemill.pipeline.export.samples import Format, Sample, Shard, Target
from facemill.transforms.ops.recordio import frame_record, pack_header

_FILES = ("train.rec", "train.idx", "property")
_MAX_EXACT = 1 << 24  # labels are float32, which hold whole numbers up to here


class RecordIO(Format):
    """The split train in the folder itself, which is InsightFace's root; the others each in a folder of their name.

    Labels are the classes over all splits, so that those of train count from 0, as InsightFace wants them, and no two
    identities of the data set share one. The images of an identity follow each other.
    """

    is_sharded = False
    is_by_class = True
    takes_unlabelled = False

    def entries(self, split: str) -> tuple[str, ...]:
        """The files or the folder, and the table."""
        return (*(_FILES if split == "train" else (split,)), f"{split}.csv")

    @contextmanager
    def open_shard(self, target: Target, shard: Shard) -> Iterator[Callable[[Sample], None]]:
        """All of a split."""
        split = shard.split
        folder = "" if split.name == "train" else f"{split.name}/"
        has_ranges = 1 + split.num_faces + split.num_classes <= _MAX_EXACT
        with (
            open_face_table(target, split.name, "record") as table,
            target.destination.create(f"{folder}train.rec") as records,
            target.destination.create(f"{folder}train.idx") as index,
            target.destination.create(f"{folder}property") as properties,
        ):
            writer = _RecordWriter(records, index, first_id=1 if has_ranges else 0)

            def add(sample: Sample) -> None:
                if sample.number == 0:
                    width, height = sample.size_wh
                    num_labels = split.first_class + split.num_classes  # readers make a layer of so many
                    properties.write(f"{num_labels},{height},{width}\n".encode())
                table.add(str(writer.next_id), sample)
                writer.add_image(sample.class_index, sample.content)

            yield add
            if has_ranges:
                writer.add_ranges()


class _RecordWriter:
    """Images, then as in InsightFace's face2rec2.py record 0 and a record for each identity.

    Record 0 says where the images end, and where the records of the identities; each of these gives the first of its
    images and the one after the last. Where float32 cannot hold these numbers, there are images only, from 0 on, as
    InsightFace's readers take them too.
    """

    def __init__(self, records: ExportWriter, index: ExportWriter, *, first_id: int) -> None:
        self._records = records
        self._index = index
        self._starts = array("q")  # of each identity
        self._label = -1
        self.next_id = first_id

    def add_image(self, label: int, content: bytes) -> None:
        if label != self._label:
            self._starts.append(self.next_id)
            self._label = label
        self._write(self.next_id, pack_header(float(label), id=self.next_id) + content)
        self.next_id += 1

    def add_ranges(self) -> None:
        end = self.next_id
        self._write(0, pack_header([float(end), float(end + len(self._starts))], id=0))
        for start, stop in zip(self._starts, [*self._starts[1:], end], strict=True):
            self._write(self.next_id, pack_header([float(start), float(stop)], id=self.next_id))
            self.next_id += 1

    def _write(self, key: int, data: bytes) -> None:
        self._index.write(f"{key}\t{self._records.tell()}\n".encode())
        self._records.write(frame_record(data))
