"""What a store says of itself, without a server."""

from __future__ import annotations

import errno
import os
import stat
import uuid
from pathlib import Path

import aiohttp
import aiohttp.http_exceptions
import pytest
from botocore.exceptions import ClientError

from promptmill.pipeline.storage.entry import same_write
from promptmill.pipeline.storage.faults import is_transient
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.errors import MissingObjectError, StorageError
from tests.servers.disk import CannotMount, refusing, small_disk


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


def test_what_finder_programs_leave_is_no_object(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    for name in ("part", ".DS_Store", "._part", "Thumbs.db", "desktop.ini", ".nfs0001", "sub_$folder$"):
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / name).write_bytes(b"x")
    assert [entry.name for entry in store.list("data")] == ["data/part"]
    assert [entry.name for entry in store.find()] == ["data/._part", "data/.nfs0001", "data/part"]


@pytest.mark.slow
def test_folder_markers_of_a_bucket_are_no_objects(s3_bucket: str, s3_env: dict[str, str]) -> None:
    """A `segments/` that a console had made was read as a segment: no command worked any more."""
    store = Store(f"s3://{s3_bucket}/a")
    for key in ("data/", "data", "job.json/", "data/sub/", "inputs_$folder$"):
        store.fs.call_s3("put_object", Bucket=s3_bucket, Key=f"a/{key}", Body=b"")
    assert store.entry("job.json") is None
    assert store.read_if_exists("job.json") is None
    assert store.list("data") == []
    store.put("data/part", b"x")
    assert [entry.name for entry in store.list("data")] == ["data/part"]
    assert {entry.name for entry in store.find()} - {"data"} == {"data/part"}


