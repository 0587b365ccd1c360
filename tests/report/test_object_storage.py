"""The report of a dataset in a bucket, opened in a real Chromium from the S3 server's own address."""

from __future__ import annotations

import json
from pathlib import Path

import boto3
import pytest
from botocore.exceptions import ClientError

from promptmill.jobs.report import report
from promptmill.pipeline.storage.store import Store
from tests.report.browser import CHROMIUM, DRIVER, Browser
from tests.report.conftest import Dataset
from tests.servers.s3 import S3Server

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None or DRIVER is None, reason="needs chromium and chromedriver"),
]


def allow_reading(endpoint: str, bucket: str) -> None:
    """Skips on a server without bucket policies."""
    rule = {"Effect": "Allow", "Principal": "*", "Action": ["s3:GetObject"], "Resource": [f"arn:aws:s3:::{bucket}/*"]}
    try:
        client = boto3.client("s3", endpoint_url=endpoint)
        client.put_bucket_policy(Bucket=bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": [rule]}))
    except ClientError as error:
        pytest.skip(f"no bucket policies here: {error}")


def test_page_from_a_bucket(
    painted: Dataset, s3_server: S3Server, s3_bucket: str, s3_env: dict[str, str], tmp_path: Path
) -> None:
    remote = Store(f"s3://{s3_bucket}/a set")
    for path in (path for path in painted.folder.rglob("*") if path.is_file() and "report" not in path.parts):
        remote.put(str(path.relative_to(painted.folder)), path.read_bytes())
    assert report(remote.url, price_per_hour=1.0).finished
    allow_reading(s3_server.endpoint, s3_bucket)
    root = f"{s3_server.endpoint}/{s3_bucket}/a%20set/report/"
    with Browser(tmp_path / "profile") as browser:
        browser.size(1400, 1000)
        browser.open("about:blank")
        browser.requests(), browser.console()
        browser.open(root + "index.html")
        browser.wait("document.documentElement.dataset.ready")
        browser.wait("document.querySelector('#gallery .tile img')")
        assert browser.run("return document.querySelectorAll('#ranked tbody tr').length") == 4
        browser.run("document.getElementById('gallery').scrollTop = 1e9")
        browser.wait(
            "[...document.querySelectorAll('#gallery .tile.kept img')].every((i) => i.complete && i.naturalWidth > 0)"
        )
        assert [url for url in browser.requests() if not url.startswith((root, "data:"))] == []
        assert browser.console() == []
