"""The commands as a shell sees them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs.cli import COMMANDS, imported
from pipeline.io.artifacts import write_rows
from pipeline.io.outcomes import committed_edits
from tests.commands import ROOT, call, command
from tests.faults import Proxy
from tests.io.rows import edit_row, failure_row, inversion_row
from tests.small_job import SETTINGS, flags, photograph, pixels, table, write_inputs
from tests.small_model import save_small_model

# What takes seconds to import, and is for the engine and the cluster.
HEAVY = {"torch", "ray", "diffusers", "transformers"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with the small model."""
    return str(save_small_model(tmp_path_factory.mktemp("model") / "small"))


@pytest.fixture
def job(tmp_path: Path, model: str) -> Mapping[str, Any]:
    """Flags of a job over eight photographs, one at a time, and its configuration file."""
    images, prompts = write_inputs(tmp_path / "in", {f"{i}.png": photograph(i) for i in range(8)})
    config = tmp_path / "job.yaml"
    config.write_text(yaml.safe_dump({"inversion": SETTINGS, "batch_size": 1, "model": model}))
    return {"config": config, "images": images, "prompts": prompts, "output": tmp_path / "out"}


def _modules_after(name: str, *words: str) -> tuple[subprocess.CompletedProcess[str], set[str]]:
    """Run a command to its end in a process that then names all that it has imported."""
    code = (
        "import runpy, sys\ntry: runpy.run_module(f'jobs.{sys.argv.pop(1)}', run_name='__main__', alter_sys=True)\n"
        "finally: print(*sys.modules, file=sys.stderr)"
    )
    words = (sys.executable, "-c", code, name, *words)
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    return done, set(done.stderr.splitlines()[-1].split())


@pytest.mark.parametrize("name", ["plan", "run", "invert", "edit", "retry", "prune", "compact", "status", "demo"])
def test_help_is_quick_and_says_what_a_command_does(name: str) -> None:
    """`--help` needs none of the heavy libraries, and names the options with their meaning."""
    shown, modules = _modules_after(name, "--help")
    assert not (HEAVY | {"pyarrow", "s3fs"}) & modules
    assert shown.returncode == 0
    assert "output" in shown.stdout.lower()


@pytest.mark.parametrize("name", ["plan", "status"])
def test_what_only_answers_loads_no_engine(name: str, job: Mapping[str, Any]) -> None:
    """A whole plan over an output, and that output's status, with neither torch nor ray nor a model's libraries."""
    output = str(job["output"])
    write_rows(output, "inversions", [inversion_row(str(i)) for i in range(3)])
    write_rows(output, "edits", [edit_row("0")])
    write_rows(output, "failures", [failure_row("1")])
    done, modules = _modules_after(name, *([output] if name == "status" else flags(job)))
    assert not HEAVY & modules
    assert done.returncode == 0
    assert ("3 inversions, 1 edits" if name == "status" else "8 images, 20 edits") in done.stdout


def test_relatent_lists_its_commands_without_importing_any() -> None:
    """The console script names all commands, and waits neither for their modules nor for their options."""
    shown, modules = _modules_after("cli", "--help")
    assert all(name in shown.stdout for name in COMMANDS)
    assert not {"jobs.options", *(f"jobs.{name}" for name in COMMANDS)} & modules


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_says_of_a_command_what_its_own_help_begins_with(name: str) -> None:
    """One sentence in two places, that the list may import nothing; they stay the same."""
    assert imported(name).help.splitlines()[0] == COMMANDS[name]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--images", "nowhere.csv", "--prompts", "p.yaml"], "error: run: --output is missing"),
        (["--steps", "0"], "error: config: --steps: Input should be greater than or equal to 1; got 0"),
        (["--config", "nowhere.yaml"], "error: config nowhere.yaml"),
        (["--images", "nowhere.csv", "--prompts", "p.yaml", "--output", "o"], "error: manifest"),
    ],
)
def test_what_stops_a_job_is_one_line(words: list[str], expected: str, model: str) -> None:
    """A job that cannot start exits with 2 and says why on standard error."""
    done = call("run", "--model", model, *words)
    assert done.returncode == 2
    assert done.stderr.startswith(expected)
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