@pytest.fixture(params=["disk", pytest.param("s3", marks=pytest.mark.slow)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "disk":
        return Store(str(tmp_path))
    request.getfixturevalue("s3_env")
    return Store(f"s3://{request.getfixturevalue('s3_bucket')}/dataset")


def test_remove_takes_only_what_was_looked_at(store: Store) -> None:
    store.put("data/a", b"old")
    old = store.entry("data/a")
    assert old is not None
    store.put("data/a", b"newer")
    assert not store.remove(old)
    assert store.read("data/a") == b"newer"
    there = store.entry("data/a")
    assert there is not None and store.remove(there) and not store.remove(there)
    assert store.entry("data/a") is None
    assert store.list(".tmp") == []


def test_age_is_told_by_the_clock_of_the_store(store: Store) -> None:
    store.put("a", b"x")
    entry, now = store.entry("a"), store.now()
    assert entry is not None and entry.modified is not None and now is not None
    assert -1 <= now - entry.modified < 60
    # A Ceph gateway lists milliseconds, and a look at one object (Last-Modified) has whole seconds.
    [listed] = store.list("")
    assert same_write(listed, entry)
    assert listed.modified is not None and abs(listed.modified - entry.modified) < 1


def test_a_temporary_file_that_is_taken_for_a_left_over_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer that was stopped for an hour, with `verify --repair` at work meanwhile, ended with 4."""
    link, store = os.link, Store(str(tmp_path))

    def after_a_repair(source: Path, target: Path) -> None:
        monkeypatch.setattr(os, "link", link)
        Path(source).unlink()
        link(source, target)

    monkeypatch.setattr(os, "link", after_a_repair)
    assert store.create("data/a", b"1")
    assert store.read("data/a") == b"1"


def test_what_is_not_there_is_told_from_a_store_that_fails(tmp_path: Path) -> None:
    with pytest.raises(MissingObjectError):
        Store(str(tmp_path)).read("data/a")


@pytest.mark.parametrize(
    "cause", [aiohttp.http_exceptions.TransferEncodingError, aiohttp.http_exceptions.ContentLengthError]
)
def test_an_answer_that_is_cut_short_is_asked_for_again(cause: type[Exception]) -> None:
    """aiohttp's parser calls it a 400, and the run ended with "Trying again does not change that"."""
    error = aiohttp.ClientPayloadError("Response payload is not completed")
    error.__cause__ = cause("cut")
    assert is_transient(error)


@pytest.mark.parametrize(("status", "waits"), [(400, False), (403, False), (404, False), (409, True), (503, True)])
def test_a_status_counts_where_it_is_the_cause_and_not_where_it_came_before(status: int, waits: bool) -> None:
    answer = ClientError({"ResponseMetadata": {"HTTPStatusCode": status}, "Error": {}}, "PutObject")
    raised, later = OSError(errno.EIO, "the server said no"), ConnectionResetError("reset by peer")
    raised.__cause__, later.__context__ = answer, answer
    assert is_transient(raised) == waits
    assert is_transient(later)


REFUSALS = ["EPERM", "EACCES", "ENOTSUP", "ENOSYS", "EINVAL", "EXDEV", "EIO"]


@pytest.mark.parametrize("name", REFUSALS)
def test_a_disk_that_refuses_links_in_its_own_words(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(str(tmp_path / name))
    with refusing("link", getattr(errno, name)) as run:
        assert run(lambda: (store.weakness(), store.create("data/a", b"1"), store.create("data/a", b"2"))) == (
            "there are no hard links",
            True,
            False,
        )
        run(store.warn_of_weakness)
    assert store.read("data/a") == b"1"
    assert [entry.name for entry in store.list("data")] == ["data/a"] and not list((tmp_path / name / ".tmp").iterdir())
    (message,) = caplog.messages
    assert str(tmp_path) in message and "hard links" in message
    assert store.weakness() == ""


@pytest.mark.parametrize("name", ["EINVAL", "ENOTSUP", "ENOSYS"])
def test_a_disk_that_cannot_sync(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    store = Store(str(tmp_path / name))
    with refusing("fsync", getattr(errno, name)) as run:
        run(lambda: [store.create(f"data/{key}", b"1") for key in "ab"])
        run(lambda: store.put("data/a", b"2"))
    assert store.read("data/a") == b"2"
    # One line for the temporary files, one for the folder.
    assert len(caplog.messages) == 2 and all("power failure" in message for message in caplog.messages)


@pytest.mark.parametrize("name", ["EBADF", "EIO", "EACCES"])
def test_a_folder_that_cannot_be_synced(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel's filter cannot tell folders from files, so here the call is replaced."""
    sync = os.fsync

    def refuse(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(getattr(errno, name), "no")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", refuse)
    store = Store(str(tmp_path / name))
    assert store.create("data/a", b"1") and not store.create("data/a", b"2")
    assert len(caplog.messages) == 1 and "the folder" in caplog.messages[0]


def test_a_file_that_cannot_be_written_to_the_disk_is_an_error(tmp_path: Path) -> None:
    store = Store(str(tmp_path), patience_s=0)
    with refusing("fsync", errno.EIO) as run, pytest.raises(StorageError, match="Input/output error"):
        run(lambda: store.create("data/a", b"1"))
    assert store.list("data") == []


@pytest.mark.parametrize("folder", [".tmp", "data"])
def test_a_folder_of_the_output_on_another_disk(tmp_path: Path, folder: str, caplog: pytest.LogCaptureFixture) -> None:
    store = Store(str(tmp_path))
    try:
        with small_disk(tmp_path / folder, 1 << 20):
            assert store.create("data/a", b"1") and not store.create("data/a", b"2")
            store.put("data/a", b"3")
            (entry,) = store.list("data")
            assert store.read("data/a") == b"3"
            assert store.remove(entry) and store.list("data") == []
            assert [path.name for path in (tmp_path / "data").iterdir()] == []
    except CannotMount as error:
        pytest.skip(f"cannot mount: {error}")
    assert caplog.messages == [], "links within the folder do as well"
