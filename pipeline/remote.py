"""`--runner`: the same graph handed to a Beam runner, with all of Beam's own options."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

from facemill.models.errors import ConfigError, OutputError
from facemill.pipeline.job import Job
from facemill.pipeline.worker import quieten_logging
from facemill.transforms.ops.units import Unit

_LOSING_RUNNERS = frozenset({"daskrunner"})
_FULL_NAMES = {
    # It first tries to download the Prism binary, without a time limit; FnApiRunner runs the same graph offline.
    "directrunner": "apache_beam.runners.portability.fn_api_runner.FnApiRunner",
    "fnapirunner": "apache_beam.runners.portability.fn_api_runner.FnApiRunner",
    "bundlebaseddirectrunner": "apache_beam.runners.direct.direct_runner.BundleBasedDirectRunner",
}


def run_remote(job: Job, units: Sequence[Unit], *, runner: str, arguments: Sequence[str]) -> None:
    """Run the graph on all units with a Beam runner, and wait for its end.

    Args:
        job: The run.
        units: What is to be done.
        runner: The runner's name, as Beam's `--runner` takes it.
        arguments: Further options for Beam, as on its command line.

    Raises:
        ConfigError: The runner is unknown, refused, or does not take these options.
        OutputError: The job failed; what is committed stays valid.
    """
    quieten_logging()
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

    from facemill.pipeline.errors import brief, known_error
    from facemill.pipeline.graph import process_units

    name = _FULL_NAMES.get(runner.lower(), runner)
    try:
        options = PipelineOptions(["--runner", name, *arguments])
        pipeline = beam.Pipeline(options=options)
    except (ValueError, ImportError, AttributeError) as error:
        raise ConfigError(f"Beam does not take --runner {runner} with these options: {error}") from error
    process_units(pipeline | "Units" >> beam.Create(units) | "Spread" >> beam.Reshuffle(), job=job, quarantined={})
    try:
        state = _wait(pipeline.run())
    except Exception as error:  # runners raise whatever they please, of gRPC for instance
        why = known_error(error) or OutputError(f"the job failed on {runner}: {brief(error)}")
        raise why from error
    if state not in (None, "DONE"):
        raise OutputError(f"the job ended on {runner} as {state}; see its log")


def _wait(result: Any) -> Any:
    """Wait for a job's end; an interrupt ends the job as well, where the runner can."""
    try:
        return result.wait_until_finish()
    except KeyboardInterrupt:
        with contextlib.suppress(Exception):  # some runners cannot cancel, and have errors of their own for it
            result.cancel()
        raise


def check_runner(runner: str) -> None:
    """Refuse a runner that is known to lose data.

    Raises:
        ConfigError: Says which and why.
    """
    if runner.rsplit(".", 1)[-1].lower() in _LOSING_RUNNERS:
        raise ConfigError(f"--runner {runner} loses outputs without a word in Beam 2.77; use another runner")
