"""Runners: which are refused, and Beam's options for each where the user named none."""

from __future__ import annotations

import itertools
import json
import os
import sys
import sysconfig
import time
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from facemill.models.errors import ConfigError
from facemill.pipeline.flink import cluster_facts, is_embedded
from facemill.pipeline.spark import check_masters
from facemill.transforms.ops.storage import Folder

_LOSING = frozenset({"dask"})
_BEAM_NAMES = {
    # It first tries to download the Prism binary, without a time limit; FnApiRunner runs the same graph offline.
    "direct": "apache_beam.runners.portability.fn_api_runner.FnApiRunner",
    "fnapi": "apache_beam.runners.portability.fn_api_runner.FnApiRunner",
    "bundlebaseddirect": "apache_beam.runners.direct.direct_runner.BundleBasedDirectRunner",
    "flink": "FlinkRunner",
    "spark": "SparkRunner",
    "portable": "PortableRunner",
    "dataflow": "DataflowRunner",
}
_PRESETS = frozenset({"flink", "spark", "portable", "dataflow"})
_STAGED = ("setup_file", "extra_package", "extra_packages", "requirements_file")
_OUR_OWN = frozenset(
    {"runner", "input", "output", "config", "set", "workers", "faces", "retry_failed", "storage_options"}
    | {"beam_options", "detach", "no_report", "template", "moved"}
)
UBER_JARS = frozenset({"flink_submit_uber_jar", "spark_submit_uber_jar"})  # by these a cluster gets its job over REST
_OF_ANY_JOB_SERVICE = ("environment_type", "environment_config", "job_name")
_NEEDED_BY_DATAFLOW = (("project",), ("region",), ("temp_location", "staging_location"))
_BRING_FACEMILL = (
    "sdk_container_image",
    "worker_harness_container_image",
    "setup_file",
    "extra_package",
    "extra_packages",
)


def runner_key(runner: str) -> str:
    """`flink` for FlinkRunner, flinkrunner and Flink; of a dotted name the last part."""
    return runner.rsplit(".", 1)[-1].lower().removesuffix("runner")


def beam_name(runner: str) -> str:
    """The name under which Beam knows the runner."""
    return runner if "." in runner else _BEAM_NAMES.get(runner_key(runner), runner)


def check_runner(runner: str) -> None:
    """Refuse a runner that is known to lose data.

    Raises:
        ConfigError: Says which and why.
    """
    if runner_key(runner) in _LOSING:
        raise ConfigError(f"--runner {runner} loses outputs without a word in Beam 2.77; use another runner")


def check_reachable(runner: str, arguments: Sequence[str], folders: Iterable[Folder]) -> list[str]:
    """Refuse folders that a runner's machines cannot reach; returns warnings about those that they may not reach.

    Raises:
        ConfigError: A folder of this machine's disk for Dataflow.
    """
    local = sorted({folder.uri for folder in folders if folder.is_local})
    if not local:
        return []
    if runner_key(runner) == "dataflow":
        raise ConfigError(
            f"Dataflow's machines cannot reach {local[0]}, which is a folder of this machine; "
            "put input and output on an object store, such as gs://bucket/folder"
        )
    if not _is_elsewhere(runner, parse_arguments(arguments)):
        return []
    return [f"{', '.join(local)}: every machine of the cluster must see the same folder under this path"]


def _is_elsewhere(runner: str, given: Mapping[str, str]) -> bool:
    """Whether the workers run on other machines than this one, as far as the options say."""
    key = runner_key(runner)
    if "job_endpoint" in given:
        return _is_remote_endpoint(given)
    if key == "flink":
        return not is_embedded(given.get("flink_master", "[local]"))
    if key == "spark":
        return not given.get("spark_master_url", "local").startswith("local")
    return False


def _is_remote_endpoint(given: Mapping[str, str]) -> bool:
    host = given.get("job_endpoint", "embed").rpartition(":")[0]
    return host not in ("", "localhost", "127.0.0.1", "[::1]")


def complete_arguments(
    runner: str, arguments: Sequence[str], *, num_workers: int, options_file: str | None = None
) -> list[str]:
    """Beam's options: those of the command line, then of the file, then of the runner's preset.

    Args:
        runner: As the user named it.
        arguments: Of the command line, which win.
        num_workers: Processes, where the runner works on this machine.
        options_file: A YAML file of Beam options by name, without their dashes.

    Raises:
        ConfigError: The file is no mapping of names; a needed option is missing; the Flink cluster does not answer.
    """
    completed = list(arguments)
    if "runner" in parse_arguments(completed):
        raise ConfigError("--runner is given twice")
    if options_file is not None:
        completed += _missing(_read_options(options_file), completed)
    key = runner_key(runner)
    if key not in _PRESETS:
        return completed
    given = parse_arguments(completed)
    if key == "dataflow":
        _check_dataflow(given)
    elif key == "portable" and "job_endpoint" not in given:
        raise ConfigError("--runner PortableRunner also needs --job_endpoint=HOST:PORT of a job server")
    elif key in ("flink", "spark"):
        _check_jar(key, given)
    if key == "spark":
        check_masters(given.get("spark_master_url", ""))
    preset = _read_preset(key)
    if "job_endpoint" in given:  # the job service knows its cluster
        preset = {name: value for name, value in preset.items() if name in _OF_ANY_JOB_SERVICE}
    if "environment_type" in given or "output_executable_path" in given:
        preset = {name: value for name, value in preset.items() if not name.startswith("environment_")}
    elif "environment_type" in preset:
        _check_nothing_staged(given)
    return completed + _missing(_fill(preset, _facts(key, given, num_workers)), completed)


