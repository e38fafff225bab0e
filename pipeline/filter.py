"""`facemill filter`: new verdicts on the faces of an earlier output, from its tables alone."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from typing import TextIO

from facemill.models.errors import ConfigError, DamagedOutputError
from facemill.pipeline.config import Config, describe_differences, lay_over
from facemill.pipeline.export.progress import track
from facemill.pipeline.lock import hold_lock
from facemill.pipeline.manifest import Manifest, check_same_result, read_manifest
from facemill.pipeline.output_folder import (
    check_apart,
    check_output,
    check_whole,
    forget_changed,
    make_output,
    sweep_output,
)
from facemill.pipeline.outputs import Output, open_output
from facemill.pipeline.plan import Plan, append_units, read_plan
from facemill.pipeline.prepare import unplanned_units
from facemill.pipeline.report.renew import write_report
from facemill.pipeline.summary import Account, committed_units, format_change, take_account
from facemill.transforms.ops.credentials import check_no_signature, redact
from facemill.transforms.ops.filtering import filter_unit
from facemill.transforms.ops.layout import REPORT
from facemill.transforms.ops.storage import Folder

_UNITS_AT_ONCE = 256  # of a thread


@dataclass(frozen=True)
class FilterResult:
    """The accounts of the units that were filtered, before and after."""

    before: Account
    after: Account

    @property
    def num_without_crop(self) -> int:
        """Kept faces that have no crop in the earlier output."""
        return self.after.num_kept - self.after.num_crops


def filter_config(tables: Output, *, source: str | None = None, settings: Sequence[str] = ()) -> Config:
    """The configuration of the tables with other limits.

    Args:
        tables: The earlier output.
        source: A preset's name or a YAML file, laid over the configuration of the tables.
        settings: `section.key=value`, laid over that.

    Raises:
        ConfigError: One of them is wrong, or asks for more than another verdict.
    """
    config = lay_over(tables.config, settings, source=source)
    difference = describe_differences(_but_for_verdicts(config), _but_for_verdicts(tables.config))
    if difference:
        raise ConfigError(
            f"facemill filter judges the faces of {tables.folder.uri} anew, and {difference}; "
            f"it changes judge.* alone, all else a new facemill run{_judge_alone(config, tables.config)}"
        )
    return config


def _judge_alone(config: Config, there: Config) -> str:
    """How to ask for the limits of a configuration without its other settings."""
    wanted, earlier = config.to_tree()["judge"], there.to_tree()["judge"]
    settings = [f"--set judge.{key}={value}" for key, value in wanted.items() if value != earlier[key]]
    return f"; the limits alone are {' '.join(settings)}" if settings else ""


def _but_for_verdicts(config: Config) -> dict[str, object]:
    return {section: values for section, values in config.result_tree.items() if section != "judge"}


def filter_output(
    tables: Folder,
    output: Folder,
    *,
    source: str | None = None,
    settings: Sequence[str] = (),
    num_workers: int = 1,
    report: bool = True,
    out: TextIO | None = None,
    err: TextIO | None = None,
) -> FilterResult:
    """Write the committed units of `tables` with new verdicts into `output`, in threads.

    Args:
        tables: The earlier output folder, which is not changed.
        output: The new one; units that it holds already are left as they are.
        source: As for `filter_config`.
        settings: As for `filter_config`.
        num_workers: Threads.
        report: Make the report anew, where the output has one of earlier verdicts.
        out: Gets the counts before and after, by default standard output.
        err: Gets all else, by default standard error.

    Raises:
        ConfigError: Nothing was done, as it cannot be carried out.
        OutputError: The tables are damaged, or the output cannot be written; what is committed stays valid.
    """
    out, err = out or sys.stdout, err or sys.stderr
    check_output(output)
    check_no_signature(tables.uri)  # the manifest keeps it
    check_apart(output, tables)
    earlier = open_output(tables)
    if not earlier.units:
        raise ConfigError(f"{tables.uri} holds no committed unit yet; finish that run first")
    config = filter_config(earlier, source=source, settings=settings)
    home = _home_of_crops(earlier, err)
    make_output(output)
    with hold_lock(output):
        committed = committed_units(output)
        manifest = _manifest(earlier, config, output)
        plan = _plan(earlier, manifest, output, committed, err)
        sweep_output(output, config.align.templates)
        committed -= forget_changed(output, tables, committed, err)
        pending = [name for name, _ in plan.pending(committed)]
        try:
            _filter_units(earlier.folder, output, pending, config, num_workers, err)
        finally:
            sweep_output(output, config.align.templates)
        done = frozenset(plan.names)
        before = take_account(tables, plan, done & frozenset(earlier.units))
        result = FilterResult(before, take_account(output, plan, done))
        crops_from = "" if result.num_without_crop else home
        replace(manifest, crops_from=crops_from).write(output)
    out.write(format_change(result.before, result.after) + "\n")
    out.write(_tell_crops(result, crops_from, output) + "\n")
    if report and pending and output.exists(REPORT):
        write_report(output, tables.storage_options, out=out, err=err)
    return result


def _manifest(earlier: Output, config: Config, output: Folder) -> Manifest:
    """What made the tables, with the new limits; checked against what the output folder holds."""
    manifest = replace(
        earlier.manifest,
        fingerprint=config.fingerprint,
        config=config.to_tree(),
        tables="",
        filtered=earlier.folder.absolute().uri,
        crops_from="",
    )
    there = read_manifest(output)
    if there is not None:
        check_same_result(there, manifest, output)
    return manifest


def _plan(earlier: Output, manifest: Manifest, output: Folder, committed: frozenset[str], err: TextIO) -> Plan:
    """Write the manifest, and plan what the earlier output has committed."""
    plan = read_plan(output)
    there = read_manifest(output)
    check_whole(output, plan, committed, has_manifest=there is not None)
    units = unplanned_units(earlier.folder, frozenset(earlier.units), plan, err)
    if there is None or units:
        manifest.write(output)
    return append_units(output, plan, units)


def _filter_units(
    tables: Folder, output: Folder, units: Sequence[str], config: Config, num_workers: int, err: TextIO
) -> None:
    templates = config.align.find_templates()

    def work(unit: str) -> None:
        filter_unit(tables, output, unit, options=config.judge, templates=templates, fingerprint=config.fingerprint)

    with ThreadPoolExecutor(num_workers) as threads:
        done = (none for some in _batched(units, _UNITS_AT_ONCE * num_workers) for none in threads.map(work, some))
        for _ in track(done, len(units), "judging", err, unit="units"):
            pass


def _batched(units: Iterable[str], count: int) -> Iterator[list[str]]:
    iterator = iter(units)
    while some := list(islice(iterator, count)):
        yield some


def _home_of_crops(tables: Output, err: TextIO) -> str:
    """The folder whose crops the tables name: where the first of several filters began; empty if it is gone."""
    try:
        while tables.manifest.filtered:
            nearer = tables.manifest.crops_from or tables.manifest.filtered
            tables = open_output(tables.find(nearer))
    except (ConfigError, DamagedOutputError) as error:
        err.write(f"warning: the crops are out of reach: {redact(str(error))}\n")
        return ""
    return tables.folder.absolute().uri


def _tell_crops(result: FilterResult, crops_from: str, output: Folder) -> str:
    if crops_from:
        return f"crops: of all kept faces in {crops_from}"
    if not result.num_without_crop:
        return f"crops: those of the kept faces were not found; facemill crop {output.uri} --output URI makes them"
    return (
        f"crops: {result.num_without_crop:,} of {result.after.num_kept:,} kept faces have none; "
        f"facemill crop {output.uri} --output URI makes them"
    )
