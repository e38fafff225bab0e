"""`--runner`: the same graph handed to a Beam runner, with all of Beam's own options."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from facemill.models.errors import ConfigError, OutputError
from facemill.pipeline.beam_options import check_options, parse_options
from facemill.pipeline.engines import beam_name, runner_key, starts_job_server
from facemill.pipeline.errors import brief, is_worker_death, known_error
from facemill.pipeline.flink import cancel_jobs, is_embedded, job_ids
from facemill.pipeline.follow import following
from facemill.pipeline.job import Job
from facemill.pipeline.job_server import start_job_server
from facemill.pipeline.local import Activity
from facemill.pipeline.summary import committed_units
from facemill.pipeline.worker import quieten_logging

_MAX_DEATHS = 3  # of a worker, in a row without a unit that was committed meanwhile


def run_remote(
    job: Job,
    pending: frozenset[str],
    *,
    runner: str,
    arguments: Sequence[str],
    detach: bool = False,
    on_activity: Callable[[Activity], None] = lambda activity: None,
    err: TextIO,
) -> None:
    """Run the graph on the pending units with a Beam runner, and wait for its end unless told to `detach`.

    A job that fails because a worker died is submitted again for what is left, as long as it gets on.

    Args:
        job: The run.
        pending: The names of the units that are to be done.
        runner: The runner's name, as Beam's `--runner` takes it.
        arguments: All further options for Beam, as on its command line.
        detach: Return when the job is submitted.
        on_activity: Told from time to time what has been committed.
        err: Where to say what goes on.

    Raises:
        ConfigError: The runner is unknown, refused, or does not take these options.
        OutputError: The job failed; what is committed stays valid.
    """
    quieten_logging()
    with ExitStack() as stack:
        log = stack.enter_context(_logging_to_file(runner))
        stack.enter_context(_own_temporary_folder())
        arguments = ["--runner", beam_name(runner), *arguments]
        options = parse_options(arguments)
        if starts_job_server(runner, arguments):
            err.write(f"starting the job server of {runner}; log: {log}\n")
            arguments.append(f"--job_endpoint={stack.enter_context(start_job_server(runner, options, log))}")
            options = parse_options(arguments)
        arguments += check_options(options, arguments, runner)
        submission = _Submission(job, runner, tuple(arguments), options, log, err)
        if detach:
            submission.submit(pending)
            return
        with following(job.output, on_activity):
            _run_to_its_end(submission, pending)


def _run_to_its_end(submission: _Submission, pending: frozenset[str]) -> None:
    num_deaths = 0
    while pending:
        try:
            submission.submit(pending).wait()
            return
        except _WorkerDeathError as death:
            left = pending - committed_units(submission.job.output)
            num_deaths = 1 if len(left) < len(pending) else num_deaths + 1
            if num_deaths >= _MAX_DEATHS:
                raise OutputError(f"{death}; without --runner a picture that kills its worker is found") from death
            pending = left
            submission.err.write(f"{death}; the job is submitted again for what is left\n")


class _WorkerDeathError(OutputError):
    """A job failed because a process died under it, so that another attempt may succeed."""


@dataclass(frozen=True)
class _Submission:
    """All that it takes to submit the job, once or again."""

    job: Job
    runner: str
    arguments: tuple[str, ...]
    options: Any
    log: Path
    err: TextIO

    def submit(self, pending: frozenset[str]) -> _RunningJob:
        """Hand the graph for these units over."""
        master = self._flink_cluster()
        try:
            earlier = job_ids(master) if master else frozenset()
            running = _RunningJob(self, _make_pipeline(self, pending).run(), master, earlier)
        except (Exception, SystemExit) as error:  # the latter of Beam's parser
            raise self.explain(error) from error
        if running.name:
            self.err.write(f"submitted{running.name}\n")
        return running

    def explain(self, error: BaseException) -> Exception:
        """What a runner's error means in our words; runners raise whatever they please, of gRPC for instance."""
        if isinstance(error, ConfigError):
            return error
        known = known_error(error) if isinstance(error, Exception) else None
        if known is not None:
            return type(known)(f"{known}; its log is {self.log}")
        kind = _WorkerDeathError if is_worker_death(error) else OutputError
        return kind(f"the job failed on {self.runner}: {brief(error)}; its log is {self.log}")

    def _flink_cluster(self) -> str:
        """The address of a Flink cluster that runs the job; empty for all else."""
        from apache_beam.options.pipeline_options import FlinkRunnerOptions

        master = str(self.options.view_as(FlinkRunnerOptions).flink_master)
        return "" if is_embedded(master) else master


