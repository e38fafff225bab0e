"""export.json: what an export is, and the check that one that is there is the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from importlib import metadata
from typing import Any

from facemill.models.errors import ConfigError
from facemill.pipeline.export.options import ExportOptions
from facemill.pipeline.export.selection import Counts, Selection
from facemill.pipeline.outputs import Output

_LAYOUT = 2  # raised when the same options write other files


def make_record(output: Output, options: ExportOptions, selection: Selection) -> dict[str, Any]:
    """What the export is made of and holds, less its files."""
    wanted = asdict(options)
    template = wanted.pop("template") or output.templates[0]
    return {
        "facemill": metadata.version("facemill"),
        "layout": _LAYOUT,
        "options": {**wanted, "template": template, "splits": {split.name: split.share for split in options.splits}},
        "source": {"fingerprint": output.manifest.fingerprint, "faces": selection.digest},
        "counts": asdict(selection.counts),
        "splits": {split.name: {"faces": split.num_faces, "classes": split.num_classes} for split in selection.splits},
    }


def check_same(there: Mapping[str, Any], wanted: Mapping[str, Any], place: str) -> None:
    """Refuse to write over another export.

    Raises:
        ConfigError: Names the first difference.
    """
    earlier, now = there.get("options", {}), wanted["options"]
    for name in now:
        if earlier.get(name) != now[name]:
            raise ConfigError(
                f"{place} holds another export: {name} is {now[name]!r} now and was {earlier.get(name)!r}; "
                "choose a new folder"
            )
    if (there.get("layout"), there.get("source")) != (wanted["layout"], wanted["source"]):
        raise ConfigError(f"{place} holds an export of other faces; choose a new folder")


def explain_nothing(counts: Counts, options: ExportOptions) -> str:
    """Where all faces went, and the way out, in one line."""
    left_out = (
        (counts.faces - counts.kept, "not kept (facemill filter judges anew)"),
        (counts.unlabelled, "without a label (--unlabelled keep takes them; docs/inputs.md says what gives a label)"),
        (counts.duplicates, f"{options.drop_duplicates} duplicates"),
        (
            counts.too_few,
            f"of {counts.identities_too_few:,} identities with fewer than --min-images {options.min_images}",
        ),
    )
    reasons = [f"{number:,} {reason}" for number, reason in left_out if number]
    return ", ".join([f"of {counts.faces:,} faces", *reasons])


def format_record(record: Mapping[str, Any], place: str) -> str:
    """The printed summary: what every rule took away, and what is in each split."""
    counts, options = record["counts"], record["options"]
    lines = [f"faces     {counts['kept']:>10,}   kept"]
    if counts["unlabelled"]:
        lines.append(f"  left out{counts['unlabelled']:>10,}   without a label; --unlabelled keep exports them")
    if options["drop_duplicates"]:
        lines.append(f"  left out{counts['duplicates']:>10,}   {options['drop_duplicates']} duplicates")
    if options["min_images"] > 1:
        few = f"{counts['identities_too_few']:,} identities with fewer than {options['min_images']}"
        lines.append(f"  left out{counts['too_few']:>10,}   of {few}")
    if options["max_images"]:
        lines.append(f"  left out{counts['too_many']:>10,}   of identities with more than {options['max_images']}")
    lines.append(f"exported  {counts['exported']:>10,}   {options['format']} in {place}")
    for name, split in record["splits"].items():
        lines.append(f"  {name:<10}{split['faces']:>8,}   of {split['classes']:,} identities")
    if counts["exported_unlabelled"]:
        lines.append(f"  of these{counts['exported_unlabelled']:>10,}   without a label, class -1")
    return "\n".join(lines)
