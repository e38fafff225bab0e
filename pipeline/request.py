"""What the user asks of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from facemill.pipeline.config import Config
from facemill.transforms.ops.storage import Folder


@dataclass(frozen=True)
class RunRequest:
    """What the user asked for.

    Attributes:
        inputs: Folders, globs and files, by path or URI; empty to finish what was planned before.
        output: The output folder.
        config: The resolved configuration.
        num_workers: Processes of the local mode, and of runners that work on this machine.
        runner: The name of a Beam runner, or None for the local mode.
        beam_arguments: Options for the Beam runner.
        beam_options: A YAML file of further options for it.
        detach: Submit the runner's job without waiting for its end.
        storage_options: For the input and output file systems.
        retry_failed: Do units again that hold failures which may have been passing.
        report: Write the report at the end, unless `run.report` of the configuration says no.
        tables: An earlier output folder whose kept faces are cropped anew; it takes the place of the inputs.
        moved: Where input roots of the earlier run, or of `tables`, lie now, by their name.
    """

    inputs: Sequence[str]
    output: Folder
    config: Config
    num_workers: int = 1
    runner: str | None = None
    beam_arguments: Sequence[str] = ()
    beam_options: str | None = None
    detach: bool = False
    storage_options: Mapping[str, Any] = field(default_factory=dict)
    retry_failed: bool = False
    report: bool = True
    tables: Folder | None = None
    moved: Mapping[str, str] = field(default_factory=dict)
