"""No secret of the environment or of a URL is in anything that a run writes or prints, in Ray's own logs either."""

from __future__ import annotations

import pytest

from tests.faults.bench import Bench
from tests.servers.proxy import FaultProxy

pytestmark = pytest.mark.slow
CANARIES = {
    "AWS_SECRET_ACCESS_KEY": "canary-of-the-secret-key-0001",
    "AWS_SESSION_TOKEN": "canary-of-the-session-token-0002",
    "HF_TOKEN": "hf_canaryOfTheHub0003",
    "MY_DATABASE_PASSWORD": "canary-of-a-password-0004",
}
IN_URL = "canary-of-a-url-0005"


def hits(texts: dict[str, bytes]) -> list[str]:
    words = [value.encode() for value in (*CANARIES.values(), IN_URL)]
    return [name for name, content in texts.items() if any(word in content for word in words)]


def test_a_run_that_storage_refuses(bench: Bench) -> None:
    output = bench.output("s3", env=CANARIES)
    ended = bench.run(bench.job(), output, PROMPTMILL_STORAGE_PATIENCE_S="1")
    assert ended.code == 4
    assert hits({"printed": ended.printed.encode()}) == []


def test_a_run_that_succeeds_and_one_that_waits(bench: Bench) -> None:
    assert bench.server is not None
    secret = bench.server.secret_key
    others = {name: value for name, value in CANARIES.items() if not name.startswith("AWS_")}
    with FaultProxy(bench.server) as proxy, proxy.unavailable(5):
        output = bench.output("s3", env={**proxy.env(), **others})
        ended = bench.run(bench.job(), output)
    assert ended.code == 3, ended.printed
    texts = {"printed": ended.printed.encode(), **output.files()}
    assert hits(texts) == []
    assert [name for name, content in texts.items() if secret.encode() in content] == []


@pytest.mark.parametrize(
    ("field", "url"),
    [
        ("output.url", f"s3://user:{IN_URL}@bucket/out"),
        ("prompts.source", f"http://user:{IN_URL}@127.0.0.1:1/p.parquet"),
        ("prompts.source", f"http://127.0.0.1:1/p.parquet?token={IN_URL}"),
    ],
)
def test_a_url_that_holds_a_secret(bench: Bench, field: str, url: str) -> None:
    output = bench.output()
    ended = bench.run(bench.job(), output, "--in-process", "--set", f"{field}={url}", PROMPTMILL_STORAGE_PATIENCE_S="1")
    assert ended.code in (2, 4)
    assert hits({"printed": ended.printed.encode()}) == []
