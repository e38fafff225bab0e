"""Reading the crops of a unit back, however they are stored."""

from __future__ import annotations

import contextlib
import tarfile
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from facemill.models.errors import OutputError
from facemill.transforms.ops.layout import CropStore, crops_name
from facemill.transforms.ops.storage import Folder

_BLOCK_BYTES = 8 << 20
_BATCH_ROWS = 64


def read_crops(output: Folder, unit: str, store: CropStore, template: str = "") -> Iterator[tuple[str, bytes]]:
    """Name and encoded bytes of each crop of a unit, in their order, streamed.

    Args:
        output: The output folder that holds the crops.
        unit: The unit.
        store: How the crops are stored; `none` gives none.
        template: The folder of one of several templates; empty where there is one alone.

    Raises:
        OutputError: The unit's crops are missing or damaged.
    """
    if store == "none":
        return
    name = crops_name(unit, store, template)
    try:
        if store == "tar":
            yield from _read_tar(output, name)
        elif store == "parquet":
            yield from _read_parquet(output, name)
        else:
            yield from _read_files(output, name)
    except (OSError, tarfile.TarError, pa.ArrowException) as error:
        raise OutputError(f"cannot read the crops {output.join(name)}: {error}") from error


def _read_tar(output: Folder, name: str) -> Iterator[tuple[str, bytes]]:
    with (
        output.fs.open(output.join(name), "rb", block_size=_BLOCK_BYTES) as file,
        tarfile.open(fileobj=file, mode="r|") as tar,
    ):
        for member in tar:
            content = tar.extractfile(member)
            assert content is not None, f"{member.name} is no file"
            yield member.name, content.read()


def _read_parquet(output: Folder, name: str) -> Iterator[tuple[str, bytes]]:
    with output.fs.open(output.join(name), "rb") as file, contextlib.closing(pq.ParquetFile(file)) as table:
        for batch in table.iter_batches(_BATCH_ROWS, columns=["crop", "image"]):
            yield from zip(batch["crop"].to_pylist(), batch["image"].to_pylist(), strict=True)


def _read_files(output: Folder, folder: str) -> Iterator[tuple[str, bytes]]:
    for name in output.list_names(folder):
        if not name.startswith("."):
            yield name, output.read_bytes(f"{folder}/{name}")
