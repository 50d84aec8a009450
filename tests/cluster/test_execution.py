"""Whole jobs on a local Ray, with a small untrained model of the real kind."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.cluster import execution, graph, session
from pipeline.counts import Counts
from pipeline.errors import JobError
from pipeline.io import lease
from pipeline.io.storage import list_files, read_bytes, write_bytes
from tests.cluster.watched import Together
from tests.faults import Proxy
from tests.small_job import PROMPTS, photograph, pixels, table, write_inputs
from tests.small_model import save_small_model

Run = Callable[..., Counts]


def digests(folder: Path) -> dict[str, str]:
    """sha256 of every file below a folder, by its path there, but leases and what is remembered of photographs.

    One that is a second old when it is read is remembered by the next run.
    """
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.parent.name not in {"leases", "sources"}
    }


def encoded(array: Any, mode: str, fmt: str, **options: Any) -> bytes:
    """A picture in a mode and format of Pillow's."""
    buffer = io.BytesIO()
    Image.fromarray(array).convert(mode).save(buffer, fmt, **options)
    return buffer.getvalue()


def test_a_job_runs_and_running_it_again_does_nothing(run: Run, output: Path, tmp_path: Path) -> None:
    """Every edit is done once; the second run leaves each file as it is, run.json too."""
    images, prompts = write_inputs(tmp_path / "in", {f"{i}.png": photograph(i) for i in range(4)})
    first = run("run", images=images, prompts=prompts, output=str(output))
    assert (first.inverted, first.edited, first.failures) == (4, 10, 0)
    assert len({row["edit_key"] for row in table(output, "edits")}) == len(table(output, "edits")) == 10
    record = json.loads((output / "run.json").read_text())
    assert record["counts"]["edits"] == 10
    before = digests(output)
    second = run("run", images=images, prompts=prompts, output=str(output))
    assert (second.inverted, second.edited, second.reused, second.kept) == (0, 0, 4, 10)
    assert digests(output) == before


def test_actors_that_no_machine_could_hold_are_refused(run: Run, output: Path, tmp_path: Path) -> None:
    """Ray would wait for ever for the cores."""
    images, prompts = write_inputs(tmp_path / "in", {"0.png": photograph(0)})
    with pytest.raises(JobError, match=r"^actors: expected at most 0 of 4096 CPU cores each on this machine; got 2$"):
        run("run", images=images, prompts=prompts, output=str(output), actors=2, num_cpus=4096)


@pytest.mark.skipif(session._own_cores() < 2, reason="needs two cores")
def test_of_two_batches_two_actors_have_one_each(run: Run, output: Path, tmp_path: Path) -> None:
    """However much later than the first the second starts; that neither batch goes on without the other shows it."""
    images, prompts = write_inputs(tmp_path / "in", {f"{i}.png": photograph(i) for i in range(4)})
    (tmp_path / "begun").mkdir()
    together = Together(tmp_path / "begun", 4)
    counts = run("run", images=images, prompts=prompts, output=str(output), slots=2, actors=2, load=together)
    assert (counts.inverted, counts.edited, counts.failures) == (4, 10, 0)


def test_each_part_of_a_batch_is_committed_as_a_whole(run: Run, output: Path, tmp_path: Path) -> None:
    """Every batch has a file of its inversions and one for as many edits as go through the network together."""
    images, prompts = write_inputs(tmp_path / "in", {f"{i}.png": photograph(i) for i in range(6)})
    run("run", images=images, prompts=prompts, output=str(output), batch_size=2)
    inversions, edits = (
        sorted(pq.read_metadata(file).num_rows for file in (output / kind).iterdir())
        for kind in ("inversions", "edits")
    )
    assert inversions == [2, 2, 2]
    assert edits == [1, 1, 1, 2, 2, 2, 2, 2, 2]


