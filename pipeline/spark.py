"""What facemill asks of a Spark cluster before it hands a job over."""

from __future__ import annotations

import contextlib
import socket

from facemill.models.errors import ConfigError

_TIMEOUT_S = 10.0


def check_masters(url: str) -> None:
    """Refuse a standalone cluster that does not answer, for which Spark itself takes minutes.

    Args:
        url: As `--spark_master_url` takes it: `spark://HOST:PORT`, further masters behind commas; anything else is
            left to Spark.

    Raises:
        ConfigError: No master answers.
    """
    if not url.startswith("spark://"):
        return
    reason = "no port"
    for address in url.removeprefix("spark://").split(","):
        host, _, port = address.rpartition(":")
        try:
            with contextlib.closing(socket.create_connection((host, int(port)), _TIMEOUT_S)):
                return
        except (OSError, ValueError) as error:
            reason = str(error)
    raise ConfigError(f"no Spark master answers at {url}: {reason}")
