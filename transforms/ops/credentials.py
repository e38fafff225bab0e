"""Keeping credentials out of what is written and told.

The URL of a file may hold what gives access to it: a signature in its query, or a password. Neither belongs to the
file's name, so that no table, plan, manifest or message shows it, and a URL that was signed anew names the same file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from facemill.models.errors import ConfigError

SIGNED_URLS = "signed_urls"  # the key of the storage options under which `separate_signatures` puts what it took
_SECRET_PREFIXES = ("x-amz-", "x-goog-", "x-oss-", "x-cos-", "q-")
_SECRET_NAMES = frozenset(
    {"auth", "authorization", "awsaccesskeyid", "expires", "googleaccessid", "key", "key-pair-id", "policy", "sig"}
)
_SECRET_WORDS = ("apikey", "api_key", "api-key", "access_key", "credential", "passw", "secret", "signature", "token")
# What stands beside `sig` in a shared access signature of Azure.
# fmt: off
_AZURE_NAMES = frozenset({
    "rscc", "rscd", "rsce", "rscl", "rsct", "saoid", "scid", "sdd", "se", "sip", "ske", "skoid", "sks", "skt", "sktid",
    "skv", "sp", "spr", "sr", "srt", "ss", "st", "suoid", "sv",
})
# fmt: on
_QUERY = re.compile(r"\?[^\s'\"<>)]+")
_PASSWORD = re.compile(r"(?<=://)([^\s/@:]*):[^\s/@]+@")
_ACCOUNT_KEY = re.compile(r"(AccountKey|SharedAccessSignature)=[^;\s'\"]+", re.IGNORECASE)


def separate_signatures(uris: Sequence[str], storage_options: Mapping[str, Any]) -> tuple[list[str], Mapping[str, Any]]:
    """The URIs without the credentials in their queries, and the storage options with these.

    Raises:
        ConfigError: A URI holds a password, or two differ in nothing but their credentials.
    """
    signed: dict[str, str] = {}
    public = [_separate(uri, signed) for uri in uris]
    if not signed:
        return public, storage_options
    return public, {**storage_options, SIGNED_URLS: {**storage_options.get(SIGNED_URLS, {}), **signed}}


def _separate(uri: str, signed: dict[str, str]) -> str:
    check_no_password(uri)
    if not uri.startswith(("http://", "https://")):
        return uri
    public, secret = split_signature(uri)
    if secret and signed.setdefault(public, secret) != secret:
        raise ConfigError(f"two inputs are {public} but for the credentials in their queries; give one of them")
    return public


def split_signature(url: str) -> tuple[str, str]:
    """`https://h/a.tar?x=1&X-Amz-Signature=...` -> `https://h/a.tar?x=1`, `X-Amz-Signature=...`."""
    place, mark, query = url.partition("?")
    parts = query.split("&") if mark else []
    names = {_name(part) for part in parts}
    secret = [part for part in parts if _is_secret(_name(part), names)]
    left = [part for part in parts if part not in secret]
    return place + ("?" + "&".join(left) if left else ""), "&".join(secret)


def join_signature(url: str, secret: str) -> str:
    """The reverse of `split_signature`."""
    return f"{url}{'&' if '?' in url else '?'}{secret}"


def check_no_password(uri: str) -> None:
    """Refuse a URI with a password, which would be written down with it.

    Raises:
        ConfigError: It holds one; the message does not.
    """
    if _PASSWORD.search(uri):
        raise ConfigError(
            f"{redact(uri)} holds a password, which the manifest would keep; give it in --storage-options instead, "
            'for instance {"https": {"headers": {"Authorization": "Basic ..."}}}'
        )


def check_no_signature(uri: str) -> None:
    """Refuse a signed URL, or one with a password, where it would be written down as it is.

    Raises:
        ConfigError: It is one.
    """
    check_no_password(uri)
    if uri.startswith(("http://", "https://")) and split_signature(uri)[1]:
        raise ConfigError(
            f"{redact(uri)} is signed, and the manifest would keep that; fetch the file and name the copy"
        )


def redact(text: str) -> str:
    """`text` with `...` in place of signatures, passwords and keys."""
    text = _PASSWORD.sub(r"\1:...@", text)
    text = _ACCOUNT_KEY.sub(r"\1=...", text)
    return _QUERY.sub(lambda query: _redact_query(query[0]), text)


def _redact_query(query: str) -> str:
    public, secret = split_signature(query)
    return join_signature(public, "...") if secret else query


def _name(part: str) -> str:
    return part.partition("=")[0].lower()


def _is_secret(name: str, names: set[str]) -> bool:
    if name.startswith(_SECRET_PREFIXES) or name in _SECRET_NAMES:
        return True
    return any(word in name for word in _SECRET_WORDS) or ("sig" in names and name in _AZURE_NAMES)
