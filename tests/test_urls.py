"""One parser decides what in a URL is secret."""

from __future__ import annotations

import pytest

from promptmill.schemas.urls import (
    chain,
    hide_in,
    holds_password,
    secrets_of,
    split_query,
    without_query,
    without_secrets,
)

SECRET = "S3CRETS3CRET"

SECRETS = [
    f"s3://key:{SECRET}@bucket/out",
    f"s3://key:sec/{SECRET}/ret@bucket/out",
    f"s3://key:sec?{SECRET}@bucket/out",
    f"s3://key:sec#{SECRET}@bucket/out",
    f"s3://key:12/{SECRET}@bucket/out",
    f"s3://key:p@{SECRET}@bucket/out",
    f"s3://key:p@x/{SECRET}@bucket/out",
    f"s3:/key:{SECRET}@bucket/out",
    f"S3A://key:{SECRET}@bucket/out",
    f"https://user:{SECRET}@host/x",
    f"https://{SECRET}@host/x",
    f"https:///user:{SECRET}@host/x",
    f"https://user:{SECRET}@[::1]:80/x",
    f"https://host/x?{SECRET}",
    f"https://host/x?code={SECRET}",
    f"https://host/x?a=1&X-Amz-Signature={SECRET}",
    f"https://host:8080/x#{SECRET}",
    f"https://host/x#token={SECRET}",
    f"sftp://me:{SECRET}@host/x",
    f"sftp://me:a/{SECRET}@host/x",
    f"hdfs://me:{SECRET}@host/x",
    f"abfss://c@account.dfs.core.windows.net/x?sv=1&sig={SECRET}",
    f"az://container/x?sig={SECRET}",
    f"simplecache::s3://key:{SECRET}@bucket/x",
    f"simplecache::https://host/x?t={SECRET}",
    f"filecache::https://user:{SECRET}@host/x",
    f"zip://a.parquet::https://host/x.zip?sig={SECRET}",
    f"zip://a.parquet::https://user:a/{SECRET}@host/x.zip",
    f"blockcache::filecache::s3://k:{SECRET}@b/x",
]
PATHS = [f"//user:{SECRET}@host/x", f"user:{SECRET}@host:/x", f"local-dir:user:{SECRET}@host:/x"]

HARMLESS = [
    "s3://bucket/user@example.com/x",
    "s3://bucket/a:b@c/x",
    "s3://bucket/what?.parquet",
    "s3://bucket/brackets[1]#2.parquet",
    "s3://bucket/key=1/token=2/x",
    "https://host.example:8080/models/sd@main/x.parquet",
    "https://localhost:8080/a@b",
    "abfss://container@account.dfs.core.windows.net/x",
    "az://container@account.blob.core.windows.net/x",
    "sftp://me@host/x",
    "sftp://me@host:2222/x",
    "gs://bucket/x@y",
    "hf-hub:org/name@0123456789abcdef0123456789abcdef01234567",
    "zip://a.parquet::s3://bucket/x.zip",
    "simplecache::s3://bucket/x",
    "file:///tmp/a:b@c/x",
    "/tmp/a@b/x",
    "local-dir:/models/a@b",
    "out/a b",
]


@pytest.mark.parametrize("url", [*SECRETS, *PATHS])
def test_a_secret_is_hidden_and_known(url: str) -> None:
    assert SECRET not in without_secrets(url)
    assert any(SECRET in secret for secret in secrets_of(url))
    assert all(len(secret) >= len(SECRET) or secret not in "key host bucket user" for secret in secrets_of(url))


@pytest.mark.parametrize("url", SECRETS)
@pytest.mark.parametrize("around", ["{}", "cannot read {} yet", "got '{}'", "clip=local-dir:{}: x", "({})"])
def test_a_url_in_a_text_is_hidden(url: str, around: str) -> None:
    assert SECRET not in hide_in(around.format(url))


@pytest.mark.parametrize("url", HARMLESS)
def test_what_is_no_secret_stays_as_it_is(url: str) -> None:
    assert without_secrets(url) == url
    assert hide_in(f"at {url}") == f"at {url}"
    assert not holds_password(url)
    assert secrets_of(url) == set()


@pytest.mark.parametrize("url", [url for url in SECRETS if "@" in url and "sig=" not in url])
def test_a_password_is_refused(url: str) -> None:
    assert holds_password(url)


@pytest.mark.parametrize("url", [url for url in SECRETS if "@" not in url])
def test_a_query_is_no_password(url: str) -> None:
    assert not holds_password(url)


def test_queries_are_those_of_http() -> None:
    assert split_query("https://h/x.parquet?a=1#b") == ("https://h/x.parquet", "a=1")
    assert split_query("simplecache::https://h/x?a=1") == ("simplecache::https://h/x", "a=1")
    assert split_query("s3://bucket/x?a=1") == ("s3://bucket/x?a=1", "")
    assert split_query("what?.parquet") == ("what?.parquet", "")


def test_links_of_a_chain() -> None:
    assert chain("zip://a::simplecache::https://[::1]:80/x") == ["zip://a", "simplecache", "https://[::1]:80/x"]
    assert chain("s3://bucket/a::b") == ["s3://bucket/a::b"]


def test_the_query_of_an_address_is_left_out_and_nothing_else_is() -> None:
    assert without_query("https://h/a.png?X-Amz-Signature=abc&id=5") == "https://h/a.png?***"
    for place in ("https://h/a.png", "s3://bucket/a?b.png", "/photos/a?b.png", "row:/in/a.parquet#image:3"):
        assert without_query(place) == place