def check_detaching(runner: str, arguments: Sequence[str]) -> None:
    """Refuse to leave a job to itself that would end with this process.

    Raises:
        ConfigError: Names what to do.
    """
    if runner_key(runner) != "dataflow" and not parse_arguments(arguments).keys() & {"job_endpoint", *UBER_JARS}:
        raise ConfigError(
            f"--detach: a job on {runner} ends with its job server, which runs here; leave --detach out, or name a "
            "job server that stays with --job_endpoint"
        )


def starts_job_server(runner: str, arguments: Sequence[str]) -> bool:
    """Whether jobs for this runner go by way of a Java process that is to be started here."""
    return runner_key(runner) in ("flink", "spark") and not parse_arguments(arguments).keys() & {
        "job_endpoint",
        *UBER_JARS,
    }


def _check_dataflow(given: Mapping[str, str]) -> None:
    missing = [f"--{names[0]}" for names in _NEEDED_BY_DATAFLOW if not given.keys() & set(names)]
    if missing:
        raise ConfigError(f"--runner DataflowRunner also needs {', '.join(missing)}")
    if not given.keys() & set(_BRING_FACEMILL):
        raise ConfigError(
            "Dataflow's machines lack facemill; name --sdk_container_image, --setup_file or --extra_package"
        )


def _check_jar(key: str, given: Mapping[str, str]) -> None:
    other = {"flink": "spark_job_server_jar", "spark": "flink_job_server_jar"}[key]
    if other in given:
        raise ConfigError(f"--{other} is of another runner; this one takes --{key}_job_server_jar")
    jar = given.get(f"{key}_job_server_jar", "")
    if jar and "://" not in jar and not Path(jar).is_file():
        raise ConfigError(f"--{key}_job_server_jar: there is no file {jar}")


def _check_nothing_staged(given: Mapping[str, str]) -> None:
    staged = [f"--{name}" for name in _STAGED if name in given]
    if staged:
        raise ConfigError(
            f"{staged[0]}: facemill-worker, which the engine starts, installs nothing; install it on the machines, or "
            "name a container with --environment_type=DOCKER --environment_config=IMAGE"
        )


def _facts(key: str, given: Mapping[str, str], num_workers: int) -> dict[str, object]:
    """What the braces of a preset stand for."""
    facts: dict[str, object] = {
        "workers": num_workers,
        "workers_per_machine": 0 if _is_elsewhere(key, given) else num_workers,
        "worker_command": _worker_command(),
        "job_name": f"facemill-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}",
    }
    if key == "flink" and "job_endpoint" not in given:
        wanted = given.get("parallelism", "")
        master = given.get("flink_master", "[local]")
        facts |= cluster_facts(master, num_workers, int(wanted) if wanted.isdecimal() else None)
    return facts


def _worker_command() -> str:
    """The path of `facemill-worker` as it is installed here; on a cluster's machines it must be the same."""
    beside = Path(sys.executable).with_name("facemill-worker")
    return str(beside if beside.exists() else Path(sysconfig.get_path("scripts")) / "facemill-worker")


def _read_preset(key: str) -> dict[str, Any]:
    text = (resources.files("facemill.configs") / "runners" / f"{key}.yaml").read_text(encoding="utf-8")
    preset: dict[str, Any] = yaml.safe_load(text)
    return preset


def _fill(preset: Mapping[str, Any], facts: Mapping[str, object]) -> dict[str, Any]:
    return {name: value.format_map(facts) if isinstance(value, str) else value for name, value in preset.items()}


def _read_options(file: str) -> dict[str, Any]:
    try:
        options = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the Beam options {file}: {error}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"the Beam options {file} are not valid YAML: {' '.join(str(error).split())}") from error
    if isinstance(options, dict) and options.keys() & _OUR_OWN:
        name = min(options.keys() & _OUR_OWN)
        raise ConfigError(f"the Beam options {file} name {name}, which is facemill's own; give it on the command line")
    if not isinstance(options, dict) or not all(isinstance(name, str) for name in options):
        raise ConfigError(f"the Beam options {file} must be names with values, as in parallelism: 8")
    return options


def _missing(options: Mapping[str, Any], arguments: Sequence[str]) -> list[str]:
    """`options` as arguments, without those that are among `arguments`."""
    given = {_plain(name) for name in parse_arguments(arguments)}
    added: list[str] = []
    for name, value in options.items():
        if _plain(name) in given or value is None:
            continue
        for one in value if isinstance(value, list) else [value]:
            flag = f"--no_{name}" if one is False else f"--{name}"
            added.append(flag if isinstance(one, bool) else f"{flag}={_text(one)}")
    return added


def _plain(name: str) -> str:
    """The name that a switch and its opposite have in common."""
    return name.removeprefix("no_")


def _text(value: object) -> str:
    return json.dumps(value) if isinstance(value, dict) else str(value)


def parse_arguments(arguments: Sequence[str]) -> dict[str, str]:
    """The options by name; of `--name value` and `--name=value` the value, of a bare `--name` nothing."""
    given: dict[str, str] = {}
    for argument, following in itertools.zip_longest(arguments, arguments[1:], fillvalue=""):
        if argument.startswith("--"):
            name, equals, value = argument[2:].partition("=")
            given[name] = value if equals else "" if following.startswith("--") else following
    return given
