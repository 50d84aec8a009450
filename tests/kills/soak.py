"""Many random kills: `make soak`, or `python -m tests.kills.soak --kills 100 --seed 7`.

A job that replaces pictures is killed on its way, again and again, until a run of it comes to its end; one more
run, and its output is compared with that of a job to which nothing happened. Then all over again.
"""

from __future__ import annotations

import random
import shutil
import signal
import tempfile
import time
from collections import Counter
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Final

from tests.kills.cluster import Killing, killing
from tests.kills.points import ENGINE_ACTOR, KILL_POINTS, PUBLISH_WORKER, PUBLISHED, arm, kill, pending, ray_processes
from tests.results import Results, results
from tests.small_job import SETTINGS, photograph, write_inputs
from tests.small_model import save_small_model
from tests.soaking import options_of, say

_IMAGES: Final = 3
_KILLS_PER_RUN: Final = 3
# A run's length, roughly; a kill that comes too late finds nobody.
_SECONDS: Final = 15.0
# After so long it counts as one that hangs.
_PATIENCE: Final = 600.0


def main() -> None:
    """Run the soak; it fails by an assertion."""
    options = options_of("Many random kills of a small job.", "kills", 100)
    with tempfile.TemporaryDirectory() as folder, killing(Path(folder) / "kills", nodes=1) as cluster:
        killed = _soak(cluster, Path(folder), random.Random(options.seed), options.kills)
    say(f"seed {options.seed}: {killed.total()} kills, nothing lost or doubled")
    for what, count in sorted(killed.items()):
        say(f"  {what}: {count}")


def _soak(cluster: Killing, folder: Path, rng: random.Random, kills: int) -> Counter[str]:
    job, new_prompts = _job(folder)
    old = folder / "old"
    assert cluster.run(**job, output=str(old)) == 0
    job["prompts"] = new_prompts
    undisturbed = shutil.copytree(old, folder / "undisturbed")
    assert cluster.run(**job, output=str(undisturbed)) == 0
    expected = results(undisturbed)
    killed: Counter[str] = Counter()
    while killed.total() < kills:
        output = shutil.copytree(old, folder / "out")
        _until_done(cluster, {**job, "output": str(output)}, expected, rng, killed)
        shutil.rmtree(output)
    return killed


def _job(folder: Path) -> tuple[dict[str, Any], str]:
    """A job, and prompts that ask for other pictures in the same places."""
    pictures = {**{f"{i}.png": photograph(i) for i in range(_IMAGES)}, "gone.png": None}
    images, prompts = write_inputs(folder / "in", pictures)
    changed = folder / "in" / "changed.jsonl"
    changed.write_text(Path(prompts).read_text().replace("a photo of a blue mug", "a photo of a blue bowl"))
    model = str(save_small_model(folder / "model"))
    # One row at a time: what is left after a kill is then batched as it was, and comes out the same to the byte.
    shape = {"model": model, "inversion": SETTINGS, "batch_size": 1}
    return {"images": images, "prompts": prompts, **shape}, str(changed)


def _until_done(
    cluster: Killing, job: dict[str, Any], expected: Results, rng: random.Random, killed: Counter[str]
) -> None:
    code = -signal.SIGKILL
    while code == -signal.SIGKILL:
        kills = [_drawn(rng) for _ in range(_KILLS_PER_RUN)]
        arm(cluster.kills, *kills)
        driver = cluster.start(**job)
        killed.update(_killed_at_a_moment(cluster, driver, rng))
        code = _until_over(cluster, driver)
        left = {name.rpartition(" ")[0] for name in pending(cluster.kills)}
        killed.update(f"at a step: {point.split(' ')[2]}" for point in kills if point not in left)
        results(job["output"])
        say(f"{killed.total()} kills; the driver ended with {code}")
    assert code == 0, f"expected a driver that ends, or is killed; got exit code {code}"
    arm(cluster.kills)
    assert cluster.run(**job) == 0
    assert results(job["output"]) == expected


def _drawn(rng: random.Random) -> str:
    """A kill at a step; the driver's own steps are on no node that could go."""
    point = rng.choice(KILL_POINTS)
    chances = {"self": 3, "driver": 1, "actor": 2, "node": int(point.split(" ")[1] in PUBLISHED)}
    return f"{point} {rng.choices(list(chances), list(chances.values()))[0]}"


def _killed_at_a_moment(cluster: Killing, driver: BaseProcess, rng: random.Random) -> list[str]:
    """Kill the driver, an actor, a worker or the node some time into a run; who it was, if there was one."""
    victim = rng.choice(("driver", "actor", "worker", "node"))
    driver.join(rng.uniform(0, _SECONDS))
    if not driver.is_alive():
        return []
    pids = {
        "driver": [driver.pid],
        "actor": ray_processes(cluster.kills, ENGINE_ACTOR),
        "worker": ray_processes(cluster.kills, PUBLISH_WORKER),
        "node": cluster.raylets,
    }[victim]
    for pid in pids[:1]:
        kill(pid)
    return [f"at a moment: {victim}"] * len(pids[:1])


def _until_over(cluster: Killing, driver: BaseProcess) -> int | None:
    """The exit code of a driver, while nodes that die are replaced; None if it hangs."""
    deadline = time.monotonic() + _PATIENCE
    while driver.is_alive() and time.monotonic() < deadline:
        driver.join(1)
        cluster.mend()
    return driver.exitcode


if __name__ == "__main__":
    main()
