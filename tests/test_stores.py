"""Whole runs from and to S3, Google Cloud Storage, Azure Blob and HTTP servers, in order and out of order.

`benchmarks/stores/fetch` brings the servers; without them, and without the drivers, the tests of that store skip.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults import FaultProxy, fault_proxy
from object_stores import STORES, Store, download, missing, result_of, running_store, upload
from pictures import archive, portrait, write_loose, write_parquet, write_tar, write_zip
from web import web_server

from facemill.models.errors import ConfigError
from facemill.pipeline.listing import list_inputs
from facemill.pipeline.outputs import open_output
from facemill.transforms.ops.known_faces import KnownFaces
from facemill.transforms.ops.layout import MARKERS
from facemill.transforms.ops.storage import Folder
from facemill.transforms.ops.store_errors import CredentialsError

ALIASES = {"s3": "s3a", "gs": "gcs", "az": "abfs"}
NUM_UNITS = 5
SECRETS = ("AWS_", "AZURE_", "GOOGLE_", "STORAGE_EMULATOR_HOST")
pytestmark = pytest.mark.slow


def bash(command: str, folder: Path, *, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(SECRETS)}
    clean["PATH"] = os.pathsep.join([sysconfig.get_path("scripts"), clean["PATH"]])
    return subprocess.run(
        ["bash", "-ec", command],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**clean, **(environment or {})},
        timeout=300,
    )


def run_page(place: str, address: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the commands of the documentation for one kind of store."""
    page = Path(__file__).resolve().parents[1] / "docs" / "storage.md"
    found = re.search(rf"<!-- run: {place} -->\n```sh\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    done = bash(found[1].replace("http://127.0.0.1:9000", address), folder)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("here") / "photos"
    write_loose(folder / "people", archive(10))
    write_tar(folder / "a.tar", archive(3))
    write_tar(folder / "b.tar.gz", archive(3), "w:gz")
    write_zip(folder / "c.zip", archive(3))
    write_parquet(folder / "d.parquet", archive(3))
    write_loose(folder / "people-not-asked-for", {"x.txt": b"left aside"})
    return folder


@pytest.fixture(scope="module")
def local(photos: Path) -> dict[str, bytes]:
    """What the run leaves on a local disk."""
    output = photos.parent / "out"
    done = bash("facemill run --input photos --output out", photos.parent)
    assert done.returncode == 0, done.stderr
    assert f"images    {37:>9,}" in done.stdout
    assert len(list((output / MARKERS).iterdir())) == NUM_UNITS
    result = result_of(output)
    assert len(result) == 1 + 3 * NUM_UNITS  # the plan, and of each unit two tables and the crops
    return result


@pytest.fixture(scope="module", params=STORES)
def store(request: pytest.FixtureRequest, photos: Path) -> Iterator[Store]:
    """A store with the photographs in a bucket."""
    lacking = missing(request.param)
    if lacking is not None:
        pytest.skip(lacking)
    with running_store(request.param) as store:
        upload(store, photos, "bucket/photos")
        yield store


@pytest.fixture(scope="module")
def done(store: Store, tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    """The run of the documentation, which leaves `bucket/out`."""
    return run_page(store.name, store.address, tmp_path_factory.mktemp(store.name))


def assert_spoiled(proxy: FaultProxy) -> None:
    """One request in twenty met with a fault, of nearly every kind."""
    assert proxy.requests.total() // 20 <= proxy.faults.total() <= proxy.requests.total() // 20 + 1
    assert len(proxy.faults) >= 3


def test_a_run_from_and_to_a_store_is_the_local_one(
    store: Store, done: subprocess.CompletedProcess[str], local: dict[str, bytes], tmp_path: Path
) -> None:
    assert "committed in " + store.uri("bucket/out") in done.stdout
    assert result_of(download(store, "bucket/out", tmp_path / "first")) == local

    alias = store.uri("bucket/out").replace(store.name, ALIASES[store.name], 1)
    again = bash(f"facemill run --output {alias}", tmp_path, environment=store.environment)
    assert again.returncode == 0, again.stderr
    assert f"{NUM_UNITS} planned, {NUM_UNITS} committed, 0 to do" in again.stderr
    assert result_of(download(store, "bucket/out", tmp_path / "second")) == local
    assert len(list((tmp_path / "second" / MARKERS).iterdir())) == NUM_UNITS


@pytest.mark.parametrize("store", ["gs"], indirect=True)
def test_an_emulator_answers_though_its_driver_was_imported_before(store: Store, tmp_path: Path) -> None:
    found = f"Folder({store.uri('bucket/photos')!r}, {store.options!r}).read_bytes('a.tar', num_bytes=4)"
    program = f"import gcsfs; from facemill.transforms.ops.storage import Folder; print({found})"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GCSFS_")}
    command = [sys.executable, "-c", program]
    asked = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=clean, timeout=60)
    assert asked.stdout.startswith("b'"), asked.stderr


def test_with_every_twentieth_request_spoiled_nothing_is_lost_or_doubled(
    store: Store, local: dict[str, bytes], tmp_path: Path
) -> None:
    Folder(store.uri("bucket"), store.options).fs.rm("bucket/out", recursive=True)
    with fault_proxy(store.address, one_in=20, seed=5) as proxy:
        run_page(store.name, proxy.address, tmp_path)
    assert_spoiled(proxy)
    assert result_of(download(store, "bucket/out", tmp_path / "out")) == local
    assert len(list((tmp_path / "out" / MARKERS).iterdir())) == NUM_UNITS


@pytest.mark.parametrize("parts", [True, False], ids=["parts", "whole files"])
def test_a_run_over_http_is_the_local_one(parts: bool, photos: Path, local: dict[str, bytes], tmp_path: Path) -> None:
    with web_server(photos.parent, parts=parts) as address, fault_proxy(address, one_in=20, seed=5) as proxy:
        run_page("http", proxy.address, tmp_path)
    assert_spoiled(proxy)
    assert result_of(tmp_path / "out") == local
    assert len(list((tmp_path / "out" / MARKERS).iterdir())) == NUM_UNITS


@pytest.mark.usefixtures("done")
def test_an_output_on_a_store_is_read_back(store: Store) -> None:
    folder = Folder(store.uri("bucket/out"), store.options)
    output = open_output(folder)
    assert output.images().count_rows() == 37
    faces = output.connect().execute("select count(*), sum(kept::int) from faces").fetchone()
    assert faces == (22, 22)
    crops = [content for unit in output.units for _, content in output.crops(unit)]
    assert len(crops) == 22
    assert all(content.startswith(b"\xff\xd8") for content in crops)
    assert KnownFaces(Folder(store.uri("bucket/out/faces"), store.options)).num_rows == 22


@pytest.mark.usefixtures("done", "local")
def test_the_tables_on_a_store_go_on_to_other_commands(store: Store, photos: Path, tmp_path: Path) -> None:
    lines = (
        "facemill filter {0}out --output {0}frontal --set judge.max_yaw_deg=5",
        "facemill export {0}out --to webdataset --output {0}set --seed 1",
    )
    here = bash(" && ".join(lines).format(""), photos.parent)
    with fault_proxy(store.address, one_in=20, seed=5) as proxy:
        environment = store.behind(proxy.address).environment
        there = bash(" && ".join(lines).format(store.uri("bucket/")), tmp_path, environment=environment)
    assert (here.returncode, there.returncode) == (0, 0), here.stderr + there.stderr
    for name in ("frontal", "set"):
        ours = result_of(download(store, f"bucket/{name}", tmp_path / name))
        assert len(ours) >= 4
        assert ours == result_of(photos.parent / name)


def test_what_another_process_wrote_is_seen(store: Store) -> None:
    ours = Folder(store.uri("bucket/shared"), store.options)
    theirs = type(ours.fs.inner)(**ours.fs.inner.storage_options, skip_instance_cache=True)
    ours.write_bytes("units/1.json", b"1")
    assert ours.list_names("units") == ["1.json"]
    assert not ours.exists("units/2.json")
    theirs.pipe_file("bucket/shared/units/2.json", b"22")
    assert ours.exists("units/2.json")
    assert ours.list_names("units") == ["1.json", "2.json"]
    theirs.rm_file("bucket/shared/units/1.json")
    assert not ours.exists("units/1.json")
    assert ours.list_names("units") == ["2.json"]
    ours.remove("units/1.json")


def test_files_are_written_and_removed_though_each_third_request_is_spoiled(store: Store) -> None:
    files = {f"bucket/many/{number % 3}/{number}.bin": bytes([number]) * 1000 for number in range(8)}
    with fault_proxy(store.address, one_in=3, seed=2) as proxy:
        fs = Folder(store.uri("bucket"), store.behind(proxy.address).options).fs
        fs.pipe(files)
        assert {path: fs.cat_file(path) for path in fs.find("bucket/many")} == files
        fs.rm_file("bucket/many/0/0.bin")
        assert not fs.exists("bucket/many/0/0.bin")
        fs.rm("bucket/many/1", recursive=True)
        assert sorted(fs.find("bucket/many")) == sorted(p for p in files if "/1/" not in p and "/0/0." not in p)
        assert proxy.faults.total() >= 7


def test_objects_that_stand_for_folders_are_no_inputs(store: Store) -> None:
    folder = Folder(store.uri("bucket/marked"), store.options)
    for name in ("", "a/", "a/b/"):
        folder.fs.pipe_file(f"bucket/marked/{name}", b"")
    folder.write_bytes("a/b/1.jpg", b"1")
    listing = list_inputs(folder.uri, ignored_extensions=(), storage_options=store.options)
    assert (listing.names, listing.sizes) == (["a/b/1.jpg"], [1])


def test_a_bucket_that_is_not_there_is_not_made(store: Store, photos: Path) -> None:
    command = f"facemill run --input photos --output {store.uri('nowhere/out')}"
    done = bash(command, photos.parent, environment=store.environment)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "there is no such bucket or container; make it first" in done.stderr
    with pytest.raises(ConfigError, match=f"no input at {store.uri('nowhere/photos')}"):
        list_inputs(store.uri("nowhere/photos"), ignored_extensions=(), storage_options=store.options)


@contextlib.contextmanager
def azurite() -> Iterator[Store]:
    """The one of the three servers that looks at signatures, with a portrait in it."""
    lacking = missing("az")
    if lacking is not None:
        pytest.skip(lacking)
    with running_store("az") as store:
        bucket = Folder(store.uri("bucket"), store.options)
        bucket.fs.mkdir("bucket")
        bucket.fs.pipe_file("bucket/photos/1.jpg", portrait(1))
        yield store


def test_a_wrong_key_is_told_at_once_and_not_shown() -> None:
    with azurite() as store, fault_proxy(store.address, one_in=0) as proxy:
        key = "d3JvbmcgYW5kIHNlY3JldA=="
        right = store.behind(proxy.address).options["az"]["connection_string"]
        options = {"az": {"connection_string": re.sub("AccountKey=[^;]*", f"AccountKey={key}", right)}}
        with pytest.raises(CredentialsError, match=r"no access .*; set AZURE_STORAGE_CONNECTION_STRING") as refused:
            Folder(store.uri("bucket/photos"), options).list_names("")
        assert key not in str(refused.value)
        assert proxy.requests.total() == 1


def test_the_signature_of_a_url_is_used_and_not_written(tmp_path: Path) -> None:
    from azure.storage.blob import BlobServiceClient, generate_blob_sas

    with azurite() as store:
        client = BlobServiceClient.from_connection_string(store.options["az"]["connection_string"])
        url = client.get_blob_client("bucket", "photos/1.jpg").url
        signature = generate_blob_sas(
            client.account_name,
            "bucket",
            "photos/1.jpg",
            account_key=client.credential.account_key,
            permission="r",
            expiry="2100-01-01",
        )
        output = tmp_path / "out"
        done = bash(f"facemill run --input '{url}?{signature}' --output out", tmp_path)
        refused = bash(f"facemill run --input '{url}' --output unsigned", tmp_path)
        expired = bash(f"facemill run --input '{url}?{signature}x' --output wrong", tmp_path)
    secret = signature.partition("sig=")[2].partition("&")[0]
    written = (
        done.stdout + done.stderr + "".join(p.read_bytes().decode("latin-1") for p in output.rglob("*") if p.is_file())
    )
    assert "1.jpg" in written
    assert len(secret) > 40
    assert secret not in written
    assert [row["status"] for row in open_output(Folder(str(output))).images().to_table().to_pylist()] == ["ok"]
    for other in (refused, expired):
        assert other.returncode == 2
        assert secret not in other.stderr
    assert "no access" in expired.stderr
