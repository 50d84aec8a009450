"""The image's recipe, as far as it can be checked without building it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from ray.autoscaler._private.providers import _get_node_provider_cls

from tests.commands import ROOT

DOCKERFILE = ROOT / "infra/Dockerfile"


def stages() -> dict[str, list[str]]:
    """The instructions of each stage, continued lines joined."""
    text = re.sub(r"\\\n\s*", "", DOCKERFILE.read_text(encoding="utf-8"))
    found: dict[str, list[str]] = {}
    name = ""
    for line in filter(None, text.splitlines()):
        if match := re.fullmatch(r"FROM (\S+) AS (\S+)", line):
            name = match[2]
            found[name] = [line]
        elif name and not line.startswith("#"):
            found[name].append(line)
    return found


def test_hadolint_finds_nothing() -> None:
    """The linter's rules on pinning, shells and layers hold."""
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if hadolint is None:
        pytest.skip("hadolint has no wheel for this machine")
    done = subprocess.run([hadolint, str(DOCKERFILE)], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("", 0)


def test_it_runs_as_a_user_and_holds_only_what_was_built() -> None:
    """No root, no build tools, nothing from the context: only the environment that an earlier stage has built."""
    *_, last = stages().values()
    assert last[-2:] == ["USER 1000", 'CMD ["relatent", "--help"]']
    assert all("--from=" in line for line in last if line.startswith(("COPY", "ADD")))


def test_there_is_a_variant_with_and_one_without_cuda() -> None:
    """A build argument names the stage that torch comes from, and only that differs."""
    found = stages()
    assert found["packages"][0] == "FROM torch-${VARIANT} AS packages"
    cuda, cpu = found["torch-cuda"], found["torch-cpu"]
    assert len(cuda) == len(cpu) == 2
    assert "whl/cpu" in cpu[1]
    assert "index-url" not in cuda[1]


def test_every_package_is_pinned() -> None:
    """Images have exact tags, and pip installs under the constraints that the tests run under."""
    text = DOCKERFILE.read_text(encoding="utf-8")
    assert re.search(r"^ARG BASE=python:3\.\d+\.\d+-slim-\w+$", text, re.MULTILINE)
    assert re.search(r"^FROM \S+:v\d+\.\d+\.\d+ AS kubectl$", text, re.MULTILINE)
    installs = [line for lines in stages().values() for line in lines if "pip install" in line]
    assert len(installs) == 3
    assert all("-c constraints.txt" in line for line in installs)


def test_it_has_what_the_head_of_a_cluster_imports() -> None:
    """Ray's autoscaler talks to EC2 through boto3, which Ray does not ask for; the image installs it, pinned."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    cluster = {re.split(r"[>\[]", one)[0] for one in project["optional-dependencies"]["cluster"]}
    assert cluster == {"boto3", "ray"}
    assert any('".[cluster]"' in line for lines in stages().values() for line in lines)
    pinned = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert all(any(line.startswith(f"{name}==") for line in pinned) for name in cluster)
    assert _get_node_provider_cls({"type": "aws"})


def test_no_secret_can_get_in() -> None:
    """Neither arguments nor variables that look like one, and the context holds the sources alone."""
    text = DOCKERFILE.read_text(encoding="utf-8")
    assert not re.search(r"(?i)(secret|token|password|aws_)", text)
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert ignored[1] == "*"
    sent = {line[1:].rstrip("/") for line in ignored if line.startswith("!")}
    copied = {
        word
        for lines in stages().values()
        for line in lines
        if line.startswith("COPY") and "--from=" not in line
        for word in line.split()[1:-1]
    }
    assert sent == copied
