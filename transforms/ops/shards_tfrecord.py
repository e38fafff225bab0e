"""Reading the images of TFRecord shards, which lie in a feature of each record's `tf.train.Example`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import BinaryIO

from facemill.models.errors import BadInputError
from facemill.transforms.ops.members import (
    Member,
    ReadLimits,
    ShardRange,
    StoredRecord,
    failed_member,
    failed_shard,
    file_size,
    member_of,
    number_label,
)
from facemill.transforms.ops.parquet_columns import IMAGE_COLUMNS, NAME_COLUMNS
from facemill.transforms.ops.signatures import sniff_format
from facemill.transforms.ops.tf_example import example_features, feature_values
from facemill.transforms.ops.tfrecord import iterate_records, record_offsets

_IMAGE_FEATURES = ("image/encoded", "image_raw", *IMAGE_COLUMNS)
_EXPORTED_LABEL = "face/label"  # of `facemill export`, where there is one; may be empty
_CLASS = "image/class/label"
_NO_CLASS = "-1"
_LABEL_FEATURES = ("image/class/text", _CLASS, "label", "class", "identity")
_NAME_FEATURES = ("image/filename", "image/source_id", *NAME_COLUMNS)
_MAX_NAME_CHARS = 1000
_ADVICE = "; name one with --set read.image_column=NAME"

Features = Mapping[str, memoryview]


def iterate_tfrecord(
    file: BinaryIO,
    *,
    limits: ReadLimits,
    image_column: str | None = None,
    label_column: str | None = None,
    start: int = 0,
    stop: int | None = None,
) -> Iterator[Member]:
    """The images whose records begin in [start, stop) bytes of a seekable file; a gzipped one is read whole.

    They are named by the byte at which their record begins, and their file name if they have one. What is wrong with
    the file ends it with a member without name; an OSError of `file` passes through.
    """
    try:
        for record in iterate_records(file, limits, start=start, stop=stop):
            yield _member(record, image_column, label_column)
    except BadInputError as error:
        yield failed_shard(error)


def split_tfrecord(file: BinaryIO, target_bytes: int) -> list[ShardRange]:
    """Byte ranges of about `target_bytes`, by one pass over the lengths of the records; one if it is gzipped."""
    size = file_size(file)
    bounds = [0]
    try:
        for offset in record_offsets(file):
            if offset - bounds[-1] >= target_bytes:
                bounds.append(offset)
    except BadInputError:
        pass  # the last range reaches to the end of the file, so its reader meets and reports the same damage
    return [ShardRange(first, last, last - first) for first, last in pairwise([*bounds, size])]


def _member(record: StoredRecord, image_column: str | None, label_column: str | None) -> Member:
    name = f"{record.offset:012d}"
    if record.data is None:
        return Member(name, failure=record.failure)
    label = None
    try:
        features = example_features(record.data)
        if text := _first_text(features, _NAME_FEATURES):
            name += f"/{text[:_MAX_NAME_CHARS]}"
        label = _label(features, label_column)
        return member_of(name, _image(features, image_column), label=label)
    except BadInputError as error:
        return failed_member(name, error.reason, error.message, label=label)


def _image(features: Features, image_column: str | None) -> bytes:
    """The bytes of the feature with this name, else of the one that is called or looks like an image."""
    if image_column is not None:
        image = _bytes_of(features, image_column)
        if image is None:
            raise BadInputError("read_error", f"no feature {image_column!r} of bytes, {_list(features)}{_ADVICE}")
        return image
    usual = [name for name in _IMAGE_FEATURES if name in features]
    for name in [*usual, *sorted(features.keys() - set(usual))]:
        image = _bytes_of(features, name)
        if image and sniff_format(image):
            return image
    for name in usual:
        if (image := _bytes_of(features, name)) is not None:
            return image
    raise BadInputError("read_error", f"no feature holds an image, {_list(features)}{_ADVICE}")


def _label(features: Features, label_column: str | None) -> str | None:
    if label_column is None and _EXPORTED_LABEL in features:
        return _text(features[_EXPORTED_LABEL])
    if label_column is None:
        has_class = _CLASS in features and _text(features[_CLASS]) != _NO_CLASS
        return _first_text(features, tuple(name for name in _LABEL_FEATURES if has_class or name != _CLASS))
    if label_column not in features:
        raise BadInputError("read_error", f"no feature {label_column!r}, {_list(features)}")
    return _text(features[label_column])


def _first_text(features: Features, names: tuple[str, ...]) -> str | None:
    return next((text for name in names if name in features and (text := _text(features[name]))), None)


def _text(feature: memoryview) -> str | None:
    """The first value as text; None where there is none."""
    value = next(feature_values(feature), None)
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return None if value is None else number_label(value)


def _bytes_of(features: Features, name: str) -> bytes | None:
    value = next(feature_values(features.get(name, memoryview(b""))), None)
    return value if isinstance(value, bytes) else None


def _list(features: Features) -> str:
    names = sorted(features)
    return f"features are: {', '.join(names[:20])[:300]}" if names else "there are no features"
