"""What an address of a Ray cluster names, and why this process cannot join by it: known before Ray begins to wait."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Mapping

import ray
from ray._private.services import find_node_ids
from ray._private.utils import check_version_info, compute_version_info
from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.exceptions import RayError

from promptmill.schemas.errors import ClusterError, JobError, Problem

_TIMEOUT_S = 10.0
_STARTING_S = 60.0
_LOCAL = ("local", "auto")  # Ray's own words
_FRONT_DOORS = {"ray": "Ray Client", "http": "Ray's dashboard and jobs", "https": "Ray's dashboard and jobs"}
_EXPECTED = "HOST:PORT of the cluster's head (Ray's default port is 6379), or auto"
_SUBMIT = (
    "Start the command on a node of the cluster, with `--address auto`; from elsewhere: "
    "`promptmill submit JOB.yaml --address http://HEAD:8265`"
)
_HTTP2_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"  # and an empty SETTINGS frame
_SETTINGS = 4


def chosen_address(address: str | None) -> str:
    return address or os.environ.get("RAY_ADDRESS") or "local"


def check_address(address: str | None) -> None:
    """Raises JobError for an address by which nobody, or not this process, can join; ClusterError where none answers.

    Ray waits a minute or for ever, and does not say why.
    """
    chosen = chosen_address(address)
    if chosen in _LOCAL or ray.is_initialized():
        return
    where = f"{'--address' if address else 'RAY_ADDRESS'}: {chosen}"
    host, port = _host_and_port(chosen, where)
    try:
        kind = _answers(host, port)
    except OSError as error:
        raise no_cluster(chosen, error) from None
    if kind != "gRPC":
        hint = "8265 is the port of Ray's dashboard; that of the head is given to `ray start --port`, by default 6379"
        raise JobError(Problem(where, _EXPECTED, f"a port where {kind}", hint))
    _check_membership(chosen, where)


def _host_and_port(address: str, where: str) -> tuple[str, int]:
    scheme, mark, rest = address.partition("://")
    if mark:
        door = _FRONT_DOORS.get(scheme)
        got = f"the address of {door}, by which no driver joins" if door else f"an address of {scheme or 'nothing'}://"
        raise JobError(Problem(where, _EXPECTED, got, _SUBMIT if rest else ""))
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise JobError(Problem(where, _EXPECTED, "neither", "For example --address 10.0.0.1:6379"))
    return host.strip("[]"), int(port)


def _answers(host: str, port: int) -> str:
    """Who answers: "gRPC", or words for what does not. Raises OSError where nobody listens."""
    with socket.create_connection((host, port), timeout=_TIMEOUT_S) as connection:
        if os.environ.get("RAY_USE_TLS", "0") not in ("", "0"):
            return "gRPC"  # behind TLS: nothing to see from here
        answer = b""
        with contextlib.suppress(OSError):
            connection.sendall(_HTTP2_HELLO)
            answer = connection.recv(9)
    if answer.startswith((b"HTTP/", b"<")):  # some answer a greeting of another version with the page alone
        return "a web server answers"
    if len(answer) < 4 or answer[3] != _SETTINGS:
        return "no Ray cluster answers"
    return "gRPC"


def _check_membership(address: str, where: str) -> None:
    try:
        head = GcsClient(address=address)
        metadata = json.loads(head.internal_kv_get(b"CLUSTER_METADATA", b"cluster", timeout=_TIMEOUT_S) or b"{}")
        _check_versions(metadata, where)
        alive = _nodes(head)
        deadline = time.monotonic() + _STARTING_S
        while not alive and time.monotonic() < deadline:
            time.sleep(0.5)
            alive = _nodes(head)
    except RayError as error:
        raise no_cluster(address, error) from None
    if not alive & set(find_node_ids()):
        got = f"a command on {socket.gethostname()}, which is none of its {len(alive)} nodes"
        raise JobError(Problem(where, "a command on a node of the cluster", got, _SUBMIT))


def _nodes(head: GcsClient) -> set[str]:
    """Ids of the nodes that are alive: none yet where the head has only begun to start."""
    return {node.hex() for node, info in head.get_all_node_info(timeout=_TIMEOUT_S).items() if info.state == 0}


def _check_versions(metadata: Mapping[str, str], where: str) -> None:
    if not metadata:
        return
    try:
        check_version_info(metadata, "this machine")
    except RuntimeError:
        theirs, ours = (metadata["ray_version"], metadata["python_version"]), compute_version_info()
        expected, got = (f"Ray {versions[0]} and Python {versions[1]}" for versions in (theirs, ours))
        hint = "Install the cluster's versions here, or start the command on one of its nodes"
        raise JobError(Problem(where, f"{expected}, as the cluster has", got, hint)) from None


def no_cluster(address: str, error: Exception) -> ClusterError:
    reason = " ".join(line.strip() for line in str(error).splitlines() if line.strip()) or type(error).__name__
    if address == "local":
        return ClusterError(f"Ray does not start on this machine: {reason}. `promptmill doctor` looks for the cause")
    return ClusterError(
        f"no Ray cluster at {address!r}: {reason}. Start one with `ray start --head`, "
        f"or leave --address and RAY_ADDRESS out to use this machine alone"
    )
