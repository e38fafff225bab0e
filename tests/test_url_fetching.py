"""Fetching from a web server on loopback that fails in every way it can, and what a list may not name."""

from __future__ import annotations

import http.server
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from pictures import archive, read_table, write_loose

from facemill.models.errors import BadInputError
from facemill.pipeline.config import load_config
from facemill.pipeline.run import RunRequest, run
from facemill.transforms.ops import heartbeat, url_fetching
from facemill.transforms.ops.members import Member, ReadLimits
from facemill.transforms.ops.reading import LabelRule, ReadOptions, read_unit
from facemill.transforms.ops.records import ImageRecord
from facemill.transforms.ops.storage import Folder
from facemill.transforms.ops.units import Unit
from facemill.transforms.ops.url_access import locate
from facemill.transforms.ops.url_fetching import fetch_members
from facemill.transforms.ops.url_lists import UrlLine

BODY = b"the picture" * 1000
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close sends RST


class Handler(http.server.BaseHTTPRequestHandler):
    """/WHAT/TIMES/...: misbehaves so many times, then serves BODY."""

    protocol_version = "HTTP/1.1"
    asked: ClassVar[Counter[str]] = Counter()
    headers_seen: ClassVar[list[dict[str, str]]] = []
    num_sent: ClassVar[list[int]] = []
    at_once: ClassVar[list[int]] = [0, 0]  # now, at most
    lock: ClassVar[threading.Lock] = threading.Lock()

    def do_GET(self) -> None:
        with self.lock:
            self.asked[self.path] += 1
            count = self.asked[self.path]
            self.headers_seen.append(dict(self.headers))
            self.at_once[0] += 1
            self.at_once[1] = max(self.at_once)
        try:
            _, what, times = self.path.split("/")[:3]
            if count > int(times):
                what = "ok"
            getattr(self, f"send_{what}", self.send_code)(what)
        finally:
            with self.lock:
                self.at_once[0] -= 1

    def send(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def send_ok(self, _: str) -> None:
        self.send(200, BODY)

    def send_code(self, what: str) -> None:
        self.send(int(what), b"<html>an error</html>")

    def send_empty(self, _: str) -> None:
        self.send(200)

    def send_slow(self, _: str) -> None:
        time.sleep(0.3)
        self.send(200, BODY)

    def send_wait(self, _: str) -> None:
        self.send(429, Retry_After="1")

    def send_move(self, _: str) -> None:
        self.send(302, Location="/ok/0")

    def send_loop(self, _: str) -> None:
        self.send(302, Location=self.path)

    def send_reset(self, _: str) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.close_connection = True
        self.connection.close()

    def send_cut(self, _: str) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        self.wfile.write(BODY[:500])
        self.close_connection = True

    def send_endless(self, _: str) -> None:
        self.send_response(200)
        self.send_header("Connection", "close")
        self.end_headers()
        sent = 0
        try:
            while sent < 200_000_000:
                sent += self.wfile.write(bytes(100_000))
        except OSError:
            pass
        self.num_sent.append(sent)
        self.close_connection = True

    def send_trickle(self, _: str) -> None:
        self.send_response(200)
        self.send_header("Connection", "close")
        self.end_headers()
        try:
            for _ in range(100):
                self.wfile.write(b"x")
                time.sleep(0.05)
        except OSError:
            pass
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on the screen."""


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no matter here."""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with Server(("127.0.0.1", 0), Handler) as instance:
        threading.Thread(target=instance.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{instance.server_address[1]}"
        instance.shutdown()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    Handler.asked.clear()
    Handler.headers_seen.clear()
    Handler.num_sent.clear()
    Handler.at_once[:] = [0, 0]
    monkeypatch.setattr(url_fetching, "_FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(url_fetching, "_LONGEST_PAUSE_SECONDS", 0.02)


def fetch(*urls: str, limits: ReadLimits | None = None, lists: Folder | None = None) -> list[Member]:
    lines = [UrlLine(f"{number}", url) for number, url in enumerate(urls, start=1)]
    return list(fetch_members(lines, lists or Folder("memory://lists"), limits or ReadLimits()))


def failure(member: Member) -> tuple[str, str]:
    assert member.failure is not None
    return member.failure.reason, member.failure.message


@pytest.mark.parametrize("what", ["503", "500", "502", "504", "429", "408", "reset", "cut"])
def test_what_may_pass_is_tried_again(what: str, server: str) -> None:
    (member,) = fetch(f"{server}/{what}/2")
    assert member.data == BODY
    assert Handler.asked[f"/{what}/2"] == 3


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("404", "HTTP status 404 Not Found"),
        ("410", "HTTP status 410 Gone"),
        ("403", "HTTP status 403 Forbidden"),
        ("401", "HTTP status 401 Unauthorized"),
        ("400", "HTTP status 400 Bad Request"),
        ("501", "HTTP status 501 Not Implemented"),
    ],
)
def test_what_will_not_pass_is_not(what: str, message: str, server: str) -> None:
    (member,) = fetch(f"{server}/{what}/9")
    assert failure(member) == ("read_error", message)
    assert Handler.asked[f"/{what}/9"] == 1


def test_patience_ends(server: str) -> None:
    (member,) = fetch(f"{server}/503/9")
    assert failure(member) == ("read_error", "HTTP status 503 Service Unavailable (4 attempts)")
    assert Handler.asked["/503/9"] == 4
    (member,) = fetch(f"{server}/reset/9")
    assert failure(member)[0] == "read_error"
    assert failure(member)[1].endswith("(4 attempts)")


def test_a_host_that_is_not_there_is_told(server: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        refused, unknown = fetch(f"http://127.0.0.1:{unused.getsockname()[1]}/a.jpg", "http://nowhere.invalid/a.jpg")
    assert failure(refused)[0] == failure(unknown)[0] == "read_error"
    assert "4 attempts" in failure(refused)[1]
    assert "attempts" not in failure(unknown)[1]


def test_a_server_is_left_alone_as_long_as_it_asks(server: str) -> None:
    begin = time.monotonic()
    (member,) = fetch(f"{server}/wait/1")
    assert member.data == BODY
    assert time.monotonic() - begin > 0.9


def test_redirects_are_followed_but_not_for_ever(server: str) -> None:
    moved, loop = fetch(f"{server}/move/1", f"{server}/loop/99")
    assert moved.data == BODY
    assert failure(loop)[0] == "read_error"


def test_order_is_kept_and_several_are_fetched_at_once(server: str) -> None:
    urls = [f"{server}/slow/1/{number}" if number % 4 == 0 else f"{server}/ok/0/{number}" for number in range(24)]
    begin = time.monotonic()
    members = fetch(*urls)
    assert [member.name for member in members] == [str(number) for number in range(1, 25)]
    assert all(member.data == BODY for member in members)
    assert time.monotonic() - begin < 6 * 0.3
    assert 2 <= Handler.at_once[1] <= 4


def test_only_a_few_are_fetched_before_their_turn(server: str) -> None:
    members = fetch_members(
        [UrlLine("x", f"{server}/ok/0/{number}") for number in range(100)], Folder("memory://lists"), ReadLimits()
    )
    next(members)
    time.sleep(0.3)
    assert 9 <= sum(Handler.asked.values()) <= 10
    members.close()  # type: ignore[attr-defined]
    time.sleep(0.1)
    assert sum(Handler.asked.values()) <= 10


def test_too_large_is_cut_off_while_reading(server: str) -> None:
    (member,) = fetch(f"{server}/endless/1", limits=ReadLimits(max_member_bytes=1_000_000))
    assert failure(member) == ("too_large", "more than 1000000 bytes, which is the limit")
    until = time.monotonic() + 10
    while not Handler.num_sent and time.monotonic() < until:
        time.sleep(0.01)
    assert 1_000_000 < Handler.num_sent[0] < 100_000_000
    exact, over = (
        fetch(f"{server}/ok/0", limits=ReadLimits(max_member_bytes=n))[0] for n in (len(BODY), len(BODY) - 1)
    )
    assert exact.data == BODY
    assert failure(over)[0] == "too_large"


def test_a_large_file_waits_for_its_turn(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(url_fetching, "_MAX_BYTES_AHEAD", 1000)
    assert [member.data for member in fetch(f"{server}/ok/0/1", f"{server}/ok/0/2")] == [BODY, BODY]
    assert Handler.asked["/ok/0/1"] == 2


def test_what_comes_too_slowly_is_given_up(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(url_fetching, "_DOWNLOAD_SECONDS", 0.2)
    monkeypatch.setattr(url_fetching, "_PATIENCE_SECONDS", 0.2)
    (member,) = fetch(f"{server}/trickle/9")
    assert failure(member)[0] == "read_error"
    assert "not all of it came within" in failure(member)[1]


def test_signs_of_life_are_given_while_waiting(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    slots = [0] * len(heartbeat.Slot)
    monkeypatch.setattr(heartbeat, "_array", slots)
    monkeypatch.setattr(url_fetching, "_BEAT_SECONDS", 0.05)
    fetch(f"{server}/slow/1")
    assert slots[heartbeat.Slot.BEATS] >= 3


def test_an_empty_answer_is_empty(server: str) -> None:
    assert failure(fetch(f"{server}/empty/1")[0])[0] == "empty"


def test_other_stores_are_fetched_from_too(tmp_path: Path) -> None:
    fsspec.filesystem("memory").pipe_file(f"/{tmp_path.name}/a.jpg", BODY)
    (tmp_path / "b c.jpg").write_bytes(BODY)
    here = Folder(str(tmp_path))
    found = fetch(f"memory://{tmp_path.name}/a.jpg", f"file://{tmp_path}/b c.jpg", f"file://{tmp_path}/no", lists=here)
    assert [member.data for member in found] == [BODY, BODY, None]
    assert failure(found[2])[0] == "read_error"
    assert failure(fetch(f"file://{tmp_path}", lists=here)[0])[0] == "read_error"
    assert failure(fetch("file:///dev/zero", lists=here)[0]) == ("read_error", "a pipe or device, not a file")


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "FILE:///etc/passwd",
        "local:///etc/passwd",
        "memory://a.jpg",
        "git://etc:passwd",
        "sftp://host/a.jpg",
        "dir://a",
        "generic://file:///etc/passwd",
        "simplecache::file:///etc/passwd",
        "https://host/a.zip::file:///etc/passwd",
        "zip://a.jpg::file:///etc/x.zip",
        "nosuch://a",
    ],
)
def test_a_list_that_lies_elsewhere_gets_at_nothing_here(url: str) -> None:
    (member,) = fetch(url)
    reason, message = failure(member)
    assert reason == "read_error"
    assert message.startswith("not fetched: ")


def test_a_driver_that_is_not_there_is_told(tmp_path: Path) -> None:
    (member,) = fetch("nosuch://a", lists=Folder(str(tmp_path)))
    assert "not fetched: " in failure(member)[1]
    with pytest.raises(BadInputError):
        locate("zip://a::b", Folder(str(tmp_path)))


KEYS = {"https": {"headers": {"Authorization": "secret"}}, "s3": {"key": "k", "secret": "s"}}


@pytest.mark.parametrize(
    ("lists", "options", "is_sent"),
    [
        ("file:///lists", KEYS, True),
        ("http://127.0.0.1:{port}/lists", KEYS, True),
        ("http://127.0.0.1:{port}/lists", KEYS["https"], True),
        ("http://127.0.0.1:1/lists", KEYS, False),
        ("http://127.0.0.1:1/lists", KEYS["https"], False),
        ("memory://lists", KEYS, False),
        ("memory://lists", {"key": "of another store"}, False),
        ("file:///lists", {}, False),
    ],
)
def test_keys_for_the_web_go_to_the_lists_own_host(
    lists: str, options: dict[str, Any], is_sent: bool, server: str
) -> None:
    folder = Folder(lists.format(port=server.rpartition(":")[2]), options)
    assert fetch(f"{server}/ok/0", lists=folder)[0].data == BODY
    (headers,) = Handler.headers_seen
    assert ("Authorization" in headers) is is_sent
    assert headers["User-Agent"].startswith("facemill/")


def records(folder: Path, text: str, rule: LabelRule = "auto", **bounds: Any) -> list[ImageRecord]:
    write_loose(folder, {"ann/photos.urls": text.encode()})
    unit = Unit("unit-000000", "urls", ("in/ann/photos.urls",), (len(text),), 1, **bounds)
    return list(read_unit(unit, {"in": Folder(str(folder))}, ReadOptions(label=rule)))


@pytest.mark.parametrize(
    ("rule", "labels"),
    [("auto", ["bob", "ann"]), ("column", ["bob", None]), ("folder", ["ann", "ann"]), ("none", [None, None])],
)
def test_a_unit_reads_lines_of_a_list(rule: LabelRule, labels: list[str | None], server: str, tmp_path: Path) -> None:
    text = f"# people\n{server}/ok/0\tbob\nno url\n{server}/404/9\n{server}/ok/0\n"
    found = records(tmp_path, text, rule, start=1, stop=4)
    assert [record.image_id for record in found] == [
        f"in/ann/photos.urls/00000002/{server}/ok/0",
        "in/ann/photos.urls/00000003",
        f"in/ann/photos.urls/00000004/{server}/404/9",
    ]
    assert [record.label for record in found] == [labels[0], labels[1], labels[1]]
    assert [record.failure.reason if record.failure else None for record in found] == [None, "read_error", "read_error"]
    assert [record.index for record in found] == [0, 1, 2]


def test_only_what_is_asked_for_is_fetched(server: str, tmp_path: Path) -> None:
    text = "# a comment\n" + "".join(f"{server}/ok/0/{number}\n" for number in range(10, 22))
    (tmp_path / "a.urls").write_text(text)
    unit = Unit("unit-000000", "urls", ("in/a.urls",), (len(text),), len(text))
    found = list(read_unit(unit, {"in": Folder(str(tmp_path))}, ReadOptions(), only={11, 2}))
    assert [(record.index, record.image_id.rsplit("/", 1)[-1]) for record in found] == [(2, "12"), (11, "21")]
    assert Handler.asked == {"/ok/0/12": 1, "/ok/0/21": 1}


def test_a_list_without_bytes_gets_one_row(tmp_path: Path) -> None:
    (record,) = records(tmp_path, "")
    assert (record.image_id, record.failure and record.failure.reason) == ("in/ann/photos.urls", "empty")


HOSTILE = (
    "ftp://user:s3cret@127.0.0.1:1/a.jpg",  # no driver can be made
    "s3://key:s3cret@/a.jpg",
    "nosuch://user:s3cret@host/a.jpg",
    "https://user:s3cret@127.0.0.1:port/a.jpg",
    "https://user:p/s3cret@127.0.0.1:1/a.jpg",
    "https://[user:s3cret@127.0.0.1/a.jpg?token=s3cret",
    "BASE/missing?X-Amz-Signature=s3cret",
    "BASE/missing?x=1;sig=s3cret#token=s3cret",
    "https://user:s3cret@host/a.zip::file:///a?token=s3cret",
)


@pytest.mark.slow
def test_a_run_over_urls_gives_what_the_files_give(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Everything but the names is the same as of the files that the URLs lead to, and no credentials are written."""
    files = archive(6)
    photos = write_loose(tmp_path / "photos", files)
    handler = type("Files", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    with Server(("127.0.0.1", 0), lambda *a: handler(*a, directory=str(photos))) as instance:
        threading.Thread(target=instance.serve_forever, daemon=True).start()
        base = f"http://127.0.0.1:{instance.server_address[1]}"
        text = "url,label\n" + "".join(f"{base}/{name},{name.split('/')[0]}\n" for name in sorted(files))
        hostile = "".join(f"{url.replace('BASE', base)},\n" for url in HOSTILE)
        text += f"{base}/missing.jpg,\n{hostile}"
        write_loose(tmp_path / "lists", {"photos.urls.csv": text.encode()})
        outputs = {}
        for name in ("photos", "lists"):
            output = Folder(str(tmp_path / f"out-{name}"))
            result = run(RunRequest([str(tmp_path / name)], output, load_config(settings=["write.crops=none"])))
            assert result.is_complete
            outputs[name] = read_table(Path(output.path), "images")
        instance.shutdown()
    assert len(outputs["lists"]) == len(files) + 1 + len(HOSTILE)
    assert outputs["lists"][len(files)]["message"] == "HTTP status 404 Not Found"
    assert all(row["status"] == "failed" for row in outputs["lists"][len(files) :])
    written = [path for path in (tmp_path / "out-lists").rglob("*") if path.is_file()]
    assert {"manifest.json", "report.html", "unit-000000.json"} <= {path.name for path in written}
    assert not [path for path in written if b"s3cret" in path.read_bytes()]
    assert "s3cret" not in str([outputs["lists"], *capfd.readouterr()])
    columns = ("sha256", "format", "width", "label", "status", "reason", "num_faces", "num_kept")
    by_files, by_urls = ([[row[column] for column in columns] for row in outputs[n]] for n in ("photos", "lists"))
    assert by_urls[: len(files)] == by_files
    assert sum(row["num_kept"] for row in outputs["lists"]) >= 6
