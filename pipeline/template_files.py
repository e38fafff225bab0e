"""Templates of the user's own in a YAML file, and those that a command line names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from facemill.models.errors import ConfigError
from facemill.pipeline.config import check_tree, read_yaml
from facemill.transforms.ops.alignment import AlignOptions
from facemill.transforms.ops.own_templates import TemplateDefinition, check_names


def load_templates(path: str) -> dict[str, TemplateDefinition]:
    """The templates that a YAML file defines, by their names: at its top, or where a configuration has them.

    Raises:
        ConfigError: The file cannot be read, or says by name what is wrong in it.
    """
    tree = read_yaml(path)
    if isinstance(tree, dict) and isinstance(align := tree.get("align"), dict) and "own" in align:
        tree = align["own"]
    if not (isinstance(tree, dict) and tree and all(isinstance(name, str) for name in tree)):
        raise ConfigError(f"{path}: expected templates by their names, got {str(tree)[:100]!r}")
    try:
        own = check_tree(dict[str, TemplateDefinition], tree)
        check_names(own)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    return own


def choose_templates(arguments: Sequence[str], options: AlignOptions) -> AlignOptions:
    """The options with the templates that a command line names instead: by name, several with commas, or YAML files.

    Raises:
        ConfigError: A name is unknown or comes twice, or a file cannot be read.
    """
    names: list[str] = []
    own = dict(options.own)
    for argument in arguments:
        if not is_file(argument):
            names += argument.split(",")  # no name has a comma
            continue
        for name, definition in load_templates(argument).items():
            if own.setdefault(name, definition) != definition:
                raise ConfigError(f"{argument}: another template is called {name} already; choose another name")
            names.append(name)
    return replace(options, template=tuple(names) if len(names) != 1 else names[0], own=own)


def is_file(argument: str) -> bool:
    """Whether an argument names a file of templates, not a template."""
    return Path(argument).suffix in (".yaml", ".yml")
