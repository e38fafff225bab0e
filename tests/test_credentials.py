"""Credentials in URLs: taken out, put back, never told."""

from __future__ import annotations

import pytest

from facemill.models.errors import ConfigError
from facemill.transforms.ops.credentials import (
    check_no_password,
    check_no_signature,
    join_signature,
    redact,
    separate_signatures,
    split_signature,
    without_credentials,
)

SIGNED = [
    # As the documentation of each service shows them.
    (
        "https://bucket.s3.amazonaws.com/a.tar?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIA%2F20130524&"
        "X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host&X-Amz-Signature=aeeed9bb",
        "https://bucket.s3.amazonaws.com/a.tar",
    ),
    (
        "https://s3.amazonaws.com/bucket/a.tar?AWSAccessKeyId=AKIA&Signature=vjbyPxybdZaNmGa%2ByT272YEAiv4%3D&Expires=1",
        "https://s3.amazonaws.com/bucket/a.tar",
    ),
    (
        "https://storage.googleapis.com/bucket/a.tar?X-Goog-Algorithm=GOOG4-RSA-SHA256&X-Goog-Signature=247a2aa4",
        "https://storage.googleapis.com/bucket/a.tar",
    ),
    (
        "https://me.blob.core.windows.net/photos/a.tar?sv=2023-11-03&st=2024-01-01&se=2025-01-01&sr=b&sp=r&sig=Zz%3D",
        "https://me.blob.core.windows.net/photos/a.tar",
    ),
    ("https://host/get.php?id=17&token=abc", "https://host/get.php?id=17"),
    ("HTTPS://host/a.tar?token=abc", "HTTPS://host/a.tar"),
    ("https://host/a.jpg?access_token=abc&width=100", "https://host/a.jpg?width=100"),
]
PUBLIC = [
    "https://host/a.jpg",
    "https://host/a.jpg?width=100",
    "https://host/a.jpg?sp=1&st=2",  # names of Azure's, without its signature
    "https://host/a.jpg?author=17",
    "s3://bucket/what?.tar",
    "photos/x?token=1.jpg",
]


@pytest.mark.parametrize(("url", "public"), SIGNED)
def test_a_signed_url_is_split_and_joined(url: str, public: str) -> None:
    left, secret = split_signature(url)
    assert left == public
    assert secret
    joined = join_signature(left, secret)
    assert sorted(joined.partition("?")[2].split("&")) == sorted(url.partition("?")[2].split("&"))


@pytest.mark.parametrize(("url", "public"), SIGNED)
def test_signatures_go_to_the_storage_options(url: str, public: str) -> None:
    uris, options = separate_signatures([url, "photos"], {"https": {"block_size": 1}})
    assert uris == [public, "photos"]
    assert options == {"https": {"block_size": 1}, "signed_urls": {public: split_signature(url)[1]}}
    with pytest.raises(ConfigError, match="is signed, and the manifest would keep that"):
        check_no_signature(url)


@pytest.mark.parametrize("uri", PUBLIC)
def test_what_is_no_credential_stays(uri: str) -> None:
    assert separate_signatures([uri], {"key": "k"}) == ([uri], {"key": "k"})
    check_no_signature(uri)


def test_urls_that_differ_in_their_credentials_alone_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"two inputs are https://host/a.jpg but for") as refused:
        separate_signatures(["https://host/a.jpg?token=first", "https://host/a.jpg?token=second"], {})
    assert "first" not in str(refused.value)


@pytest.mark.parametrize(
    "uri", ["https://user:swordfish@host/a", "ftp://user:swordfish@host/b", "https://swordfish@host/c"]
)
def test_a_password_is_refused_and_not_told(uri: str) -> None:
    for check in (check_no_password, check_no_signature):
        with pytest.raises(ConfigError, match=r"//\.\.\.@host/.* holds a password") as refused:
            check(uri)
        assert "swordfish" not in str(refused.value)


