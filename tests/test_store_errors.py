"""What the drivers' own errors are taken for."""

from __future__ import annotations

import errno
import pickle
import socket
import ssl
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from facemill.transforms.ops.store_errors import CredentialsError, StoreError, explain, is_passing

aiohttp = pytest.importorskip("aiohttp")


def from_s3(code: str, status: int) -> OSError:
    """As s3fs raises it."""
    exceptions = pytest.importorskip("botocore.exceptions")
    errors = pytest.importorskip("s3fs.errors")
    response = {"Error": {"Code": code, "Message": "Told by S3"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return errors.translate_boto_error(exceptions.ClientError(response, "GetObject"))


def from_gcs(status: int, message: str = "Told by Google") -> BaseException:
    """As gcsfs raises it."""
    retry = pytest.importorskip("gcsfs.retry")
    try:
        retry.validate_response(status, f'{{"error": {{"message": "{message}"}}}}'.encode(), "b/bucket/o/name")
    except Exception as error:
        return error
    raise AssertionError("gcsfs takes this for an answer")


def from_azure(status: int, code: str) -> BaseException:
    """As Azure's SDK raises it."""
    exceptions = pytest.importorskip("azure.core.exceptions")

    told = SimpleNamespace(status_code=status, reason="Told by Azure", headers={"x-ms-error-code": code}, text=str)
    kinds = {404: exceptions.ResourceNotFoundError, 403: exceptions.ClientAuthenticationError}
    return kinds.get(status, exceptions.HttpResponseError)(response=told)


def from_http(status: int) -> BaseException:
    """As aiohttp raises it."""
    url = aiohttp.client_reqrep.URL("https://host/a.tar?X-Amz-Signature=0123")
    request = aiohttp.RequestInfo(url, "GET", {}, url)
    return aiohttp.ClientResponseError(request, (), status=status, message="Told by HTTP")


def missing_because_of(cause: BaseException) -> FileNotFoundError:
    """As fsspec raises it over HTTP, whatever went wrong."""
    error = FileNotFoundError("https://host/a.tar")
    error.__cause__ = cause
    return error


def cut_body() -> BaseException:
    error = aiohttp.ClientPayloadError("Response payload is not completed")
    error.__cause__ = aiohttp.http_exceptions.ContentLengthError("Not enough data")  # with the code 400
    return error


def no_host() -> BaseException:
    place = aiohttp.client_reqrep.ConnectionKey("nowhere", 443, True, True, None, None, None)
    unknown = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    return aiohttp.ClientConnectorError(place, unknown)


PASSING: list[Callable[[], BaseException]] = [
    ConnectionResetError,
    TimeoutError,
    aiohttp.ServerDisconnectedError,
    cut_body,
    lambda: from_http(429),
    lambda: from_http(500),
    lambda: from_http(503),
    lambda: missing_because_of(from_http(502)),
    lambda: missing_because_of(aiohttp.ServerDisconnectedError()),
    lambda: from_s3("SlowDown", 503),
    lambda: from_s3("InternalError", 500),
    lambda: from_s3("RequestTimeout", 400),
    lambda: from_s3("BadDigest", 400),
    lambda: from_s3("429", 429),
    lambda: pytest.importorskip("botocore.exceptions").ReadTimeoutError(endpoint_url="http://host"),
    lambda: pytest.importorskip("botocore.exceptions").EndpointConnectionError(endpoint_url="http://host"),
    lambda: from_gcs(429),
    lambda: from_gcs(502),
    lambda: from_gcs(503),
    lambda: from_azure(503, "ServerBusy"),
    lambda: from_azure(500, "OperationTimedOut"),
    lambda: pytest.importorskip("azure.core.exceptions").ServiceRequestError("Cannot connect"),
    lambda: pytest.importorskip("azure.core.exceptions").IncompleteReadError("cut"),
]


@pytest.mark.parametrize("make", PASSING)
def test_what_may_pass(make: Callable[[], BaseException]) -> None:
    error = make()
    assert is_passing(error)
    told = explain(error, "s3://bucket/name", "s3")
    assert type(told) is StoreError
    assert "0123" not in str(told)
    assert str(told).startswith("s3://bucket/name: the store does not answer as it should (")


LASTING: list[tuple[Callable[[], BaseException], type[OSError], str]] = [
    (lambda: FileNotFoundError("bucket/name"), FileNotFoundError, "not found"),
    (lambda: missing_because_of(from_http(404)), FileNotFoundError, "not found"),
    (lambda: from_s3("NoSuchKey", 404), FileNotFoundError, "not found"),
    (lambda: from_gcs(404), FileNotFoundError, "not found"),
    (lambda: from_azure(404, "BlobNotFound"), FileNotFoundError, "not found"),
    (lambda: from_http(403), PermissionError, "no permission (403"),
    (lambda: missing_because_of(from_http(403)), PermissionError, "no permission (403"),
    (lambda: from_s3("AccessDenied", 403), PermissionError, "no permission (Told by S3)"),
    (lambda: from_gcs(403), PermissionError, "no permission (Forbidden: b/bucket/o/name)"),
    (lambda: from_azure(403, "AuthorizationPermissionMismatch"), PermissionError, "no permission ("),
    (lambda: from_http(401), CredentialsError, "no access (401"),
    (lambda: from_s3("InvalidAccessKeyId", 403), CredentialsError, "no access (Told by S3); set AWS_ACCESS_KEY_ID"),
    (lambda: from_s3("ExpiredToken", 400), CredentialsError, "no access (Told by S3); set AWS_ACCESS_KEY_ID"),
    (lambda: from_gcs(401), CredentialsError, "no access (Told by Google, 401)"),
    (lambda: from_azure(403, "AuthenticationFailed"), CredentialsError, "no access ("),
    (lambda: pytest.importorskip("botocore.exceptions").NoCredentialsError(), CredentialsError, "no access (Unable"),
    (lambda: from_s3("InvalidBucketName", 400), StoreError, "Told by S3"),
    (lambda: from_http(501), StoreError, "501"),
    (no_host, StoreError, "Name or service not known"),
    (lambda: ssl.SSLCertVerificationError(1, "self-signed"), StoreError, "self-signed"),
    (lambda: IsADirectoryError(errno.EISDIR, "Is a directory"), IsADirectoryError, "a folder"),
]


@pytest.mark.parametrize(("make", "kind", "text"), LASTING)
def test_what_will_not_pass(make: Callable[[], BaseException], kind: type[OSError], text: str) -> None:
    error = make()
    assert not is_passing(error)
    told = explain(error, "s3://bucket/name", "s3")
    assert type(told) is kind
    assert str(told.strerror).startswith(text)
    assert "0123" not in str(told)


@pytest.mark.parametrize(
    ("protocol", "name"),
    [("gs", "GOOGLE_APPLICATION_CREDENTIALS"), ("abfs", "AZURE_STORAGE_CONNECTION_STRING"), ("http", "Authorization")],
)
def test_each_store_names_what_to_set(protocol: str, name: str) -> None:
    assert name in str(explain(from_http(401), "there", protocol))


def test_a_signed_url_that_is_refused_is_no_matter_of_one_file() -> None:
    told = explain(from_http(403), "https://host/a.tar", "http", is_signed=True)
    assert type(told) is CredentialsError
    assert "a signed URL that has not expired" in str(told)


def test_an_error_gets_through_to_other_processes() -> None:
    told = explain(from_http(401), "https://host/a.tar", "http")
    copy = pickle.loads(pickle.dumps(told))
    assert (type(copy), str(copy), copy.strerror) == (type(told), str(told), told.strerror)
