"""The cluster of Ray's own launcher, and the rights of its head."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.autoscaler.tags import TAG_RAY_CLUSTER_NAME

from tests.infra.rendering import documents, render


@pytest.fixture
def cluster(tmp_path: Path) -> dict[str, Any]:
    """The launcher's file with the values that stand beside it."""
    (cluster,) = documents("aws/cluster.yaml", tmp_path, {})
    return cluster


def listed(one: Any) -> list[str]:
    """A policy's word or list of words."""
    return one if isinstance(one, list) else [one]


def test_the_launchers_cluster_is_one_that_ray_takes(cluster: dict[str, Any]) -> None:
    """Ray's own check of the file passes; the groups are those of Kubernetes, and no key is in it."""
    validate_config(prepare_config(json.loads(json.dumps(cluster))))
    types = cluster["available_node_types"]
    assert types.keys() == {"head", "cpu", "gpu-spot", "gpu"}
    assert types["head"]["resources"] == {"CPU": 0}
    assert "InstanceMarketOptions" not in types["head"]["node_config"]
    assert types["gpu-spot"]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    for one in types.values():
        assert one["node_config"]["IamInstanceProfile"]["Arn"].startswith("arn:aws:iam::")
        assert one["node_config"]["MetadataOptions"]["HttpTokens"] == "required"
    assert "access_key" not in json.dumps(cluster).lower()


def test_a_group_can_be_as_large_as_its_value_says(tmp_path: Path) -> None:
    """The limit of them all is their sum, whatever the values."""
    for values in ({}, {"spot_workers": 100}):
        (cluster,) = documents("aws/cluster.yaml", tmp_path, values)
        groups = cluster["available_node_types"]
        assert cluster["max_workers"] == sum(one["max_workers"] for name, one in groups.items() if name != "head")


def test_only_the_head_may_start_machines_and_only_the_clusters_own(cluster: dict[str, Any]) -> None:
    """Its profile is its own. What it may tag, end and hand on is the cluster's, and no action is a wildcard."""
    profiles = {
        name: one["node_config"]["IamInstanceProfile"]["Arn"] for name, one in cluster["available_node_types"].items()
    }
    assert profiles.pop("head") not in profiles.values()
    assert len(set(profiles.values())) == 1
    statements = json.loads(render("aws/head-policy.json").stdout)["Statement"]
    by_action = {
        action: [one for one in statements if action in listed(one["Action"])]
        for action in {action for one in statements for action in listed(one["Action"])}
    }
    # What Ray's provider calls where stopped machines are not kept, and what to start one with tags and a role takes.
    assert by_action.keys() == {
        *("ec2:DescribeInstances", "ec2:DescribeInstanceTypes", "ec2:RunInstances", "ec2:CreateTags"),
        *("ec2:TerminateInstances", "iam:PassRole"),
    }
    assert cluster["provider"]["cache_stopped_nodes"] is False
    (end,), (hand_on,) = by_action["ec2:TerminateInstances"], by_action["iam:PassRole"]
    own = {f"aws:ResourceTag/{TAG_RAY_CLUSTER_NAME}": cluster["cluster_name"]}
    assert end["Condition"]["StringEquals"] == own
    assert all("Condition" in one for one in by_action["ec2:CreateTags"])
    assert hand_on["Resource"] == "arn:aws:iam::123456789012:role/relatent"
