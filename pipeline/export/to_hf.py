"""`--to hf`: Parquet shards and a card, which `datasets.load_dataset` opens with images and class labels."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any, cast

import pyarrow as pa

from facemill.pipeline.export.card import Feature, make_card
from facemill.pipeline.export.samples import Format, Sample, Shard, Target
from facemill.pipeline.export.selection import FACE_COLUMNS, Selection
from facemill.transforms.ops.table_writer import RowGroups
from facemill.transforms.ops.tables import FACES_SCHEMA

_COLUMNS = tuple(name for name in FACE_COLUMNS if name != "label")
_SCHEMA = pa.schema(
    [
        ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        ("label", pa.int64()),
        ("identity", pa.string()),
        *((name, FACES_SCHEMA.field(name).type) for name in _COLUMNS),
    ]
)
_DATASETS_NAMES = {"float": "float32", "double": "float64", "halffloat": "float16"}  # where Arrow's are others
_MAX_CLASS_NAMES = 100_000  # readers hold them in memory, and they are in each shard
_GROUP_ROWS = 1000
_GROUP_BYTES = 16 << 20


class HuggingFace(Format):
    """`data/train-00000-of-00005.parquet` and `README.md`.

    With more classes than can be named in each file, `label` is a plain number; `identity` has the label itself.
    """

    def __init__(self) -> None:
        self._features: dict[str, Feature] = {}

    def entries(self, split: str) -> tuple[str, ...]:
        """The folder and the card."""
        return "data", "README.md"

    def begin(self, target: Target) -> None:
        """Take the names of the classes, which stand in every file."""
        self._features = make_features(_class_names(target.selection))

    @contextmanager
    def open_shard(self, target: Target, shard: Shard) -> Iterator[Callable[[Sample], None]]:
        """One Parquet file."""
        schema = _SCHEMA.with_metadata({"huggingface": json.dumps({"info": {"features": self._features}})})
        with target.destination.create(f"data/{shard.numbered}.parquet") as file:
            groups = RowGroups(
                cast(IO[bytes], file),
                schema,
                group_rows=_GROUP_ROWS,
                group_bytes=_GROUP_BYTES,
                compression="zstd",
                with_dictionary=["identity"],
            )

            def add(sample: Sample) -> None:
                groups.add([_row(sample)], num_bytes=len(sample.content))

            try:
                yield add
                groups.close()
            except BaseException:
                groups.give_up()
                raise

    def finish(self, target: Target) -> None:
        """The card."""
        target.destination.write_bytes("README.md", make_card(target, self._features).encode())


def _row(sample: Sample) -> dict[str, Any]:
    image = {"bytes": sample.content, "path": f"{sample.key}{sample.extension}"}
    columns = {name: sample.face[name] for name in _COLUMNS}
    return {"image": image, "label": sample.class_index, "identity": sample.face["label"], **columns}


def make_features(class_names: list[str] | None) -> dict[str, Feature]:
    """What `datasets` calls the columns' types; `label` is a plain number where there are no names."""
    features: dict[str, Feature] = {field.name: _feature(field.type) for field in _SCHEMA}
    features["image"] = {"_type": "Image"}
    if class_names:
        features["label"] = {"names": class_names, "_type": "ClassLabel"}
    return features


def _feature(kind: pa.DataType) -> Feature:
    if pa.types.is_list(kind):
        return {"feature": _feature(kind.value_type), "_type": "Sequence"}
    return {"dtype": _DATASETS_NAMES.get(str(kind), str(kind)), "_type": "Value"}


def _class_names(selection: Selection) -> list[str] | None:
    if not 0 < selection.num_classes <= _MAX_CLASS_NAMES:
        return None
    return [found.label for found in selection.classes()]
