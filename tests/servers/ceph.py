"""Ceph's S3 gateway over one monitor and one object store in memory: 125 MB, up in about 1.5 s, needs no root."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import uuid
from pathlib import Path

from tests.servers.base import S3Server
from tests.servers.process import Child, ServerError

PROGRAMS = ("ceph", "ceph-authtool", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")
MEMORY_BYTES = 4 * 2**30  # the size the store claims to have; memory is used as objects come
USER = "tests"

CONFIG = """\
[global]
fsid = {fsid}
mon_host = [v2:127.0.0.1:{mon_port}]
keyring = {folder}/keyring
# Without the next five the daemons loop with error -13.
auth_cluster_required = none
auth_service_required = none
auth_client_required = none
auth_supported = none
ms_mon_client_mode = crc
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
ms_bind_ipv6 = false
run_dir = {folder}
admin_socket =
log_file = {folder}/$name.log
mon_cluster_log_file = {folder}/cluster.log
crash_dir = {folder}
pid_file =
mon_data = {folder}/mon
osd_data = {folder}/osd
mon_initial_members = a
paxos_propose_interval = 0.05
mon_allow_pool_size_one = true
mon_osd_down_out_interval = 0
osd_objectstore = memstore
memstore_device_bytes = {memory}
osd_crush_chooseleaf_type = 0
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 1
osd_pool_default_pgp_num = 1
osd_pool_default_pg_autoscale_mode = off
rgw_rados_pool_pg_num_min = 1
rgw_data = {folder}/rgw
# Without tcp_nodelay each call takes 40 ms.
rgw_frontends = beast endpoint=127.0.0.1:{port} tcp_nodelay=1
rgw_relaxed_region_enforcement = true
rgw_enable_usage_log = false
rgw_gc_obj_min_wait = 2
rgw_gc_processor_period = 2
"""


class CephServer(S3Server):
    kind = "ceph"

    @classmethod
    def available(cls) -> bool:
        return all(shutil.which(name) for name in PROGRAMS)

    def _boot(self) -> None:
        (mon_port,) = self._fresh_ports(1)
        fsid, osd = str(uuid.uuid4()), str(uuid.uuid4())
        for name in ("mon", "osd", "rgw"):
            (self.folder / name).mkdir()
        settings = {"fsid": fsid, "mon_port": mon_port, "port": self.port, "memory": MEMORY_BYTES}
        self._config.write_text(CONFIG.format(folder=self.folder, **settings))
        keyring, monmap = str(self.folder / "keyring"), str(self.folder / "monmap")

        self._run("ceph-authtool", "--create-keyring", keyring, "--gen-key", "-n", "mon.", "--cap", "mon", "allow *")
        caps = ("--cap", "mon", "allow *", "--cap", "osd", "allow *")
        self._run("ceph-authtool", keyring, "--gen-key", "-n", "client.admin", *caps)
        self._run("monmaptool", "--create", "--fsid", fsid, "--addv", "a", f"[v2:127.0.0.1:{mon_port}]", monmap)
        self._run("ceph-mon", "-i", "a", "--mkfs", "--monmap", monmap, "--keyring", keyring)
        self._start("ceph-mon", "-i", "a", "-f")
        self._ceph("osd", "new", osd)
        self._run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd, "--no-mon-config")
        self._start("ceph-osd", "-i", "0", "-f")
        self._start("radosgw", "-n", "client.admin", "-f")
        self._wait_for_front()
        self.access_key = f"PM{secrets.token_hex(9).upper()}"
        keys = (f"--access-key={self.access_key}", f"--secret={self.secret_key}")
        self._admin("user", "create", f"--uid={USER}", f"--display-name={USER}", *keys)

    def restart(self) -> None:
        self._children.pop().kill()
        self._start("radosgw", "-n", "client.admin", "-f")
        self._wait_for_front()

    def read_only_env(self, bucket: str) -> dict[str, str]:
        access_key, secret_key = f"RO{secrets.token_hex(9).upper()}", secrets.token_hex(20)
        name = f"--subuser={USER}:{access_key.lower()}"
        keys = (f"--access-key={access_key}", f"--secret={secret_key}", "--key-type=s3")
        self._admin("subuser", "create", f"--uid={USER}", name, "--access=read", *keys)
        return self._env(access_key, secret_key)

    @property
    def _front(self) -> Child:
        return self._children[-1]

    @property
    def _config(self) -> Path:
        return self.folder / "ceph.conf"

    @property
    def _environ(self) -> dict[str, str]:
        # Settings of the environment's Python would mislead the `ceph` command.
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        return kept | {"CEPH_CONF": str(self._config)}

    def _start(self, program: str, *arguments: str) -> None:
        log = self.folder / f"{program}.out"
        self._children.append(Child([program, *arguments], log, self._environ))

    def _ceph(self, *arguments: str) -> None:
        # Debian's Python, not the environment's: the command is a script with modules of the system's.
        self._run("/usr/bin/python3", shutil.which("ceph") or "ceph", *arguments)

    def _admin(self, *arguments: str) -> None:
        self._run("radosgw-admin", "-n", "client.admin", *arguments)

    def _run(self, *command: str) -> None:
        done = subprocess.run(
            command,
            check=False,
            env=self._environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=30,
        )
        if done.returncode != 0:
            raise ServerError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
