"""What an export is made of: the options, checked. The command's parser reads it, so nothing heavy is imported."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from facemill.models.errors import ConfigError

FormatName = Literal["webdataset", "imagefolder", "hf", "tfrecord", "recordio", "lmdb", "csv"]
SplitName = Literal["train", "validation", "test"]
Unlabelled = Literal["drop", "keep", "error"]
Duplicates = Literal["exact", "near"]
FORMAT_NAMES: tuple[FormatName, ...] = get_args(FormatName)
SPLIT_NAMES: tuple[str, ...] = get_args(SplitName)
_SUM_TOLERANCE = 1e-6


class Split(NamedTuple):
    """A part of the data set and the share of the identities that it is to get."""

    name: str
    share: float


WHOLE = (Split("train", 1.0),)


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Which faces are exported, and how they are divided; the result depends on these and the tables alone.

    Attributes:
        format: Of the files.
        template: Which of several templates the crops are made with.
        seed: Of the order, of the splits, and of the sample that `max_images` takes.
        shard_bytes: Of crops in a shard, about.
        splits: In the order of `SPLIT_NAMES`; the shares add up to 1.
        min_images: Identities with fewer are left out.
        max_images: More of an identity are left out.
        unlabelled: What becomes of faces without a label.
        drop_duplicates: Of which groups one member alone is exported.
    """

    format: FormatName
    template: str | None = None
    seed: int = 0
    shard_bytes: int = 256_000_000
    splits: tuple[Split, ...] = WHOLE
    min_images: int = 1
    max_images: int | None = None
    unlabelled: Unlabelled = "drop"
    drop_duplicates: Duplicates | None = None

    def __post_init__(self) -> None:
        if self.max_images is not None and self.max_images < self.min_images:
            raise ConfigError(
                f"--max-images {self.max_images} is less than --min-images {self.min_images}, so that nothing remains"
            )


def parse_splits(text: str) -> tuple[Split, ...]:
    """`train=0.8,validation=0.1,test=0.1`, in any order, to splits in the order of `SPLIT_NAMES`.

    Raises:
        ConfigError: A name or a share cannot be.
    """
    shares: dict[str, float] = {}
    for part in text.split(","):
        name, _, share = part.strip().partition("=")
        if name not in SPLIT_NAMES:
            known = ", ".join(SPLIT_NAMES)
            raise ConfigError(
                f"--split wants NAME=SHARE with the names {known}, such as train=0.9,test=0.1, got {text!r}"
            )
        if name in shares:
            raise ConfigError(f"--split names {name} twice, in {text!r}")
        shares[name] = _parse_share(share, text)
    if abs(sum(shares.values()) - 1) > _SUM_TOLERANCE:
        raise ConfigError(f"the shares of --split must add up to 1, got {sum(shares.values()):g} in {text!r}")
    return tuple(Split(name, shares[name]) for name in SPLIT_NAMES if name in shares)


def _parse_share(share: str, text: str) -> float:
    try:
        value = float(share)
    except ValueError as error:
        raise ConfigError(f"--split wants name=share, such as train=0.9,test=0.1, got {text!r}") from error
    if not 0 < value <= 1:
        raise ConfigError(f"a share of --split must lie in (0, 1], such as 0.8 for 80 %, got {share} in {text!r}")
    return value
