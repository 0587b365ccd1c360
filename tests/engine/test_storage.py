"""What a store says of itself, without a server."""

from __future__ import annotations

import errno
import os
import uuid
from pathlib import Path

import pytest

from promptmill.pipeline.storage.store import Store


def test_stores_without_conditional_writes_say_so_once(caplog: pytest.LogCaptureFixture) -> None:
    url = f"memory://{uuid.uuid4().hex}"
    for store in (Store(url), Store(url)):
        store.create("a", b"1")
        store.create("b", b"2")
    assert not Store(url).create("a", b"3")
    (record,) = caplog.records
    assert url in record.getMessage() and "conditional writes" in record.getMessage()


def test_a_disk_without_hard_links_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    store = Store(str(tmp_path))
    assert store.create("data/a", b"1") and store.create("data/b", b"2") and not store.create("data/a", b"3")
    (record,) = caplog.records
    assert str(tmp_path) in record.getMessage() and "hard links" in record.getMessage()
