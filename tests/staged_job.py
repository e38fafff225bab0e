"""Runs a staged Dataflow job with workers of this interpreter.

    python staged_job.py JOB.json FOLDER

`JOB.json` is the body of the request for the job, `FOLDER/staged` holds what was staged for it. Beam's FnApiRunner
takes the part of the service.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.portability.python_urns import SUBPROCESS_SDK
from apache_beam.runners.portability.fn_api_runner import FnApiRunner


def main() -> None:
    """Parse and run."""
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    folder = Path(sys.argv[2])
    pipeline = beam_runner_api_pb2.Pipeline.FromString((folder / "staged" / "pipeline.pb").read_bytes())
    for environment in pipeline.components.environments.values():
        environment.urn = SUBPROCESS_SDK
        environment.payload = f"{sys.executable} -m apache_beam.runners.worker.sdk_worker_main".encode()
        environment.ClearField("dependencies")  # the caller has installed them, as the container's boot program does
    options = folder / "options.json"
    options.write_text(json.dumps(_whole(job["environment"]["sdkPipelineOptions"])), encoding="utf-8")
    os.environ |= {"SEMI_PERSISTENT_DIRECTORY": str(folder), "PIPELINE_OPTIONS_FILE": str(options)}
    FnApiRunner().run_via_runner_api(pipeline, PipelineOptions([])).wait_until_finish()


def _whole(value: Any) -> Any:
    """Numbers as the container's boot program writes them, in Go; Python writes 1.0 for the 1 of a protobuf Struct."""
    if isinstance(value, dict):
        return {name: _whole(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_whole(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


if __name__ == "__main__":
    main()
