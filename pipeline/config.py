"""The configuration: a preset, overlaid by a file, overlaid by `--set`, and checked."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from facemill.models.accelerators import resolve_accelerator
from facemill.models.errors import ConfigError
from facemill.models.options import DetectorOptions
from facemill.pipeline.presets import preset_names
from facemill.transforms.ops.alignment import AlignOptions
from facemill.transforms.ops.crops import WriteOptions
from facemill.transforms.ops.options import DecodeOptions, LandmarkOptions, RunOptions
from facemill.transforms.ops.reading import ReadOptions
from facemill.transforms.ops.verdict import JudgeOptions

Tree = dict[str, Any]
T = TypeVar("T")
# By which pydantic says what it took a value for that may be of several types.
_UNION_MEMBERS = frozenset({"str", "int", "tuple[str, ...]", "tuple[int, int]"})


@dataclass(frozen=True)
class Config:
    """All that a run is told, by step; `run` holds what does not change the result."""

    read: ReadOptions = field(default_factory=ReadOptions)
    decode: DecodeOptions = field(default_factory=DecodeOptions)
    detect: DetectorOptions = field(default_factory=DetectorOptions)
    landmarks: LandmarkOptions = field(default_factory=LandmarkOptions)
    judge: JudgeOptions = field(default_factory=JudgeOptions)
    align: AlignOptions = field(default_factory=AlignOptions)
    write: WriteOptions = field(default_factory=WriteOptions)
    run: RunOptions = field(default_factory=RunOptions)

    def to_tree(self) -> Tree:
        """Plain dicts, lists and scalars, as JSON and YAML hold them."""
        tree: Tree = json.loads(json.dumps(asdict(self)))
        return tree

    @property
    def result_tree(self) -> Tree:
        """The part of the configuration that the result depends on."""
        return {section: values for section, values in self.to_tree().items() if section != "run"}

    @property
    def fingerprint(self) -> str:
        """SHA-256 of `result_tree`, 16 hexadecimal digits."""
        return hashlib.sha256(json.dumps(self.result_tree, sort_keys=True).encode()).hexdigest()[:16]


def load_config(source: str | None = None, settings: Sequence[str] = ()) -> Config:
    """The configuration of a preset's name or a YAML file, with `section.key=value` settings laid over it.

    Raises:
        ConfigError: An unknown preset, file or key, or a value that is of the wrong type or impossible.
    """
    return lay_over(Config(), settings, source=source)


def lay_over(config: Config, settings: Sequence[str], *, source: str | None = None) -> Config:
    """The configuration with a preset or file and then settings laid over it; raises ConfigError as `load_config`."""
    tree = config.to_tree()
    if source is not None:
        _overlay(tree, _read_source(source), where=source)
    for setting in settings:
        _overlay(tree, _parse_setting(setting), where=f"--set {setting}")
    return validate(tree)


def settle_accelerator(config: Config) -> Config:
    """The configuration with the accelerator that `auto` means here, after a check that it is there.

    Raises:
        ConfigError: It cannot be used; names what to install.
    """
    accelerator = resolve_accelerator(config.detect.accelerator)
    return replace(config, detect=replace(config.detect, accelerator=accelerator))


def describe_differences(ours: Tree, theirs: Tree) -> str:
    """The keys in which two configurations differ, with both values; empty where they do not."""
    flat_ours, flat_theirs = dict(_flatten(ours)), dict(_flatten(theirs))
    return ", ".join(
        f"{key} is {flat_ours.get(key)!r} now and was {flat_theirs.get(key)!r} there"
        for key in sorted(flat_ours.keys() | flat_theirs.keys())
        if flat_ours.get(key) != flat_theirs.get(key)
    )


def _flatten(tree: Tree, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _read_source(source: str) -> Any:
    path = Path(source)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        return read_yaml(source)
    if source not in preset_names():
        raise ConfigError(
            f"no preset is called {source!r}; there are {', '.join(preset_names())}, or name a .yaml file"
        )
    text = resources.files("facemill.configs").joinpath(f"{source}.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text) or {}


def read_yaml(path: str) -> Any:
    """What a YAML file holds, {} for nothing; ConfigError where it cannot be read."""
    try:
        return yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the configuration {path}: {error}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # the latter of odd dates, long numbers, deep nesting
        raise ConfigError(f"the configuration {path} is not valid YAML: {' '.join(str(error).split())}") from error


def _parse_setting(setting: str) -> Tree:
    key, equals, text = setting.partition("=")
    section, dot, name = key.partition(".")
    if not (equals and dot and section and name):
        raise ConfigError(f"--set wants section.key=value, got {setting!r}")
    try:
        return {section: {name: yaml.safe_load(text)}}
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"--set {setting!r}: the value is not valid YAML") from error


def _overlay(tree: Tree, layer: Any, *, where: str) -> None:
    """Lay `layer` over `tree`, which has all the keys there are."""
    if not isinstance(layer, Mapping):
        raise ConfigError(f"{where}: expected sections with keys, got {layer!r}")
    for section, values in layer.items():
        _require_known(section, tree, section, where)
        if not isinstance(values, Mapping):
            raise ConfigError(f"{where}: section {section} must hold keys, got {values!r}")
        for key, value in values.items():
            _require_known(key, tree[section], f"{section}.{key}", where)
            tree[section][key] = value


def _require_known(key: object, known: Tree, shown: object, where: str) -> None:
    if key not in known:
        near = difflib.get_close_matches(str(key), list(known), n=1)
        hint = f"; did you mean {near[0]}?" if near else f"; known are {', '.join(known)}"
        raise ConfigError(f"{where}: unknown key {shown}{hint}")


def validate(tree: Tree) -> Config:
    """The configuration that a tree of plain values spells out; ConfigError names what is wrong in it."""
    return check_tree(Config, tree)


def check_tree(kind: type[T], tree: Tree) -> T:
    """The `kind` that a tree of plain values spells out; ConfigError names what is wrong in it."""
    try:
        # By way of JSON, whose strict reading takes a list for a tuple, an int for a float, and a string for neither.
        text = json.dumps(tree, default=str)
    except ValueError as error:
        raise ConfigError(f"the configuration cannot be written down as JSON: {error}") from error
    try:
        return TypeAdapter(kind).validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"] if part not in _UNION_MEMBERS)
        problem = first.get("ctx", {}).get("error", first["msg"])
        if isinstance(problem, ConfigError):
            raise ConfigError(f"{place}.{problem}") from error
        raise ConfigError(f"{place or 'the configuration'}: {problem}, got {_shortened(first['input'])}") from error


def _shortened(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."