@dataclass(frozen=True)
class _RunningJob:
    """A job that was submitted."""

    submission: _Submission
    result: Any
    flink_cluster: str
    earlier_jobs: frozenset[str]  # of the Flink cluster

    @property
    def name(self) -> str:
        """` as ...` with what Dataflow calls the job, or what facemill calls it elsewhere."""
        from apache_beam.options.pipeline_options import GoogleCloudOptions

        if not getattr(self.result, "has_job", True):  # a Flex Template's launcher only writes the job down
            return ""
        job_id = getattr(self.result, "job_id", None)
        name = job_id() if callable(job_id) else self.submission.options.view_as(GoogleCloudOptions).job_name
        return f" as {name}" if name else ""

    def wait(self) -> None:
        """Wait for the job's end; an interrupt ends the job as well, where the runner can.

        Raises:
            OutputError: The job failed.
        """
        try:
            state = self.result.wait_until_finish()
        except KeyboardInterrupt:
            with contextlib.suppress(Exception):  # some runners cannot cancel, and have errors of their own for it
                self.result.cancel()
            self._cancel_on_flink()
            raise
        except Exception as error:
            self._cancel_on_flink()  # a job server that died leaves its job there
            raise self.submission.explain(error) from error
        if state not in (None, "DONE"):
            raise OutputError(f"the job ended on {self.submission.runner} as {state}; its log is {self.submission.log}")

    def _cancel_on_flink(self) -> None:
        if not self.flink_cluster:
            return
        try:
            cancel_jobs(self.flink_cluster, but=self.earlier_jobs, name=self.name.removeprefix(" as "))
        except (OSError, ValueError, KeyError) as error:
            why = f"could not be cancelled at {self.flink_cluster} ({error})"
            self.submission.err.write(f"warning: the job{self.name} {why}; cancel it there\n")


def _make_pipeline(submission: _Submission, pending: frozenset[str]) -> Any:
    import apache_beam as beam

    from facemill.pipeline.graph import process_units
    from facemill.pipeline.schedule import ReadPlan, pending_rows

    job = submission.job
    try:
        pipeline = beam.Pipeline(options=parse_options(submission.arguments))
    except (ValueError, ImportError, AttributeError) as error:
        raise ConfigError(f"Beam does not take --runner {submission.runner} with these options: {error}") from error
    units = pipeline | "Plan" >> ReadPlan(job.output, pending_rows(job.output, pending))
    process_units(units, job=job, quarantined={})
    return pipeline


@contextmanager
def _own_temporary_folder() -> Iterator[None]:
    """Inside the block, what Beam leaves in temporary folders goes to one that is removed at the end."""
    before = tempfile.tempdir
    with tempfile.TemporaryDirectory(prefix="facemill-", ignore_cleanup_errors=True) as folder:
        tempfile.tempdir = folder
        try:
            yield
        finally:
            tempfile.tempdir = before


@contextmanager
def _logging_to_file(runner: str) -> Iterator[Path]:
    """Inside the block, what Beam and the engine log goes to a file, which stays if the job fails in the block."""
    descriptor, name = tempfile.mkstemp(prefix=f"facemill-{runner_key(runner)}-", suffix=".log")
    os.close(descriptor)
    log = Path(name)
    root, of_beam = logging.getLogger(), logging.getLogger("apache_beam")
    before = root.handlers[:], root.level, of_beam.level, threading.excepthook
    handler = logging.FileHandler(log, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    of_beam.setLevel(logging.INFO)
    threading.excepthook = _log_thread_error  # Beam's threads fail when a job is cancelled below them
    is_needed = True
    try:
        yield log
        is_needed = False
    except (ConfigError, KeyboardInterrupt):
        is_needed = False
        raise
    finally:
        root.handlers[:] = before[0]
        root.setLevel(before[1])
        of_beam.setLevel(before[2])
        threading.excepthook = before[3]
        handler.close()
        if not is_needed:
            log.unlink(missing_ok=True)


def _log_thread_error(failed: threading.ExceptHookArgs) -> None:
    if failed.exc_value is not None:
        logging.getLogger(__name__).error("a thread ended with an error", exc_info=failed.exc_value)
