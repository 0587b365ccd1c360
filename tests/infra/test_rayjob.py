"""rayjob.yaml against KubeRay's published schema, and against what a careful cluster asks of its pods."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest

from promptmill.pipeline.jobfile.reader import parse_job
from promptmill.schemas.job import Job
from tests.infra.places import INFRA, ROOT, manifests

SCHEMA = ROOT.parent / "shared" / "kuberay" / "rayjobs.schema.json"
OBJECT_META = {"name", "namespace", "labels", "annotations"}


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    if not SCHEMA.is_file():
        pytest.skip("KubeRay's schema is not here")
    loaded: dict[str, Any] = json.loads(SCHEMA.read_text())
    return loaded


@pytest.fixture(scope="module")
def rayjob() -> dict[str, Any]:
    return manifests()["RayJob"]


@pytest.fixture(scope="module")
def job() -> Job:
    return parse_job(manifests()["ConfigMap"]["data"]["job.yaml"], "job.yaml")


def unknown_fields(value: Any, schema: dict[str, Any], path: str = "") -> Iterator[str]:
    """Fields of `value` that the schema does not name. Kubernetes drops such fields without a word."""
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from unknown_fields(item, schema.get("items", {}), f"{path}[{index}]")
    elif isinstance(value, dict):
        known, other = schema.get("properties", {}), schema.get("additionalProperties")
        for name, child in value.items():
            if name in known:
                yield from unknown_fields(child, known[name], f"{path}.{name}")
            elif not other:
                yield f"{path}.{name}"


def pods(rayjob: dict[str, Any]) -> dict[str, dict[str, Any]]:
    cluster = rayjob["spec"]["rayClusterSpec"]
    found = {"submitter": rayjob["spec"]["submitterPodTemplate"], "head": cluster["headGroupSpec"]["template"]}
    found |= {group["groupName"]: group["template"] for group in cluster["workerGroupSpecs"]}
    return {name: template["spec"] for name, template in found.items()}


def test_manifest_follows_the_schema(rayjob: dict[str, Any], schema: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator(schema).validate(rayjob)


def test_every_field_exists_in_the_schema(rayjob: dict[str, Any], schema: dict[str, Any]) -> None:
    properties = schema["properties"] | {"metadata": {"additionalProperties": True}}
    assert list(unknown_fields(rayjob, {"properties": properties})) == []
    assert set(rayjob["metadata"]) <= OBJECT_META


def test_a_misspelt_field_is_found(schema: dict[str, Any]) -> None:
    wrong = {"spec": {"backOffLimit": 3, "rayClusterSpec": {"workerGroupSpecs": [{"minReplica": 1}]}}}
    assert list(unknown_fields(wrong, schema)) == [
        ".spec.backOffLimit",
        ".spec.rayClusterSpec.workerGroupSpecs[0].minReplica",
    ]


def test_ray_is_the_version_of_the_image_and_asks_for_a_token(rayjob: dict[str, Any]) -> None:
    pinned = re.search(r"^ray==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    cluster = rayjob["spec"]["rayClusterSpec"]
    assert pinned is not None
    assert cluster["rayVersion"] == pinned[1]
    assert cluster["authOptions"] == {"mode": "token"}


def test_a_run_is_tried_again_and_leaves_nothing_running(rayjob: dict[str, Any]) -> None:
    assert rayjob["spec"]["backoffLimit"] >= 1
    assert rayjob["spec"]["shutdownAfterJobFinishes"] is True


@pytest.mark.parametrize("name", ["submitter", "head", "gpu"])
def test_pods_are_not_root_and_bounded(rayjob: dict[str, Any], name: str) -> None:
    pod = pods(rayjob)[name]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["restartPolicy"] == "Never"
    assert f"USER {pod['securityContext']['runAsUser']}:" in (INFRA / "Containerfile").read_text()
    for container in pod["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        }
        assert {"cpu", "memory"} <= container["resources"]["requests"].keys() & container["resources"]["limits"].keys()
        assert "privileged" not in container["securityContext"]


def test_mounts_have_their_volumes(rayjob: dict[str, Any]) -> None:
    for pod in pods(rayjob).values():
        volumes = {volume["name"] for volume in pod.get("volumes", [])}
        for container in pod["containers"]:
            assert {mount["name"] for mount in container.get("volumeMounts", [])} <= volumes


def test_the_job_file_is_where_the_entrypoint_looks(rayjob: dict[str, Any]) -> None:
    command, path = rayjob["spec"]["entrypoint"].split()
    head = pods(rayjob)["head"]
    mount = next(mount for mount in head["containers"][0]["volumeMounts"] if path.startswith(mount["mountPath"] + "/"))
    volume = next(volume for volume in head["volumes"] if volume["name"] == mount["name"])
    assert volume["configMap"]["name"] == manifests()["ConfigMap"]["metadata"]["name"]
    assert path.removeprefix(mount["mountPath"] + "/") in manifests()["ConfigMap"]["data"]
    assert f"/usr/local/bin/{command}\n" in (INFRA / "Containerfile").read_text()


def test_pods_have_an_identity_and_no_keys(rayjob: dict[str, Any]) -> None:
    account = manifests()["ServiceAccount"]["metadata"]["name"]
    found = pods(rayjob)
    assert found["head"]["serviceAccountName"] == found["gpu"]["serviceAccountName"] == account
    assert found["gpu"]["automountServiceAccountToken"] is False
    text = (INFRA / "kuberay" / "rayjob.yaml").read_text()
    assert not re.search(r"AKIA|BEGIN .*PRIVATE|kind: Secret", text)
    for pod in found.values():
        for variable in (entry for container in pod["containers"] for entry in container.get("env", [])):
            assert not re.search(r"KEY|SECRET|TOKEN|PASSWORD|CREDENTIAL", variable["name"].upper())


def test_no_gpu_is_taken_before_the_job_is_known_to_be_right(rayjob: dict[str, Any], job: Job) -> None:
    (group,) = rayjob["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert group["minReplicas"] == group["replicas"] == 0
    assert rayjob["spec"]["rayClusterSpec"]["enableInTreeAutoscaling"] is True
    # `auto` would count the GPUs there are at the start: none.
    gpus_a_pod = int(group["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"])
    assert job.compute.gpus_per_worker == 1
    assert job.compute.workers == group["maxReplicas"] * gpus_a_pod


def test_head_makes_no_images_and_stays_off_spot_nodes(rayjob: dict[str, Any]) -> None:
    head = rayjob["spec"]["rayClusterSpec"]["headGroupSpec"]
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert "tolerations" not in head["template"]["spec"]
    assert any("spot" in toleration["key"] for toleration in pods(rayjob)["gpu"]["tolerations"])


def test_the_drain_ends_before_the_pod_is_killed(rayjob: dict[str, Any]) -> None:
    pod = pods(rayjob)["gpu"]
    command, seconds = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    assert f"/usr/local/bin/{command}\n" in (INFRA / "Containerfile").read_text()
    assert int(seconds) < pod["terminationGracePeriodSeconds"]
