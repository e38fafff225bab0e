"""manifest.json: what made an output folder, and the check that a later run fits to it."""

from __future__ import annotations

import contextlib
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from typing import Any

from facemill.models.accelerators import describe_engine
from facemill.models.errors import ConfigError, DamagedOutputError
from facemill.models.weights import model_files
from facemill.pipeline.config import Config, check_tree, describe_differences, validate
from facemill.transforms.ops.layout import MANIFEST
from facemill.transforms.ops.storage import Folder
from facemill.transforms.ops.tables import SCHEMA_VERSION

_PACKAGES = (
    "facemill",
    "apache-beam",
    "mtcnn",
    "numpy",
    "onnx",
    "onnxruntime",
    "opencv-python-headless",
    "pillow",
    "pyarrow",
    "simplejpeg",
)


@dataclass(frozen=True)
class Manifest:
    """What made an output folder.

    Attributes:
        schema_version: Of the tables.
        fingerprint: Of the configuration.
        config: The resolved configuration.
        versions: Of Python and of the packages that the result can depend on.
        models: Name, SHA-256 and licence of the model files.
        inputs: The URI of each input root, by its name.
        engine: What runs the networks: accelerator, provider, package, version, device; of a remote runner only the
            accelerator.
        tables: The URI of the earlier output whose faces were cropped; empty where they were found anew.
        filtered: The URI of the earlier output whose faces were judged anew; empty where they were not.
        crops_from: The URI of the output that holds the crops, where it is another one and has that of each kept face;
            `../name` for one beside this.
        signed: The inputs that were named by a signed URL, as in the plan; the signatures are nowhere written down.
    """

    schema_version: int
    fingerprint: str
    config: dict[str, Any]
    versions: dict[str, str]
    models: list[dict[str, str]]
    inputs: dict[str, str]
    engine: dict[str, str] = field(default_factory=dict)
    tables: str = ""
    filtered: str = ""
    crops_from: str = ""
    signed: list[str] = field(default_factory=list)

    def write(self, output: Folder) -> None:
        """Write it atomically."""
        output.write_bytes(MANIFEST, (json.dumps(asdict(self), indent=2) + "\n").encode())


def read_manifest(output: Folder) -> Manifest | None:
    """The manifest of an output folder, or None where there is none yet.

    Raises:
        DamagedOutputError: It is no JSON, or its values are not those of a manifest.
    """
    if not output.exists(MANIFEST):
        return None
    try:
        return _manifest_of(json.loads(output.read_bytes(MANIFEST)))
    except (ValueError, TypeError, RecursionError) as error:  # the latter of deep nesting
        why = " ".join(str(error).split())
        raise DamagedOutputError(f"{output.join(MANIFEST)} is damaged ({why}); choose a new output folder") from error


def _manifest_of(tree: object) -> Manifest:
    """The manifest that JSON spells out; the configuration of another version's tables is not looked at.

    Raises:
        TypeError: It is no object, or lacks a key or has one too many.
        ValueError: A value is not of its type, or the configuration not valid.
    """
    if not isinstance(tree, dict):
        raise TypeError(f"it holds no object but {type(tree).__name__}")
    Manifest(**tree)  # refuses unknown keys
    manifest = check_tree(Manifest, tree)
    if manifest.schema_version == SCHEMA_VERSION:
        missing = [section for section in Config().to_tree() if section not in manifest.config]
        if missing:
            raise ConfigError(f"config lacks the section {missing[0]}")
        validate(manifest.config)
    return manifest


def configuration_of(output: Folder) -> Config | None:
    """The configuration that an output folder was made with, or None where nothing was begun yet."""
    manifest = read_manifest(output)
    return None if manifest is None else validate(manifest.config)


def make_manifest(
    config: Config, inputs: Mapping[str, str], *, tables: str = "", signed: Sequence[str] = (), runs_here: bool = True
) -> Manifest:
    """The manifest of a run that starts now, on this machine or on others; `auto` is no accelerator any more.

    Raises:
        ConfigError: The accelerator has not been settled.
    """
    accelerator = config.detect.accelerator
    if accelerator == "auto":
        raise ConfigError("detect.accelerator is still auto; settle it before the run is planned")
    engine: dict[str, str] = asdict(describe_engine(accelerator)) if runs_here else {"accelerator": accelerator}
    return Manifest(
        schema_version=SCHEMA_VERSION,
        fingerprint=config.fingerprint,
        config=config.to_tree(),
        versions=_versions(engine),
        models=[asdict(file) for file in model_files()],
        inputs=dict(inputs),
        engine=engine,
        tables=tables,
        signed=list(signed),
    )


def _versions(engine: Mapping[str, str]) -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):  # onnxruntime, in whose place is onnxruntime-gpu
            versions[name] = metadata.version(name)
    if "package" in engine:
        versions[engine["package"]] = engine["version"]
    if engine.get("package") == "onnxruntime-gpu":
        versions.pop("onnxruntime", None)  # overwritten, where it is installed as well
    return versions


def check_same_result(earlier: Manifest, now: Manifest, output: Folder) -> list[str]:
    """Refuse to mix results of different kinds in one folder; returns warnings about changed versions.

    Raises:
        ConfigError: The configuration or the models are others than those that made the folder.
    """
    if earlier.schema_version != now.schema_version:
        raise ConfigError(
            f"{output.uri} holds tables of version {earlier.schema_version}, this facemill writes version "
            f"{now.schema_version}; choose a new output folder"
        )
    if (earlier.tables, earlier.filtered) != (now.tables, now.filtered):
        raise ConfigError(f"{output.uri} was made {_origin(earlier)}, not {_origin(now)}; choose a new output folder")
    difference = describe_differences(_result_part(now.config), _result_part(earlier.config))
    if not difference and earlier.models != now.models:
        difference = "the model files are others"
    if difference:
        raise ConfigError(
            f"{output.uri} was made with another configuration: {difference}; "
            "use the same, or choose a new output folder"
        )
    changes: list[tuple[str, str | None, str | None]] = [
        (name, version, earlier.versions.get(name))
        for name, version in now.versions.items()
        if name not in ("python", "facemill", "apache-beam")
    ]
    if "device" in now.engine and "device" in earlier.engine:  # a runner's machines are not looked at
        changes.append(("the device", now.engine["device"], earlier.engine["device"]))
    return [
        f"{name} is {value} now and was {before} when {output.uri} was begun; results may differ"
        for name, value, before in changes
        if value != before
    ]


def _origin(manifest: Manifest) -> str:
    if manifest.filtered:
        return f"by facemill filter {manifest.filtered}"
    return f"by facemill crop {manifest.tables}" if manifest.tables else "by facemill run"


def _result_part(tree: dict[str, Any]) -> dict[str, Any]:
    return {section: values for section, values in tree.items() if section != "run"}
