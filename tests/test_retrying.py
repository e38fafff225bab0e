"""A store that is out of order now and then, seen over HTTP: what is asked again, what is not, and for how long."""

from __future__ import annotations

import contextlib
import logging
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults import FAULTS, Fault, FaultProxy, fault_proxy
from fsspec.registry import known_implementations
from pictures import write_loose
from servers import free_port
from web import web_server

from facemill.models.errors import ConfigError
from facemill.pipeline.listing import list_inputs
from facemill.transforms.ops import drivers, patience
from facemill.transforms.ops.storage import Folder
from facemill.transforms.ops.store_errors import CredentialsError, StoreError

LARGE = random.Random(1).randbytes(3 << 20)
FILES = {"large.bin": LARGE, "a/1.jpg": b"1" * 900, "a/b/2.jpg": b"2" * 900, "c/3.jpg": b"3" * 900}


@pytest.fixture
def shown(tmp_path: Path) -> Path:
    return write_loose(tmp_path / "shown", FILES)


@contextlib.contextmanager
def web(shown: Path, *kinds: Fault, one_in: int, parts: bool = True) -> Iterator[FaultProxy]:
    with (
        web_server(shown, parts=parts) as address,
        fault_proxy(address, one_in=one_in, kinds=kinds or FAULTS, seed=1) as proxy,
    ):
        yield proxy


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "_FIRST_PAUSE_SECONDS", 0.01)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "_PATIENCE_SECONDS", 0.5)


@pytest.mark.parametrize("kind", [*FAULTS, "short_answer"])
def test_a_whole_file_comes_whole(kind: Fault, shown: Path) -> None:
    with web(shown, kind, one_in=2) as proxy:
        folder = Folder(proxy.address)
        for _ in range(6):
            assert folder.read_bytes("large.bin", num_bytes=len(LARGE)) == LARGE
        assert proxy.faults[kind] >= 3


