"""PIE-Bench's runner, on data sets of the published layout that the tests make."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from typer.testing import CliRunner

from jobs.bench import bench
from pipeline.config import ScoreWeights
from pipeline.demo.render import changed_mask, render
from pipeline.demo.scene import Scene, caption, random_scene
from pipeline.diffusion.pixels import as_pixels
from pipeline.editor import Editor
from pipeline.errors import JobError, RowError
from pipeline.io.storage import join, write_bytes
from pipeline.perceptual import Perceptual
from pipeline.quality.metrics import PERFECT_DB
from pipeline.quality.piebench import METRICS, Plan, Results, as_markdown, run_piebench, score
from pipeline.quality.piebench_data import Case, Entry, decode_mask, load_case, parse_entry, read_mapping
from pipeline.settings import EditSettings, InversionSettings
from tests.networks import save_clip, save_networks
from tests.small_model import save_small_model

SIDE: Final = 64
PLAN: Final = Plan(
    InversionSettings(method="ddim", num_inference_steps=4, guidance_scale=1.5),
    EditSettings(hold_structure=0),
    given_masks=False,
    batch_size=2,
    max_pixels=10**6,
)


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Perceptual:
    """All learned measures, of small networks."""
    home = tmp_path_factory.mktemp("weights")
    return Perceptual(save_networks(home), "cpu")


@pytest.fixture(scope="module")
def editor() -> Editor:
    """The bundled model."""
    return Editor.from_pretrained(device="cpu")


def _encoded(mask: np.ndarray) -> list[int]:
    """Starts and lengths of a mask's runs."""
    edges = np.flatnonzero(np.diff(np.pad(mask.ravel().astype(int), 1)))
    return [number for start, end in edges.reshape(-1, 2).tolist() for number in (start, end - start)]


def _bracketed(prompt: str, word: str) -> str:
    return prompt.replace(word, f"[{word}]")


def _entry(folder: str, scene: Scene, edited: Scene, attribute: str, kind: str) -> dict[str, Any]:
    """Write a scene's picture and describe an edit of it, as the published file does."""
    before, after = render([scene], SIDE).images, render([edited], SIDE).images
    path = f"{kind}_{attribute}/{scene.seed:012d}.jpg"
    pixels = as_pixels(before)[0]
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95)
    write_bytes(join(folder, "annotation_images", path), buffer.getvalue())
    return {
        "image_path": path,
        "original_prompt": _bracketed(caption(scene), getattr(scene, attribute)),
        "editing_prompt": _bracketed(caption(edited), getattr(edited, attribute)),
        "editing_instruction": f"Change the {attribute}",
        "editing_type_id": kind,
        "blended_word": f"{scene.object} {edited.object}",
        "mask": _encoded(changed_mask(before, after)[0, 0].numpy()),
    }


def _data_set(folder: str) -> dict[str, Any]:
    """Two colours and a material to change; the folder then has the published layout."""
    first, second = random_scene(3), random_scene(5)
    mapping = {
        "000000000000": _entry(folder, first, first.edited(colour="blue"), "colour", "6"),
        "000000000001": _entry(folder, second, second.edited(colour="green"), "colour", "6"),
        "711000000000": _entry(folder, second, second.edited(material="matte"), "material", "7"),
    }
    write_bytes(join(folder, "mapping_file.json"), json.dumps(mapping).encode())
    return mapping


@pytest.mark.parametrize(
    "runs",
    [[], [0, 3], [70, 5, 90, 1], [95, 40], [96, 1], [10, 0, 40, 30, 50, 30]],
    ids=["none", "first row", "two", "behind the end", "at the end", "overlapping"],
)
def test_masks_are_decoded_as_published(runs: list[int]) -> None:
    """Pixel by pixel, cut at the end, and with the outermost pixels of the image."""
    flat = [0] * 96
    for start, length in zip(runs[::2], runs[1::2], strict=True):
        for i in range(min(length, 96 - start)):
            flat[start + i] = 1
    expected = np.array(flat).reshape(8, 12)
    expected[0] = expected[-1] = expected[:, 0] = expected[:, -1] = 1
    assert np.array_equal(decode_mask(runs, (8, 12)), expected.astype(bool))


def test_an_entry_is_read_as_published() -> None:
    """Brackets go, the picture is below annotation_images, and the mask is as large as the picture."""
    folder = "memory://piebench-read"
    _data_set(folder)
    items = read_mapping(folder)
    entry = parse_entry(folder, "000000000000", items["000000000000"])
    assert entry.prompt == caption(random_scene(3).edited(colour="blue"))
    assert entry.source_prompt == caption(random_scene(3))
    assert entry.kind == "6"
    case = load_case(entry, 10**6)
    assert case.image.shape == (SIDE, SIDE, 3)
    assert case.mask.shape == (SIDE, SIDE)
    assert 0.05 < case.mask.mean() < 0.9


GOOD: Final = {"image_path": "a.jpg", "original_prompt": "", "editing_prompt": "a [blue] mug", "mask": [0, 1]}


