"""The parts of Google's Cloud Storage and Dataflow APIs that a submission calls, on the loopback."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

BUCKET = "photographs"
# Beam speaks REST to an endpoint with "sandbox" in its name and takes none with a port, so that the fake is its proxy.
# With "localhost" it would check less and ask for local workers.
DATAFLOW_ENDPOINT = "http://dataflow.sandbox.test"


@dataclass
class FakeGoogle:
    """What was stored and asked for.

    Attributes:
        objects: Content by name, of the one bucket that there is.
        jobs: The body of each request for a job.
        state: What the service says of the last job.
        messages: What it has to say besides.
        on_job: Told of each request for a job.
        unknown: Requests that no answer was made for.
    """

    url: str = ""
    objects: dict[str, bytes] = field(default_factory=dict)
    jobs: list[dict[str, Any]] = field(default_factory=list)
    state: str = "JOB_STATE_DONE"
    messages: list[dict[str, Any]] = field(default_factory=list)
    on_job: Callable[[dict[str, Any]], None] | None = None
    unknown: list[str] = field(default_factory=list)
    uploads: dict[str, bytearray] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def environment(self, folder: Path) -> dict[str, str]:
        """Variables for a process that shall know no other Google; writes a throw-away key into `folder`."""
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import rsa

        key = rsa.generate_private_key(65537, 2048).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        account = {
            "type": "service_account",
            "project_id": "archive",
            "private_key_id": "1",
            "private_key": key.decode(),
            "client_email": "facemill@archive.iam.gserviceaccount.com",
            "token_uri": f"{self.url}/token",
        }
        path = folder / "account.json"
        path.write_text(json.dumps(account), encoding="utf-8")
        return {
            "GOOGLE_APPLICATION_CREDENTIALS": str(path),
            "STORAGE_EMULATOR_HOST": self.url,
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # it asks Google itself what kind of bucket it is
            "NO_GCE_CHECK": "true",
            **dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), self.url),
            **dict.fromkeys(("no_proxy", "NO_PROXY"), "127.0.0.1,localhost"),
        }

    def put_folder(self, folder: Path, prefix: str) -> None:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.objects[f"{prefix}/{path.relative_to(folder).as_posix()}"] = path.read_bytes()

    def get_folder(self, prefix: str, folder: Path) -> Path:
        for name, data in self.objects.items():
            if name.startswith(f"{prefix}/"):
                path = folder / name[len(prefix) + 1 :]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
        return folder


@contextmanager
def serve_google() -> Iterator[FakeGoogle]:
    """Serve until the block ends."""
    google = FakeGoogle()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"google": google}))
    google.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield google
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    google: FakeGoogle
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer("GET")

    def do_POST(self) -> None:
        self._answer("POST")

    def do_PUT(self) -> None:
        self._answer("PUT")

    def do_DELETE(self) -> None:
        self._answer("DELETE")

    def do_CONNECT(self) -> None:
        if self.path != "iamcredentials.googleapis.com:443":  # google-auth does without an answer from there
            self.google.unknown.append(f"CONNECT {self.path}")
        self._send(403, {})

    def log_message(self, format: str, *args: object) -> None:
        return

    def _answer(self, method: str) -> None:
        body = self._body()
        parts = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        for pattern, answer in _ROUTES:
            found = re.fullmatch(pattern, f"{method} {parts.path}")
            if found is not None:
                with self.google.lock:
                    reply = answer(self.google, query, body, self.headers, *map(unquote, found.groups()))
                return self._send(*reply)
        self.google.unknown.append(f"{method} {self.path}")
        self._send(501, {"error": {"code": 501, "message": f"not made: {method} {self.path}"}})

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _send(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        kind = "application/octet-stream" if isinstance(content, bytes) else "application/json"
        for name, value in {"Content-Type": kind, **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        with suppress(ConnectionError):  # whoever asked is gone
            self.end_headers()
            self.wfile.write(data)


def _describe(google: FakeGoogle, name: str) -> dict[str, Any]:
    data = google.objects[name]
    return {
        "kind": "storage#object",
        "id": f"{BUCKET}/{name}/1",
        "name": name,
        "bucket": BUCKET,
        "generation": "1",
        "metageneration": "1",
        "size": str(len(data)),
        "crc32c": base64.b64encode(_crc32c(data).to_bytes(4, "big")).decode(),
        "md5Hash": base64.b64encode(hashlib.md5(data).digest()).decode(),
        "updated": "2026-01-01T00:00:00.000Z",
        "timeCreated": "2026-01-01T00:00:00.000Z",
        "mediaLink": f"{google.url}/download/storage/v1/b/{BUCKET}/o/{name}?alt=media",
    }


def _crc32c_table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)  # RFC 3720, appendix B.4, bits reversed
        table.append(value)
    return table


_CRC32C = _crc32c_table()


def _crc32c(data: bytes) -> int:
    checksum = 0xFFFFFFFF
    for byte in data:
        checksum = _CRC32C[(checksum ^ byte) & 0xFF] ^ checksum >> 8
    return checksum ^ 0xFFFFFFFF


def _missing(what: str) -> tuple[int, Any]:
    return 404, {"error": {"code": 404, "message": f"No such object: {BUCKET}/{what}"}}


def _token(google: FakeGoogle, *_: Any) -> tuple[int, Any]:
    return 200, {"access_token": "token", "token_type": "Bearer", "expires_in": 3600}


_KEPT = {"retentionDurationSeconds": "0"}


def _bucket(google: FakeGoogle, query: Any, body: Any, headers: Any, bucket: str) -> tuple[int, Any]:
    if bucket != BUCKET:
        return _missing(bucket)
    return 200, {"kind": "storage#bucket", "id": bucket, "name": bucket, "softDeletePolicy": _KEPT}


def _list(google: FakeGoogle, query: dict[str, str], body: Any, headers: Any, bucket: str) -> tuple[int, Any]:
    prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
    items, prefixes = [], set()
    for name in sorted(google.objects):
        if not name.startswith(prefix):
            continue
        below = name[len(prefix) :]
        if delimiter and delimiter in below:
            prefixes.add(prefix + below.split(delimiter)[0] + delimiter)
        else:
            items.append(_describe(google, name))
    return 200, {"kind": "storage#objects", "items": items, "prefixes": sorted(prefixes)}


def _get(google: FakeGoogle, query: dict[str, str], body: Any, headers: Any, bucket: str, name: str) -> tuple[Any, ...]:
    if name not in google.objects:
        return _missing(name)
    if query.get("alt") != "media":
        return 200, _describe(google, name)
    data = google.objects[name]
    asked = re.fullmatch(r"bytes=(\d+)-(\d*)", headers.get("Range", ""))
    if asked is None:
        return 200, data
    start, stop = int(asked[1]), int(asked[2] or len(data) - 1) + 1
    part = data[start:stop]
    if not part:
        return 416, {"error": {"code": 416, "message": "Requested range not satisfiable"}}
    return 206, part, {"Content-Range": f"bytes {start}-{start + len(part) - 1}/{len(data)}"}


def _delete(google: FakeGoogle, query: Any, body: Any, headers: Any, bucket: str, name: str) -> tuple[int, Any]:
    return (204, b"") if google.objects.pop(name, None) is not None else _missing(name)


def _copy(
    google: FakeGoogle, query: Any, body: Any, headers: Any, bucket: str, name: str, _: str, to: str
) -> tuple[int, Any]:
    google.objects[to] = google.objects[name]
    return 200, {"kind": "storage#rewriteResponse", "done": True, "resource": _describe(google, to)}


def _upload(google: FakeGoogle, query: dict[str, str], body: bytes, headers: Any, bucket: str) -> tuple[Any, ...]:
    if query["uploadType"] == "media":
        google.objects[query["name"]] = body
        return 200, _describe(google, query["name"])
    if query["uploadType"] == "multipart":
        boundary = re.search(r"boundary=['\"]?([^'\";]+)", headers["Content-Type"])
        assert boundary is not None
        about, content = (
            re.split(rb"\r?\n\r?\n", part, maxsplit=1)[1]
            for part in re.split(rb"\r?\n?--" + re.escape(boundary[1].encode()), body)[1:3]
        )
        name = query.get("name") or json.loads(about)["name"]
        google.objects[name] = content
        return 200, _describe(google, name)
    name = query.get("name") or json.loads(body)["name"]
    number = f"{len(google.uploads)}/{name}"
    google.uploads[number] = bytearray()
    place = f"{google.url}/upload/storage/v1/b/{bucket}/o?uploadType=resumable&upload_id={number}"
    return 200, {}, {"Location": place}


def _continue(google: FakeGoogle, query: dict[str, str], body: bytes, headers: Any, bucket: str) -> tuple[Any, ...]:
    number = query["upload_id"]
    google.uploads[number] += body
    stored = len(google.uploads[number])
    if headers["Content-Range"].endswith("/*"):
        return 308, b"", {"Range": f"bytes=0-{stored - 1}"}
    name = number.split("/", 1)[1]
    google.objects[name] = bytes(google.uploads.pop(number))
    return 200, _describe(google, name)


def _give_up(google: FakeGoogle, query: dict[str, str], body: Any, headers: Any, bucket: str) -> tuple[int, Any]:
    google.uploads.pop(query["upload_id"], None)
    return 499, b""


def _create_job(google: FakeGoogle, query: Any, body: bytes, headers: Any, *_: str) -> tuple[int, Any]:
    job = json.loads(body)
    google.jobs.append(job)
    if google.on_job is not None:
        google.on_job(job)
    return 200, _job(job["name"], len(google.jobs), "JOB_STATE_PENDING")


def _get_job(google: FakeGoogle, query: Any, body: Any, headers: Any, *_: str) -> tuple[int, Any]:
    return 200, _job(google.jobs[-1]["name"], len(google.jobs), google.state)


def _job(name: str, number: int, state: str) -> dict[str, Any]:
    return {"id": f"2026-01-01_00_00_00-{number}", "name": name, "projectId": "archive", "currentState": state}


def _messages(google: FakeGoogle, *_: Any) -> tuple[int, Any]:
    return 200, {"jobMessages": google.messages}


def _metrics(google: FakeGoogle, *_: Any) -> tuple[int, Any]:
    return 200, {}


_JOBS = r"/v1b3/projects/([^/]+)/locations/([^/]+)/jobs"
_ROUTES: list[tuple[str, Callable[..., tuple[Any, ...]]]] = [
    (r"POST /token", _token),
    (r"GET /storage/v1/b/([^/]+)", _bucket),
    (r"GET /storage/v1/b/([^/]+)/o/?", _list),
    (r"POST /storage/v1/b/([^/]+)/o/(.+)/(?:rewriteTo|copyTo)/b/([^/]+)/o/(.+)", _copy),
    (r"GET (?:/download)?/storage/v1/b/([^/]+)/o/(.+)", _get),
    (r"DELETE /storage/v1/b/([^/]+)/o/(.+)", _delete),
    (r"POST /upload/storage/v1/b/([^/]+)/o", lambda g, q, *r: (_continue if "upload_id" in q else _upload)(g, q, *r)),
    (r"PUT /upload/storage/v1/b/([^/]+)/o", _continue),
    (r"DELETE /upload/storage/v1/b/([^/]+)/o", _give_up),
    (rf"POST {_JOBS}", _create_job),
    (rf"GET {_JOBS}/[^/]+", _get_job),
    (rf"GET {_JOBS}/[^/]+/messages", _messages),
    (rf"GET {_JOBS}/[^/]+/metrics", _metrics),
]