@pytest.mark.parametrize(
    "uri",
    ["https://host:80/a:b@c.jpg", "sftp://user@host/a", "abfs://photos@me.dfs.core.windows.net/a", "a:b@c"],
)
def test_what_looks_like_a_password(uri: str) -> None:
    check_no_password(uri)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("403, url='https://h/a?X-Amz-Signature=5ec'", "403, url='https://h/a?...'"),
        ("GET https://h/a?id=1&token=5ec failed", "GET https://h/a?id=1&... failed"),
        ("at https://me:5ec@host/a", "at https://...@host/a"),
        ("AccountName=me;AccountKey=5ec==;EndpointSuffix=x", "AccountName=me;AccountKey=...;EndpointSuffix=x"),
        ("is this found?", "is this found?"),
        ("people/C#key=3.jpg is no image", "people/C#key=3.jpg is no image"),
    ],
)
def test_messages_are_cleaned(text: str, told: str) -> None:
    assert redact(text) == told


@pytest.mark.parametrize(
    ("url", "told", "name"),
    [
        ("https://u:s3cret@host/a@2x.jpg", "https://...@host/a@2x.jpg", "https://host/a@2x.jpg"),
        ("HTTPS://U:s3cret@host/a", "HTTPS://...@host/a", "HTTPS://host/a"),
        ("https://u:p@s3cret@host/a", "https://...@host/a", "https://host/a"),
        ("https://u:/p/s3cret@host:81/a", "https://...@host:81/a", "https://host:81/a"),
        ("https://me@mail.org:s3cret@host/a", "https://...@host/a", "https://host/a"),
        ("https://s3cret@host:80/a:b@c", "https://...@host:80/a:b@c", "https://host:80/a:b@c"),
        ("s3://key:s3cret@bucket/a", "s3://...@bucket/a", "s3://bucket/a"),
        ("zip://a::ftp://u:s3cret@host/a", "zip://a::ftp://...@host/a", "zip://a::ftp://host/a"),
        ("https://h/a?X-Amz-Signature=s3cret&y=1", "https://h/a?y=1&...", "https://h/a?y=1"),
        ("https://h/a?%74oken=s3cret&y=1", "https://h/a?y=1&...", "https://h/a?y=1"),
        ("https://h/a?x=1;token=s3cret", "https://h/a?...", "https://h/a"),
        ("https://h/a?x=1?token=s3cret", "https://h/a?...", "https://h/a"),
        ("https://h/a?to=https%3A%2F%2Fg%3Fsig%3Ds3cret", "https://h/a?...", "https://h/a"),
        ("https://h/a?token='\")s3cret", "https://h/a?...", "https://h/a"),
        ("https://h/a#access_token=s3cret", "https://h/a#...", "https://h/a"),
        ("https://h/a?x=1#token=s3cret", "https://h/a?...", "https://h/a"),
        ("https://h/a?access-key=s3cret&AccessKey=s3cret", "https://h/a?...", "https://h/a"),
        ("https://h/a?private_key=s3cret", "https://h/a?...", "https://h/a"),
        ("s3://arn:aws:s3:r:1:accesspoint/ap/a@2x.png", "s3://arn:aws:s3:r:1:accesspoint/ap/a@2x.png", None),
        ("abfs://photos@me.dfs/a", "abfs://photos@me.dfs/a", "abfs://photos@me.dfs/a"),
        ("http://[::1]:80/a:b@c", "http://[::1]:80/a:b@c", "http://[::1]:80/a:b@c"),
    ],
)
def test_hostile_urls_tell_nothing(url: str, told: str, name: str | None) -> None:
    assert (redact(url), without_credentials(url)) == (told, url if name is None else name)
    assert redact(f"cannot open '{url}', for which") == f"cannot open '{told}', for which"
    assert redact(told) == told


def test_a_long_line_is_cleaned_in_no_time() -> None:
    for line in ("://a:" * 13_000, "https://h/a?" + "." * 64_000 + "x"):
        assert redact(line) == line
