"""What every method keeps, whatever it learns: tensors, landing, rows, strength."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from pipeline.config import PRESETS, JobConfig
from pipeline.diffusion.control import Control
from pipeline.editor import Editor
from pipeline.estimate import work_of
from pipeline.inversion import Inversion, stored_tensors
from pipeline.methods import METHODS
from pipeline.models.stable_diffusion import StableDiffusion
from pipeline.planning import Plan
from pipeline.settings import FITTED, MASK_LEVELS, EditSettings, InversionSettings
from pipeline.synthesis import EditRequest, Synthesis
from tests.small_model import save_small_model

STEPS = 4
SOURCE, TARGET = "a photo of a red mug on a wooden table", "a photo of a blue mug on a wooden table"
BARE = EditSettings(mask="none", composite="none", hold_structure=0.5)
CHOICES: list[dict[str, Any]] = [
    *({"method": method} for method in METHODS),
    *({"method": method, "embeddings": "shared"} for method in FITTED),
    *({"method": method, "embeddings": "per-segment", "segments": 2} for method in FITTED),
    *({"method": method, "refine_rounds": 1} for method in METHODS if method not in ("direct", "edit-friendly")),
    *({"method": method, "artifact": "full"} for method in FITTED),
]
HALF_GUIDED: list[dict[str, Any]] = [{"method": method, "guidance_share": 0.5} for method in METHODS]


@pytest.fixture(scope="module")
def editor(tmp_path_factory: pytest.TempPathFactory) -> Editor:
    """An editor with the small model."""
    return Editor.from_pretrained(str(save_small_model(tmp_path_factory.mktemp("model"))), device="cpu")


@pytest.fixture(scope="module")
def inversions(editor: Editor) -> dict[str, list[Inversion]]:
    """Two photographs, inverted by every method."""
    images = [_photograph(1), _photograph(2)]
    return {
        _name(choice): editor.invert(images, source_prompts=[SOURCE, ""], settings=_settings(choice))
        for choice in CHOICES
    }


def _settings(choice: dict[str, Any]) -> InversionSettings:
    budget = {"max_iterations": 3} if choice["method"] in FITTED else {}
    every_step = {"num_inference_steps": STEPS, "guidance_scale": 3.0, "guidance_share": 1.0}
    return InversionSettings(**every_step | budget | choice)


def _name(choice: dict[str, Any]) -> str:
    return ", ".join(map(str, choice.values()))


def _photograph(seed: int) -> np.ndarray:
    """A smooth random picture."""
    coarse = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    smooth = torch.nn.functional.interpolate(coarse, size=(32, 32), mode="bicubic").clamp(0, 1)
    return (smooth[0].permute(1, 2, 0) * 255).byte().numpy()


def _edited(editor: Editor, inversion: Inversion, **request: Any) -> np.ndarray:
    [result] = editor.edit_rows([inversion], [EditRequest(0, **request)], BARE)
    assert isinstance(result, Synthesis)
    return result.edited


@pytest.fixture(params=[_name(choice) for choice in CHOICES])
def name(request: pytest.FixtureRequest) -> str:
    """A method, and where it has the choice, how many embeddings it learns."""
    return str(request.param)


def test_it_stores_the_trajectory_and_where_it_lands(inversions: dict[str, list[Inversion]], name: str) -> None:
    """All tensors are finite and small numbers, and both are of the latents' shape."""
    for inversion in inversions[name]:
        landing = inversion.tensors["reconstruction"]
        assert inversion.tensors["trajectory"].shape == (STEPS + 1, *landing.shape)
        for tensor in inversion.tensors.values():
            assert tensor.dtype in (torch.float16, torch.int8)
            assert bool(tensor.isfinite().all())