def test_inversions_do_not_wait_for_their_edits(
    run: Run, output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine that breaks down over the edits of a batch leaves its inversions committed."""

    class BreaksDown:
        """Hands over the inversions, makes no edit before they are committed, and none after."""

        def __init__(self, *words: Any) -> None:
            self._actor = graph._EngineActor(*words)  # in the actor's process, where nothing is patched

        def __call__(self, rows: pa.Table) -> Iterator[pa.Table]:
            yield next(self._actor(rows))
            deadline = time.monotonic() + 120
            while not list(output.glob("inversions/*.parquet")) and time.monotonic() < deadline:
                time.sleep(0.01)
            raise JobError("broken down")

    images, prompts = write_inputs(tmp_path / "in", {f"{i}.png": photograph(i) for i in range(4)})
    job = {"images": images, "prompts": prompts, "output": str(output), "batch_size": 4}
    with monkeypatch.context() as patch:
        patch.setattr(graph, "_EngineActor", BreaksDown)
        with pytest.raises(JobError, match="broken down"):
            run("run", **job)
    assert (len(table(output, "inversions")), table(output, "edits")) == (4, [])
    counts = run("run", **job)
    assert (counts.inverted, counts.reused, counts.edited) == (0, 4, 10)


def test_results_do_not_depend_on_the_batch(run: Run, tmp_path: Path) -> None:
    """Batches of one and of four publish the same pictures, to rounding."""
    images, prompts = write_inputs(tmp_path / "in", {f"{i}.png": photograph(i) for i in range(4)})
    for size in (1, 4):
        run("run", images=images, prompts=prompts, output=str(tmp_path / str(size)), batch_size=size)
    for path in (tmp_path / "1").rglob("*.png"):
        other = tmp_path / "4" / path.relative_to(tmp_path / "1")
        assert np.abs(pixels(path).astype(int) - pixels(other)).max() <= 2


def test_edit_reuses_an_earlier_output(run: Run, output: Path, tmp_path: Path) -> None:
    """`invert` then `edit` gives what `run` gives, and `edit` inverts nothing."""
    images, prompts = write_inputs(tmp_path / "in", {f"{i}.png": photograph(i) for i in range(2)})
    made = run("invert", images=images, output=str(output))
    assert (made.inverted, made.edits) == (2, 0)
    edited = run("edit", inversions=str(output), prompts=prompts, output=str(tmp_path / "edited"))
    assert (edited.inverted, edited.reused, edited.edited) == (0, 2, 5)
    run("run", images=images, prompts=prompts, output=str(tmp_path / "run"))
    pictures = [{k: v for k, v in digests(tmp_path / name).items() if k.endswith(".png")} for name in ("edited", "run")]
    assert pictures[0] == pictures[1]
    assert not (tmp_path / "edited" / "inversions").exists()


def test_edit_refuses_artifacts_of_another_model(
    run: Run, output: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Artifacts belong to the model that made them."""
    images, prompts = write_inputs(tmp_path / "in", {"a.png": photograph(0)})
    run("invert", images=images, output=str(output))
    other = save_small_model(tmp_path_factory.mktemp("model") / "other", seed=1)
    with pytest.raises(JobError, match="expected artifacts of model"):
        run("edit", inversions=str(output), prompts=prompts, output=str(output), model=str(other))


def test_s3_and_local_give_the_same_bytes(
    run: Run, proxy: Proxy, s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job over `s3://`, of whose requests a fifth fail, publishes the same pictures as one on local disk."""
    images, prompts = write_inputs(tmp_path / "in", {f"{i}.png": photograph(i) for i in range(3)})
    for path in (tmp_path / "in").iterdir():
        write_bytes(f"{s3}/in/{path.name}", path.read_bytes())
    run("run", images=images, prompts=prompts, output=str(tmp_path / "out"))
    remote = {"images": f"{s3}/in/images.csv", "prompts": f"{s3}/in/prompts.jsonl", "output": f"{s3}/out"}
    with monkeypatch.context() as patch:
        patch.setattr(proxy, "share", 0.2)
        counts = run("run", **remote)
    assert counts.failures == 0
    assert proxy.met.keys() - {"none"}
    local = {path: digest for path, digest in digests(tmp_path / "out").items() if path.endswith(".png")}
    files = list_files(f"{s3}/out", ".png")
    assert {uri.removeprefix(f"{s3}/out/"): hashlib.sha256(read_bytes(uri)).hexdigest() for uri in files} == local
    assert run("run", **remote).edited == 0


def test_bad_files_fail_and_good_ones_come_out_as_they_are(run: Run, output: Path, tmp_path: Path) -> None:
    """Missing, not an image, truncated: rows with their codes. The rest comes out upright, at its own size."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (40, 60, 3), np.uint8)
    turned = Image.Exif()
    turned[0x0112] = 6
    alpha = np.dstack([noise, np.tile(np.arange(60, dtype=np.uint8), (40, 1))])
    rgba = io.BytesIO()
    Image.fromarray(alpha).save(rgba, "PNG")
    images, prompts = write_inputs(
        tmp_path / "in",
        {
            "missing.png": None,
            "text.png": b"this is text",
            "truncated.jpg": encoded(noise, "RGB", "JPEG")[:-500],
            "tiny.png": encoded(noise[:1, :1], "RGB", "PNG"),
            "huge.jpg": encoded(np.full((6000, 8000), 200, np.uint8), "RGB", "JPEG"),
            "cmyk.jpg": encoded(noise, "CMYK", "JPEG"),
            "turned.jpg": encoded(noise, "RGB", "JPEG", exif=turned),
            "rgba.png": rgba.getvalue(),
        },
    )
    counts = run("run", images=images, prompts=prompts, output=str(output))
    assert counts.codes == {"image_missing": 1, "image_not_decodable": 1, "image_truncated": 1}
    codes = {row["image_id"]: row["code"] for row in table(output, "failures")}
    assert codes == {"missing": "image_missing", "text": "image_not_decodable", "truncated": "image_truncated"}
    sizes = {"tiny": (1, 1), "huge": (8000, 6000), "cmyk": (60, 40), "turned": (40, 60), "rgba": (60, 40)}
    for name, size in sizes.items():
        for strength in PROMPTS[0]["strength"]:
            with Image.open(output / f"images/{name}/blue/{strength}.png") as picture:
                assert picture.size == size
    with Image.open(output / "images/rgba/blue/1.png") as picture:
        assert np.array_equal(np.asarray(picture)[..., 3], alpha[..., 3])
    assert np.array_equal(pixels(output / "images/rgba/blue/0.png"), noise)


def test_a_model_that_cannot_load_ends_the_job_in_one_line(run: Run, output: Path, tmp_path: Path) -> None:
    """What an actor finds wrong with the whole job reaches the user without Ray's words."""
    images, prompts = write_inputs(tmp_path / "in", {"a.png": photograph(0)})
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model_index.json").write_text("{}")
    with pytest.raises(JobError) as caught:
        run("run", images=images, prompts=prompts, output=str(output), model=str(tmp_path / "model"))
    assert len(str(caught.value).splitlines()) == 1
    assert not (output / "run.json").exists()


def test_refused_rows_are_recorded_once(run: Run, output: Path, tmp_path: Path) -> None:
    """With `skip_invalid` the job runs without them, and they are failures that stand."""
    images, prompts = write_inputs(tmp_path / "in", {"a.png": photograph(0)})
    with Path(prompts).open("a", encoding="utf-8") as file:
        file.write('{"edit_id": "far", "prompt": "far", "strength": 9}\n')
    for _ in range(2):
        counts = run("run", images=images, prompts=prompts, output=str(output), skip_invalid=True)
        assert counts.codes == {"row_refused": 1}
    (failure,) = table(output, "failures")
    assert (failure["edit_id"], failure["stage"]) == ("far", "plan")
    assert "strength" in failure["message"]


def test_an_output_has_one_writer(run: Run, output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second run is refused while there is a first, and does nothing; a run that was taken over stops."""
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.2)
    images, prompts = write_inputs(tmp_path / "in", {"a.png": photograph(0)})
    job = {"images": images, "prompts": prompts, "output": str(output)}
    with lease.held(str(output)) as fence:
        with pytest.raises(JobError, match="another run is writing there"):
            run("run", **job)
        lost = dataclasses.replace(fence, token=fence.token - 1)
        with monkeypatch.context() as patch:
            patch.setattr(execution, "held", lambda output: nullcontext(lost))
            with pytest.raises(JobError, match="another run took over"):
                run("run", **job)
    assert [path.name for path in output.iterdir()] == ["leases"]
    assert run("run", **job).failures == 0


def test_carried_columns_keep_their_types(run: Run, output: Path, tmp_path: Path) -> None:
    """Columns of a Parquet manifest come out of the job as they went in."""
    (tmp_path / "a.png").write_bytes(photograph(0))
    stamp = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    own = {"label": [7], "boxes": [[[1.5, 2.5]]], "taken": [stamp], "image_sha256": ["mine"]}
    pq.write_table(pa.table({"image_id": ["a"], "image_uri": ["a.png"], **own}), tmp_path / "images.parquet")
    run("invert", images=str(tmp_path / "images.parquet"), output=str(output))
    (row,) = table(output, "inversions")
    assert (row["label"], row["boxes"], row["taken"]) == (7, [[1.5, 2.5]], stamp)
    assert row["carried_image_sha256"] == "mine"
