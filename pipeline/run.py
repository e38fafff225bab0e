"""`facemill run`: plan, process what is not committed, account."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TextIO

from facemill.models.errors import ConfigError, OutputError
from facemill.pipeline.beam_options import check_values
from facemill.pipeline.config import Config, settle_accelerator
from facemill.pipeline.engines import check_detaching, check_reachable, check_runner, complete_arguments
from facemill.pipeline.job import Job
from facemill.pipeline.listing import Listing, list_inputs
from facemill.pipeline.local import LocalOutcome, run_local
from facemill.pipeline.lock import hold_lock
from facemill.pipeline.manifest import check_same_result, make_manifest, read_manifest
from facemill.pipeline.output_folder import check_output, check_whole, forget_failed, make_output, sweep_output
from facemill.pipeline.plan import Plan, append_units, plan_new_inputs, read_plan
from facemill.pipeline.progress import Progress
from facemill.pipeline.remote import run_remote
from facemill.pipeline.roots import check_disjoint, leave_out, name_roots
from facemill.pipeline.summary import (
    Account,
    check_tables,
    committed_units,
    format_account,
    take_account,
)
from facemill.transforms.ops.credentials import check_no_signature, separate_signatures
from facemill.transforms.ops.known_faces import KnownFaces
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
    check_output(request.output)
    request = _without_signatures(request)
    if request.runner is None:
        if request.detach or request.beam_options is not None:
            raise ConfigError("--detach and --beam-options go with --runner")
    else:
        request = _for_runner(request, request.runner)
    request = replace(request, config=_settle(request))
    listings = _list_all(request)
    if request.runner is not None:  # before anything is written
        folders = [request.output, *(listing.root for listing in listings)]
        check_reachable(request.runner, request.beam_arguments, folders)
    make_output(request.output)
    with hold_lock(request.output):
        committed = committed_units(request.output)
        job, plan = _plan(request, listings, committed, err)
        sweep_output(request.output)
        if request.retry_failed:
            committed -= forget_failed(request.output, committed)
        pending = plan.pending(committed)
        roots = _needed_roots(job, plan, pending)
        if request.runner is not None:
            folders = [job.output, *roots, *([job.known_faces] if job.known_faces else [])]
            for warning in check_reachable(request.runner, request.beam_arguments, folders):
                err.write(f"warning: {warning}\n")
        err.write(_opening(plan, len(pending), listings))
        try:
            outcome = _process(request, job, plan, pending, err) if pending else LocalOutcome()
        finally:
            if not request.detach:  # what is half-written then belongs to the job
                sweep_output(request.output)
        committed = committed_units(request.output)
        check_tables(request.output, committed, request.config.write.crops)
        account = take_account(request.output, plan, committed)
    if request.detach and pending:
        again = f"when it has ended, facemill run --output {request.output.uri} counts them and does what is left"
        out.write(f"{len(pending):,} units are left to the job; {again}\n")
        return RunResult(account, outcome, is_detached=True)
    out.write(format_account(account, request.output, request.config.write.crops) + "\n")
    _tell_losses(outcome, err)
    _tell_unused_faces(job, account, err)
    return RunResult(account, outcome)


def _without_signatures(request: RunRequest) -> RunRequest:
    """The request with the credentials of its URLs among the storage options, which are never written down."""
    known_faces = request.config.landmarks.known_faces
    if known_faces is not None:
        check_no_signature(known_faces)  # the configuration is written down
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
    return replace(request, beam_arguments=arguments, output=_absolute(request.output))


def _absolute(folder: Folder) -> Folder:
    return replace(folder, uri=folder.path) if folder.is_local else folder


def _settle(request: RunRequest) -> Config:
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
            raise ConfigError(f"no input at {uri}: it holds no file that could be an image or a shard")
        listings.append(outside)
    return listings


def _plan(request: RunRequest, listings: Sequence[Listing], committed: frozenset[str], err: TextIO) -> tuple[Job, Plan]:
    """Check that the request fits to what the output folder holds, and append units for new inputs."""
    output = request.output
    earlier = read_manifest(output)
    earlier_inputs = earlier.inputs if earlier else {}
    plan = read_plan(output)
    check_whole(output, plan, committed, has_manifest=earlier is not None)
    if not len(plan) and not listings:
        raise ConfigError(f"{output.uri} holds no run to go on with; name the --input")
    named = name_roots(listings, earlier_inputs)
    uris = {**earlier_inputs, **{name: listing.root.uri for name, listing in named.items()}}
    known = request.config.landmarks.known_faces
    known_faces = Folder(known, request.storage_options) if known else None
    if known_faces is not None:
        KnownFaces(known_faces)  # refuses what is no such table, before the manifest names it
    manifest = make_manifest(request.config, uris, runs_here=request.runner is None)
    if earlier is not None:
        for warning in check_same_result(earlier, manifest, output):
            err.write(f"warning: {warning}\n")
    check_disjoint(named, earlier_inputs, plan.known_sizes())
    units = plan_new_inputs(
        plan,
        named,
        request.config.run,
        on_split=lambda source: print(f"looking through {source}", file=err),
        on_whole=lambda message: print(message, file=err),
    )
    if earlier is None or earlier.inputs != uris:
        manifest.write(output)
    for name in named.keys() - earlier_inputs.keys() if earlier_inputs else ():
        err.write(f"new input root {name} ({uris[name]}) beside {', '.join(sorted(earlier_inputs))}\n")
    plan = append_units(output, plan, units)
    roots = {name: Folder(uri, request.storage_options) for name, uri in uris.items()}
    if known_faces is not None and request.runner is not None:
        known_faces = _absolute(known_faces)
    return Job(request.config, roots, output, known_faces), plan


def _needed_roots(job: Job, plan: Plan, pending: Sequence[tuple[str, int]]) -> list[Folder]:
    """The input roots of pending units; an archive whose disk is not mounted or that was moved is not written off.

    Raises:
        ConfigError: Names the input root that is gone.
    """
    needed = sorted(plan.roots({name for name, _ in pending}))
    for name in needed:
        root = job.roots[name]
        if root.is_local and not root.exists(""):
            raise ConfigError(f"the input {name} ({root.uri}) is gone; bring it back, then run the same command")
    return [job.roots[name] for name in needed]


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
        err.write(f"{unit} was not done, because of {why}. The same command tries it again\n")
