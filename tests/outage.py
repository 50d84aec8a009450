"""A minute without storage: the second half of `make soak`, or `python -m tests.outage --seconds 60 --seed 7`.

A job over object storage, of whose requests a fifth fail, gets no answer at all for a while; what comes of it is
compared with what comes of it on local disk.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Final

from pipeline.cluster.execution import execute
from pipeline.config import JobConfig
from pipeline.planning import read_plan
from tests.faults import Proxy, faulty
from tests.results import results
from tests.s3_server import BUCKET, environment, s3_server
from tests.small_job import SETTINGS, photograph, write_inputs
from tests.small_model import save_small_model
from tests.soaking import options_of, say

_IMAGES: Final = 6
# Then a job of these is under way.
_REQUESTS: Final = 60


def main() -> None:
    """Run the job; it fails by an assertion."""
    options = options_of("A small job over storage that is out for a while.", "seconds", 60.0)
    with (
        tempfile.TemporaryDirectory() as name,
        s3_server(Path(name) / "s3") as endpoint,
        faulty(endpoint, share=0.2, seed=options.seed) as proxy,
    ):
        os.environ.update(environment(proxy.endpoint))
        _run(Path(name), proxy, options.seconds)
        say(f"seed {options.seed}: nothing lost or doubled; requests met {dict(proxy.met)}")


def _run(folder: Path, proxy: Proxy, seconds: float) -> None:
    images, prompts = write_inputs(folder / "in", {f"{i}.png": photograph(i) for i in range(_IMAGES)})
    model = str(save_small_model(folder / "model"))
    job = {"images": images, "prompts": prompts, "model": model, "inversion": SETTINGS, "batch_size": 1}
    _execute(job, str(folder / "out"))
    output = f"s3://{BUCKET}/out"
    outage = threading.Thread(target=_go_out, args=(proxy, seconds), daemon=True)
    outage.start()
    _execute(job, output)
    assert not outage.is_alive(), "the job was over before the outage"
    proxy.share = 0
    assert results(output) == results(folder / "out")


def _execute(job: dict[str, Any], output: str) -> None:
    counts = execute(read_plan("run", JobConfig(**job, output=output)), lambda counts: None)
    assert not counts.failures, counts


def _go_out(proxy: Proxy, seconds: float) -> None:
    while proxy.met.total() < _REQUESTS:
        time.sleep(0.05)
    say(f"no answer for {seconds:g} s")
    proxy.always = "reset"
    time.sleep(seconds)
    proxy.always = None
    say("answers again")


if __name__ == "__main__":
    main()
