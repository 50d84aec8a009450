"""The RayJob's entrypoint, submitted through Ray's job API to a cluster on this machine."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import pytest
from ray.job_submission import JobStatus, JobSubmissionClient

from tests.commands import ROOT
from tests.infra.rendering import documents
from tests.small_job import photograph, table, write_inputs
from tests.small_model import save_small_model

# Below those that a kernel gives to whoever asks for any, and above those that Ray gives to workers.
_PORTS: Final = range(20_000, 32_000)
_TRIES: Final = 3


def free_port() -> int:
    """A port that nobody listens on."""
    while True:
        port = random.choice(_PORTS)
        with socket.socket() as one, suppress(OSError):
            one.bind(("127.0.0.1", port))
            return port


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The job API of a head that was started as KubeRay starts one, by `ray start`."""
    log = tmp_path_factory.mktemp("head") / "head.log"
    for _ in range(_TRIES):
        with _head(log) as (head, url):
            if _answers(head, url):
                yield url
                return
    pytest.fail(f"no head came up: {log.read_text()}")


@contextmanager
def _head(log: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    dashboard = free_port()
    words = ["start", "--head", "--block", "--num-cpus=4", "--include-dashboard=true", "--disable-usage-stats"]
    ports = [f"--port={free_port()}", f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={free_port()}"]
    ray = Path(sys.executable).with_name("ray")
    # A short name: Ray's sockets lie below it.
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder, log.open("wb") as told:
        environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_TMPDIR": folder}
        # Ray gives up after a minute, which a busy machine may need.
        environment["RAY_DASHBOARD_STARTUP_TIMEOUT_S"] = "150"
        environment.pop("RAY_ADDRESS", None)
        head = subprocess.Popen(
            [str(ray), *words, *ports],
            env=environment,
            stdout=told,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            yield head, f"http://127.0.0.1:{dashboard}"
        finally:
            with suppress(ProcessLookupError):  # it may have ended by itself, with all that it started
                os.killpg(head.pid, signal.SIGKILL)
            head.wait()


def _answers(head: subprocess.Popen[bytes], url: str) -> bool:
    """Whether a head takes jobs, as soon as it does; not if it has ended, as for a port that was taken meanwhile."""
    deadline = time.monotonic() + 180
    while head.poll() is None and time.monotonic() < deadline:
        try:
            JobSubmissionClient(url).list_jobs()
        except (ConnectionError, RuntimeError):
            time.sleep(0.5)
        else:
            return True
    return False


def submitted(address: str, entrypoint: str) -> tuple[JobSubmissionClient, str]:
    """Submit a job as soon as the head's agent takes any."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {"PATH": path, "PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "disabled"}
    jobs = JobSubmissionClient(address)
    deadline = time.monotonic() + 120
    while True:
        try:
            return jobs, jobs.submit_job(entrypoint=entrypoint, runtime_env={"env_vars": environment})
        except RuntimeError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def test_the_entrypoint_does_the_job(address: str, tmp_path: Path) -> None:
    """What KubeRay would submit restyles two photographs on the cluster, and its log is JSON lines."""
    images, prompts = write_inputs(tmp_path / "in", {f"{i}.png": photograph(i) for i in range(2)})
    model = save_small_model(tmp_path / "model")
    values = {"images": images, "prompts": prompts, "output": str(tmp_path / "out"), "model": str(model)}
    values |= {"actors": 1, "gpus_per_actor": 0, "preset": "fast"}
    (rayjob,) = documents("kuberay/rayjob.yaml", tmp_path, values)
    # Few steps, and none again: the small model never comes near its photographs.
    jobs, job = submitted(address, rayjob["spec"]["entrypoint"] + " --steps 2 --no-escalate")
    deadline = time.monotonic() + 360
    while not jobs.get_job_status(job).is_terminal() and time.monotonic() < deadline:
        time.sleep(0.5)
    log = jobs.get_job_logs(job)
    assert jobs.get_job_status(job) == JobStatus.SUCCEEDED, log
    assert len(table(tmp_path / "out", "edits")) == 5
    events = [json.loads(line)["event"] for line in log.splitlines() if line.startswith("{")]
    assert (events[0], events[-1]) == ("started", "finished")
    assert (events.count("inverted"), events.count("edited")) == (2, 5)
