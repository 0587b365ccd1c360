"""OpenStack Swift with its S3 front, from pip alone: one process of 75 MB, up in about 2 s, needs no root."""

from __future__ import annotations

import importlib.util
import os
import secrets
import sys
from pathlib import Path

from tests.servers.base import REGION, S3Server
from tests.servers.process import Child

BACKENDS = ("account", "container", "object")

PROXY = """\
[DEFAULT]
swift_dir = {folder}
client_timeout = 15
log_level = ERROR
[pipeline:main]
pipeline = catch_errors gatekeeper listing_formats s3api tempauth bulk copy dlo slo proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
allow_account_management = true
[filter:tempauth]
use = egg:swift#tempauth
user_{account}_{owner} = {secret} .admin
user_{account}_{reader} = {reader_secret}
[filter:s3api]
use = egg:swift#s3api
location = {region}
min_segment_size = 1
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:gatekeeper]
use = egg:swift#gatekeeper
[filter:listing_formats]
use = egg:swift#listing_formats
[filter:bulk]
use = egg:swift#bulk
[filter:copy]
use = egg:swift#copy
[filter:dlo]
use = egg:swift#dlo
[filter:slo]
use = egg:swift#slo
"""

BACKEND = """\
[DEFAULT]
swift_dir = {folder}
devices = {folder}/devices
mount_check = false
log_level = ERROR
[app:main]
use = egg:swift#{program}
"""


class SwiftServer(S3Server):
    kind = "swift"

    @classmethod
    def available(cls) -> bool:
        return importlib.util.find_spec("swift") is not None and importlib.util.find_spec("eventlet") is not None

    def _boot(self) -> None:
        self._backend_ports = self._fresh_ports(len(BACKENDS))
        account = secrets.token_hex(6)
        self.access_key, self._reader_key = f"{account}:owner", f"{account}:reader"
        self._reader_secret = secrets.token_hex(20)
        (self.folder / "devices" / "d0").mkdir(parents=True)
        (self.folder / "swift.conf").write_text(f"[swift-hash]\nswift_hash_path_suffix = {account}\n")
        users = {"owner": "owner", "secret": self.secret_key, "reader": "reader", "reader_secret": self._reader_secret}
        proxy = PROXY.format(folder=self.folder, account=account, region=REGION, **users)
        (self.folder / "proxy.conf").write_text(proxy)
        self._keeps_data = _has_attributes(self.folder)
        programs = {"object": "object" if self._keeps_data else "mem_object"}
        for name in BACKENDS:
            text = BACKEND.format(folder=self.folder, program=programs.get(name, name))
            (self.folder / f"{name}.conf").write_text(text)
        self._start()

    def restart(self) -> None:
        if not self._keeps_data:
            raise NotImplementedError(f"{self.folder} has no extended attributes: Swift's objects are in memory only")
        self._children.pop().kill()
        self._start()

    def read_only_env(self, bucket: str) -> dict[str, str]:
        # Swift's way to let the account's other user read.
        self.filesystem().call_s3("put_bucket_acl", Bucket=bucket, ACL="public-read")
        return self._env(self._reader_key, self._reader_secret)

    @property
    def _front(self) -> Child:
        return self._children[-1]

    def _start(self) -> None:
        ports = [str(port) for port in (self.port, *self._backend_ports)]
        app = Path(__file__).with_name("swift_app.py")
        # -P: this folder's swift.py must not hide the package.
        command = [sys.executable, "-W", "ignore", "-P", str(app), str(self.folder), *ports]
        env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        self._children.append(Child(command, self.folder / "swift.out", env))
        self._wait_for_front()


def _has_attributes(folder: Path) -> bool:
    """Whether files there take extended attributes, where Swift's object server on disk keeps its metadata."""
    try:
        os.setxattr(folder, "user.promptmill", b"1")
    except OSError:
        return False
    return True
