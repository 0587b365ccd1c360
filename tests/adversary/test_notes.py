"""Notes that this machine keeps of large files: whatever stands in one, the hash is that of the file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from promptmill.pipeline.storage import digests
from promptmill.pipeline.storage.digests import file_digest
from tests.adversary.junk import RAW, spoiled


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_note_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: st.DataObject) -> None:
    monkeypatch.setattr(digests, "PIECE_BYTES", 4096)
    monkeypatch.setattr(digests, "_SETTLED_NS", -1)  # no waiting until the file is old enough
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    large = tmp_path / "large"
    if not large.exists():
        large.write_bytes(os.urandom(10_000))
    right = file_digest(large)
    (note,) = (tmp_path / "cache" / "promptmill" / "digests").iterdir()
    whole = note.read_bytes()
    spoilt = data.draw(spoiled(whole) | RAW)
    note.write_bytes(spoilt)
    # What is no note of this very file is not believed; one that is, and lies, is this user's own doing.
    if spoilt != whole and b"digest" not in spoilt:
        assert file_digest(large) == right
    else:
        assert len(file_digest(large)) == 32
    note.unlink(missing_ok=True)
