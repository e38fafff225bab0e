"""README.md of a data set in the way of Hugging Face: what it holds, as YAML and in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from facemill.pipeline.export.samples import Target

Feature = dict[str, Any]
_MAX_CLASS_NAMES = 10_000  # the YAML of so many takes readers a second; the Parquet files name them as well
_TEXT = """# Faces

Made by facemill: {num_faces:,} aligned face crops of {num_classes:,} identities.

| split | faces | identities |
| --- | --- | --- |
{splits}

```python
from datasets import load_dataset

faces = load_dataset("path/of/this/folder")
```

`label` is the class, -1 for a face without one; `identity` the label itself; `classes.csv` lists the classes. No
identity is in two splits. Coordinates are pixels of the original image.
"""


def make_card(target: Target, features: Mapping[str, Feature]) -> str:
    """The text of README.md."""
    header = yaml.safe_dump(_header(target, features), sort_keys=False, allow_unicode=True, width=10_000)
    splits = "\n".join(
        f"| {split.name} | {split.num_faces:,} | {split.num_classes:,} |" for split in target.selection.splits
    )
    selection = target.selection
    text = _TEXT.format(num_faces=selection.num_faces, num_classes=selection.num_classes, splits=splits)
    return f"---\n{header}---\n\n{text}"


def _header(target: Target, features: Mapping[str, Feature]) -> dict[str, Any]:
    names = [split.name for split in target.selection.splits]
    data_files = [{"split": name, "path": f"data/{name}-*"} for name in names]
    header: dict[str, Any] = {"configs": [{"config_name": "default", "data_files": data_files}]}
    if target.selection.num_classes <= _MAX_CLASS_NAMES:
        sizes = [_num_bytes(target, name) for name in names]
        splits = [
            {"name": split.name, "num_bytes": size, "num_examples": split.num_faces}
            for split, size in zip(target.selection.splits, sizes, strict=True)
        ]
        listed = [{"name": name, **_describe(feature)} for name, feature in features.items()]
        header["dataset_info"] = {
            "features": listed,
            "splits": splits,
            "download_size": sum(sizes),
            "dataset_size": sum(sizes),
        }
    return header


def _num_bytes(target: Target, split: str) -> int:
    return sum(file.num_bytes for file in target.destination.files if file.name.startswith(f"data/{split}-"))


def _describe(feature: Feature) -> dict[str, Any]:
    """A feature as the card's YAML has it."""
    kind = feature["_type"]
    if kind == "Image":
        return {"dtype": "image"}
    if kind == "ClassLabel":
        names = {str(index): name for index, name in enumerate(feature["names"])}
        return {"dtype": {"class_label": {"names": names}}}
    if kind == "Sequence":
        return {"sequence": feature["feature"]["dtype"]}
    return {"dtype": feature["dtype"]}
