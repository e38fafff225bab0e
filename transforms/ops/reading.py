"""Reading the inputs of a unit, wherever they lie: loose files, or the members of a shard."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import BinaryIO, Literal

from facemill.models.errors import BadInputError, ConfigError
from facemill.transforms.ops import heartbeat
from facemill.transforms.ops.kinds import UnitKind
from facemill.transforms.ops.local_files import check_regular, local_file
from facemill.transforms.ops.members import (
    SIDECAR_EXTENSIONS,
    Member,
    ReadLimits,
    check_member_size,
    failed_member,
    failed_shard,
    folder_label,
    member_of,
)
from facemill.transforms.ops.records import Failure, ImageRecord
from facemill.transforms.ops.shards import iterate_members
from facemill.transforms.ops.storage import Folder
from facemill.transforms.ops.units import Unit
from facemill.transforms.ops.url_fetching import fetch_members
from facemill.transforms.ops.url_lists import delimiter_of, iterate_lines
from facemill.transforms.ops.videos import FrameChoice, iterate_video

InputRoots = Mapping[str, Folder]
DEADLY = Failure("internal_error", "the worker process died on this image, again and again")
_MAX_LABEL_CHARS = 10_000  # readers of CSV refuse fields of more than 131,072
_BLOCK_BYTES = 8 << 20  # of a shard on an object store are read at a time; some stores' own default is 50 MB
_WITH_COLUMNS: tuple[UnitKind, ...] = ("parquet", "tfrecord", "recordio", "urls")
LabelRule = Literal["auto", "folder", "column", "none"]


@dataclass(frozen=True)
class ReadOptions:
    """What is an input, and what its label is.

    Attributes:
        label: `folder`, the name of the folder that holds the file or member; `column`, what a row or record says: a
            column of Parquet or a list of URLs, a feature of a TFRecord, the label in RecordIO, the `.json` or `.cls`
            beside an image in a tar; `auto`, the column where there are any and the folder for all else; `none`.
        image_column: The Parquet column or TFRecord feature with the images, by default the first that holds any; the
            column with the URLs of a list.
        label_column: The column, feature or key in the JSON with the labels.
        ignored_extensions: Files with these extensions are no inputs.
        max_member_bytes: A larger file is `too_large`.
        max_expansion: A compressed archive that grows more than this many times is given up.
        video_every_seconds: Of a video, one frame for so many seconds is an image.
        video_every_frames: Every so many-th frame instead.
    """

    label: LabelRule = "auto"
    image_column: str | None = None
    label_column: str | None = None
    ignored_extensions: tuple[str, ...] = tuple(sorted(SIDECAR_EXTENSIONS))
    max_member_bytes: int = ReadLimits.max_member_bytes
    max_expansion: int = ReadLimits.max_expansion
    video_every_seconds: float = FrameChoice.every_seconds
    video_every_frames: int | None = FrameChoice.every_frames

    def __post_init__(self) -> None:
        for name in ("max_member_bytes", "max_expansion", "video_every_frames"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be positive, got {value}")
        if not 0 < self.video_every_seconds < math.inf:
            raise ConfigError(f"video_every_seconds must be positive, got {self.video_every_seconds}")

    @property
    def limits(self) -> ReadLimits:
        """The limits as the shard readers take them."""
        return ReadLimits(max_member_bytes=self.max_member_bytes, max_expansion=self.max_expansion)

    @property
    def frame_choice(self) -> FrameChoice:
        """Which frames of a video are images."""
        return FrameChoice(every_frames=self.video_every_frames, every_seconds=self.video_every_seconds)


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
    unit: Unit,
    roots: InputRoots,
    options: ReadOptions,
    *,
    skip: Collection[int] = (),
    only: Collection[int] | None = None,
    first_index: int = 0,
) -> Iterator[ImageRecord]:
    """The inputs of a unit in their order, one record each, streamed.

    Args:
        unit: What to read.
        roots: The input roots by name.
        options: Labels, limits and columns.
        skip: Positions whose input gets a failed row unseen, because it killed the process before.
        only: Of a list of URLs, the positions of those that are fetched, or None for all; the others have no record.
        first_index: Of a run of videos that is part of a unit, the position of its first frame.

    Raises:
        OSError: The store could not be reached; a file that is missing or forbidden is a failed row instead.
    """
    positions = itertools.count(first_index) if only is None else iter(sorted(only))
    members = _members(unit, roots, options, skip=skip, only=only, first_index=first_index)
    for index, (source, member) in zip(positions, members, strict=False):
        label = _label(unit.kind, source, member, options.label)
        record = _limit_label(_record(index, printable(source), member, label))
        yield replace(record, data=None, failure=record.failure or DEADLY) if index in skip else record


def _members(
    unit: Unit,
    roots: InputRoots,
    options: ReadOptions,
    *,
    skip: Collection[int],
    only: Collection[int] | None,
    first_index: int,
) -> Iterator[tuple[str, Member]]:
    if unit.kind == "files":
        return _loose_files(unit, roots, options)
    if unit.kind == "videos":
        return _frames(unit, roots, options, skip, first_index)
    return _shard_members(unit, roots, options, only)


def _record(index: int, source: str, member: Member, label: str | None) -> ImageRecord:
    return ImageRecord(
        index=index,
        image_id=f"{source}/{member.name}" if member.name else source,
        source=source,
        member=member.name,
        label=label,
        data=member.data,
        num_bytes=len(member.data or b"") if member.stored_bytes is None else member.stored_bytes,
        failure=member.failure,
    )


def _limit_label(record: ImageRecord) -> ImageRecord:
    """The record, or a failed one without a label where this is longer than readers of the tables may bear."""
    if record.label is None or len(record.label) <= _MAX_LABEL_CHARS:
        return record
    message = f"the label has {len(record.label):,} characters, the limit is {_MAX_LABEL_CHARS:,}"
    return replace(record, label=None, data=None, failure=record.failure or Failure("read_error", message))


def _label(kind: UnitKind, source: str, member: Member, rule: LabelRule) -> str | None:
    """The label by the rule; readers give the value of a column where records have some, else the folder's name."""
    if rule == "none":
        return None
    if kind not in _WITH_COLUMNS:
        own_label = member.own_label
        return own_label if rule == "column" or (rule == "auto" and own_label is not None) else member.label
    if rule == "column" or (rule == "auto" and (kind != "urls" or member.label is not None)):
        return member.label
    if kind == "urls":
        return folder_label(printable(split_source(source)[1]))
    return folder_label(member.name.partition("/")[2])  # behind the row's number or the record's byte


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
        if root.is_local:
            check_regular(root.join(path))
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


