"""What every S3 server of the tests offers, whichever program answers behind it."""

# mypy: disable-error-code="import-untyped"
from __future__ import annotations

import http.client
import secrets
import shutil
import signal
import tempfile
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import s3fs

from tests.servers.process import Child, ServerError, free_ports, wait_until

REGION = "us-east-1"


class S3Server(ABC):
    """A server with throw-away credentials, as a context manager; its state lies under `folder` and goes with it.

    Without a folder a temporary one is made, and removed at the end.
    """

    kind: str
    boot_timeout_s = 30.0
    boots = 3  # a free port can be taken by someone else between the choice and the bind

    def __init__(self, folder: Path | None = None) -> None:
        self._temporary = folder is None
        self.folder = Path(tempfile.mkdtemp(prefix="promptmill-s3-")) if folder is None else folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self.port = 0
        self.access_key = ""
        self.secret_key = secrets.token_hex(20)
        self._children: list[Child] = []

    @classmethod
    @abstractmethod
    def available(cls) -> bool:
        """Whether the programs it needs are installed."""

    @abstractmethod
    def _boot(self) -> None:
        """Start everything on fresh ports; raises `ServerError`."""

    @abstractmethod
    def restart(self) -> None:
        """SIGKILL the process that answers S3 requests and start it again on the same port, with the same data."""

    @abstractmethod
    def read_only_env(self, bucket: str) -> dict[str, str]:
        """Like `env`, with other credentials that may read and list `bucket` but not write to it."""

    @property
    @abstractmethod
    def _front(self) -> Child:
        """The process that answers S3 requests."""

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        for attempt in range(1, self.boots + 1):
            try:
                self._boot()
                return self
            except BaseException as error:
                self._end()
                if attempt == self.boots or not isinstance(error, ServerError):
                    raise
                shutil.rmtree(self.folder, ignore_errors=True)
                self.folder.mkdir(parents=True)
        raise AssertionError("unreachable")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def stop(self) -> None:
        """SIGKILL to each process started here, the front first."""
        while self._children:
            self._children.pop().kill()

    def pause(self) -> None:
        """SIGSTOP: connections are still accepted by the kernel, nothing is ever answered."""
        self._front.signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._front.signal(signal.SIGCONT)

    def env(self) -> dict[str, str]:
        """Variables under which an unmodified s3fs, boto3 or pyarrow of another process uses this server."""
        return self._env(self.access_key, self.secret_key)

    def make_bucket(self, name: str | None = None) -> str:
        """Create an empty bucket and return its name (made up if not given; three letters at least)."""
        name = name or f"test-{secrets.token_hex(6)}"
        self.filesystem().mkdir(name)
        return name

    def filesystem(self, **options: Any) -> s3fs.S3FileSystem:
        """A file system of its own: see `make_filesystem`."""
        return make_filesystem(self.endpoint, self.access_key, self.secret_key, **options)

    def _end(self) -> None:
        self.stop()
        if self._temporary:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _env(self, access_key: str, secret_key: str) -> dict[str, str]:
        config = self.folder / "aws-config"
        config.write_text(f"[default]\nregion = {REGION}\ns3 =\n    addressing_style = path\n")
        nothing = self.folder / "aws-credentials"
        nothing.touch()
        return {
            "AWS_ACCESS_KEY_ID": access_key,
            "AWS_SECRET_ACCESS_KEY": secret_key,
            "AWS_SESSION_TOKEN": "",  # one of the user's own would be sent along
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_CONFIG_FILE": str(config),
            "AWS_SHARED_CREDENTIALS_FILE": str(nothing),
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",  # pyarrow's S3FileSystem needs it with Ceph
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
            **endpoint_env(self.endpoint),
        }

    def _wait_for_front(self) -> None:
        wait_until(self._answers, f"{self.kind} answers", self._children, self.boot_timeout_s)

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/")
            return connection.getresponse().status < 500
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _fresh_ports(self, count: int) -> list[int]:
        """Choose the front's port, and `count` others that are returned."""
        self.port, *others = free_ports(count + 1)
        return others


def endpoint_env(endpoint: str) -> dict[str, str]:
    """The two variables that name the endpoint: botocore prefers the second, so neither may be left to the user's."""
    return {"AWS_ENDPOINT_URL": endpoint, "AWS_ENDPOINT_URL_S3": endpoint}


def make_filesystem(
    endpoint: str, access_key: str, secret_key: str, *, attempts: int | None = None, **options: Any
) -> s3fs.S3FileSystem:
    """s3fs with explicit credentials, 2 s to connect, 5 s to read, no cached listings; `options` go over these.

    `attempts` limits how often each request is sent; without it s3fs and botocore both try five times, one inside the
    other, so that a read may be sent 125 times.
    """
    config: dict[str, Any] = {"connect_timeout": 2, "read_timeout": 5, "s3": {"addressing_style": "path"}}
    if attempts is not None:
        config["retries"] = {"total_max_attempts": attempts}
    settings: dict[str, Any] = {
        "key": access_key,
        "secret": secret_key,
        "endpoint_url": endpoint,
        "client_kwargs": {"region_name": REGION},
        "config_kwargs": config | options.pop("config_kwargs", {}),
        "use_listings_cache": False,
        "skip_instance_cache": True,
    }
    filesystem = s3fs.S3FileSystem(**(settings | options))
    if attempts is not None:
        filesystem.retries = 1
    return filesystem
