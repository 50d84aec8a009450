"""Many random kills: `make soak`, or `python -m tests.kills.soak --kills 100 --seed 7`.

A job that replaces pictures is killed on its way, again and again, until a run of it comes to its end; one more
run, and its output is compared with that of a job to which nothing happened. Then all over again.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

from tests.kills.cluster import Killing, killing
from tests.kills.points import ENGINE_ACTOR, KILL_POINTS, PUBLISH_WORKER, arm, kill, pending, ray_processes
from tests.results import Results, results
from tests.small_job import SETTINGS, photograph, write_inputs
from tests.small_model import save_small_model

_IMAGES: Final = 3
_KILLS_PER_RUN: Final = 3
# A run's length, roughly; a kill that comes too late finds nobody.
_SECONDS: Final = 15.0


def main() -> None:
    """Run the soak; it fails by an assertion."""
    parser = argparse.ArgumentParser(description="Many random kills of a small job.")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    _say(f"seed {seed}")
    with tempfile.TemporaryDirectory() as folder, killing(Path(folder) / "kills", nodes=1) as cluster:
        killed = _soak(cluster, Path(folder), random.Random(seed), options.kills)
    _say(f"seed {seed}: {killed.total()} kills, nothing lost or doubled")
    for what, count in sorted(killed.items()):
        _say(f"  {what}: {count}")


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
        kills = [
            f"{rng.choice(KILL_POINTS)} {rng.choices(('self', 'driver', 'actor'), (3, 1, 2))[0]}"
            for _ in range(_KILLS_PER_RUN)
        ]
        arm(cluster.kills, *kills)
        driver = cluster.start(**job)
        at_random = threading.Thread(target=_at_a_random_moment, args=(cluster, driver, rng.random(), killed))
        at_random.start()
        driver.join(600)
        at_random.join()
        code = driver.exitcode if driver.exitcode is not None else 1
        left = {name.rpartition(" ")[0] for name in pending(cluster.kills)}
        killed.update(f"at a step: {point.split(' ')[2]}" for point in kills if point not in left)
        results(job["output"])
        _say(f"{killed.total()} kills; the driver ended with {code}")
    assert code == 0, f"expected a driver that ends, or is killed; got exit code {code}"
    arm(cluster.kills)
    assert cluster.run(**job) == 0
    assert results(job["output"]) == expected


def _at_a_random_moment(cluster: Killing, driver: Any, chance: float, killed: Counter[str]) -> None:
    """Kill the driver, an actor or a worker some time into a run."""
    victim = ("driver", "actor", "worker")[int(3 * chance)]
    driver.join(_SECONDS * (3 * chance % 1))
    if victim == "driver":
        found = [driver.pid] if driver.is_alive() else []
    else:
        found = ray_processes(cluster.kills, ENGINE_ACTOR if victim == "actor" else PUBLISH_WORKER)
    for pid in found[:1]:
        kill(pid)
        killed[f"at a moment: {victim}"] += 1


def _say(line: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {line}", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
