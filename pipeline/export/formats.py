"""The formats by their names on the command line."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType

from facemill.pipeline.export.options import FormatName
from facemill.pipeline.export.samples import Format
from facemill.pipeline.export.to_csv import Csv
from facemill.pipeline.export.to_hf import HuggingFace
from facemill.pipeline.export.to_imagefolder import ImageFolder
from facemill.pipeline.export.to_lmdb import Lmdb
from facemill.pipeline.export.to_recordio import RecordIO
from facemill.pipeline.export.to_tfrecord import TFRecord
from facemill.pipeline.export.to_webdataset import WebDataset

FORMATS: MappingProxyType[FormatName, Callable[[], Format]] = MappingProxyType(
    {
        "webdataset": WebDataset,
        "imagefolder": ImageFolder,
        "hf": HuggingFace,
        "tfrecord": TFRecord,
        "recordio": RecordIO,
        "lmdb": Lmdb,
        "csv": Csv,
    }
)