@pytest.mark.parametrize(
    ("change", "code", "named"),
    [
        ({"editing_prompt": "[]"}, "row_refused", "editing_prompt"),
        ({"editing_prompt": None}, "row_refused", "editing_prompt"),
        ({"image_path": "../../secret.jpg"}, "row_refused", "image_path"),
        ({"image_path": 3}, "row_refused", "image_path"),
        ({"mask": [0, 1, 2]}, "mask_not_decodable", "pairs"),
        ({"mask": [0, -1]}, "mask_not_decodable", "mask"),
        ({"mask": "0 1"}, "mask_not_decodable", "mask"),
        ({"mask": None}, "mask_not_decodable", "mask"),
    ],
)
def test_bad_entries_are_refused_with_one_line(change: dict[str, Any], code: str, named: str) -> None:
    """The line names the field, what was expected and what was got."""
    with pytest.raises(RowError, match=named) as refused:
        parse_entry("data", "0", GOOD | change)
    assert refused.value.code == code
    assert "expected" in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


def test_a_mask_of_another_size_is_refused() -> None:
    """A run that starts behind the picture's last pixel was made for a larger one."""
    with pytest.raises(RowError, match="expected runs over 8×8 pixels; got a run that starts at 65"):
        decode_mask([65, 3], (8, 8))


@pytest.mark.parametrize("content", [None, b"not json", b"[1]"])
def test_a_folder_without_a_mapping_file_stops_the_run(tmp_path: Path, content: bytes | None) -> None:
    """One line names the file."""
    if content is not None:
        (tmp_path / "mapping_file.json").write_bytes(content)
    with pytest.raises(JobError, match=r"^piebench .*mapping_file\.json: "):
        read_mapping(str(tmp_path))