def test_expired_credentials_stop_a_job_in_one_line(proxy: Proxy, job: Mapping[str, Any], s3: str) -> None:
    """Answered as AWS answers from the start, a command exits with 2 at once, and says that it is the credentials."""
    proxy.always = "400"
    done = call("run", *flags({**job, "images": f"{s3}/images.csv"}))
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f"error: manifest {s3}/images.csv: the credentials have expired (The provided token has expired.)"
    ]
    assert done.stdout == ""
    assert proxy.met == {"400": 1}


def test_refused_rows_stop_a_job_unless_told_otherwise(job: Mapping[str, Any]) -> None:
    """Each refused row is named by file and line; nothing has run."""
    with Path(job["prompts"]).open("a", encoding="utf-8") as file:
        file.write('{"edit_id": "far", "prompt": "far", "strength": 9}\n')
    done = call("plan", *flags(job))
    assert done.returncode == 2
    refusal, end = done.stderr.splitlines()
    assert refusal.startswith(f"refused: {job['prompts']}:3: ")
    assert "--skip-invalid" in end
    refused, error = map(json.loads, call("plan", *flags(job), "--log-json").stderr.splitlines())
    assert (refused["event"], refused["line"], refused["run"]) == ("refused", 3, error["run"])
    assert (error["event"], f"error: {error['message']}") == ("error", end)
    assert not Path(job["output"]).exists()
    assert call("plan", *flags(job), "--skip-invalid").returncode == 0


def test_plan_counts_without_running(job: Mapping[str, Any]) -> None:
    """A plan says how many images and edits, and at most how much work."""
    done = call("plan", *flags(job))
    assert done.returncode == 0
    assert "8 images, 20 edits" in done.stdout
    assert "cost:" in done.stdout
    assert not Path(job["output"]).exists()


def test_a_plan_over_an_output_counts_the_rest(job: Mapping[str, Any]) -> None:
    """Images, and edits with the prompt that is asked for, are not counted as work, nor as cost."""
    output = str(job["output"])
    write_rows(output, "inversions", [inversion_row(str(i), escalated="best" if i else None) for i in range(3)])
    places = {2: "beach", 3: "table", 4: "lawn"}  # 4 is on a beach now
    edits = [edit_row(str(i), prompt=f"a photo of a blue mug on a {place}") for i, place in places.items()]
    write_rows(output, "edits", edits)
    told = call("plan", *flags(job)).stdout
    assert "to do: 3 to invert, 18 to edit" in told
    assert "8 images, 20 edits" in told
    assert f"at most {3 * 14 + 18 * 14} network evaluations" in told
    assert "at most 3 more for an image that falls short by over 1 dB; so far 2 of 3" in told
    assert "escalated: 2 of 3 images" in call("status", output).stdout


def test_an_output_that_cannot_be_written_stops_a_job_at_once(job: Mapping[str, Any], tmp_path: Path) -> None:
    """A file as output, or below one, is one line and exit code 2, before anything is inverted."""
    (tmp_path / "file").write_text("")
    for command_, output in (("plan", "file"), ("run", "file/below")):
        done = call(command_, *flags({**job, "output": tmp_path / output}))
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("error: output")
        assert len(done.stderr.splitlines()) == 1


def test_a_manifest_without_rows_is_named(job: Mapping[str, Any]) -> None:
    """Nothing to do is not an error, but it is said."""
    Path(job["images"]).write_text("image_id,image_uri\n")
    Path(job["prompts"]).write_text('{"edit_id": "blue", "prompt": "a blue mug"}\n')
    done = call("plan", *flags(job))
    assert done.returncode == 0
    assert f"0 image rows in {job['images']}" in done.stderr


