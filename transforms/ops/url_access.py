"""Which URLs of a list may be fetched, and with whose credentials.

A list that lies on this machine is the user's own. One that lies elsewhere may be written by anybody: it gets at no
file of this machine, and whatever keys the user has for the web go to the host of the list alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import metadata
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import fsspec
from fsspec.implementations.local import LocalFileSystem

from facemill.models.errors import BadInputError, ConfigError
from facemill.transforms.ops.drivers import resolve_uri, store_of
from facemill.transforms.ops.storage import Folder

_STORES_FOR_ALL = frozenset({"abfs", "ftp", "gs", "hf", "http", "oss", "s3"})


class Place(NamedTuple):
    """Where a URL leads to: the store's driver, and the path on it."""

    fs: fsspec.AbstractFileSystem
    path: str
    store: str

    @property
    def is_local(self) -> bool:
        """Whether it is a file of this machine."""
        return isinstance(self.fs, LocalFileSystem)


def locate(url: str, lists: Folder) -> Place:
    """The place that a URL of a list in the folder `lists` leads to.

    Raises:
        BadInputError: It must not be fetched, or cannot be for want of a driver.
    """
    if "::" in url:
        raise BadInputError("read_error", "not fetched: :: would lead through several stores; it is written %3A%3A")
    store = store_of(url)
    if not lists.is_local and store not in _STORES_FOR_ALL:
        raise BadInputError("read_error", f"not fetched: a list that lies elsewhere must not name {store}:// URLs")
    try:
        fs, path = resolve_uri(url, _options(url, store, lists))
    except ConfigError as error:
        raise BadInputError("read_error", f"not fetched: {error}") from error
    return Place(getattr(fs, "inner", fs), path, store)  # the retries here are ours


def _options(url: str, store: str, lists: Folder) -> Mapping[str, Any]:
    """The storage options of the list that are meant for this URL."""
    own_store = store_of(lists.uri)
    given = {
        name: meant
        for name, meant in lists.storage_options.items()
        if name in fsspec.available_protocols() and isinstance(meant, Mapping)
    }
    if not given and store == own_store:
        given = {store: lists.storage_options}
    if store != "http":
        return given
    is_trusted = lists.is_local or _host(url) == _host(lists.uri)
    options = next((given[name] for name in ("http", "https") if name in given), {}) if is_trusted else {}
    return {"http": {**options, "headers": {"User-Agent": _user_agent(), **options.get("headers", {})}}}


def _host(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2].lower()


@cache
def _user_agent() -> str:
    """Some hosts refuse requests that do not say what sends them."""
    return f"facemill/{metadata.version('facemill')}"
