"""Nothing secret in what is printed or written, and nothing else blanked."""

from __future__ import annotations

from urllib.parse import unquote

import pytest

from promptmill.pipeline.display import format_duration, keep_secrets, printable, redact
from promptmill.schemas.urls import holds_password


@pytest.mark.parametrize(
    "name",
    [
        "AWS_SECRET_ACCESS_KEY",
        "HF_TOKEN",
        "DB_PASSWORD",
        "PASSWD",
        "MY_CREDENTIAL",
        "OPENAI_API_KEY",
        "x_apikey",
        "S3_ACCESSKEY",
        "MY_SECRET",
        "KEY_PASSPHRASE",
        "AZURE_ACCOUNT_KEY",
    ],
)
def test_values_of_secret_variables(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "hush-hush")
    assert redact("a hush-hush b hush-hush") == "a *** b ***"


def test_values_of_other_variables_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME_TOWN", "hush-hush")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", "/run/secrets/token")
    monkeypatch.setenv("SHORT_TOKEN", "1234567")
    text = "hush-hush /run/secrets/token 1234567"
    assert redact(text) == text


def test_the_shortest_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_TOKEN", "12345678")
    assert redact("1234567 12345678") == "1234567 ***"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3://user:pass@host/x and http://key@host", "s3://***@host/x and http://***@host"),
        ("mail me@home, s3://bucket/a@b", "mail me@home, s3://bucket/a@b"),
        ("https://h/x?X-Amz-Signature=abc&y=1", "https://h/x?***"),
        ("SIG=abc 'token=x' \"password=y\"", "SIG=*** 'token=***' \"password=***\""),
        ("credential=a secret=b passwd=c key=d", "credential=*** secret=*** passwd=*** key=***"),
        ("seed=5 guidance_scale=2", "seed=5 guidance_scale=2"),
        ("", ""),
    ],
)
def test_urls(text: str, shown: str) -> None:
    assert redact(text) == shown


def test_a_short_password_hides_whole_words_alone() -> None:
    """Messages said `a URL without user and ***word` where the password was `pass`."""
    keep_secrets(["https://user:pass@host", "https://user:long-one@host"])
    assert redact("pass the password, /pass/x or xlong-oney") == "*** the password, /***/x or x***y"


def test_user_info() -> None:
    assert holds_password("s3://user:pass@bucket")
    assert not holds_password("s3://bucket/a@b")
    assert not holds_password("bucket@x")


def test_printable() -> None:
    assert printable("a\x1b[31mé\n\tb\u202e\x07") == "a\\x1b[31mé\\n\\tb\\u202e\\x07"
    assert printable("X\xa0X") == "X\\xa0X"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (60, "1 min 00 s"),
        (3599, "59 min 59 s"),
        (3600, "1 h 00 min"),
        (47 * 3600 + 59 * 60, "47 h 59 min"),
        (48 * 3600, "2 d 0 h"),
        (75 * 3600, "3 d 3 h"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    "url", ["https://me%3Ahush-hush@host/x", "https://me%3ahush/hush@host/x", "sftp://me%3Ahush-hush@host"]
)
def test_a_colon_that_is_written_otherwise(url: str) -> None:
    assert holds_password(url)
    keep_secrets([url])
    assert "hush" not in redact(f"{url} and {unquote(url)}, {url.rpartition('@')[0][-9:]}")
