"""The fsspec drivers of the stores, found by URI and set up for long runs."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from facemill.models.errors import ConfigError
from facemill.transforms.ops.credentials import SIGNED_URLS, redact
from facemill.transforms.ops.retrying import RetryingFileSystem
from facemill.transforms.ops.store_errors import explain

# The first name of each store's protocol, by all of them.
_STORES = {"s3a": "s3", "gcs": "gs", "az": "abfs", "abfss": "abfs", "https": "http"}
_EXTRAS = {"s3": "s3", "gs": "gcs", "abfs": "azure"}
_LOGGERS = ("asyncio", "azure", "fsspec", "gcsfs", "s3fs")  # log with a traceback what is raised as well, or retried
# Up to when an answer must begin or go on; aiohttp's own limit is 300 s for a whole file, however large.
_CONNECT_SECONDS, _READ_SECONDS = 20.0, 30.0


def store_of(uri: str) -> str:
    """The store's protocol by its first name: `s3`, `gs`, `abfs`, `http`, ...; `file` for a path."""
    protocol = str(fsspec.utils.get_protocol(uri))
    return _STORES.get(protocol, protocol)


def is_object_store(uri: str) -> bool:
    """Whether the URI's first part is a bucket or container, below which folders need not be made."""
    return store_of(uri) in _EXTRAS


def resolve_uri(uri: str, storage_options: Mapping[str, Any]) -> tuple[fsspec.AbstractFileSystem, str]:
    """The file system of a URI, with the options that are meant for it, and the path on it.

    That of a store sends requests again where it may help; that of this machine's disks is fsspec's own.

    Raises:
        ConfigError: There is no driver for it, it is not installed, or it does not take the options.
    """
    store = store_of(uri)
    try:
        fs, path = _driver(uri, store, _options(store, storage_options))
    except ImportError as error:
        how = f'pip install "facemill[{_EXTRAS[store]}]"' if store in _EXTRAS else str(error)
        raise ConfigError(f"cannot use {redact(uri)}, whose driver is not installed: {how}") from error
    except (TypeError, ValueError, OSError) as error:
        raise ConfigError(f"cannot use {redact(uri)}: {explain(error, uri, store).strerror}") from error
    if isinstance(fs, LocalFileSystem):
        return fs, path
    _set_up(fs, store)
    return RetryingFileSystem(fs, signatures=storage_options.get(SIGNED_URLS)), path


def _driver(uri: str, store: str, options: Mapping[str, Any]) -> tuple[fsspec.AbstractFileSystem, str]:
    if store == "gs" and ("endpoint_url" in options or "STORAGE_EMULATOR_HOST" in os.environ):
        # gcsfs's other class asks each bucket for its kind by gRPC, which no emulator speaks, and waits for minutes.
        from gcsfs.core import GCSFileSystem

        return GCSFileSystem(**options), str(GCSFileSystem._strip_protocol(uri))
    fs, path = fsspec.core.url_to_fs(uri, **options)
    return fs, str(path)


def _options(store: str, storage_options: Mapping[str, Any]) -> dict[str, Any]:
    options = {name: value for name, value in storage_options.items() if name != SIGNED_URLS}
    if options and options.keys() <= set(fsspec.available_protocols()):
        options = next((dict(meant) for name, meant in options.items() if _STORES.get(name, name) == store), {})
    if store == "http":
        return {**options, "client_kwargs": {"timeout": _time_out(), **options.get("client_kwargs", {})}}
    if store == "gs":
        return {"requests_timeout": _time_out(), **options}
    if store == "s3":  # with more, s3fs asks for the size of each file before it reads it
        return {"max_concurrency": 1, **options}
    return options


def _time_out() -> Any:
    import aiohttp

    return aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS, sock_read=_READ_SECONDS)


@lru_cache(maxsize=64)  # as a list of URLs may lead to very many hosts
def _set_up(fs: fsspec.AbstractFileSystem, store: str) -> None:
    """What has no option: done once for each of fsspec's instances."""
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if store == "abfs":
        from azure.storage.blob.aio import ExponentialRetry

        # The default waits 18 s before the second attempt, and each request of a worker is one that it waits for.
        client = fs.service_client
        retry = ExponentialRetry(initial_backoff=0, increment_base=2, random_jitter_range=1)
        fs.service_client = type(client)(client.url, credential=client.credential, retry_policy=retry)