def test_a_weak_edit_begins_where_the_method_lands(
    editor: Editor, inversions: dict[str, list[Inversion]], name: str
) -> None:
    """What an edit without strength synthesises is the stored reconstruction, whatever holds it, whatever its words."""
    longer = TARGET.replace("blue", "very glossy blue")
    all_on = dict.fromkeys(("hold_self_attention", "hold_cross_attention"), 1.0) | {"word_weights": {"blue": 5.0}}
    for inversion in inversions[name]:
        nothing = _edited(editor, inversion, prompt=TARGET, strength=0.0)
        for share, controls in ((0.0, {}), (0.5, {}), (1.0, {}), (0.0, all_on), (0.5, all_on)):
            weak = _edited(editor, inversion, prompt=longer, strength=1e-6, hold_structure=share, **controls)
            np.testing.assert_allclose(weak, nothing, atol=0.02)


def test_asking_for_the_source_is_the_reconstruction_whatever_holds(
    editor: Editor, inversions: dict[str, list[Inversion]], name: str
) -> None:
    """With target and source prompt equal, taking maps and shapes from the source changes nothing."""
    inversion = inversions[name][0]
    holds = dict.fromkeys(("hold_structure", "hold_self_attention", "hold_cross_attention"), 1.0)
    nothing = _edited(editor, inversion, prompt=SOURCE, strength=0.0)
    np.testing.assert_allclose(_edited(editor, inversion, prompt=SOURCE, **holds), nothing, atol=0.02)