def test_a_killed_driver_loses_and_doubles_nothing(job: Mapping[str, Any]) -> None:
    """After kill −9 half-way the same command does the rest: every edit once, no file half-written."""
    output = Path(job["output"])
    with _started(command("run", *flags(job))) as driver:
        for _ in _until(driver):
            if table_files(output, "edits"):
                break
        driver.kill()
    committed = len(table(output, "edits"))
    assert 0 < committed < 20
    done = call("run", *flags(job))
    assert done.returncode == 0, done.stderr
    # A worker that outlives its driver for a moment may commit the part that it has in hand.
    kept = int(re.search(r"(\d+) of 20 edits", done.stdout)[1])  # type: ignore[index]
    assert committed <= kept < 20
    assert f" {20 - kept} edited" in done.stdout
    counts = Counter(row["edit_key"] for row in table(output, "edits"))
    assert (len(counts), set(counts.values())) == (20, {1})
    pictures = list(output.rglob("*.png"))
    assert len(pictures) == 20
    assert all(pixels(picture).shape == (32, 48, 3) for picture in pictures)
    assert json.loads((output / "run.json").read_text())["counts"]["edits"] == 20


def test_an_interrupted_job_exits_with_130(proxy: Proxy, job: Mapping[str, Any], s3: str) -> None:
    """Ctrl-C, for driver and workers alike, keeps what is committed, and says that the same command does the rest."""
    first, ended = threading.Event(), threading.Event()

    def hold(moment: str, path: str, _: bytes) -> None:
        # Whatever the machine's pace, the job is in the middle when it is interrupted.
        if "/edits/" in path and moment == "before" and first.is_set():
            ended.wait()
        if "/edits/" in path and moment == "after":
            first.set()

    proxy.on_put = hold
    output = f"{s3}/out"
    try:
        with _started(command("run", *flags({**job, "output": output})), subprocess.PIPE) as driver:
            for _ in _until(driver):
                if first.is_set():
                    break
            os.killpg(driver.pid, signal.SIGINT)
            _, errors = driver.communicate(timeout=240)
    finally:
        ended.set()
    assert driver.returncode == 130
    assert errors.splitlines()[-1].startswith("interrupted")
    assert len(committed_edits(output)) > 0


def test_failures_exit_with_1_and_status_tells_them(job: Mapping[str, Any]) -> None:
    """A run in which a row failed exits with 1; status has the counts by code."""
    (Path(job["images"]).parent / "3.png").write_text("not an image")
    done = call("run", *flags(job))
    assert done.returncode == 1
    assert "7 inverted, 17 edited, 1 failed" in done.stdout
    assert "[E" not in done.stderr
    told = call("status", str(job["output"]))
    assert told.returncode == 0
    assert "7 inversions, 17 edits" in told.stdout
    assert "image_not_decodable × 1" in told.stdout


def test_status_of_nothing_is_an_error(tmp_path: Path) -> None:
    """A folder without results is not an output."""
    done = call("status", str(tmp_path / "empty"))
    assert done.returncode == 2
    assert done.stderr.startswith("error: status:")


def table_files(output: Path, kind: str) -> list[Path]:
    """Committed files of a table."""
    return list((output / kind).glob("[!.]*.parquet"))


@contextmanager
def _started(words: list[str], stderr: int = subprocess.DEVNULL) -> Iterator[subprocess.Popen[str]]:
    """A command, in a process group of its own, that does not outlive the test."""
    with subprocess.Popen(words, cwd=ROOT, stderr=stderr, text=True, start_new_session=True) as driver:
        try:
            yield driver
        finally:
            driver.kill()


def _until(driver: subprocess.Popen[str]) -> Iterator[None]:
    """Poll while a driver is alive, for four minutes at most."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and driver.poll() is None:
        yield
        time.sleep(0.05)
    pytest.fail(f"the driver ended too soon or took too long: {driver.poll()}")
