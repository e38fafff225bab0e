"""`--to tfrecord`: shards of `tf.train.Example`, with the features that TensorFlow's image data sets have."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from facemill.pipeline.export.samples import Format, Sample, Shard, Target
from facemill.transforms.ops.tf_example import FeatureValues, encode_example
from facemill.transforms.ops.tfrecord import frame_record


class TFRecord(Format):
    """`train-00000-of-00005.tfrecord`."""

    def entries(self, split: str) -> tuple[str, ...]:
        """The shards."""
        return (f"{split}-*.tfrecord",)

    @contextmanager
    def open_shard(self, target: Target, shard: Shard) -> Iterator[Callable[[Sample], None]]:
        """One file."""
        with target.destination.create(f"{shard.numbered}.tfrecord") as file:

            def add(sample: Sample) -> None:
                file.write(frame_record(encode_example(_features(sample))))

            yield add


def _features(sample: Sample) -> dict[str, FeatureValues]:
    width, height = sample.size_wh
    features: dict[str, FeatureValues] = {
        "image/encoded": sample.content,
        "image/format": sample.image_format.encode(),
        "image/filename": f"{sample.key}{sample.extension}".encode(),
        "image/height": [height],
        "image/width": [width],
        "image/class/label": [sample.class_index],
        "image/class/text": (sample.face["label"] or "").encode(),
    }
    columns = {name: value for name, value in sample.face.items() if value is not None}
    return features | {f"face/{name}": _values(value) for name, value in columns.items()}


def _values(value: Any) -> FeatureValues:
    if isinstance(value, str):
        return value.encode()
    return value if isinstance(value, list) else [value]
