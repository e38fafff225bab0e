"""`facemill run` and `facemill crop`: plan, process what is not committed, account."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TextIO

from facemill.models.errors import ConfigError, OutputError
from facemill.pipeline.beam_options import check_values
from facemill.pipeline.config import Config, settle_accelerator
from facemill.pipeline.engines import check_detaching, check_runner, complete_arguments
from facemill.pipeline.job import Job
from facemill.pipeline.listing import Listing, list_inputs
from facemill.pipeline.local import LocalOutcome, run_local
from facemill.pipeline.lock import hold_lock
from facemill.pipeline.output_folder import (
    check_apart,
    check_output,
    forget_changed,
    forget_failed,
    make_output,
    sweep_output,
)
from facemill.pipeline.outputs import open_output
from facemill.pipeline.plan import Plan
from facemill.pipeline.prepare import check_reach, check_there, prepare
from facemill.pipeline.progress import Progress
from facemill.pipeline.remote import run_remote
from facemill.pipeline.report.renew import write_report
from facemill.pipeline.request import RunRequest
from facemill.pipeline.roots import leave_out
from facemill.pipeline.summary import (
    Account,
    LabelCounts,
    check_tables,
    committed_units,
    format_account,
    take_account,
    warn_of_shared_labels,
)
from facemill.transforms.ops.credentials import check_no_signature, redact, separate_signatures
from facemill.transforms.ops.known_faces import KnownFaces
from facemill.transforms.ops.storage import Folder

_MAX_COUNTED_UNITS = 1_000  # their tables are read in less than half a second


@dataclass(frozen=True)
class RunResult:
    """How a run ended: the account of the whole output, and what this run could not do.

    Of a job that was submitted and left to itself, the account is that of its beginning.
    """

    account: Account
    outcome: LocalOutcome
    is_detached: bool = False

    @property
    def is_complete(self) -> bool:
        """Whether every planned unit is committed, or left to a job, and any input at all could be read."""
        if self.is_detached:
            return True
        account = self.account
        all_failed = account.num_images > 0 and account.statuses["failed"] == account.num_images
        return account.num_units == account.num_planned_units and not all_failed


def run(request: RunRequest, *, out: TextIO | None = None, err: TextIO | None = None) -> RunResult:
    """Run the whole job; the summary goes to `out`, by default standard output, all else to `err`.

    Raises:
        ConfigError: Nothing was done, as the request cannot be carried out.
        OutputError: The output cannot be written or does not balance; what is committed stays valid.
    """
    out, err = out or sys.stdout, err or sys.stderr
    request = _settle(request)
    listings = _list_all(request)
    check_reach(request, [listing.root for listing in listings])  # before anything is written
    make_output(request.output)
    with hold_lock(request.output):
        committed = committed_units(request.output)
        job, plan = prepare(request, listings, committed, err)
        sweep_output(request.output, request.config.align.templates)
        if request.retry_failed:
            committed -= forget_failed(request.output, committed, request.tables)
        if request.tables is not None:
            committed -= forget_changed(request.output, request.tables, committed, err)
        pending = plan.pending(committed)
        needed = plan.roots({name for name, _ in pending})
        check_there(job.roots, needed)
        for warning in check_reach(request, [job.roots[name] for name in needed]):
            err.write(f"warning: {warning}\n")
        err.write(_opening(plan, len(pending), listings))
        try:
            outcome = _process(request, job, plan, pending, err) if pending else LocalOutcome()
        finally:
            if not request.detach:  # what is half-written then belongs to the job
                sweep_output(request.output, request.config.align.templates)
        committed = committed_units(request.output)
        check_tables(request.output, committed, request.config.write.crops, request.config.align.templates)
        account = take_account(request.output, plan, committed)
    if request.detach and pending:
        command = f"facemill crop {request.tables.uri}" if request.tables is not None else "facemill run"
        again = f"when it has ended, {command} --output {request.output.uri} counts them and does what is left"
        out.write(f"{len(pending):,} units are left to the job; {again}\n")
        return RunResult(account, outcome, is_detached=True)
    labels = _count_labels(request.output, account, err)
    out.write(_summary(request, account, labels) + "\n")
    if labels.num_shared:
        err.write(warn_of_shared_labels(labels.num_shared, request.output))
    _tell_losses(outcome, err)
    _tell_unused_faces(job, account, err)
    if request.report and request.config.run.report and account.num_units:
        write_report(request.output, request.storage_options, is_changed=bool(pending), out=out, err=err)
    return RunResult(account, outcome)


def _settle(request: RunRequest) -> RunRequest:
    """The request as it is carried out: without credentials, with all arguments of its runner, for this accelerator."""
    check_output(request.output)
    request = _without_signatures(request)
    check_apart(request.output, request.tables)
    if request.runner is not None:
        request = _for_runner(request, request.runner)
    elif request.detach or request.beam_options is not None:
        raise ConfigError("--detach and --beam-options go with --runner")
    return replace(request, config=_settle_config(request))


def _without_signatures(request: RunRequest) -> RunRequest:
    """The request with the credentials of its inputs among the storage options, which are never written down."""
    tables = [request.tables.uri] if request.tables is not None else []
    for uri in (*filter(None, [request.config.landmarks.known_faces]), *tables, *request.moved.values()):
        check_no_signature(uri)  # the manifest keeps it
    inputs, storage_options = separate_signatures(request.inputs, request.storage_options)
    return replace(request, inputs=inputs, storage_options=storage_options)


def _for_runner(request: RunRequest, runner: str) -> RunRequest:
    check_runner(runner)
    arguments = complete_arguments(
        runner, request.beam_arguments, num_workers=request.num_workers, options_file=request.beam_options
    )
    if request.detach:
        check_detaching(runner, arguments)
    check_values(arguments)
    # The workers' own folder is another one, so that a relative path would mean another place to each.
    tables = request.tables.absolute() if request.tables else None
    return replace(request, beam_arguments=arguments, output=request.output.absolute(), tables=tables)


def _settle_config(request: RunRequest) -> Config:
    """The configuration with the accelerator that is meant; the machines of a runner cannot be looked at from here."""
    if request.runner is None:
        return settle_accelerator(request.config)
    if request.config.detect.accelerator == "auto":
        raise ConfigError(
            "detect.accelerator=auto looks at this machine, and a runner's machines may be others; name one: "
            "cpu, openvino or cuda"
        )
    return request.config


def _list_all(request: RunRequest) -> list[Listing]:
    listings = []
    for uri in request.inputs:
        listing = list_inputs(
            uri,
            ignored_extensions=request.config.read.ignored_extensions,
            storage_options=request.storage_options,
        )
        outside = leave_out(listing, request.output)
        if listing.names and not outside.names:
            raise ConfigError(f"the output {request.output.uri} is the input {uri}; choose another folder")
        if not listing.names:
            hint = "; a list of URLs is called *.urls.txt" if uri.endswith((".txt", ".tsv", ".csv")) else ""
            raise ConfigError(f"no input at {uri}: it holds no file that could be an image or a shard{hint}")
        listings.append(outside)
    return listings


def _opening(plan: Plan, num_pending: int, listings: Sequence[Listing]) -> str:
    ignored = sum(listing.num_ignored for listing in listings)
    aside = f" (left aside, as no images by their name: {ignored:,})" if ignored else ""
    return f"units: {len(plan):,} planned, {len(plan) - num_pending:,} committed, {num_pending:,} to do{aside}\n"


def _process(
    request: RunRequest, job: Job, plan: Plan, pending: Sequence[tuple[str, int]], err: TextIO
) -> LocalOutcome:
    progress = Progress(sum(num_bytes for _, num_bytes in pending), err)
    is_complete = False
    try:
        if request.runner is not None:
            _process_remotely(request, job, pending, progress, err)
            is_complete = not request.detach
            return LocalOutcome()
        num_workers = min(request.num_workers, len(pending))
        units = plan.units(name for name, _ in pending)
        outcome = run_local(job, units, num_workers=num_workers, on_activity=progress.update)
        is_complete = not outcome.lost
        return outcome
    finally:
        progress.close(is_complete=is_complete)


def _process_remotely(
    request: RunRequest, job: Job, pending: Sequence[tuple[str, int]], progress: Progress, err: TextIO
) -> None:
    assert request.runner is not None
    run_remote(
        job,
        frozenset(name for name, _ in pending),
        runner=request.runner,
        arguments=request.beam_arguments,
        detach=request.detach,
        on_activity=progress.update,
        err=err,
    )


def _summary(request: RunRequest, account: Account, labels: LabelCounts) -> str:
    write, templates = request.config.write, request.config.align.templates
    return format_account(account, request.output, write.crops, templates, num_labels=labels.num_labels)


def _count_labels(output: Folder, account: Account, err: TextIO) -> LabelCounts:
    """Counted unless it would take long to read the tables, or they are damaged; the report has it in any case."""
    is_quick = output.is_local and account.num_units <= _MAX_COUNTED_UNITS
    if not (is_quick and account.num_kept):
        return LabelCounts()
    try:
        return open_output(output).count_labels()
    except OutputError as damage:
        err.write(f"warning: the labels could not be counted ({redact(str(damage))})\n")
        return LabelCounts()


def _tell_unused_faces(job: Job, account: Account, err: TextIO) -> None:
    """Known faces of images that are no inputs are no silent matter: most likely the image_id is another."""
    if job.known_faces is None:
        return
    num_rows = KnownFaces(job.known_faces).num_rows
    if num_rows and not account.num_faces:
        raise OutputError(
            f"none of the {num_rows:,} known faces belongs to an image of this output: image_id must be the same in "
            "both, and begins with the name of the input folder"
        )
    if account.num_faces < num_rows:
        unused = num_rows - account.num_faces
        err.write(f"warning: {unused:,} of {num_rows:,} known faces have no box or belong to no image of this output\n")


def _tell_losses(outcome: LocalOutcome, err: TextIO) -> None:
    for unit, positions in outcome.quarantined.items():
        err.write(f"{unit}: the images at positions {list(positions)} kept killing their worker and were given up\n")
    for unit, why in outcome.lost.items():
        err.write(f"{unit} was not done, because of {redact(why)}. The same command tries it again\n")
