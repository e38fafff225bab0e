"""`tf.train.Example`, the message that most TFRecords hold, without TensorFlow.

Its definition is tensorflow/core/example/feature.proto. Of the protobuf encoding no more is unpacked than is asked for,
as a record of tiny features would take many times its size as objects.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from numbers import Integral

from facemill.models.errors import BadInputError

FeatureValues = bytes | Sequence[bytes] | Sequence[int] | Sequence[float]

_MAX_FEATURES = 10_000
_UINT64 = 2**64 - 1


def encode_example(features: Mapping[str, FeatureValues]) -> bytes:
    """A serialized `tf.train.Example`, its features in the order of their names.

    Whole numbers become an Int64List, numbers of which one is none a FloatList, bytes a BytesList.
    """
    entries = (
        _message(1, _message(1, name.encode()) + _message(2, _feature(values)))
        for name, values in sorted(features.items())
    )
    return _message(1, b"".join(entries))


def example_features(data: bytes) -> dict[str, memoryview]:
    """The features of a serialized `tf.train.Example` by name, for `feature_values`.

    Raises:
        BadInputError: `data` is none, or has very many features.
    """
    features: dict[str, memoryview] = {}
    for entry in _submessages(memoryview(data), 1, 1):
        parts = {number: value for number, value in _fields(entry) if isinstance(value, memoryview)}
        features[bytes(parts.get(1, b"")).decode("utf-8", "backslashreplace")] = parts.get(2, memoryview(b""))
        if len(features) > _MAX_FEATURES:
            raise BadInputError("read_error", f"a tf.train.Example with more than {_MAX_FEATURES} features")
    return features


def feature_values(feature: memoryview) -> Iterator[bytes | int | float]:
    """The values of a feature, one at a time.

    Raises:
        BadInputError: They are damaged.
    """
    for kind, values in _fields(feature):
        if not isinstance(values, memoryview):
            continue
        for number, value in _fields(values):
            if number == 1:
                yield from _values(kind, value)


def _values(kind: int, value: int | memoryview) -> Iterator[bytes | int | float]:
    """What one field of a BytesList (1), FloatList (2) or Int64List (3) holds; the latter two may be packed."""
    if isinstance(value, int):
        if kind == 3:
            yield _signed(value)
    elif kind == 1:
        yield bytes(value)
    elif kind == 2:
        if len(value) % 4:
            raise _no_example()
        for (number,) in struct.iter_unpack("<f", value):
            yield number
    elif kind == 3:
        position = 0
        while position < len(value):
            unsigned, position = _read_varint(value, position)
            yield _signed(unsigned)


def _feature(values: FeatureValues) -> bytes:
    if isinstance(values, bytes):
        values = [values]
    if not values:
        return b""
    if all(isinstance(value, bytes) for value in values):
        return _message(1, b"".join(_message(1, value) for value in values))  # type: ignore[arg-type]
    if all(isinstance(value, Integral) for value in values):
        return _message(3, _message(1, b"".join(_varint(int(value) & _UINT64) for value in values)))
    return _message(2, _message(1, struct.pack(f"<{len(values)}f", *values)))


def _message(number: int, content: bytes) -> bytes:
    """A length-delimited field: protobuf.dev/programming-guides/encoding."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    if value <= 0x7F:
        return bytes((value,))
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _submessages(data: memoryview, *path: int) -> Iterator[memoryview]:
    """The messages at a path of field numbers."""
    for number, value in _fields(data):
        if number == path[0] and isinstance(value, memoryview):
            if len(path) == 1:
                yield value
            else:
                yield from _submessages(value, *path[1:])


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Number and value of each field: an int where it is a varint, else its bytes."""
    position = 0
    while position < len(data):
        tag, position = _read_varint(data, position)
        wire_type = tag & 7
        if wire_type == 0:
            value, position = _read_varint(data, position)
            yield tag >> 3, value
            continue
        if wire_type == 2:
            length, position = _read_varint(data, position)
        elif wire_type in (1, 5):
            length = 8 if wire_type == 1 else 4
        else:
            raise _no_example()
        if length > len(data) - position:
            raise _no_example()
        yield tag >> 3, data[position : position + length]
        position += length


def _read_varint(data: memoryview, position: int) -> tuple[int, int]:
    """The unsigned number at `position`, and the position behind it."""
    value = 0
    for shift in range(0, 70, 7):
        if position == len(data):
            break
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & _UINT64, position
    raise _no_example()


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


def _no_example() -> BadInputError:
    return BadInputError("read_error", "not a tf.train.Example, or damaged")
