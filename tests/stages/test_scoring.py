"""Learned scores of published pictures, through the stages."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.config import ScoreWeights
from pipeline.counts import Counts
from pipeline.io.images import resize
from pipeline.perceptual import Perceptual
from pipeline.records import PromptRow
from pipeline.stages import scoring
from pipeline.stages.rows import Asked
from pipeline.stages.scoring import COLUMNS, scored
from tests.networks import save_networks
from tests.small_job import pixels, table
from tests.stages.conftest import Job
from tests.stages.stand_in import StandInEditor

PROMPT = "a photo of a blue mug"
BLUE = PromptRow(edit_id="blue", prompt=PROMPT, strength=(0.0, 0.5, 1.0))
Photograph = Callable[..., Asked]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> ScoreWeights:
    """All three networks, small ones."""
    return save_networks(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def learned(weights: ScoreWeights) -> Perceptual:
    """The same networks, apart from the job."""
    return Perceptual(weights, "cpu")


def _scores(output: Path) -> list[tuple[float | None, ...]]:
    return [tuple(row[column] for column in COLUMNS.values()) for row in table(output, "edits")]


def _expected(learned: Perceptual, published: np.ndarray, original: np.ndarray) -> list[float | None]:
    return [
        learned.clip_similarity(published, PROMPT),
        learned.structure_distance(original, published),
        learned.lpips(original, published),
    ]


def test_every_picture_is_scored_as_it_was_published(
    output: Path, photograph: Photograph, weights: ScoreWeights, learned: Perceptual
) -> None:
    """Several pictures at once have what each has alone: against its prompt, and against its original."""
    asked = [photograph(str(i), 40 * i) for i in range(4)]
    originals = {row["image_id"]: pixels(Path(row["image_uri"])) for row in asked}
    counts = Job(output, StandInEditor(), [BLUE], scores=weights).run(asked)
    assert (counts.edited, counts.missing_scores) == (12, {})
    for row in table(output, "edits"):
        expected = _expected(learned, pixels(Path(row["image_uri"])), originals[row["image_id"]])
        assert [row[column] for column in COLUMNS.values()] == pytest.approx(expected, rel=1e-5)
        assert (row["strength"] == 0) == (row["lpips"] == 0)


def test_scores_are_none_where_no_weights_are_named(output: Path, photograph: Photograph) -> None:
    """Nothing is scored, nothing is missing, and naming weights later makes no edit again."""
    job = Job(output, StandInEditor(), [BLUE])
    assert job.run([photograph("a")]).missing_scores == {}
    assert set(_scores(output)) == {(None,) * 3}
    again = Job(output, StandInEditor(), [BLUE], scores={"clip": "/nowhere"})
    assert again.run([photograph("a")]) == Counts(reused=1, kept=3)


def test_weights_that_are_not_there_cost_their_score_alone(
    output: Path, photograph: Photograph, weights: ScoreWeights, tmp_path: Path
) -> None:
    """The edits are made, what can be scored is, and one line says why the rest is missing."""
    clip = tmp_path / "clip"
    named = {"clip": str(clip), "dino": weights.dino}
    counts = Job(output, StandInEditor(), [BLUE], scores=named).run([photograph("a"), photograph("b", 50)])
    assert (counts.edited, counts.failures) == (6, 0)
    assert counts.missing_scores == {"clip": f"clip {clip}: no such folder"}
    assert all(clip is None and dino is not None and lpips is None for clip, dino, lpips in _scores(output))


def test_without_composite_the_original_is_resized_where_it_is_there(
    output: Path, photograph: Photograph, weights: ScoreWeights, learned: Perceptual
) -> None:
    """An artifact's original is not fetched then: those scores are missing, with the reason."""
    asked, config = photograph("a"), {"edit": {"composite": "none"}, "scores": weights}
    one = BLUE.model_copy(update={"strength": 1.0})
    small = StandInEditor()
    # LPIPS needs more than the stand-in's 16 pixels.
    assert Job(output, small, [one], **config).run([asked]).missing_scores.keys() == {"lpips"}
    published = pixels(output / "images/a/blue/1.png")
    original = resize(pixels(Path(asked["image_uri"])), (16, 16))
    [(clip, dino, lpips)] = _scores(output)
    assert clip == pytest.approx(learned.clip_similarity(published, PROMPT), rel=1e-5)
    assert dino == pytest.approx(learned.structure_distance(original, published), rel=1e-5)
    assert lpips is None
    more = one.model_copy(update={"edit_id": "more"})
    counts = Job(output, StandInEditor(), [more], **config).run([asked])
    assert (counts.edited, counts.failures, counts.missing_scores.keys()) == (1, 0, {"dino", "lpips"})
    assert all("originals" in reason for reason in counts.missing_scores.values())


def test_threads_share_the_networks(weights: ScoreWeights, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are loaded once, and each picture has the scores that it has alone."""
    rng = np.random.default_rng(0)
    loaded: list[ScoreWeights] = []

    class Counted(Perceptual):
        def __init__(self, weights: ScoreWeights, device: str) -> None:
            loaded.append(weights)
            super().__init__(weights, device)

    monkeypatch.setattr("pipeline.perceptual.Perceptual", Counted)
    scoring._learned.cache_clear()
    pictures = list(rng.integers(0, 256, (24, 48, 32, 3), np.uint8))

    def score(picture: np.ndarray) -> dict[str, float | None]:
        return scored(weights, picture, PROMPT, pictures[0])[0]

    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(score, pictures))
    assert together == list(map(score, pictures))
    assert loaded == [weights]


def test_large_pictures_are_looked_at_smaller(
    weights: ScoreWeights, learned: Perceptual, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory stays bounded whatever a photograph's size; both pictures are resized alike."""
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 256, (2, 96, 128, 3), np.uint8)
    monkeypatch.setattr(scoring, "_MOST_PIXELS", 48 * 64)
    scores, missing = scored(weights, b, PROMPT, a)
    seen = [resize(picture, (64, 48)) for picture in (b, a)]
    assert (list(scores.values()), missing) == (pytest.approx(_expected(learned, *seen), rel=1e-5), {})


def test_a_score_that_is_no_number_is_missing(weights: ScoreWeights, tmp_path: Path) -> None:
    """Weights that are not numbers give None and a reason, where a bound at zero would have made it zero."""
    clip = Path(str(weights.clip))
    broken = tmp_path / "clip"
    broken.mkdir()
    for file in clip.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    state = {name: torch.full_like(t, torch.nan) for name, t in load_file(clip / "model.safetensors").items()}
    save_file(state, broken / "model.safetensors", metadata={"format": "pt"})
    picture = np.zeros((32, 48, 3), np.uint8)
    scores, missing = scored(ScoreWeights(clip=str(broken)), picture, PROMPT, picture)
    assert scores["clip_similarity"] is None
    assert missing == {"clip": "clip: a picture of 48×32: expected a finite score; got nan"}