def _case(mask: np.ndarray | None = None) -> Case:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (SIDE // 8, SIDE // 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    if mask is None:
        mask = np.zeros((SIDE, SIDE), dtype=bool)
        mask[16:40, 8:56] = True
    return Case(Entry("0", "a.jpg", "a red mug", "a photo of a blue mug", "6", ()), image, mask)


def _changed(image: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(1).normal(0, 20, image.shape)
    return np.clip(image + noise, 0, 255).round().astype(np.uint8)


def test_background_metrics_black_out_the_mask_and_count_the_whole_frame(learned: Perceptual) -> None:
    """Against scikit-image and numpy on pictures that are masked beforehand."""
    case = _case()
    output = _changed(case.image)
    a, b = (np.where(case.mask[..., None], 0, x) / 255 for x in (case.image, output))
    found = score(output, case, learned)
    assert found["background_psnr"] == pytest.approx(peak_signal_noise_ratio(a, b, data_range=1))
    assert found["background_mse"] == pytest.approx(np.mean((a - b) ** 2))
    reference = structural_similarity(
        a, b, channel_axis=2, data_range=1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert found["background_ssim"] == pytest.approx(reference)
    masked = [(x * 255).round().astype(np.uint8) for x in (a, b)]
    assert found["background_lpips"] == learned.lpips(*masked)


def test_structure_and_whole_similarity_are_of_the_whole_picture(learned: Perceptual) -> None:
    """Only the edited similarity looks at the masked area alone, black around it."""
    case = _case()
    output = _changed(case.image)
    found = score(output, case, learned)
    assert found["structure_distance"] == learned.structure_distance(case.image, output)
    assert found["clip_whole"] == learned.clip_similarity(output, case.entry.prompt)
    inside = np.where(case.mask[..., None], output, 0).astype(np.uint8)
    assert found["clip_edited"] == learned.clip_similarity(inside, case.entry.prompt)


def test_a_perfect_copy_is_perfect_in_all_but_similarity(learned: Perceptual) -> None:
    """Whoever does not edit has nothing to gain but preservation: the similarity stays the original's."""
    case = _case()
    found = score(case.image, case, learned)
    assert found["background_psnr"] == PERFECT_DB
    assert (found["background_mse"], found["background_lpips"], found["structure_distance"]) == (0, 0, 0)
    assert found["background_ssim"] == pytest.approx(1)
    assert found["clip_whole"] == learned.clip_similarity(case.image, case.entry.prompt)


def test_a_mask_over_everything_leaves_no_background(learned: Perceptual) -> None:
    """Those metrics are missing then, and the others are there."""
    case = _case(np.ones((SIDE, SIDE), dtype=bool))
    found = score(_changed(case.image), case, learned)
    assert {name for name, value in found.items() if value is None} == {n for n in METRICS if "background" in n}


def test_without_weights_learned_metrics_are_missing() -> None:
    """None in the figures, a word in the table, and the reason beside them; never zero."""
    nothing = Perceptual(ScoreWeights(), "cpu")
    case = _case()
    results = Results({"0": ("6", score(case.image, case, nothing))})
    figures = results.as_json(nothing.missing)
    learned_metrics = {"structure_distance", "background_lpips", "clip_whole", "clip_edited"}
    assert {name for name, value in figures["metrics"]["all"].items() if value is None} == learned_metrics
    assert figures["missing"].keys() == learned_metrics
    assert as_markdown(results).count("missing") == 2 * len(learned_metrics)


def test_the_run_scores_what_it_can_and_names_what_it_cannot(editor: Editor, learned: Perceptual) -> None:
    """Every good entry has its seven scores, every bad one a line, and the means are those of the entries."""
    folder = "memory://piebench-run"
    good = _data_set(folder)
    first = good["000000000000"]
    bad = {
        "no picture": first | {"image_path": "6_colour/absent.jpg"},
        "no prompt": first | {"editing_prompt": " "},
        "another size": first | {"mask": [SIDE * SIDE + 1, 5]},
        "no object": "text",
    }
    calls: list[int] = []
    results = run_piebench(
        editor, folder, {**bad, **good}, PLAN, learned, Results(), lambda r: calls.append(len(r.scores))
    )
    assert calls[-1] == 3
    figures = results.as_json(learned.missing)
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures
    assert {failure["key"]: failure["code"] for failure in figures["failures"]} == {
        "no picture": "image_missing",
        "no prompt": "row_refused",
        "another size": "mask_not_decodable",
        "no object": "row_refused",
    }
    assert figures["entries"].keys() == good.keys()
    assert [figures["metrics"][kind]["count"] for kind in ("all", "6", "7")] == [3, 2, 1]
    for metric in METRICS:
        values = {key: entry[metric] for key, entry in figures["entries"].items()}
        assert all(np.isfinite(value) for value in values.values())
        assert figures["metrics"]["all"][metric] == pytest.approx(np.mean(list(values.values())))
        assert figures["metrics"]["7"][metric] == values["711000000000"]
    # The model edits: the copy's perfect background would say that it did not.
    assert all(entry["background_psnr"] < PERFECT_DB for entry in figures["entries"].values())


def test_a_given_mask_bounds_the_edit(editor: Editor) -> None:
    """Inside an all but empty mask next to nothing may change; the engine's own mask is larger."""
    folder = "memory://piebench-masks"
    item = _data_set(folder)["000000000000"] | {"mask": []}
    nothing = Perceptual(ScoreWeights(), "cpu")
    background = {}
    for given in (False, True):
        plan = Plan(PLAN.inversion, PLAN.edit, given, PLAN.batch_size, PLAN.max_pixels)
        results = run_piebench(editor, folder, {"0": item}, plan, nothing, Results(), lambda _: None)
        background[given] = results.scores["0"][1]["background_psnr"]
    assert background[True] > background[False] + 6


def test_scores_that_are_known_are_not_made_again(learned: Perceptual) -> None:
    """What was written is read back as it was, and needs no model."""
    case = _case()
    before = Results({"0": ("6", score(_changed(case.image), case, learned))})
    after = Results.from_json(json.loads(json.dumps(before.as_json(learned.missing))))
    assert after.scores == before.scores

    def never(_: Results) -> None:
        raise AssertionError

    run_piebench(None, "nowhere", {"0": GOOD}, PLAN, learned, after, never)  # type: ignore[arg-type]


def test_the_command_writes_figures_and_resumes(tmp_path: Path) -> None:
    """Exit code 1 for a failed entry, a table, and a file from which the same command goes on."""
    data, figures = tmp_path / "data", tmp_path / "figures.json"
    mapping = _data_set(str(data))
    broken = {"222000000000": mapping["000000000000"] | {"image_path": "absent.jpg"}}
    (data / "mapping_file.json").write_text(json.dumps(mapping | broken))
    model = str(save_small_model(tmp_path / "model"))
    flags = ["--data", str(data), "--model", model, "--method", "ddim", "--steps", "2", "--json", str(figures)]
    weights = ["--clip", str(save_clip(tmp_path / "clip")), "--dino", str(tmp_path / "absent")]
    done = CliRunner().invoke(bench, ["piebench", *flags, *weights])
    assert done.exit_code == 1, done.stderr
    assert "| all | 3 | missing |" in done.stdout
    assert "failed: 222000000000: image_missing: " in done.stderr
    assert f"missing: dino {tmp_path / 'absent'}: no such folder" in done.stderr
    written = json.loads(figures.read_text())
    assert written["metrics"]["all"]["clip_whole"] is not None
    assert written["missing"].keys() == {"structure_distance", "background_lpips"}
    assert written["inversion"]["num_inference_steps"] == 2
    marked = written | {"entries": {key: row | {"clip_whole": 77.0} for key, row in written["entries"].items()}}
    figures.write_text(json.dumps(marked))
    (data / "annotation_images" / "absent.jpg").write_bytes(next(data.rglob("*.jpg")).read_bytes())
    again = CliRunner().invoke(bench, ["piebench", *flags, *weights])
    assert again.exit_code == 0, again.stderr
    resumed = json.loads(figures.read_text())
    assert sum(row["clip_whole"] == 77 for row in resumed["entries"].values()) == 3
    assert len(resumed["entries"]) == 4
    assert resumed["failures"] == []
