"""Beam's options: parsed, and what nobody knows refused, which Beam drops without a word."""

from __future__ import annotations

import argparse
import contextlib
import difflib
from collections.abc import Sequence
from typing import Any, NoReturn

from facemill.models.errors import ConfigError, OutputError
from facemill.pipeline.engines import UBER_JARS, parse_arguments
from facemill.pipeline.errors import brief
from facemill.pipeline.worker import quieten_logging

_CONNECT_SECONDS = 20.0
_FOR_EVER_S = 10 * 365 * 86_400


def check_values(arguments: Sequence[str]) -> None:
    """Refuse what Beam's own options would not take, before anything is written.

    Raises:
        ConfigError: Names the option.
    """
    quieten_logging()
    _take(arguments)


def parse_options(arguments: Sequence[str]) -> Any:
    """Beam's `PipelineOptions`; what it would not take has been refused by `check_values`."""
    from apache_beam.options.pipeline_options import PipelineOptions

    return PipelineOptions(list(arguments))


def check_options(options: Any, arguments: Sequence[str], runner: str) -> list[str]:
    """Refuse an option that nobody knows, which Beam drops without a word, and wait for the job service.

    Returns what is to be added to the arguments.

    Raises:
        ConfigError: Names the option.
        OutputError: The job service does not answer.
    """
    from apache_beam.options.pipeline_options import PortableOptions

    portable = options.view_as(PortableOptions)
    endpoint = portable.job_endpoint
    served: list[Any] = []
    added: list[str] = []
    if endpoint and endpoint != "embed":
        served = _served_options(endpoint, min(portable.job_server_timeout, _CONNECT_SECONDS))
        added.append(f"--job_server_timeout={_FOR_EVER_S}")  # it also ends the watching of jobs that take longer
    known, unknown = _take(arguments, served)
    if unknown and not UBER_JARS & parse_arguments(arguments).keys():  # a cluster over REST says nothing of its options
        near = difflib.get_close_matches(unknown[0].partition("=")[0], known, n=1, cutoff=0.75)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(f"neither facemill nor {runner} knows {unknown[0]}{hint}")
    return added


def _take(arguments: Sequence[str], served: Sequence[Any] = ()) -> tuple[list[str], list[str]]:
    """The names of all options that there are, and the arguments that are none of them.

    Raises:
        ConfigError: A value that its option does not take, or an option that facemill's jobs do not take.
    """
    from apache_beam.options.pipeline_options import PipelineOptions

    parser = _OptionsParser(allow_abbrev=False, add_help=False)
    for part in dict.fromkeys(PipelineOptions.__subclasses__()):
        part._add_argparse_args(parser)
    for option in served:
        with contextlib.suppress(argparse.ArgumentError):  # Beam's Python part knows it already
            parser.add_argument(f"--{option.name}", **_as_beam_declares(option))
    taken, unknown = parser.parse_known_args(list(arguments))
    if taken.streaming:
        raise ConfigError("--streaming: facemill's jobs are batch jobs")
    return parser.names, unknown


def _as_beam_declares(option: Any) -> dict[str, Any]:
    """How Beam reads a job service's option from the command line."""
    from apache_beam.portability.api import beam_job_api_pb2

    kinds = beam_job_api_pb2.PipelineOptionType
    if option.type == kinds.BOOLEAN:
        return {"action": "store_false" if option.default_value == "true" else "store_true"}
    return {"action": "append"} if option.type == kinds.ARRAY else {}


class _OptionsParser(argparse.ArgumentParser):
    """Takes Beam's declarations of options, and complains in our own way."""

    def __init__(self, **settings: Any) -> None:
        self.names: list[str] = []
        super().__init__(**settings)

    def add_argument(self, *names: str, **settings: Any) -> argparse.Action:
        """Declare an option, and remember its names."""
        action = super().add_argument(*names, **settings)
        self.names += names
        return action

    def add_value_provider_argument(self, *names: str, **settings: Any) -> None:
        """As Beam's own parser has it."""
        self.add_argument(*names, **settings)

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing all of Beam's options."""
        raise ConfigError(f"Beam does not take these options: {message}")


def _served_options(endpoint: str, timeout_s: float) -> list[Any]:
    """The options that a job service takes, as it describes them.

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
            raise OutputError(f"the job service at {endpoint} does not work: {brief(error)}") from error
    return list(described.options)
