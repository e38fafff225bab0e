"""What runs inside a worker process of the local mode."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import MutableSequence

from facemill.models.errors import FacemillError, OutputError
from facemill.pipeline.job import Job
from facemill.transforms.ops import heartbeat
from facemill.transforms.ops.committing import UnitSummary
from facemill.transforms.ops.layout import marker_name
from facemill.transforms.ops.units import Unit

_job: Job | None = None


def start_worker(job: Job, slots: MutableSequence[int]) -> None:
    """Set the process up; the first thing that runs in it."""
    global _job
    _job = job
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C means
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    quieten_logging()
    slots[heartbeat.Slot.PID] = os.getpid()
    heartbeat.install(slots)


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def quieten_logging() -> None:
    """Silence Beam, whose errors are told in our own words; called before it is imported, as it logs on import."""
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level=logging.ERROR)
    logging.getLogger("apache_beam").setLevel(logging.CRITICAL)
    logging.getLogger("PIL").setLevel(logging.CRITICAL)  # what it says of a picture is in the picture's row
    logging.getLogger("facemill").setLevel(logging.WARNING)


def run_unit(unit: Unit, quarantined: tuple[int, ...]) -> UnitSummary:
    """Run the graph on one unit, in memory; returns what its commit marker says."""
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.runners.portability.fn_api_runner import FnApiRunner

    from facemill.pipeline.errors import known_error
    from facemill.pipeline.graph import process_units

    assert _job is not None
    options = PipelineOptions(flags=[], direct_running_mode="in_memory")
    try:
        with beam.Pipeline(runner=FnApiRunner(), options=options) as pipeline:
            process_units(
                pipeline | "Unit" >> beam.Create([unit], reshuffle=False),
                job=_job,
                quarantined={unit.name: quarantined},
            )
    except (FacemillError, RuntimeError) as error:
        raise (known_error(error) or error) from error
    marker = marker_name(unit.name)
    if not _job.output.exists(marker):
        raise OutputError(f"{unit.name} ended without a commit marker")
    return UnitSummary.from_json(_job.output.read_bytes(marker), _job.output.shown(marker))
