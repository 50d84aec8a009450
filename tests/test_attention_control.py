"""Attention control through the engine: rows of a batch, words, masks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pipeline.diffusion.mask import attention_mask, feather, grow
from pipeline.editor import Editor
from pipeline.inversion import Inversion
from pipeline.settings import EditSettings, InversionSettings
from pipeline.synthesis import EditRequest, Synthesis
from tests.small_model import save_small_model

SOURCE = "a photo of a red mug on a wooden table"
TARGET = "a photo of a glossy blue mug on a wooden table"
BARE = EditSettings(mask="none", composite="none", hold_structure=0)
# What a row may ask for; each changes the picture.
ASKED: dict[str, dict[str, Any]] = {
    "nothing": {},
    "self-attention": {"hold_self_attention": 1.0},
    "self-attention, half": {"hold_self_attention": 0.5},
    "cross-attention": {"hold_cross_attention": 1.0},
    "cross-attention, half": {"hold_cross_attention": 0.5},
    "a word": {"word_weights": {"blue": 4.0}},
    "a phrase": {"word_weights": {"wooden table": -1.0, "Mug": 2.0}},
    "all": {
        "hold_structure": 0.5,
        "hold_self_attention": 0.75,
        "hold_cross_attention": 0.5,
        "word_weights": {"blue": 3.0},
    },
}


@pytest.fixture(scope="module")
def editor(tmp_path_factory: pytest.TempPathFactory) -> Editor:
    """An editor with the small model."""
    return Editor.from_pretrained(str(save_small_model(tmp_path_factory.mktemp("model"))), device="cpu")


@pytest.fixture(scope="module")
def inversions(editor: Editor) -> list[Inversion]:
    """Two photographs, one with a source prompt and one without."""
    settings = InversionSettings(method="negative-prompt", num_inference_steps=4, guidance_scale=5.0)
    return editor.invert([_photograph(1), _photograph(2)], source_prompts=[SOURCE, ""], settings=settings)


def _photograph(seed: int) -> np.ndarray:
    """A smooth random picture."""
    coarse = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    smooth = torch.nn.functional.interpolate(coarse, size=(32, 32), mode="bicubic").clamp(0, 1)
    return (smooth[0].permute(1, 2, 0) * 255).byte().numpy()


def _synthesised(
    editor: Editor, inversions: list[Inversion], requests: list[EditRequest], settings: EditSettings = BARE
) -> list[Synthesis]:
    results = editor.edit_rows(inversions, requests, settings)
    assert all(isinstance(result, Synthesis) for result in results)
    return results  # type: ignore[return-value]


def test_each_row_has_its_own_controls(editor: Editor, inversions: list[Inversion]) -> None:
    """Edits of two sources under all kinds of control come out of one batch as they do alone, and all differ."""
    requests = [EditRequest(0, TARGET, strength=1.5, **asked) for asked in ASKED.values()]
    requests += [EditRequest(1, TARGET, 0.5, **ASKED["all"]), EditRequest(1, SOURCE, **ASKED["self-attention"])]
    together = [result.edited for result in _synthesised(editor, inversions, requests)]
    for request, edited in zip(requests, together, strict=True):
        [alone] = _synthesised(editor, inversions, [request])
        np.testing.assert_allclose(edited, alone.edited, atol=1e-3)
    for i, one in enumerate(together[: len(ASKED)]):
        assert all(np.abs(one - other).max() > 2e-3 for other in together[:i])


@pytest.mark.parametrize(
    "nothing",
    [
        dict.fromkeys(("hold_structure", "hold_self_attention", "hold_cross_attention"), 0.0) | {"word_weights": {}},
        {"word_weights": {"blue": 1.0, "mug": 1}},
    ],
)
def test_controls_that_ask_for_nothing_change_no_bit(
    editor: Editor, inversions: list[Inversion], nothing: dict[str, Any]
) -> None:
    """Shares of zero and weights of one are as if they were not given."""
    [plain, asked] = (
        _synthesised(editor, inversions, [EditRequest(0, TARGET, **controls)])[0] for controls in ({}, nothing)
    )
    np.testing.assert_array_equal(asked.edited, plain.edited)


def test_without_a_source_prompt_no_words_are_held(editor: Editor, inversions: list[Inversion]) -> None:
    """There is nothing that the target's words could be aligned with."""
    [plain, held] = (
        _synthesised(editor, inversions, [EditRequest(1, TARGET, hold_cross_attention=share)])[0]
        for share in (0.0, 1.0)
    )
    np.testing.assert_array_equal(held.edited, plain.edited)


