"""What facemill asks of a Flink cluster's REST interface."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

from facemill.models.errors import ConfigError

_EMBEDDED = ("[local]", "[auto]")
_EMBEDDED_VERSION = "1.19"
_ENDED = frozenset({"CANCELED", "FAILED", "FINISHED"})
_TIMEOUT_S = 20.0


def is_embedded(master: str) -> bool:
    """Whether `--flink_master` means a Flink inside the job server."""
    return master in _EMBEDDED


def cluster_facts(master: str, num_workers: int, num_wanted: int | None) -> Mapping[str, object]:
    """Slots, worker processes for each machine and Flink's version, of a cluster or of one that is embedded.

    Args:
        master: As `--flink_master` takes it.
        num_workers: Slots of an embedded cluster, and of one that starts its machines on demand.
        num_wanted: The slots that the user asks for, if any.

    Raises:
        ConfigError: No cluster answers, or it has fewer slots, so that the job would wait for more.
    """
    num_workers = num_wanted or num_workers
    if is_embedded(master):
        return {"slots": num_workers, "processes_per_machine": 2 * num_workers, "version": _EMBEDDED_VERSION}
    try:
        overview = _ask(master, "/overview")
        machines, slots = int(overview["taskmanagers"]), int(overview["slots-total"])
        version = ".".join(str(overview["flink-version"]).split(".")[:2])
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = getattr(error, "reason", error)
        raise ConfigError(f"no Flink cluster answers at {_address(master)}: {reason}") from error
    if not slots:  # a cluster that starts its task managers on demand
        return {"slots": num_workers, "processes_per_machine": 0, "version": version}
    if num_wanted is not None and num_wanted > slots:
        raise ConfigError(f"--parallelism={num_wanted}: the Flink cluster at {_address(master)} has {slots} slots")
    return {"slots": slots, "processes_per_machine": 2 * -(-slots // machines), "version": version}


def job_ids(master: str) -> frozenset[str]:
    """The cluster's jobs, ended ones included.

    Raises:
        OSError, ValueError, KeyError: The cluster does not answer as expected.
    """
    return frozenset(str(job["jid"]) for job in _ask(master, "/jobs/overview")["jobs"])


def cancel_jobs(master: str, *, name: str, but: frozenset[str]) -> None:
    """End the cluster's jobs of this name that are none of `but`.

    Beam's job server leaves its jobs running when it is told to cancel them.

    Raises:
        OSError, ValueError, KeyError: The cluster does not answer as expected.
    """
    for job in _ask(master, "/jobs/overview")["jobs"]:
        if job["name"] == name and job["jid"] not in but and job["state"] not in _ENDED:
            _ask(master, f"/jobs/{job['jid']}?mode=cancel", method="PATCH")


def _ask(master: str, path: str, *, method: str = "GET") -> Any:
    request = urllib.request.Request(_address(master) + path, method=method)
    with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:
        return json.load(response)


def _address(master: str) -> str:
    address = master if master.startswith(("http://", "https://")) else f"http://{master}"
    return address.rstrip("/")
