"""The account of a whole output folder: what the markers say, added up and checked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from facemill.models.errors import OutputError
from facemill.pipeline.plan import Plan
from facemill.transforms.ops.committing import UnitSummary
from facemill.transforms.ops.layout import (
    CROPS,
    FACES,
    FILES,
    IMAGES,
    MARKERS,
    CropStore,
    crops_name,
    faces_name,
    images_name,
    marker_name,
    template_folders,
)
from facemill.transforms.ops.storage import Folder
from facemill.transforms.ops.verdict import VERDICT_REASONS

_STATUSES = ("ok", "rejected", "no_face", "failed")


@dataclass
class Account:
    """Sums over the committed units."""

    num_units: int = 0
    num_planned_units: int = 0
    num_images: int = 0
    num_faces: int = 0
    num_kept: int = 0
    num_crops: int = 0
    num_capped: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    failure_reasons: Counter[str] = field(default_factory=Counter)
    rejection_reasons: Counter[str] = field(default_factory=Counter)

    def add(self, unit: UnitSummary) -> None:
        """Add one unit."""
        self.num_units += 1
        for name in ("num_images", "num_faces", "num_kept", "num_crops", "num_capped"):
            setattr(self, name, getattr(self, name) + getattr(unit, name))
        self.statuses.update(unit.statuses)
        self.failure_reasons.update(unit.failure_reasons)
        self.rejection_reasons.update(unit.rejection_reasons)


def committed_units(output: Folder) -> frozenset[str]:
    """The names of the units that have a commit marker."""
    names = output.list_names(MARKERS)
    return frozenset(
        name.removesuffix(".json") for name in names if name.endswith(".json") and not name.startswith(".")
    )


def read_summaries(output: Folder, units: Iterable[str]) -> list[UnitSummary]:
    """The markers of these units."""
    contents = output.read_many([marker_name(unit) for unit in sorted(units)])
    return [UnitSummary.from_json(content, output.shown(name)) for name, content in contents.items()]


def take_account(output: Folder, plan: Plan, committed: frozenset[str]) -> Account:
    """Add up the committed units.

    Raises:
        OutputError: A unit does not balance.
    """
    account = Account(num_planned_units=len(plan))
    planned = plan.num_planned()
    for unit in read_summaries(output, committed & set(plan.names)):
        _check(unit, planned.get(unit.unit))
        account.add(unit)
    return account


def _check(unit: UnitSummary, num_planned: int | None) -> None:
    if num_planned is not None and unit.num_images != num_planned:
        raise OutputError(f"{unit.unit} does not balance: {num_planned} inputs planned, {unit.num_images} rows written")
    if sum(unit.statuses.values()) != unit.num_images:
        raise OutputError(f"{unit.unit} does not balance: the statuses do not add up to {unit.num_images} images")
    if unit.num_kept + sum(unit.rejection_reasons.values()) != unit.num_faces:
        raise OutputError(f"{unit.unit} does not balance: kept and rejected do not add up to {unit.num_faces} faces")


def check_tables(output: Folder, units: Iterable[str], store: CropStore, templates: Sequence[str]) -> None:
    """Make sure that every committed unit has its files; those of the store `files` are too many to look at.

    Raises:
        OutputError: Names the first that is missing.
    """
    stored_in = template_folders(templates) if store in ("tar", "parquet") else ()
    folders = [IMAGES, FACES, *(f"{CROPS}/{template}".rstrip("/") for template in stored_in)]
    there = {f"{folder}/{name}" for folder in folders for name in output.list_names(folder)}
    for unit in units:
        for name in (images_name(unit), faces_name(unit), *(crops_name(unit, store, t) for t in stored_in)):
            if name not in there:
                raise OutputError(
                    f"{output.join(name)} is missing, though {unit} was committed; "
                    f"remove {output.join(marker_name(unit))} and run again to have the unit done anew"
                )


class LabelCounts(NamedTuple):
    """Labels of inputs with a kept face, and how many of these inputs have several, all under their label."""

    num_labels: int = 0
    num_shared: int = 0


def format_account(
    account: Account, output: Folder, store: CropStore, templates: Sequence[str], *, num_labels: int = 0
) -> str:
    """The printed summary; `num_labels` are those of the kept faces, if they were counted."""
    s = account.statuses
    lines = [
        f"images    {account.num_images:>9,}   one row each in {IMAGES}/",
        f"  ok      {s['ok']:>9,}   at least one face kept",
        f"  rejected{s['rejected']:>9,}   faces, none kept",
        f"  no_face {s['no_face']:>9,}",
        f"  failed  {s['failed']:>9,}   {_reasons(account.failure_reasons)}".rstrip(),
        f"faces     {account.num_faces:>9,}   one row each in {FACES}/",
        f"  kept    {account.num_kept:>9,}   crops: {_describe_crops(store, templates)}",
        f"  rejected{account.num_faces - account.num_kept:>9,}   {_reasons(account.rejection_reasons)}".rstrip(),
    ]
    if s["failed"]:
        lines.insert(
            5, f"            {'':>9}   which and why: image_id and message of {IMAGES}/, where status = 'failed'"
        )
    if num_labels:
        what = "labels (identities)" if num_labels > 1 else "label (identity)"
        lines.insert(-1, f"{'':>19}   of {num_labels:,} {what}")
    if account.num_capped:
        lines.append(f"candidates left out by the detector's caps: {account.num_capped:,}")
    lines.append(f"units     {account.num_units:>9,}   of {account.num_planned_units:,} committed in {output.uri}")
    return "\n".join(lines)


def warn_of_shared_labels(num_shared: int, output: Folder) -> str:
    """What to do where bystanders may have the label of the person that a photograph was taken of."""
    images = "1 labelled image has" if num_shared == 1 else f"{num_shared:,} labelled images have"
    return (
        f"warning: {images} several kept faces, each with the label, whoever it shows; one of each image is kept by "
        f"facemill filter {output.uri} --output NEW --set judge.keep=largest --set judge.keep_among=found\n"
    )


def _describe_crops(store: CropStore, templates: Sequence[str]) -> str:
    if store == "none":
        return "not asked for"
    pattern = {"tar": f"{CROPS}/*.tar", "parquet": f"{CROPS}/*.parquet"}.get(store, f"{FILES}/")
    if len(templates) == 1:
        return pattern
    folder, slash, name = pattern.partition("/")
    return f"{len(templates)} of each, {folder}/TEMPLATE{slash}{name}"


def format_change(before: Account, after: Account) -> str:
    """What another verdict on the same faces comes to, as printed."""
    reasons = sorted(before.rejection_reasons.keys() | after.rejection_reasons.keys(), key=_order_of_judgement)
    rows = [
        ("images", before.num_images, after.num_images),
        *((f"  {status}", before.statuses[status], after.statuses[status]) for status in _STATUSES),
        ("faces", before.num_faces, after.num_faces),
        ("  kept", before.num_kept, after.num_kept),
        *((f"  {reason}", before.rejection_reasons[reason], after.rejection_reasons[reason]) for reason in reasons),
    ]
    lines = [f"{'':<16}{'before':>12}{'after':>12}", *(f"{name:<16}{old:>12,}{new:>12,}" for name, old, new in rows)]
    return "\n".join(lines)


def _order_of_judgement(reason: str) -> int:
    return (*VERDICT_REASONS, reason).index(reason)


def _reasons(counts: Counter[str]) -> str:
    return ", ".join(f"{reason} {count:,}" for reason, count in counts.most_common())
