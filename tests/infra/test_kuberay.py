"""What goes to Kubernetes, against its own schemas and KubeRay's, and the reasons for which it is as it is."""

from __future__ import annotations

import json
import os
import shlex
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from ray._private import ray_constants

from jobs.options import read_config
from pipeline.config import JobConfig
from tests.infra.rayjob_schema import SCHEMA
from tests.infra.rendering import documents, render

KUBERNETES = "1.34"
DRAIN_SECONDS = "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"


@pytest.fixture(scope="module")
def nightly(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """All that is applied, by kind and name."""
    made = documents("kuberay/nightly.yaml", tmp_path_factory.mktemp("values"), {"name": "shop"})
    return {f"{one['kind']}/{one['metadata']['name']}": one for one in made}


@pytest.fixture(scope="module")
def rayjob(nightly: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The RayJob as the CronJob creates it."""
    found: dict[str, Any] = yaml.safe_load(nightly["ConfigMap/shop-rayjob"]["data"]["rayjob.yaml"])
    return found


def strict(schema: Any) -> Any:
    """A schema that knows all the fields there are, as the API server's strict validation does."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {"additionalProperties": False} if isinstance(schema.get("properties"), dict) else {}
    return {name: strict(part) for name, part in schema.items()} | closed


def pod_specs(rayjob: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The pods that a RayJob makes: submitter, head, and one of each worker group."""
    cluster = rayjob["spec"]["rayClusterSpec"]
    yield "submitter", rayjob["spec"]["submitterPodTemplate"]["spec"]
    yield "head", cluster["headGroupSpec"]["template"]["spec"]
    for group in cluster["workerGroupSpecs"]:
        yield group["groupName"], group["template"]["spec"]


def test_kubernetes_knows_every_object(nightly: dict[str, dict[str, Any]]) -> None:
    """All kinds but the RayJob, and every field of theirs, are as Kubernetes has them."""
    for made in nightly.values():
        kubernetes_validate.validate(made, KUBERNETES, strict=True)


def test_kuberay_knows_the_rayjob(rayjob: dict[str, Any]) -> None:
    """Every field is KubeRay 1.7's, and every pod Kubernetes'."""
    jsonschema.Draft202012Validator(strict(json.loads(SCHEMA.read_text(encoding="utf-8")))).validate(rayjob)
    for name, spec in pod_specs(rayjob):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)


def test_a_misspelt_field_is_found(rayjob: dict[str, Any]) -> None:
    """The schema does refuse."""
    schema = strict(json.loads(SCHEMA.read_text(encoding="utf-8")))
    misspelt = {**rayjob, "spec": {**rayjob["spec"], "backOffLimit": 0}}
    with pytest.raises(jsonschema.ValidationError, match="backOffLimit"):
        jsonschema.Draft202012Validator(schema).validate(misspelt)


def test_runs_do_not_overlap_nor_outlive_their_use(nightly: dict[str, dict[str, Any]], rayjob: dict[str, Any]) -> None:
    """One at a time, no retries on new clusters, an end to what hangs, and no cluster after its job."""
    cron = nightly["CronJob/shop"]["spec"]
    assert (cron["concurrencyPolicy"], cron["jobTemplate"]["spec"]["backoffLimit"]) == ("Forbid", 0)
    spec = rayjob["spec"]
    assert (spec["backoffLimit"], spec["shutdownAfterJobFinishes"], spec["suspend"]) == (0, True, True)
    assert 0 < spec["activeDeadlineSeconds"] < 24 * 3600
    assert spec["ttlSecondsAfterFinished"] > 0
    assert "generateName" in rayjob["metadata"]
    assert rayjob["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "relatent"


def test_the_head_is_safe_and_spot_comes_first(rayjob: dict[str, Any]) -> None:
    """Nothing runs on the head, which is no spot machine; GPU groups differ in priority, and hold what actors ask."""
    cluster = rayjob["spec"]["rayClusterSpec"]
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert dict(pod_specs(rayjob))["head"]["nodeSelector"] == {"karpenter.sh/capacity-type": "on-demand"}
    assert cluster["enableInTreeAutoscaling"]
    assert cluster["autoscalerOptions"]["version"] == "v2"
    groups = {group["groupName"]: group for group in cluster["workerGroupSpecs"]}
    assert groups.keys() == {"cpu", "gpu-spot", "gpu"}
    assert groups["gpu-spot"]["priority"] > groups["gpu"]["priority"] > groups["cpu"].get("priority", 0)
    for name in ("gpu-spot", "gpu"):
        (container,) = groups[name]["template"]["spec"]["containers"]
        assert container["resources"]["limits"]["nvidia.com/gpu"] == groups[name]["rayStartParams"]["num-gpus"] == "1"


def test_gpu_nodes_that_are_told_to_end_have_time_for_what_is_in_hand(rayjob: dict[str, Any]) -> None:
    """Ray knows the setting by this name, and lets go before Kubernetes kills; both before a spot machine is gone."""
    assert hasattr(ray_constants, DRAIN_SECONDS)
    for name, spec in pod_specs(rayjob):
        for container in spec["containers"]:
            for setting in container.get("env", []):
                assert 30 < float(setting["value"]) < spec["terminationGracePeriodSeconds"] < 120
                assert name in {"gpu-spot", "gpu"}
    assert [name for name, spec in pod_specs(rayjob) if "env" in spec["containers"][0]] == ["gpu-spot", "gpu"]


def test_nothing_runs_as_root_or_carries_keys(nightly: dict[str, dict[str, Any]], rayjob: dict[str, Any]) -> None:
    """Every pod is a plain user without capabilities, and no object holds a secret or an environment of keys."""
    trigger = nightly["CronJob/shop"]["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    for name, spec in (*pod_specs(rayjob), ("trigger", trigger)):
        assert spec["securityContext"]["runAsNonRoot"], name
        for container in spec["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False, name
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}, name
            assert {one["name"] for one in container.get("env", [])} <= {DRAIN_SECONDS}, name
    assert not [name for name in nightly if name.startswith("Secret/")]
    role = nightly["ServiceAccount/shop"]["metadata"]["annotations"]["eks.amazonaws.com/role-arn"]
    assert role.startswith("arn:aws:iam::")


def test_the_trigger_may_make_rayjobs_and_nothing_else(nightly: dict[str, dict[str, Any]]) -> None:
    """Its role covers what its script does."""
    (rule,) = nightly["Role/shop-trigger"]["rules"]
    assert (rule["apiGroups"], rule["resources"]) == (["ray.io"], ["rayjobs"])
    assert not {"delete", "update", "patch", "*"} & set(rule["verbs"])
    spec = nightly["CronJob/shop"]["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    assert spec["serviceAccountName"] == nightly["RoleBinding/shop-trigger"]["subjects"][0]["name"] == "shop-trigger"


def test_only_three_doors_are_open(nightly: dict[str, dict[str, Any]]) -> None:
    """Its own pods, the operator to the dashboard, Prometheus to the metrics; and no way to a machine's metadata."""
    policy = nightly["NetworkPolicy/shop"]["spec"]
    own, operator, monitoring = policy["ingress"]
    assert own["from"] == [{"podSelector": policy["podSelector"]}]
    assert [port["port"] for port in (*operator["ports"], *monitoring["ports"])] == [8265, 8080]
    (outside,) = [peer["ipBlock"] for rule in policy["egress"] for peer in rule["to"] if "ipBlock" in peer]
    assert "169.254.0.0/16" in outside["except"]


@pytest.mark.parametrize(("status", "code"), [("SUCCEEDED", 0), ("FAILED", 1)])
def test_the_trigger_waits_and_ends_as_its_rayjob(
    nightly: dict[str, dict[str, Any]], tmp_path: Path, status: str, code: int
) -> None:
    """Its script, run for real: a first wait that times out is no end, and the RayJob's result is the pod's."""
    (container,) = nightly["CronJob/shop"]["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    kubectl = tmp_path / "kubectl"
    kubectl.write_text(
        "#!/bin/sh\n"
        f'echo "$@" >> {tmp_path}/calls\n'
        'case "$1" in\n'
        "  create) echo rayjob.ray.io/shop-x;;\n"
        f"  wait) test -e {tmp_path}/waited || {{ touch {tmp_path}/waited; exit 1; }};;\n"
        f'  get) case "$*" in *jobStatus*) printf {status};; esac;;\n'
        "esac\n"
    )
    kubectl.chmod(kubectl.stat().st_mode | stat.S_IXUSR)
    words = [*container["command"], *container["args"]]
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(words, env={"PATH": path}, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == code, done.stderr
    calls = (tmp_path / "calls").read_text().splitlines()
    assert [call.split()[0] for call in calls] == ["create", "wait", "get", "wait", "get"]


def test_the_entrypoint_has_options_that_there_are(rayjob: dict[str, Any]) -> None:
    """The shell splits it into a command and flags, of which a job's configuration can be made."""
    python, dash_m, module, *words = shlex.split(rayjob["spec"]["entrypoint"])
    assert (python, dash_m, module) == ("python", "-m", "jobs.run")
    given = dict(zip(words[:-1:2], words[1::2], strict=True))
    assert words[-1] == "--log-json"
    config = read_config(None, {flag.removeprefix("--"): value for flag, value in given.items()})
    assert (config.address, config.actors, config.num_gpus, config.budget_gpu_hours) == ("auto", 8, 1.0, 40.0)


def test_a_row_that_hangs_is_cut_off_long_before_the_job_is(rayjob: dict[str, Any]) -> None:
    """With its batch first, then in a process apart, then alone."""
    words = shlex.split(rayjob["spec"]["entrypoint"])
    row_seconds = float(words[words.index("--row-seconds") + 1])
    assert (2 * JobConfig().batch_size + 1) * row_seconds < rayjob["spec"]["activeDeadlineSeconds"] / 2


def test_the_bucket_policy_gives_no_more_than_a_job_needs(tmp_path: Path) -> None:
    """Reading where inputs are, writing below the output alone, and no action by wildcard."""
    done = render("kuberay/bucket-policy.json")
    statements = {one["Sid"]: one for one in json.loads(done.stdout)["Statement"]}
    assert statements["WriteResults"]["Resource"] == "arn:aws:s3:::shop/autumn/*"
    allowed = [one for one in statements.values() if one["Effect"] == "Allow"]
    actions = {a for one in allowed for a in ([one["Action"]] if isinstance(one["Action"], str) else one["Action"])}
    assert actions == {"s3:ListBucket", "s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"}


@pytest.mark.parametrize("value", ["a'; rm -rf /; echo '", "$(id)", "a\nb: c", "a: b", '"', "`id`", "{x}", "a #b", "é"])
def test_values_that_could_end_a_word_are_refused(tmp_path: Path, value: str) -> None:
    """A value is a word of YAML, JSON and the shell: no quotes, no line ends, nothing that is expanded."""
    (tmp_path / "values.yaml").write_text(yaml.safe_dump({"output": value}))
    done = render("kuberay/rayjob.yaml", tmp_path / "values.yaml")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: output: expected")
