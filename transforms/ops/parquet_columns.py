"""Which columns of a Parquet table hold the images, their names and their labels."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.types as pat

from facemill.models.errors import BadInputError

IMAGE_COLUMNS = ("image", "jpg", "jpeg", "png", "webp", "bytes", "data", "image_bytes", "content")
NAME_COLUMNS = ("path", "file_name", "filename", "name", "__key__")
LABEL_COLUMN = "label"
_ADVICE = "; name one with --set read.image_column=NAME"


@dataclass(frozen=True, slots=True)
class ParquetColumns:
    """The columns to read, by name."""

    image: str
    name: str | None
    label: str | None
    class_names: tuple[str, ...]  # of a Hugging Face ClassLabel


def find_columns(schema: pa.Schema, image_column: str | None, label_column: str | None) -> ParquetColumns:
    """The columns by choice or by their usual names; BadInputError where there is no such column."""
    image = image_column or next((name for name in IMAGE_COLUMNS if _holds_bytes(schema, name)), None)
    available = ", ".join(schema.names[:20])
    if image is None:
        raise BadInputError(
            "read_error",
            f"no column of image bytes is called as usual, columns are: {available}{_ADVICE}",
        )
    if not _holds_bytes(schema, image):
        raise BadInputError(
            "read_error",
            f"no column {image!r} of image bytes, columns are: {available}{_ADVICE}",
        )
    label = label_column or LABEL_COLUMN
    if not _is_simple(schema, label):
        if label_column is not None:
            raise BadInputError("read_error", f"no column {label!r} of numbers or text, columns are: {available}")
        return ParquetColumns(image, _name_column(schema, image), None, ())
    return ParquetColumns(image, _name_column(schema, image), label, _class_names(schema, label))


def _name_column(schema: pa.Schema, image: str) -> str | None:
    return next((name for name in NAME_COLUMNS if name != image and is_text(_type_of(schema, name))), None)


def _type_of(schema: pa.Schema, name: str) -> pa.DataType:
    """The type of the one column called so, else null."""
    index = schema.get_field_index(name)
    return schema.field(index).type if index >= 0 else pa.null()


def _holds_bytes(schema: pa.Schema, name: str) -> bool:
    column_type = _type_of(schema, name)
    if pat.is_struct(column_type):
        index = column_type.get_field_index("bytes")
        return index >= 0 and _is_binary(column_type.field(index).type)
    return _is_binary(column_type)


def _is_binary(column_type: pa.DataType) -> bool:
    return pat.is_binary(column_type) or pat.is_large_binary(column_type) or pat.is_fixed_size_binary(column_type)


def is_text(column_type: pa.DataType) -> bool:
    return pat.is_string(column_type) or pat.is_large_string(column_type)


def _is_simple(schema: pa.Schema, name: str) -> bool:
    column_type = _type_of(schema, name)
    if pat.is_dictionary(column_type):
        column_type = column_type.value_type
    return is_text(column_type) or pat.is_integer(column_type) or pat.is_boolean(column_type)


def _class_names(schema: pa.Schema, label: str) -> tuple[str, ...]:
    """The names of a ClassLabel feature, which Hugging Face `datasets` stores as JSON in the schema's metadata."""
    try:
        names = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"][label]["names"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return ()
    return tuple(map(str, names)) if isinstance(names, list) else ()