@pytest.mark.parametrize("parts", [True, False], ids=["parts", "whole files"])
def test_a_file_that_is_read_bit_by_bit_goes_on_where_it_broke_off(parts: bool, shown: Path) -> None:
    with web(shown, one_in=3, parts=parts) as proxy:
        folder = Folder(proxy.address)
        with folder.fs.open(folder.join("large.bin"), "rb", block_size=100_000) as file:
            pieces = list(iter(lambda: file.read(70_001), b""))
            assert [len(piece) for piece in pieces[:-1]] == [70_001] * (len(LARGE) // 70_001)
            assert b"".join(pieces) == LARGE
            file.seek(-1000, 2)
            assert file.tell() == len(LARGE) - 1000
            assert file.read() == LARGE[-1000:]
        assert proxy.faults.total() >= (10 if parts else 1)


def test_a_part_that_comes_short_is_asked_for_again(shown: Path) -> None:
    with web(shown, "short_answer", one_in=4) as proxy:
        folder = Folder(proxy.address)
        with folder.fs.open(folder.join("large.bin"), "rb", block_size=100_000) as file:
            assert b"".join(iter(lambda: file.read(70_001), b"")) == LARGE
        assert proxy.faults.total() >= 5


def test_a_file_that_has_become_smaller_is_read_as_it_is(shown: Path) -> None:
    with web(shown, one_in=0) as proxy:
        assert Folder(proxy.address).read_bytes("a/1.jpg", num_bytes=1000) == FILES["a/1.jpg"]


def test_nothing_is_missing_from_a_listing(shown: Path) -> None:
    with web(shown, one_in=3) as proxy:
        for pattern in ("", "/**"):
            listing = list_inputs(proxy.address + pattern, ignored_extensions=())
            assert dict(zip(listing.names, listing.sizes, strict=True)) == {k: len(v) for k, v in FILES.items()}
        assert proxy.faults.total() >= 5


@pytest.mark.parametrize("pattern", ["", "/**", "/*/*.jpg"])
def test_a_folder_that_cannot_be_listed_is_not_an_empty_one(pattern: str, shown: Path) -> None:
    with web(shown, "status_403", one_in=1) as proxy:
        proxy.only = "/c"
        with pytest.raises(ConfigError, match=r"cannot list the input .*: no permission"):
            list_inputs(proxy.address + pattern, ignored_extensions=())


@pytest.mark.parametrize("kind", ["reset", "status_503", "status_429", "lost_answer"])
def test_what_is_there_is_never_said_to_be_missing(kind: Fault, shown: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with web(shown, kind, one_in=1) as proxy:
        folder = Folder(proxy.address)
        proxy.one_in = 2
        for _ in range(4):
            assert folder.exists("a/1.jpg")
            assert folder.fs.isfile(folder.join("a/1.jpg"))
            assert folder.fs.isdir(folder.join("a"))
        proxy.one_in = 1
        monkeypatch.setattr(patience, "_PATIENCE_SECONDS", 0.1)
        with pytest.raises(StoreError, match="does not answer as it should"):
            folder.exists("a/1.jpg")


def test_many_files_are_read_though_each_second_answer_fails(shown: Path) -> None:
    with web(shown, one_in=2) as proxy:
        contents = Folder(proxy.address).read_many(list(FILES))
        assert contents == FILES
        assert proxy.faults.total() >= 2


@pytest.mark.usefixtures("impatient")
def test_a_store_that_is_gone_is_told(shown: Path, caplog: pytest.LogCaptureFixture) -> None:
    with web(shown, "status_503", one_in=1) as proxy, caplog.at_level(logging.WARNING):
        with pytest.raises(StoreError, match=r"/a/1.jpg: the store does not answer as it should \(503, "):
            Folder(proxy.address).read_bytes("a/1.jpg")
        assert proxy.requests.total() >= 3
    assert "trying again" in caplog.text
    nobody = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(ConfigError, match=rf"cannot list the input {nobody}: .* \(Connect call failed"):
        list_inputs(nobody, ignored_extensions=())


def test_what_is_missing_or_forbidden_is_asked_for_once(shown: Path) -> None:
    with web(shown, "status_403", one_in=1) as proxy:
        with pytest.raises(PermissionError, match="no permission"):
            Folder(proxy.address).read_bytes("a/1.jpg")
        assert proxy.requests.total() == 1
        proxy.one_in = 0
        with pytest.raises(FileNotFoundError, match="not found"):
            Folder(proxy.address).read_bytes("nothing.jpg")
        assert proxy.requests.total() == 2


def test_a_signature_that_is_refused_is_about_the_credentials(shown: Path) -> None:
    with web(shown, "status_403", one_in=1) as proxy:
        folder = Folder(proxy.address, {"signed_urls": {f"{proxy.address}/a/1.jpg": "sig=5ec"}})
        with pytest.raises(CredentialsError, match="no access") as refused:
            folder.read_bytes("a/1.jpg")
        assert "5ec" not in str(refused.value) + repr(folder)


def test_an_answer_that_does_not_come_is_not_waited_for(shown: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drivers, "_READ_SECONDS", 0.2)
    monkeypatch.setattr("faults._STALL_SECONDS", 30.0)
    with web(shown, "stall", one_in=2) as proxy:
        started_at = time.monotonic()
        folder = Folder(proxy.address)
        assert [len(folder.read_bytes("a/1.jpg")) for _ in range(4)] == [900] * 4
        assert proxy.faults.total() >= 2
        assert time.monotonic() - started_at < 20


def test_a_missing_driver_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(known_implementations, "gs", {"class": "nowhere.Store", "err": "no driver"})
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "gs", raising=False)
    with pytest.raises(ConfigError, match=r'gs://bucket/out, whose driver .*: pip install "facemill\[gcs\]"'):
        _ = Folder("gs://bucket/out").fs


@pytest.mark.parametrize(
    ("uri", "options", "expected"),
    [
        ("http://host", {"http": {"encoded": True}}, True),
        ("https://host", {"http": {"encoded": True}, "s3": {}}, True),
        ("http://host", {"encoded": True}, True),
        ("http://host", {"s3": {"encoded": True}}, False),
        ("http://host", {"https": {"encoded": True}, "signed_urls": {}}, True),
    ],
)
def test_options_go_to_their_store(uri: str, options: dict[str, dict[str, object]], expected: bool) -> None:
    assert Folder(uri, options).fs.inner.encoded is expected