def test_the_source_beside_an_edit_goes_as_it_was_inverted(
    editor: Editor, inversions: dict[str, list[Inversion]], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever guidance, negative prompt, strength and noise an edit has, its held source's latents are the same."""
    predict = StableDiffusion.predict
    sources: list[torch.Tensor] = []

    def watched(
        model: StableDiffusion,
        z: torch.Tensor,
        timestep: torch.Tensor,
        embedding: torch.Tensor,
        control: Control,
    ) -> torch.Tensor:
        if control.structure_of is not None:
            sources.append(z[1])  # one edit, its source, and both again for the other branch
        return predict(model, z, timestep, embedding, control)

    monkeypatch.setattr(StableDiffusion, "predict", watched)
    [inversion] = inversions[name][:1]
    _edited(editor, inversion, prompt=TARGET, hold_structure=1.0)
    plain, sources = sources, []
    own = {"strength": 0.3, "guidance_scale": 7.5, "negative_prompt": "a lawn", "variation": 1.0, "seed": 3}
    _edited(editor, inversion, prompt=TARGET, hold_structure=1.0, **own)
    assert len(plain) == len(sources) == STEPS
    for one, other in zip(plain, sources, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


def test_its_artifact_gives_the_edits_that_it_gives(
    editor: Editor, inversions: dict[str, list[Inversion]], name: str
) -> None:
    """What a compact artifact leaves out comes back as it was, for rows of several images together."""
    kept = [replace(inversion, tensors=inversion.kept) for inversion in inversions[name]]
    restored = editor.restore_rows(kept)
    for inversion, again, artifact in zip(inversions[name], restored, kept, strict=True):
        assert again.tensors.keys() == inversion.tensors.keys()
        for key, tensor in inversion.tensors.items():
            torch.testing.assert_close(again.tensors[key], tensor, rtol=1e-2, atol=1e-2)
        one, other = (_edited(editor, whole, prompt=TARGET) for whole in (inversion, again))
        np.testing.assert_allclose(one, other, atol=1e-2)
        assert artifact.tensors.keys() == stored_tensors(inversion.settings)
        assert ("trajectory" in artifact.tensors) == ("full" in name or name.endswith(", 1"))


def test_its_edits_differ_and_stay_pictures(editor: Editor, inversions: dict[str, list[Inversion]], name: str) -> None:
    """A prompt, a negative prompt and a guidance scale each have their say."""
    for inversion in inversions[name]:
        requests: list[dict[str, Any]] = [
            {"prompt": SOURCE + " on a lawn"},
            {"prompt": TARGET},
            {"prompt": TARGET, "negative_prompt": "a wooden table"},
            {"prompt": TARGET, "guidance_scale": 6.0},
        ]
        pictures = [_edited(editor, inversion, **request) for request in requests]
        for i, one in enumerate(pictures):
            assert np.isfinite(one).all()
            assert not any(np.array_equal(one, other) for other in pictures[:i])


def test_a_variation_is_one_edit_for_every_seed(
    editor: Editor, inversions: dict[str, list[Inversion]], name: str
) -> None:
    """Noise differs by seed and by nothing else, least of all by batch mates; without variation a seed does nothing."""
    [inversion] = inversions[name][:1]
    plain = {"prompt": TARGET, "hold_structure": 0.5}
    asked = [plain, plain | {"seed": 1}, *({**plain, "variation": 0.8, "seed": seed} for seed in (1, 1, 2))]
    results = editor.edit_rows([inversion], [EditRequest(0, **request) for request in asked], BARE)
    together = [result.edited for result in results if isinstance(result, Synthesis)]
    for edited, request in zip(together, asked, strict=True):
        np.testing.assert_allclose(edited, _edited(editor, inversion, **request), atol=1e-3)
    np.testing.assert_allclose(together[0], together[1], atol=5e-4)
    np.testing.assert_allclose(together[2], together[3], atol=5e-4)
    for one, other in ((0, 2), (0, 4), (2, 4)):
        assert np.abs(together[one] - together[other]).max() > 1e-2


def test_only_methods_that_fit_take_gradient_steps(inversions: dict[str, list[Inversion]], name: str) -> None:
    """Their iterations are counted, and whether they converged is known; the others have neither."""
    fits = inversions[name][0].settings.method in FITTED
    assert all((inversion.iterations > 0) == fits for inversion in inversions[name])
    assert all((inversion.converged is not None) == fits for inversion in inversions[name])


@pytest.fixture
def evaluated(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Network evaluations as they are made, one entry a call; with a gradient each counts as three."""
    predict, counts = StableDiffusion.predict, list[int]()

    def counted(model: StableDiffusion, z: torch.Tensor, *rest: Any) -> torch.Tensor:
        counts.append(len(z) * (3 if rest[1].requires_grad else 1))
        return predict(model, z, *rest)

    monkeypatch.setattr(StableDiffusion, "predict", counted)
    return counts


@pytest.mark.parametrize("choice", [*CHOICES, *HALF_GUIDED], ids=_name)
def test_it_costs_what_a_plan_says(editor: Editor, evaluated: list[int], choice: dict[str, Any]) -> None:
    """The network evaluations of an inversion and of an edit that holds structure are those of `work_of`."""
    never = {"tolerance": 0.0, "min_gain": 0.0} if choice["method"] in FITTED else {}
    settings = _settings(choice).model_copy(update=never)
    config = JobConfig(inversion=settings, edit=BARE.model_copy(update={"hold_structure": 0.6}))
    inversion_work, edit_work = work_of(Plan("run", config, [], (), (), "", edits=0))
    [inversion] = editor.invert([_photograph(6)], source_prompts=SOURCE, settings=settings)
    assert sum(evaluated) == inversion_work
    evaluated.clear()
    editor.edit_rows([inversion], [EditRequest(0, TARGET)], config.edit)
    assert sum(evaluated) == edit_work


def test_edits_of_one_image_share_its_source(editor: Editor, evaluated: list[int]) -> None:
    """The source that edits take shapes from runs once for all edits of its image, and for each image its own."""
    settings, config = _settings({"method": "direct"}), BARE.model_copy(update={"hold_structure": 0.5, "mask": "auto"})
    inversions = editor.invert([_photograph(6), _photograph(7)], source_prompts=SOURCE, settings=settings)
    requests = [EditRequest(0, TARGET), EditRequest(1, TARGET), EditRequest(0, "a photo of a mug", strength=0.5)]
    evaluated.clear()
    together = editor.edit_rows(inversions, requests, config)
    masks, guided = len({round(level * STEPS) for level in MASK_LEVELS}), 2  # levels; branches at every step
    assert sum(evaluated) == masks * (3 + 2) + guided * (STEPS * 3 + STEPS // 2 * 2)
    for request, result in zip(requests, together, strict=True):
        [alone] = editor.edit_rows(inversions, [request], config)
        assert isinstance(result, Synthesis)
        assert isinstance(alone, Synthesis)
        np.testing.assert_allclose(result.edited, alone.edited, atol=3e-3)
        np.testing.assert_allclose(result.mask, alone.mask, atol=3e-3)


def test_skipping_leaves_out_the_noisiest_steps(editor: Editor, evaluated: list[int]) -> None:
    """Half skipped is half the network's calls, and from the latents in the middle of the trajectory."""
    [inversion] = editor.invert([_photograph(6)], source_prompts=SOURCE, settings=_settings({"method": "direct"}))
    calls, pictures = [], []
    for skip in (0.0, 0.5):
        evaluated.clear()
        settings = BARE.model_copy(update={"skip": skip, "hold_structure": 0.0})
        [result] = editor.edit_rows([inversion], [EditRequest(0, TARGET, strength=2.0)], settings)
        assert isinstance(result, Synthesis)
        calls.append(len(evaluated))
        pictures.append(result.edited)
    assert calls == [STEPS, STEPS // 2]
    landing = _edited(editor, inversion, prompt=TARGET, strength=0.0)
    missed = [np.square(picture - landing).mean() for picture in pictures]
    assert 0 < missed[1] < missed[0]


@pytest.mark.parametrize("method", [m for m in METHODS if m not in ("direct", "edit-friendly")])
def test_refinement_keeps_only_what_improves(editor: Editor, method: str) -> None:
    """Under guidance, a round of refinement leaves no image worse, and helps where there is need."""
    images = [_photograph(seed) for seed in (3, 4, 7)]

    def missed(rounds: int) -> list[float]:
        settings = _settings({"method": method, "refine_rounds": rounds, "guidance_scale": 2.0})
        found = editor.invert(images, source_prompts=SOURCE, settings=settings)
        clean = [i.tensors["trajectory"][0].float() for i in found]
        return [
            float((i.tensors["reconstruction"].float() - z_0).square().mean())
            for i, z_0 in zip(found, clean, strict=True)
        ]

    plain, refined = missed(0), missed(1)
    assert all(after <= before + 1e-6 for before, after in zip(plain, refined, strict=True))
    if method == "ddim":
        assert sum(refined) < sum(plain)


@pytest.mark.parametrize("method", [method for method in METHODS if method != "null-text"])
def test_no_share_of_guidance_is_guidance_1(editor: Editor, method: str) -> None:
    """Guidance that acts in none of the steps neither inverts nor edits otherwise than none at all."""
    inversions, edits = [], []
    for guidance in ({"guidance_share": 0.0}, {"guidance_scale": 1.0}):
        settings = _settings({"method": method} | guidance)
        [inversion] = editor.invert([_photograph(6)], source_prompts=SOURCE, settings=settings)
        inversions.append(inversion)
        edits.append(_edited(editor, inversion, prompt=TARGET, hold_structure=0.5))
    for name, tensor in inversions[0].tensors.items():
        assert torch.equal(tensor, inversions[1].tensors[name])
    assert np.array_equal(*edits)


@pytest.mark.parametrize("method", FITTED)
def test_fitting_lands_nearer_to_the_image_than_its_start(editor: Editor, method: str) -> None:
    """At a strong guidance more iterations reconstruct the latents better than none."""
    images = [_photograph(seed) for seed in (3, 4)]

    def missed(iterations: int) -> float:
        settings = InversionSettings(
            method=method,  # type: ignore[arg-type]
            num_inference_steps=STEPS,
            guidance_scale=5.0,
            max_iterations=iterations,
            tolerance=0.0,
            min_gain=0.0,
        )
        found = editor.invert(images, source_prompts=SOURCE, settings=settings)
        return float(sum((i.tensors["reconstruction"] - i.tensors["trajectory"][0]).square().mean() for i in found))

    assert missed(30) < missed(0)


def test_a_negative_prompt_inversion_needs_no_fit_at_any_guidance(editor: Editor) -> None:
    """It lands at strong guidance where plain DDIM lands at guidance 1."""
    [plain] = editor.invert(
        [_photograph(5)],
        source_prompts=SOURCE,
        settings=InversionSettings(method="ddim", num_inference_steps=STEPS, guidance_scale=1.0),
    )
    [negative] = editor.invert(
        [_photograph(5)],
        source_prompts=SOURCE,
        settings=InversionSettings(method="negative-prompt", num_inference_steps=STEPS, guidance_scale=7.5),
    )
    torch.testing.assert_close(
        negative.tensors["reconstruction"], plain.tensors["reconstruction"], rtol=1e-2, atol=1e-2
    )


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        ({"method": "null-text", "guidance_scale": 1.0}, "expected a guidance scale other than 1"),
        ({"guidance_scale": 0.0, "guidance_share": 1.0}, "expected a guidance scale above 0"),
        ({"method": "ddim", "embeddings": "shared"}, "ddim: expected no embeddings, as it fits nothing; got shared"),
        ({"method": "negative-prompt", "embeddings": "per-segment"}, "it fits nothing"),
        ({"method": "null-text", "embeddings": "per-segment", "num_inference_steps": 4}, "at most one per step, 4"),
        ({"segments": 3}, "segments: expected embeddings per-segment; got per-step"),
        ({"method": "direct", "learning_rate": 0.1}, "direct: expected no learning_rate, as it fits nothing; got 0.1"),
        (
            {"method": "edit-friendly", "refine_iterations": 1},
            "expected no refine_iterations, as its latents are noised",
        ),
        ({"method": "edit-friendly", "refine_rounds": 1}, "expected no refine_rounds, as its latents are noised"),
        ({"method": "direct", "refine_rounds": 1}, "expected no refine_rounds, as it leads back exactly"),
        ({"num_inference_steps": True}, "expected no boolean; got True"),
    ],
)
def test_a_combination_without_sense_is_refused(choice: dict[str, Any], said: str) -> None:
    """A setting that could not do what it says stops the job before it starts."""
    with pytest.raises(ValidationError, match=said):
        InversionSettings(**choice)


def test_a_share_of_less_than_one_step_is_refused() -> None:
    """It would leave out nothing; a preset's own share suits any number of steps."""
    few = {"num_inference_steps": 5}
    with pytest.raises(ValidationError, match=r"skip: expected 0, or at least one step of 5; got 0\.05"):
        JobConfig.model_validate({"preset": "fast", "inversion": few, "edit": {"skip": 0.05}})
    assert JobConfig.model_validate({"preset": "fast", "inversion": few}).edit.skip > 0


@pytest.mark.parametrize("method", METHODS)
def test_any_method_may_be_named_beside_any_preset(method: str) -> None:
    """What a preset says of settings that the method has no use for is no contradiction."""
    for preset in PRESETS:
        config = JobConfig.model_validate({"preset": preset, "inversion": {"method": method}})
        assert config.inversion.method == method
        other = method != PRESETS[preset].inversion.method
        assert all(settings.method == method for settings in config.escalations.values() if other)


def test_settings_without_use_are_no_part_of_the_identity() -> None:
    """A method's keys hold what changes its results, and nothing else."""
    assert set(InversionSettings(method="edit-friendly").identity()) == {
        "method",
        "num_inference_steps",
        "guidance_scale",
        "guidance_share",
    }
    assert InversionSettings().identity() == InversionSettings().model_dump(exclude={"segments"})
