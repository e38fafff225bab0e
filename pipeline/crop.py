"""The configuration of `facemill crop`: that of the tables, but for what only the crops depend on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from facemill.models.errors import ConfigError
from facemill.pipeline.config import Config, describe_differences, lay_over, validate
from facemill.pipeline.manifest import read_manifest
from facemill.pipeline.outputs import open_output
from facemill.pipeline.template_files import choose_templates
from facemill.transforms.ops.credentials import check_no_signature
from facemill.transforms.ops.storage import Folder

_OF_CROPS = ("decode", "align", "write", "run")


def crop_config(
    tables: Folder, *, output: Folder | None = None, templates: Sequence[str] = (), settings: Sequence[str] = ()
) -> Config:
    """The configuration for crops of the faces in `tables`.

    Args:
        tables: The earlier output folder.
        output: Where the crops go. Without templates and settings, what was begun there is finished as it was begun.
        templates: Names of templates and YAML files with more; empty for that of the tables.
        settings: `section.key=value`, laid over the configuration of the tables.

    Raises:
        ConfigError: There are no such tables, or a setting is wrong or would ask for other faces.
    """
    check_no_signature(tables.uri)  # before it is opened, as the manifest will keep it
    earlier = open_output(tables).config
    begun = None if output is None or templates or settings else _begun(output, tables)
    config = begun or lay_over(earlier, settings)
    difference = describe_differences(_of_faces(config), _of_faces(earlier))
    if difference:
        raise ConfigError(
            f"facemill crop takes the faces as {tables.uri} has them, and {difference}; "
            "judge.* is changed by facemill filter, all else by a new facemill run"
        )
    if config.write.crops == "none":
        config = replace(config, write=replace(config.write, crops="tar"))
    return replace(config, align=choose_templates(templates, config.align)) if templates else config


def _begun(output: Folder, tables: Folder) -> Config | None:
    manifest = read_manifest(output)
    return validate(manifest.config) if manifest and manifest.tables == tables.absolute().uri else None


def _of_faces(config: Config) -> dict[str, object]:
    return {section: values for section, values in config.to_tree().items() if section not in _OF_CROPS}
