"""Object stores of our own on the loopback: S3 (moto), Google Cloud Storage (fake-gcs-server), Azure Blob (Azurite)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from servers import free_port, running_command, s3_server

from facemill.transforms.ops.layout import MANIFEST, MARKERS, REPORT
from facemill.transforms.ops.storage import Folder

StoreName = Literal["s3", "gs", "az"]
STORES: tuple[StoreName, ...] = ("s3", "gs", "az")
_DRIVERS = {"s3": "s3fs", "gs": "gcsfs", "az": "adlfs"}
# Azurite's own account, which every emulator of Azure has.
_ACCOUNT = "devstoreaccount1"
_ACCOUNT_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


@dataclass(frozen=True)
class Store:
    """A running store, or a proxy in front of it.

    Attributes:
        name: What its URIs begin with.
        address: `http://host:port`.
    """

    name: StoreName
    address: str

    def uri(self, path: str) -> str:
        """The URI of `bucket/path`."""
        return f"{self.name}://{path}"

    def behind(self, address: str) -> Store:
        """The same store by way of a proxy."""
        return replace(self, address=address)

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables that lead the users of such a store to it."""
        if self.name == "s3":
            keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
            return {**keys, "AWS_ENDPOINT_URL": self.address}
        if self.name == "gs":
            return {"STORAGE_EMULATOR_HOST": self.address}
        return {"AZURE_STORAGE_CONNECTION_STRING": self._connection_string}

    @property
    def options(self) -> dict[str, dict[str, str]]:
        """The same as storage options."""
        if self.name == "s3":
            return {"s3": {"key": "key", "secret": "secret", "endpoint_url": self.address}}
        if self.name == "gs":
            return {"gs": {"endpoint_url": self.address, "token": "anon"}}
        return {"az": {"connection_string": self._connection_string}}

    @property
    def _connection_string(self) -> str:
        parts = ["DefaultEndpointsProtocol=http", f"AccountName={_ACCOUNT}", f"AccountKey={_ACCOUNT_KEY}"]
        return ";".join([*parts, f"BlobEndpoint={self.address}/{_ACCOUNT}"])


def upload(store: Store, folder: Path, path: str) -> None:
    """Put the files below `folder` into the store at `bucket/path`, whose bucket is made."""
    place = Folder(store.uri(path), store.options)
    bucket = path.partition("/")[0]
    if not place.fs.exists(bucket):
        place.fs.mkdir(bucket)
    for file in sorted(file for file in folder.rglob("*") if file.is_file()):
        place.fs.put_file(str(file), place.join(file.relative_to(folder).as_posix()))


def download(store: Store, path: str, folder: Path) -> Path:
    """Bring what lies below `bucket/path` into `folder`."""
    place = Folder(store.uri(path), store.options)
    for name in place.fs.find(place.path):
        target = folder / name[len(place.path) + 1 :]
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(place.fs.cat_file(name))
    return folder


def result_of(output: Path) -> dict[str, bytes]:
    """What must be the same to the bit, however a run went: all but what tells of times and places."""
    aside = (f"{MARKERS}/", MANIFEST, REPORT, "_run.lock")
    names = [path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file()]
    return {name: (output / name).read_bytes() for name in names if not name.startswith(aside)}


def missing(name: StoreName) -> str | None:
    """What is not there for a store to start, in a sentence; None where it can."""
    if find_spec(_DRIVERS[name]) is None:
        return f"needs {_DRIVERS[name]}"
    if name == "s3":
        return None if find_spec("moto") else "needs moto's S3 server"
    program = _program(name)
    if program is None:
        return "needs the servers that benchmarks/stores/fetch brings; FACEMILL_STORES names their folder"
    return None if program.exists() else f"{program} is missing; run benchmarks/stores/fetch again"


@contextlib.contextmanager
def running_store(name: StoreName) -> Iterator[Store]:
    """An empty store until the end of the block."""
    if name == "s3":
        with s3_server() as address:
            yield Store(name, address)
        return
    program = _program(name)
    assert program is not None
    port = free_port()
    if name == "gs":
        options = ["-scheme", "http", "-host", "127.0.0.1", "-port", str(port), "-backend", "memory"]
        command = [str(program), *options, "-log-level", "error"]
    else:
        options = ["--blobHost", "127.0.0.1", "--blobPort", str(port), "--silent", "--inMemoryPersistence"]
        command = ["node", str(program), *options, "--skipApiVersionCheck", "--disableTelemetry"]
    with running_command(command, port=port):
        yield Store(name, f"http://127.0.0.1:{port}")


def _program(name: StoreName) -> Path | None:
    folder = os.environ.get("FACEMILL_STORES")
    parts = {"gs": "fake-gcs-server", "az": "azurite/node_modules/azurite/dist/src/blob/main.js"}
    return Path(folder, parts[name]) if folder else None
