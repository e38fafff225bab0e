"""`--runner`: the same graph handed to a Beam runner, with all of Beam's own options."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import logging
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NoReturn, TextIO

from facemill.models.errors import ConfigError, OutputError
from facemill.pipeline.engines import beam_name
from facemill.pipeline.flink import cancel_jobs, is_embedded
from facemill.pipeline.follow import following
from facemill.pipeline.job import Job
from facemill.pipeline.job_server import needs_job_server, start_job_server
from facemill.pipeline.local import Activity
from facemill.pipeline.worker import quieten_logging

_CONNECT_SECONDS = 60.0
_FOR_EVER_S = 10 * 365 * 86_400


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
        arguments = ["--runner", beam_name(runner), *arguments]
        _take_options(arguments)  # before Beam does, whose complaints are pages long
        options = _parse_options(arguments)
        if needs_job_server(runner, options):
            err.write(f"starting the job server of {runner}; log: {log}\n")
            endpoint = stack.enter_context(start_job_server(runner, options, log))
            arguments.append(f"--job_endpoint={endpoint}")
            options = _parse_options(arguments)
        try:
            arguments += _check_options(options, arguments, runner)
            result = _make_pipeline(runner, arguments, job, pending).run()
            if detach:
                err.write(f"submitted{_job_id(result)}\n")
                return
            with following(job.output, on_activity):
                state = _wait(result, options)
        except ConfigError:
            raise
        except Exception as error:  # runners raise whatever they please, of gRPC for instance
            raise _explain(error, runner, log) from error
        if state not in (None, "DONE"):
            raise OutputError(f"the job ended on {runner} as {state}; its log is {log}")


def _parse_options(arguments: Sequence[str]) -> Any:
    from apache_beam.options.pipeline_options import PipelineOptions

    return PipelineOptions(list(arguments))


def _make_pipeline(runner: str, arguments: Sequence[str], job: Job, pending: frozenset[str]) -> Any:
    import apache_beam as beam

    from facemill.pipeline.graph import process_units
    from facemill.pipeline.schedule import ReadPlan, pending_rows

    try:
        pipeline = beam.Pipeline(options=_parse_options(arguments))
    except (ValueError, ImportError, AttributeError) as error:
        raise ConfigError(f"Beam does not take --runner {runner} with these options: {error}") from error
    units = pipeline | "Plan" >> ReadPlan(job.output, pending_rows(job.output, pending))
    process_units(units, job=job, quarantined={})
    return pipeline


def _check_options(options: Any, arguments: Sequence[str], runner: str) -> list[str]:
    """Refuse an option that nobody knows, which Beam drops without a word, and wait for the job service.

    Returns what is to be added to the arguments.

    Raises:
        ConfigError: Names the option.
        OutputError: The job service does not answer.
    """
    from apache_beam.options.pipeline_options import PortableOptions

    portable = options.view_as(PortableOptions)
    endpoint = portable.job_endpoint
    served: list[str] = []
    added: list[str] = []
    if endpoint and endpoint != "embed":
        served = _served_options(endpoint, min(portable.job_server_timeout, _CONNECT_SECONDS))
        added.append(f"--job_server_timeout={_FOR_EVER_S}")  # it also ends the watching of jobs that take longer
    known, unknown = _take_options(arguments, served)
    if unknown and not _takes_any_options(options):
        near = difflib.get_close_matches(unknown[0].partition("=")[0], known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(f"neither facemill nor {runner} knows {unknown[0]}{hint}")
    return added


def _take_options(arguments: Sequence[str], served: Sequence[str] = ()) -> tuple[list[str], list[str]]:
    """The names of all options that there are, and the arguments that are none of them.

    Raises:
        ConfigError: A value that its option does not take, or an option that facemill's jobs do not take.
    """
    from apache_beam.options.pipeline_options import PipelineOptions

    parser = _OptionsParser(allow_abbrev=False, add_help=False)
    for part in dict.fromkeys(PipelineOptions.__subclasses__()):
        part._add_argparse_args(parser)
    for name in served:
        with contextlib.suppress(argparse.ArgumentError):  # Beam's Python part knows it already
            parser.add_argument(f"--{name}")
    taken, unknown = parser.parse_known_args(list(arguments))
    if taken.streaming:
        raise ConfigError("--streaming: facemill's jobs are batch jobs")
    return [name for action in parser._actions for name in action.option_strings], unknown


class _OptionsParser(argparse.ArgumentParser):
    """Takes Beam's declarations of options, and complains in our own way."""

    def add_value_provider_argument(self, *names: str, **settings: Any) -> None:
        """As Beam's own parser has it."""
        self.add_argument(*names, **settings)

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing all of Beam's options."""
        raise ConfigError(f"Beam does not take these options: {message}")


def _takes_any_options(options: Any) -> bool:
    """Whether options go to a cluster that says nothing of those it knows."""
    from apache_beam.options.pipeline_options import FlinkRunnerOptions, SparkRunnerOptions

    return bool(
        options.view_as(FlinkRunnerOptions).flink_submit_uber_jar
        or options.view_as(SparkRunnerOptions).spark_submit_uber_jar
    )


def _served_options(endpoint: str, timeout_s: float) -> list[str]:
    """The names of the options that a job service takes.

    Raises:
        OutputError: It does not answer.
    """
    import grpc
    from apache_beam.portability.api import beam_job_api_pb2, beam_job_api_pb2_grpc

    with grpc.insecure_channel(endpoint) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=timeout_s)
            service = beam_job_api_pb2_grpc.JobServiceStub(channel)
            described = service.DescribePipelineOptions(beam_job_api_pb2.DescribePipelineOptionsRequest(), timeout=60)
        except grpc.FutureTimeoutError as error:
            raise OutputError(f"no job service answers at {endpoint}") from error
        except grpc.RpcError as error:
            raise OutputError(f"the job service at {endpoint} does not work: {error}") from error
    return [option.name for option in described.options]


def _wait(result: Any, options: Any) -> Any:
    """Wait for a job's end; an interrupt ends the job as well, where the runner can."""
    from apache_beam.options.pipeline_options import FlinkRunnerOptions, GoogleCloudOptions

    try:
        return result.wait_until_finish()
    except KeyboardInterrupt:
        with contextlib.suppress(Exception):  # some runners cannot cancel, and have errors of their own for it
            result.cancel()
        master, name = options.view_as(FlinkRunnerOptions).flink_master, options.view_as(GoogleCloudOptions).job_name
        if name and not is_embedded(master):
            with contextlib.suppress(OSError, ValueError, KeyError):
                cancel_jobs(master, name)
        raise


def _explain(error: Exception, runner: str, log: Path) -> Exception:
    from facemill.pipeline.errors import brief, known_error

    return known_error(error) or OutputError(f"the job failed on {runner}: {brief(error)}; its log is {log}")


def _job_id(result: Any) -> str:
    if not getattr(result, "has_job", True):  # a Flex Template's launcher only writes the job down
        return ""
    job_id = getattr(result, "_job_id", None) or getattr(result, "job_id", lambda: "")()
    return f" as {job_id}" if job_id else ""


@contextmanager
def _logging_to_file(runner: str) -> Iterator[Path]:
    """Inside the block, what Beam and the engine log goes to a file, which stays if the job fails in the block."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    log = Path(tempfile.gettempdir()) / f"facemill-{runner.rsplit('.', 1)[-1].lower()}-{stamp}-{os.getpid()}.log"
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
