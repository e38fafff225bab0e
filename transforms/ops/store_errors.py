"""What the errors of the stores' drivers mean: whether another try may help, and what the user is told.

Each driver has errors of its own; they are known by their names here, as no driver need be installed.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator, Mapping

from facemill.transforms.ops.credentials import redact

_PASSING_STATUSES = frozenset({408, 425, 429})  # and those from 500 on, but for these two:
_LASTING_STATUSES = frozenset({501, 505})
# Codes of S3 and Azure for requests that were damaged or overtaken on their way, most of them with status 400 or 409.
_PASSING_CODES = frozenset(
    {
        "BadDigest",
        "ConditionalRequestConflict",
        "IncompleteBody",
        "Md5Mismatch",
        "OperationAborted",
        "RequestTimeout",
        "SlowDown",
        "Throttling",
        "XAmzContentSHA256Mismatch",
    }
)
_PASSING_TYPES = frozenset(
    {
        "builtins.ConnectionError",
        "builtins.TimeoutError",
        "aiohttp.client_exceptions.ClientConnectionError",
        "aiohttp.client_exceptions.ClientPayloadError",
        "asyncio.exceptions.TimeoutError",
        "azure.core.exceptions.IncompleteReadError",
        "azure.core.exceptions.ServiceRequestError",
        "azure.core.exceptions.ServiceResponseError",
        "botocore.exceptions.ConnectionError",
        "botocore.exceptions.HTTPClientError",
        "botocore.exceptions.IncompleteReadError",
        "botocore.parsers.ResponseParserError",
        "fsspec.exceptions.FSTimeoutError",
        "gcsfs.retry.ChecksumError",
        "google.auth.exceptions.TransportError",
        "http.client.HTTPException",
        "requests.exceptions.ChunkedEncodingError",
        "requests.exceptions.ConnectionError",
        "requests.exceptions.ContentDecodingError",
        "requests.exceptions.Timeout",
        "urllib3.exceptions.HTTPError",
    }
)
_LASTING_TYPES = frozenset(
    {
        "aiohttp.client_exceptions.ClientConnectorCertificateError",
        "aiohttp.client_exceptions.ClientConnectorSSLError",
        "botocore.exceptions.ProxyConnectionError",
        "botocore.exceptions.SSLError",
        "requests.exceptions.SSLError",
        "ssl.SSLCertVerificationError",
    }
)
_CREDENTIAL_TYPES = frozenset(
    {
        "azure.core.exceptions.ClientAuthenticationError",
        "botocore.exceptions.CredentialRetrievalError",
        "botocore.exceptions.NoAuthTokenError",
        "botocore.exceptions.NoCredentialsError",
        "botocore.exceptions.PartialCredentialsError",
        "botocore.exceptions.TokenRetrievalError",
        "botocore.exceptions.UnauthorizedSSOTokenError",
        "google.auth.exceptions.GoogleAuthError",
    }
)
_CREDENTIAL_CODES = frozenset(
    {
        "AuthenticationFailed",
        "AuthorizationFailure",
        "ExpiredToken",
        "InvalidAccessKeyId",
        "InvalidAuthenticationInfo",
        "InvalidToken",
        "NoAuthenticationInformation",
        "RequestTimeTooSkewed",
        "SignatureDoesNotMatch",
        "TokenRefreshRequired",
    }
)
_WHAT_TO_SET = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or key and secret in --storage-options",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS, or token in --storage-options",
    "abfs": "AZURE_STORAGE_CONNECTION_STRING, or AZURE_STORAGE_ACCOUNT_NAME with AZURE_STORAGE_ACCOUNT_KEY or "
    "AZURE_STORAGE_SAS_TOKEN, or the same in --storage-options",
    "http": 'headers in --storage-options, such as {"https": {"headers": {"Authorization": "Bearer ..."}}}, or a '
    "signed URL that has not expired",
}


class StoreError(OSError):
    """A store does not answer, or refuses a request; `strerror` is one line for the user, without credentials."""

    def __init__(self, reason: str, place: str) -> None:
        super().__init__(reason, place)  # by which runners and pickle make it anew
        self.errno, self.strerror, self.place = errno.EIO, reason, place

    def __str__(self) -> str:
        return f"{self.place}: {self.strerror}"


class CredentialsError(StoreError):
    """A store does not accept who asks, whatever is asked for."""


def is_passing(error: BaseException) -> bool:
    """Whether the same request may succeed when it is sent again."""
    chain = list(_chain(error))
    if any(_is_one_of(one, _LASTING_TYPES) or _is_unknown_host(one) for one in chain):
        return False
    return next((verdict for one in chain if (verdict := _may_pass(one)) is not None), False)


def _may_pass(error: BaseException) -> bool | None:
    """What the error itself says of that; None where it is up to what it was raised from."""
    if _is_one_of(error, _PASSING_TYPES) or _code(error) in _PASSING_CODES:
        return True
    status = _status(error)
    if status is not None:
        return status in _PASSING_STATUSES or (status >= 500 and status not in _LASTING_STATUSES)
    return True if getattr(error, "retryable", False) is True else None


def explain(error: BaseException, place: str, protocol: str, *, is_signed: bool = False) -> OSError:
    """The error as facemill tells it: FileNotFoundError, PermissionError, CredentialsError or StoreError.

    Args:
        error: What the driver raised.
        place: The URI that was asked for.
        protocol: Of the store, as its driver names it first.
        is_signed: Whether access hangs on a signature in the URL, which may have expired.
    """
    text, place = _describe(error), redact(place)
    if is_passing(error):
        return StoreError(f"the store does not answer as it should ({text})", place)
    chain = list(_chain(error))
    status = _first_status(chain)
    if _is_about_credentials(chain, status) or (is_signed and status in (401, 403)):
        return CredentialsError(f"no access ({text}); set {_what_to_set(protocol)}", place)
    if isinstance(error, PermissionError) or status == 403 or text.startswith("Forbidden"):  # the latter of gcsfs
        return PermissionError(errno.EACCES, f"no permission ({text})", place)
    if isinstance(error, FileNotFoundError) or status == 404:
        return FileNotFoundError(errno.ENOENT, "not found", place)
    if isinstance(error, IsADirectoryError):
        return IsADirectoryError(errno.EISDIR, "a folder", place)
    return StoreError(text, place)


def _what_to_set(protocol: str) -> str:
    return _WHAT_TO_SET.get(protocol, "what its fsspec driver asks for in --storage-options")


def _is_about_credentials(chain: list[BaseException], status: int | None) -> bool:
    if status == 401 or any(_code(one) in _CREDENTIAL_CODES for one in chain):
        return True
    if any(_is_one_of(one, _CREDENTIAL_TYPES) for one in chain):
        return status != 403 or not any(_code(one) for one in chain)
    return any("unable to connect to account" in str(one) for one in chain)  # adlfs, without any credentials


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, and those that it was raised from or holds."""
    seen: set[int] = set()
    waiting: list[object] = [error]
    while waiting:
        one = waiting.pop(0)
        if isinstance(one, BaseException) and id(one) not in seen:
            seen.add(id(one))
            yield one
            inner = getattr(one, "kwargs", None)  # of botocore
            waiting += [one.__cause__, getattr(one, "os_error", None), getattr(one, "inner_exception", None)]
            waiting += [inner.get("error")] if isinstance(inner, dict) else []


