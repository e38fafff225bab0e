"""`facemill-worker`: a worker process of a cluster, started by an engine without a container.

Beam's PROCESS environment and its external worker pool start a worker by one command with the addresses of the engine's
services. In Beam's images that is a program in Go; this one does the same for an installed facemill.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time

_WATCH_SECONDS = 2.0


def main() -> int:
    """Entry point: fetch the job's options from the engine, then serve it until it hangs up."""
    options = _parse()
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    from apache_beam.runners.worker import sdk_worker_main

    try:
        os.environ.update(_environment(options))
        sdk_worker_main.main([])
    except Exception as error:  # the engine hung up, or the job cannot be unpacked; both are told in its log as well
        details = getattr(error, "details", None)  # gRPC's errors are pages long
        sys.stderr.write(f"facemill-worker: {type(error).__name__}: {details() if callable(details) else error}\n")
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)  # whatever threads of Beam or of a store's library are left


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="facemill-worker",
        description="A worker process for Flink, Spark and other Beam engines; engines start it, people need not. "
        'Hand its path to Beam: --environment_type=PROCESS --environment_config=\'{"command": "/path/of/it"}\', or '
        "start a pool: python -m apache_beam.runners.worker.worker_pool_main --container_executable=/path/of/it",
    )
    parser.add_argument("--id", required=True, help="the worker's name in its engine")
    parser.add_argument("--provision_endpoint", required=True, metavar="HOST:PORT", help="tells of all the others")
    return parser.parse_known_args()[0]  # engines differ in what else they hand over, all of which is told there


def _environment(options: argparse.Namespace) -> dict[str, str]:
    """What Beam's worker takes from its environment variables."""
    import grpc
    from apache_beam.portability.api import beam_provision_api_pb2, beam_provision_api_pb2_grpc
    from google.protobuf import json_format, text_format

    with grpc.insecure_channel(options.provision_endpoint) as channel:
        provisioning = beam_provision_api_pb2_grpc.ProvisionServiceStub(channel)
        request = beam_provision_api_pb2.GetProvisionInfoRequest()
        info = provisioning.GetProvisionInfo(request, metadata=[("worker_id", options.id)], timeout=60).info
    return {
        "WORKER_ID": options.id,
        "CONTROL_API_SERVICE_DESCRIPTOR": text_format.MessageToString(info.control_endpoint),
        "LOGGING_API_SERVICE_DESCRIPTOR": text_format.MessageToString(info.logging_endpoint),
        "PIPELINE_OPTIONS": json.dumps(json_format.MessageToDict(info.pipeline_options)),
        "RUNNER_CAPABILITIES": " ".join(info.runner_capabilities),
    }


def _end_with(parent: int) -> None:
    """End this process when its engine dies, so that no worker goes on for a job that is done elsewhere again."""
    while os.getppid() == parent:
        time.sleep(_WATCH_SECONDS)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