def test_a_row_without_controls_takes_the_jobs(editor: Editor, inversions: list[Inversion]) -> None:
    """What a row names wins, an empty mapping too; the job's weights hold where a prompt has their words."""
    jobs = {"hold_self_attention": 0.5, "hold_cross_attention": 1.0, "word_weights": {"blue": 3.0, "vase": 2.0}}
    settings = BARE.model_copy(update=jobs)
    own = {"hold_self_attention": 0.5, "hold_cross_attention": 1.0, "word_weights": {"blue": 3.0}}
    none: dict[str, Any] = {"hold_self_attention": 0.0, "hold_cross_attention": 0.0, "word_weights": {}}
    for of_the_job, of_the_row in (({}, own), (none, {})):
        [one] = _synthesised(editor, inversions, [EditRequest(0, TARGET, **of_the_job)], settings)
        [other] = _synthesised(editor, inversions, [EditRequest(0, TARGET, **of_the_row)])
        np.testing.assert_array_equal(one.edited, other.edited)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"hold_self_attention": 1.5}, "hold_self_attention: expected 0 to 1; got 1.5"),
        ({"hold_cross_attention": -1}, "hold_cross_attention: expected 0 to 1; got -1"),
        ({"word_weights": {"blue": 11}}, "expected -2.0 to 10.0; got 11"),
        ({"word_weights": {"vase": 2}}, "word_weights: expected words of the prompt; got 'vase'"),
    ],
)
def test_a_control_that_cannot_be_is_refused(
    editor: Editor, inversions: list[Inversion], wrong: dict[str, Any], said: str
) -> None:
    """With one line that says what was expected."""
    with pytest.raises(ValueError, match=said):
        editor.edit(inversions, prompt=TARGET, **wrong)


def test_masks_from_attention_are_masks(editor: Editor, inversions: list[Inversion]) -> None:
    """In [0, 1], the same each time and for each batch; `both` is inside either; without a source prompt all agree."""
    requests = [EditRequest(0, TARGET), EditRequest(1, TARGET), EditRequest(0, SOURCE.replace("table", "lawn"))]
    masks = {}
    for kind in ("auto", "attention", "both"):
        settings = BARE.model_copy(update={"mask": kind})
        masks[kind] = [result.mask for result in _synthesised(editor, inversions, requests, settings)]
        for request, mask in zip(requests, masks[kind], strict=True):
            assert 0 <= mask.min() <= mask.max() <= 1
            [alone] = _synthesised(editor, inversions, [request], settings)
            np.testing.assert_allclose(mask, alone.mask, atol=1e-3)
    for found, worded, both in zip(masks["auto"], masks["attention"], masks["both"], strict=True):
        assert (both <= np.minimum(found, worded) + 1e-6).all()
    np.testing.assert_array_equal(masks["attention"][1], masks["auto"][1])
    assert np.abs(masks["attention"][0] - masks["attention"][2]).max() > 0.1


@pytest.mark.parametrize("kind", ["auto", "attention"])
def test_a_weighted_word_alone_is_an_edit(editor: Editor, inversions: list[Inversion], kind: str) -> None:
    """With target and source equal, the mask is where the weight acts; without it nothing changes."""
    settings = BARE.model_copy(update={"mask": kind})
    requests = [EditRequest(0, SOURCE, word_weights=weights) for weights in ({"red": 4.0}, {})]
    weighted, plain = _synthesised(editor, inversions, requests, settings)
    assert weighted.mask.max() > 0.5
    assert plain.mask.max() == 0