def _first_status(chain: list[BaseException]) -> int | None:
    return next((status for one in chain if (status := _status(one)) is not None), None)


def _status(error: BaseException) -> int | None:
    """The HTTP status that an error of a driver holds."""
    for value in _possible_statuses(error):
        if str(value).isdecimal() and 100 <= int(str(value)) < 600:
            return int(str(value))
    return None


def _possible_statuses(error: BaseException) -> Iterator[object]:
    yield getattr(error, "status", None)  # of aiohttp, whose `code` is deprecated
    yield getattr(error, "status_code", None)
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # of botocore
        yield response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    yield getattr(response, "status_code", None)
    yield getattr(error, "code", None)


def _code(error: BaseException) -> str:
    """The store's own code of an error, such as `SlowDown`; empty where there is none."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        return str(response.get("Error", {}).get("Code", ""))
    headers = getattr(response, "headers", None)  # of Azure
    return str(headers.get("x-ms-error-code", "")) if isinstance(headers, Mapping) else ""


def _is_one_of(error: BaseException, names: frozenset[str]) -> bool:
    return any(f"{kind.__module__}.{kind.__qualname__}" in names for kind in type(error).__mro__)


def _is_unknown_host(error: BaseException) -> bool:
    return isinstance(error, socket.gaierror) and error.errno == socket.EAI_NONAME


def _describe(error: BaseException) -> str:
    """The error in one line: the first of a long answer; of a FileNotFoundError what it was raised from."""
    told = error.__cause__ if isinstance(error, FileNotFoundError) and error.__cause__ is not None else error
    lines = (getattr(told, "strerror", None) or str(told)).strip().splitlines()
    return redact(lines[0].strip()) if lines else type(told).__name__
