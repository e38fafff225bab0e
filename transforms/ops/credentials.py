"""Keeping credentials out of what is written and told.

The URL of a file may hold what gives access to it: a signature in its query, or a password. Neither belongs to the
file's name, so that no table, plan, manifest or message shows it, and a URL that was signed anew names the same file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import unquote

from facemill.models.errors import ConfigError

SIGNED_URLS = "signed_urls"  # the key of the storage options under which `separate_signatures` puts what it took
_SECRET_PREFIXES = ("x-amz-", "x-goog-", "x-oss-", "x-cos-", "q-")
# fmt: off
_SECRET_NAMES = frozenset({
    "auth", "authkey", "authorization", "awsaccesskeyid", "expires", "googleaccessid", "hmac", "jwt", "key",
    "keypairid", "policy", "privatekey", "pwd", "sig", "sign", "subscriptionkey",
})
# fmt: on
# Of a name without its hyphens and underscores, of which some write more than others.
_SECRET_WORDS = ("apikey", "accesskey", "credential", "passw", "secret", "session", "signature", "token")
# What stands beside `sig` in a shared access signature of Azure.
# fmt: off
_AZURE_NAMES = frozenset({
    "rscc", "rscd", "rsce", "rscl", "rsct", "saoid", "scid", "sdd", "se", "sip", "ske", "skoid", "sks", "skt", "sktid",
    "skv", "sp", "spr", "sr", "srt", "ss", "st", "suoid", "sv",
})
# fmt: on
_WEB = ("http://", "https://")
_WORD = re.compile(r"\S+")
_CLOSING = "'\")>],.:;"  # what a sentence puts behind a URL
_PARAMETER = re.compile(r"(?:^|[?&;#])([^=?&;#]+)=")
# What stands before the host; or before the last @, where a password was written with a slash and no port is meant.
_LOGIN = re.compile(
    r"(?<=://)[^\s/?#]*@|(?i:(?<=http://)|(?<=https://)|(?<=ftp://))[^\s/?#@:\[]*:(?!:|\d+(?:[/?#\s'\"]|$))\S{0,2000}@"
)
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
    if not _is_on_the_web(uri):
        return uri
    public, secret = split_signature(uri)
    if secret and signed.setdefault(public, secret) != secret:
        raise ConfigError(f"two inputs are {public} but for the credentials in their queries; give one of them")
    return public


def _is_on_the_web(uri: str) -> bool:
    return uri[: len(_WEB[-1])].lower().startswith(_WEB)


def split_signature(url: str) -> tuple[str, str]:
    """`https://h/a.tar?x=1&X-Amz-Signature=...` -> `https://h/a.tar?x=1`, `X-Amz-Signature=...`.

    A part of the query, or of the fragment of a URL without a query, is secret as a whole if any name in it is.
    """
    place, mark, query = next((url.partition(mark) for mark in "?#" if mark in url), (url, "", ""))
    parts = query.split("&") if mark else []
    has_azures = any("sig" in _names(part) for part in parts)
    secret = [part for part in parts if any(_is_secret(name, has_azures) for name in _names(part))]
    left = [part for part in parts if part not in secret]
    taken = "&".join(secret)
    return place + (mark + "&".join(left) if left else ""), f"#{taken}" if taken and mark == "#" else taken


def join_signature(url: str, secret: str) -> str:
    """The reverse of `split_signature`."""
    if secret.startswith("#"):
        return url + secret
    return f"{url}{'&' if '?' in url else '?'}{secret}"


def without_credentials(url: str) -> str:
    """The URL as a name: without user, password and signature."""
    return split_signature(_LOGIN.sub(lambda login: "" if _is_secret_login(login) else login[0], url))[0]


def check_no_password(uri: str) -> None:
    """Refuse a URI with a password, which would be written down with it.

    Raises:
        ConfigError: It holds one; the message does not.
    """
    if any(_is_secret_login(login) for login in _LOGIN.finditer(uri)):
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
    if _is_on_the_web(uri) and split_signature(uri)[1]:
        raise ConfigError(
            f"{redact(uri)} is signed, and the manifest would keep that; fetch the file and name the copy"
        )


def redact(text: str) -> str:
    """`text` with `...` in place of signatures, passwords and keys."""
    text = _LOGIN.sub(lambda login: "...@" if _is_secret_login(login) else login[0], text)
    text = _ACCOUNT_KEY.sub(r"\1=...", text)
    return _WORD.sub(lambda word: _redact_query(word[0]), text)


def _redact_query(word: str) -> str:
    """A word whose query holds a secret without that; a number sign begins one in a whole URL alone."""
    marks = "?#" if "://" in word else "?"
    start = next((word.index(mark) for mark in marks if mark in word), None)
    if start is None:
        return word
    query = word[start:].rstrip(_CLOSING)
    public, secret = split_signature(query)
    if not secret:
        return word
    return word[:start] + (f"{public}&..." if public else f"{query[0]}...") + word[start + len(query) :]


def _is_secret_login(login: re.Match[str]) -> bool:
    """Whether it holds a password; on the web a user alone is most often a token, elsewhere a container or account."""
    return ":" in login[0] or login.string[: login.start()].lower().endswith(_WEB)


def _names(part: str) -> list[str]:
    """The names of a part of a query, and of what is written in its value as a URL in a URL."""
    return [name.lower() for name in _PARAMETER.findall(unquote(unquote(part)))]


def _is_secret(name: str, has_azures: bool) -> bool:
    plain = name.replace("-", "").replace("_", "")
    if name.startswith(_SECRET_PREFIXES) or plain in _SECRET_NAMES:
        return True
    return any(word in plain for word in _SECRET_WORDS) or (has_azures and name in _AZURE_NAMES)