@pytest.mark.parametrize("given", ["replace", "intersect"])
def test_a_given_mask_counts_where_none_is_found(editor: Editor, inversions: list[Inversion], given: str) -> None:
    """With `mask: none` it bounds its own edit, and others still change everything."""
    half = np.zeros((32, 32), np.uint8)
    half[:, 16:] = 255
    settings = BARE.model_copy(update={"mask_given": given})
    free, bounded = _synthesised(
        editor, inversions, [EditRequest(0, TARGET), EditRequest(0, TARGET, mask=half)], settings
    )
    assert free.mask.min() == 1
    assert bounded.mask[:, :15].max() == 0
    assert bounded.mask[:, 18:].min() == 1
    settings = settings.model_copy(update={"mask_feather": 2.0})
    [faded] = _synthesised(editor, inversions, [EditRequest(0, TARGET, mask=half)], settings)
    assert len(np.unique(faded.mask.round(3))) > len(np.unique(bounded.mask.round(3)))


@pytest.mark.parametrize("given", ["replace", "intersect"])
def test_a_given_mask_replaces_the_one_found_or_bounds_it(
    editor: Editor, inversions: list[Inversion], given: str
) -> None:
    """Outside it nothing changes; inside, all may, or what the automatic mask says."""
    half = np.zeros((32, 32), np.uint8)
    half[:, 16:] = 255
    settings = BARE.model_copy(update={"mask": "attention", "mask_given": given, "mask_grow": 0})
    found, bounded = _synthesised(
        editor, inversions, [EditRequest(0, TARGET), EditRequest(0, TARGET, mask=half)], settings
    )
    assert bounded.mask[:, :15].max() == 0
    expected = np.ones_like(found.mask) if given == "replace" else found.mask
    np.testing.assert_allclose(bounded.mask[:, 18:], expected[:, 18:], atol=1e-6)


def test_growing_and_feathering_are_the_settings(editor: Editor, inversions: list[Inversion]) -> None:
    """A grown mask covers more, a feathered one fades, and neither leaves [0, 1]."""

    def mask(**settings: Any) -> np.ndarray:
        chosen = BARE.model_copy(update={"mask": "attention", **settings})
        return _synthesised(editor, inversions, [EditRequest(0, TARGET)], chosen)[0].mask

    plain, grown, feathered = mask(mask_grow=0), mask(mask_grow=2), mask(mask_grow=0, mask_feather=1.5)
    assert (grown >= plain).all()
    assert grown.mean() > plain.mean()
    assert np.abs(np.diff(feathered, axis=0)).max() < np.abs(np.diff(plain, axis=0)).max()
    assert 0 <= feathered.min() <= feathered.max() <= 1


def test_feathering_keeps_what_a_mask_says_far_from_its_edge() -> None:
    """It is symmetric, keeps ones and zeros away from the edge, and 0 is the mask itself."""
    mask = torch.zeros(1, 1, 24, 24)
    mask[..., 12:] = 1
    soft = feather(mask, 1.5)
    assert torch.equal(feather(mask, 0), mask)
    torch.testing.assert_close(soft + soft.flip(-1), torch.ones_like(soft))
    assert float(soft[..., :6].max()) < 1e-3
    torch.testing.assert_close(feather(grow(torch.ones(1, 1, 3, 3), 2), 4.0), torch.ones(1, 1, 3, 3))


def test_a_map_is_judged_by_its_own_contrast() -> None:
    """However little a word is attended to, its place is marked; a map that is the same everywhere marks nothing."""
    maps = torch.full((2, 2, 16, 16), 0.03)
    maps[0, 0, 2:7, 2:7] = 0.04
    maps[0, 1, 10:15, 10:15] = 0.5
    mask = attention_mask(maps, 0.3, 0.2)
    assert mask[0, 0, 4, 4] == mask[0, 0, 12, 12] == 1
    assert mask[0, 0, 4, 12] == 0
    assert mask[1].max() == 0
