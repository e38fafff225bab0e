"""Reading the inputs of a unit, wherever they lie: loose files, or the members of a shard."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from facemill.models.errors import ConfigError
from facemill.transforms.ops.kinds import UnitKind
from facemill.transforms.ops.members import (
    SIDECAR_EXTENSIONS,
    Member,
    ReadLimits,
    check_member_size,
    failed_member,
    folder_label,
    member_of,
)
from facemill.transforms.ops.records import Failure, ImageRecord
from facemill.transforms.ops.shards import iterate_members
from facemill.transforms.ops.storage import Folder
from facemill.transforms.ops.units import Unit

InputRoots = Mapping[str, Folder]
DEADLY = Failure("internal_error", "the worker process died on this image, again and again")
_BLOCK_BYTES = 8 << 20  # of a shard on an object store are read at a time; some stores' own default is 50 MB
_WITH_COLUMNS: tuple[UnitKind, ...] = ("parquet", "tfrecord", "recordio")
LabelRule = Literal["auto", "folder", "column", "none"]


@dataclass(frozen=True)
class ReadOptions:
    """What is an input, and what its label is.

    Attributes:
        label: `folder`, the name of the folder that holds the file or member; `column`, what a row or record says: a
            column of Parquet, a feature of a TFRecord, the label in RecordIO; `auto`, the column where there are any
            and the folder for all else; `none`.
        image_column: The Parquet column or TFRecord feature with the images; by default the first that holds any.
        label_column: The Parquet column or TFRecord feature with the labels.
        ignored_extensions: Files with these extensions are no inputs.
        max_member_bytes: A larger file is `too_large`.
        max_expansion: A compressed archive that grows more than this many times is given up.
    """

    label: LabelRule = "auto"
    image_column: str | None = None
    label_column: str | None = None
    ignored_extensions: tuple[str, ...] = tuple(sorted(SIDECAR_EXTENSIONS))
    max_member_bytes: int = ReadLimits.max_member_bytes
    max_expansion: int = ReadLimits.max_expansion

    def __post_init__(self) -> None:
        for name in ("max_member_bytes", "max_expansion"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be positive, got {getattr(self, name)}")

    @property
    def limits(self) -> ReadLimits:
        """The limits as the shard readers take them."""
        return ReadLimits(max_member_bytes=self.max_member_bytes, max_expansion=self.max_expansion)


def split_source(source: str) -> tuple[str, str]:
    """`root/path/below` -> the root's name and the path below it."""
    root, _, path = source.partition("/")
    return root, path


def printable(name: str) -> str:
    r"""`name` as valid UTF-8: bytes that are none, which `os.fsdecode` leaves as surrogates, become `\xNN`.

    Backslashes are doubled, so that two names never become one.
    """
    return name.replace("\\", "\\\\").encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def read_unit(
    unit: Unit, roots: InputRoots, options: ReadOptions, *, skip: Collection[int] = ()
) -> Iterator[ImageRecord]:
    """The inputs of a unit in their order, one record each, streamed.

    Args:
        unit: What to read.
        roots: The input roots by name.
        options: Labels, limits and columns.
        skip: Positions whose input gets a failed row unseen, because it killed the process before.

    Raises:
        OSError: The store could not be reached; a file that is missing or forbidden is a failed row instead.
    """
    members = _loose_files(unit, roots, options) if unit.kind == "files" else _shard_members(unit, roots, options)
    for index, (source, member) in enumerate(members):
        record = _record(index, printable(source), member, _label(unit.kind, member, options.label))
        yield replace(record, data=None, failure=DEADLY) if index in skip else record


def _record(index: int, source: str, member: Member, label: str | None) -> ImageRecord:
    return ImageRecord(
        index=index,
        image_id=f"{source}/{member.name}" if member.name else source,
        source=source,
        member=member.name,
        label=label,
        data=member.data,
        num_bytes=len(member.data or b""),
        failure=member.failure,
    )


def _label(kind: UnitKind, member: Member, rule: LabelRule) -> str | None:
    """The label by the rule; readers give the value of a column where records have some, else the folder's name."""
    if rule == "auto" or (rule == "column") == (kind in _WITH_COLUMNS):
        return member.label if rule != "none" else None
    if rule == "folder":
        return folder_label(member.name.partition("/")[2])  # behind the row's number or the record's byte
    return None


def _loose_files(unit: Unit, roots: InputRoots, options: ReadOptions) -> Iterator[tuple[str, Member]]:
    for source, size in zip(unit.sources, unit.sizes, strict=True):
        root, path = split_source(source)
        yield source, _loose_file(roots[root], path, size, options.limits)


def _loose_file(root: Folder, path: str, size: int, limits: ReadLimits) -> Member:
    label = folder_label(printable(path))
    too_large = check_member_size(size, limits)
    if too_large is not None:
        return Member("", None, label, too_large)
    try:
        if root.is_local and not stat.S_ISREG(os.stat(root.join(path)).st_mode):
            raise OSError("a pipe or device, not a file")  # reading it might never end
        return member_of("", root.read_bytes(path, num_bytes=size), label=label)
    except OSError as error:
        if not is_about_one_file(error, root):
            raise
        return failed_member("", "read_error", _describe(error), label=label)


def is_about_one_file(error: OSError, root: Folder) -> bool:
    """Whether `error` says something of this file alone, and not that the store is out of reach."""
    return root.is_local or isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError)


def _describe(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__


def _shard_members(unit: Unit, roots: InputRoots, options: ReadOptions) -> Iterator[tuple[str, Member]]:
    assert unit.kind != "files"
    source = unit.sources[0]
    root, path = split_source(source)
    folder = roots[root]
    try:
        with folder.fs.open(folder.join(path), "rb", block_size=_BLOCK_BYTES) as file:
            members = iterate_members(
                file,
                unit.kind,
                limits=options.limits,
                ignored_extensions=options.ignored_extensions,
                image_column=options.image_column,
                label_column=options.label_column,
                start=unit.start,
                stop=unit.stop,
            )
            for member in members:
                yield source, member
    except OSError as error:
        if not is_about_one_file(error, folder):
            raise
        yield source, failed_member("", "read_error", _describe(error))
