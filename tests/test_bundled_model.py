"""The bundled model does what the README says of it, on scenes it was never trained on."""

from __future__ import annotations

from statistics import median

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from pipeline.demo.render import render
from pipeline.demo.scene import Scene, caption
from pipeline.diffusion.pixels import as_pixels
from pipeline.editor import Editor, published
from pipeline.inversion import Inversion
from pipeline.models.loading import BUNDLED_MODEL
from pipeline.quality.metrics import psnr
from pipeline.settings import EditSettings, InversionSettings
from pipeline.synthesis import EditRequest, Synthesis

SCENES = [
    Scene("mug", "red", "glossy", "plain", "table", seed=11),
    Scene("vase", "blue", "matte", "striped", "studio", seed=12),
    Scene("ball", "green", "glossy", "plain", "lawn", seed=13),
    Scene("box", "yellow", "matte", "dotted", "beach", seed=14),
]


@pytest.fixture(scope="module")
def editor() -> Editor:
    """An editor with the bundled model."""
    return Editor.from_pretrained(device="cpu")


@pytest.fixture(scope="module")
def photographs(editor: Editor) -> list[np.ndarray]:
    """The scenes, rendered."""
    side = editor.working_size(1, 1)[0]
    return as_pixels(render(SCENES, side).images)


@pytest.fixture(scope="module")
def inversions(editor: Editor, photographs: list[np.ndarray]) -> list[Inversion]:
    """The photographs, inverted with the default settings."""
    return editor.invert(photographs, source_prompts=[caption(scene) for scene in SCENES])


def test_plain_diffusers_samples_what_the_caption_names() -> None:
    """`StableDiffusionPipeline.from_pretrained` loads the folder and paints a blue mug on a brown table."""
    pipeline = StableDiffusionPipeline.from_pretrained(BUNDLED_MODEL, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(
        ["a photo of a blue mug on a wooden table"] * 4,
        num_inference_steps=25,
        guidance_scale=3.0,
        generator=[torch.Generator().manual_seed(i) for i in range(4)],
        output_type="np",
    ).images
    side = images.shape[1]
    middle = images[:, side // 3 : 2 * side // 3, side // 3 : 2 * side // 3]
    floor = images[:, -side // 8 :]
    blueness = np.median((middle[..., 2] - middle[..., 0]).reshape(4, -1), axis=1)
    warmth = np.median((floor[..., 0] - floor[..., 2]).reshape(4, -1), axis=1)
    assert (blueness > 0.1).sum() >= 3
    assert (warmth > 0.1).sum() >= 3


def test_prompt_tuning_reaches_the_autoencoders_ceiling(inversions: list[Inversion]) -> None:
    """Reconstruction at the edit's guidance stays within half a decibel of the VAE's round trip."""
    assert median(i.vae_psnr for i in inversions) >= 30
    assert median(i.vae_psnr - i.recon_psnr for i in inversions) <= 0.5


def test_guidance_breaks_plain_inversion_and_prompt_tuning_mends_it(
    editor: Editor, photographs: list[np.ndarray], inversions: list[Inversion]
) -> None:
    """At the edit's guidance, learned embeddings come nearer to every image than its source prompt does."""
    settings = InversionSettings(method="ddim")
    plain = editor.invert(photographs, source_prompts=[caption(scene) for scene in SCENES], settings=settings)
    for a, b in zip(plain, inversions, strict=True):
        assert b.recon_psnr > a.recon_psnr + 1


def test_refinement_mends_plain_inversion_under_guidance(editor: Editor, photographs: list[np.ndarray]) -> None:
    """Inverting again along the guided predictions brings DDIM back to every image without any fit."""
    prompts = [caption(scene) for scene in SCENES]

    def reached(rounds: int) -> list[float]:
        settings = InversionSettings(method="ddim", num_inference_steps=10, guidance_scale=3, refine_rounds=rounds)
        return [i.recon_psnr for i in editor.invert(photographs, source_prompts=prompts, settings=settings)]

    assert all(after > before + 1 for before, after in zip(reached(0), reached(1), strict=True))


def test_a_colour_edit_comes_nearer_to_the_truth(
    editor: Editor, photographs: list[np.ndarray], inversions: list[Inversion]
) -> None:
    """Making the mug blue approaches the rendering of the same mug in blue, and leaves the corners alone."""
    blue = SCENES[0].edited(colour="blue")
    truth = as_pixels(render([blue], photographs[0].shape[0]).images)[0]
    [[output]] = editor.edit(inversions[:1], prompt=caption(blue), settings=EditSettings())
    result = np.asarray(output)
    changed = np.abs(truth.astype(int) - photographs[0]).max(axis=2) >= 8
    before = psnr(photographs[0] / 255, truth / 255, changed)
    assert psnr(result / 255, truth / 255, changed) >= before + 3
    assert np.array_equal(result[:6, :6], photographs[0][:6, :6])


def test_attention_to_a_colour_is_on_the_object(editor: Editor, photographs: list[np.ndarray]) -> None:
    """A mask from the attention to a changed colour marks the object rather than its surroundings."""
    edits = [scene.edited(colour="purple") for scene in SCENES]
    truths = as_pixels(render(edits, photographs[0].shape[0]).images)
    few = InversionSettings(method="ddim", num_inference_steps=6)
    found = editor.invert(photographs, source_prompts=[caption(scene) for scene in SCENES], settings=few)
    requests = [EditRequest(i, caption(edit)) for i, edit in enumerate(edits)]
    settings = EditSettings(mask="attention", mask_grow=0, hold_structure=0)
    results = editor.edit_rows(found, requests, settings)
    contrast = []
    for result, truth, photograph in zip(results, truths, photographs, strict=True):
        assert isinstance(result, Synthesis)
        changed = np.abs(truth.astype(int) - photograph).max(axis=2) >= 8
        contrast.append(result.mask[changed].mean() - result.mask[~changed].mean())
    assert min(contrast) > 0.1
    assert np.mean(contrast) > 0.4


def test_outside_the_automatic_mask_every_pixel_is_the_originals(
    editor: Editor, photographs: list[np.ndarray], inversions: list[Inversion]
) -> None:
    """Where the mask is zero nothing changes, not by one level; and it is zero somewhere."""
    request = EditRequest(0, caption(SCENES[0].edited(colour="blue")))
    [synthesis] = editor.edit_rows(inversions[:1], [request], EditSettings())
    assert isinstance(synthesis, Synthesis)
    outside = synthesis.mask == 0
    assert outside.mean() > 0.1
    result = published(synthesis, photographs[0], EditSettings())
    assert np.array_equal(result[outside], photographs[0][outside])