def _frames(
    unit: Unit, roots: InputRoots, options: ReadOptions, skip: Collection[int], index: int
) -> Iterator[tuple[str, Member]]:
    """The frames of one video after the other, the first at `index`; one whose frame is in `skip` is left there."""
    for source in unit.sources:
        root, path = split_source(source)
        label = folder_label(printable(path))
        try:
            with local_file(roots[root], path) as local_path:
                frames = iterate_video(local_path, limits=options.limits, choice=options.frame_choice)
                for member in _watched(frames, index, skip):
                    yield source, replace(member, label=label)
                    index += 1
        except OSError as error:
            if not is_about_one_file(error, roots[root]):
                raise
            yield source, failed_member("", "read_error", _describe(error), label=label)
            index += 1


def _watched(frames: Iterator[Member], index: int, skip: Collection[int]) -> Iterator[Member]:
    """The frames, the first of which is at `index`; a decoder that dies or hangs is known by the one in hand."""
    while index not in skip:
        heartbeat.begin_image(index)
        member = next(frames, None)
        heartbeat.end_image()
        if member is None:
            return
        yield member
        index += 1
    yield failed_member(
        "", "internal_error", "the worker process died on what comes here, again and again; the rest is not read"
    )


def _shard_members(
    unit: Unit, roots: InputRoots, options: ReadOptions, only: Collection[int] | None
) -> Iterator[tuple[str, Member]]:
    source = unit.sources[0]
    root, path = split_source(source)
    folder = roots[root]
    try:
        with folder.fs.open(folder.join(path), "rb", block_size=_BLOCK_BYTES) as file:
            for member in _members_of(file, unit, folder, options, only):
                yield source, member
    except OSError as error:
        if not is_about_one_file(error, folder):
            raise
        yield source, failed_member("", "read_error", _describe(error))


def _members_of(
    file: BinaryIO, unit: Unit, folder: Folder, options: ReadOptions, only: Collection[int] | None
) -> Iterator[Member]:
    assert unit.kind != "files" and unit.kind != "videos"
    if unit.kind == "urls":
        return _fetched(file, unit, folder, options, only)
    return iterate_members(
        file,
        unit.kind,
        limits=options.limits,
        ignored_extensions=options.ignored_extensions,
        image_column=options.image_column,
        label_column=options.label_column,
        start=unit.start,
        stop=unit.stop,
    )


def _fetched(
    file: BinaryIO, unit: Unit, folder: Folder, options: ReadOptions, only: Collection[int] | None
) -> Iterator[Member]:
    """What the URLs of a list in `folder` lead to, or those at the positions `only`."""
    lines = iterate_lines(
        file,
        delimiter=delimiter_of(unit.sources[0]),
        url_column=options.image_column,
        label_column=options.label_column,
        start=unit.start,
        stop=unit.stop,
    )
    try:
        wanted = lines if only is None else (line for index, line in enumerate(lines) if index in only)
        yield from fetch_members(wanted, folder, options.limits)
    except BadInputError as error:
        yield failed_shard(error)
