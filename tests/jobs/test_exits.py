"""How commands end that do not come to their end."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from jobs.options import configured
from pipeline.config import JobConfig
from pipeline.errors import JobError
from pipeline.io.storage import list_files, read_bytes
from tests.commands import ROOT, call

# A command that holds its output's lease, and waits. On Ray it waits as a job does, for what Ray's workers make.
_HOLDS = """
import time
import typer
from jobs.exits import exits
from pipeline.config import JobConfig
from pipeline.io.lease import held

def hold(output: str, where: str) -> None:
    def run() -> int:
        with held(output):
            wait = sleep
            if where == "ray":
                import ray
                from pipeline.cluster.session import connect
                connect(JobConfig(), 1)
                wait = lambda seconds: ray.get(ray.remote(sleep).remote(seconds))
            print("holding", flush=True)
            return wait(300)
    exits(run)

def sleep(seconds: int) -> int:
    time.sleep(seconds)
    return 0

typer.run(hold)
"""


@pytest.mark.parametrize("where", ["alone", "ray"])
def test_sigterm_interrupts(tmp_path: Path, where: str) -> None:
    """Whoever ends a pod or a job of Ray's gets what Ctrl-C gets: code 130, one line, and the lease let go."""
    words = [sys.executable, "-c", _HOLDS, str(tmp_path / "out"), where]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, cwd=ROOT, stdout=pipe, stderr=pipe, text=True) as command:
        assert command.stdout is not None
        assert command.stdout.readline() == "holding\n"
        for _ in range(3):  # some send it to a process and to its group
            command.send_signal(signal.SIGTERM)
            time.sleep(0.01)
        _, errors = command.communicate(timeout=120)
    assert command.returncode == 130, errors
    assert errors.splitlines()[-1].startswith("interrupted")  # before it Ray may say what it thinks of the task
    assert "Traceback" not in errors
    (lease,) = list_files(str(tmp_path / "out" / "leases"), ".json")
    assert json.loads(read_bytes(lease))["released"]


def _asks_no_one_for(prompt: str) -> None:
    raise ValueError(f"bad prompt {prompt} at s3://me:pass@bucket/x")


@pytest.mark.parametrize(
    ("error", "code", "event"),
    [
        (JobError("output: 'a secret chair' cannot be written"), 2, "error"),
        (None, 2, "error"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_what_ends_a_job_is_an_event_of_its_log(error: BaseException | None, code: int, event: str) -> None:
    """A bug says where it is. Credentials are in neither log nor traceback, and with prompts redacted no message is."""
    app = typer.Typer()

    @app.command()
    @configured("output", "log-json", "redact-prompts")
    def job(config: JobConfig) -> int:
        if error is None:
            _asks_no_one_for("a secret chair")
        raise error or AssertionError

    said = CliRunner().invoke(app, ["--output", "out"])
    full, redacted = (
        CliRunner().invoke(app, ["--output", "out", "--log-json", *flags]) for flags in ([], ["--redact-prompts"])
    )
    assert said.exit_code == full.exit_code == redacted.exit_code == code
    assert not any("me:pass" in done.stderr for done in (said, full, redacted))
    (line,), (short,) = ([json.loads(line) for line in done.stderr.splitlines()] for done in (full, redacted))
    assert line["event"] == short["event"] == event
    assert len(line["run"]) == 12
    assert "secret chair" not in json.dumps(short)
    if event == "error":
        assert ("secret chair" in line["message"], line["type"]) == (
            True,
            "ValueError" if error is None else "JobError",
        )
    if error is None:
        assert said.stderr.startswith("Traceback")
        assert any(frame.endswith(" _asks_no_one_for") for frame in short["frames"])


def test_a_configuration_that_is_refused_is_an_event_where_the_flags_ask_for_a_log() -> None:
    """Nothing else says yet that there is to be one."""
    done = call("run", "--steps", "0", "--log-json")
    assert done.returncode == 2
    assert json.loads(done.stderr)["message"].startswith("config: --steps: Input should be")
