"""Attention under control, on a small network of diffusers' own classes."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0

from pipeline.demo.scene import caption_words
from pipeline.diffusion.control import NO_CONTROL, Control, CrossAttention
from pipeline.models.attention import ControlledAttention, Watched, attention_on_gpus, processed_by
from pipeline.models.catalogue import new_tokenizer, new_unet
from pipeline.models.prompts import PromptTokens, wording
from tests.small_model import SIZES

TOKENS = 32
SOURCE, TARGET = "a photo of a red mug on a wooden table", "a photo of a blue striped mug on a lawn"


def _random(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def unet() -> torch.nn.Module:
    """A small untrained denoiser."""
    torch.manual_seed(0)
    return new_unet(SIZES).eval().requires_grad_(False)


def _output(unet: torch.nn.Module, control: Control, prompts: torch.Tensor | None = None) -> torch.Tensor:
    """Four rows, each with latents and a prompt of its own."""
    prompts = _random(2, 4, TOKENS, SIZES.text_width) if prompts is None else prompts
    with processed_by(unet, ControlledAttention(control)):
        return unet(_random(1, 4, 4, 16, 16), torch.full((4,), 500), encoder_hidden_states=prompts).sample


def _cross(own: torch.Tensor | None = None, rows: tuple[int, ...] = (), sources: tuple[int, ...] = ()) -> Control:
    own = torch.ones(4, TOKENS) if own is None else own
    taken = torch.eye(TOKENS).expand(len(rows), -1, -1)
    return Control(cross_attention=CrossAttention(own, torch.tensor(rows).long(), torch.tensor(sources).long(), taken))


@pytest.mark.parametrize("spatial", [False, True])
@pytest.mark.parametrize("across", [False, True])
def test_without_control_it_is_diffusers_attention(spatial: bool, across: bool) -> None:
    """The same output as `AttnProcessor2_0`, whatever an attention layer may have around its product."""
    torch.manual_seed(3)
    around = {"norm_num_groups": 4, "residual_connection": True, "rescale_output_factor": 2.0} if spatial else {}
    across_only = {"cross_attention_dim": 8, "cross_attention_norm": "layer_norm"} if across else {}
    layer = Attention(16, heads=4, dim_head=4, **around, **across_only).eval()
    hidden = _random(1, 2, 16, 6, 4) if spatial else _random(1, 2, 24, 16)
    prompt = _random(2, 2, 5, 8) if across else None
    torch.testing.assert_close(
        ControlledAttention(NO_CONTROL)(layer, hidden, prompt),
        AttnProcessor2_0()(layer, hidden, prompt),
        rtol=0,
        atol=1e-5,
    )


def test_a_network_without_control_is_unchanged(unet: torch.nn.Module) -> None:
    """To 1e-5; and after the call its own processors are back."""
    before = unet.attn_processors
    prompts = _random(2, 4, TOKENS, SIZES.text_width)
    plain = unet(_random(1, 4, 4, 16, 16), torch.full((4,), 500), encoder_hidden_states=prompts).sample
    torch.testing.assert_close(_output(unet, NO_CONTROL), plain, rtol=0, atol=1e-5)
    assert unet.attn_processors == before


def test_processors_are_restored_after_an_error(unet: torch.nn.Module) -> None:
    """A call that fails leaves nothing behind on the shared network."""
    before = unet.attn_processors
    with pytest.raises(RuntimeError):
        _output(unet, NO_CONTROL, _random(2, 4, TOKENS, SIZES.text_width + 1))
    assert unet.attn_processors == before


@pytest.mark.parametrize(
    "control",
    [
        Control(self_attention_of=torch.tensor([1, 1, 2, 3])),
        _cross(rows=(0,), sources=(1,)),
        _cross(own=torch.ones(4, TOKENS).index_fill(0, torch.tensor(0), 2.0)),
    ],
    ids=["self-attention", "cross-attention", "weights"],
)
def test_only_the_rows_that_take_change(unet: torch.nn.Module, control: Control) -> None:
    """The row that takes differs, and its source and the other rows are as they are alone."""
    plain, controlled = _output(unet, NO_CONTROL), _output(unet, control)
    assert float((controlled[0] - plain[0]).abs().max()) > 1e-3
    torch.testing.assert_close(controlled[1:], plain[1:])


def test_taking_from_oneself_changes_nothing(unet: torch.nn.Module) -> None:
    """A row's own maps, taken whole, are what it had."""
    nobody = Control(self_attention_of=torch.arange(4))
    torch.testing.assert_close(_output(unet, nobody), _output(unet, NO_CONTROL))
    own = torch.ones(4, TOKENS).index_fill(0, torch.tensor([0]), 0.0)
    torch.testing.assert_close(_output(unet, _cross(own, (0,), (0,))), _output(unet, NO_CONTROL), rtol=1e-4, atol=1e-5)


def test_maps_are_mixed_as_the_paper_mixes_them() -> None:
    """The fused form is (source's map @ taken + own * map) @ values, with maps written out."""
    query, key, value = (_random(seed, 3, 2, length, 4) for seed, length in ((1, 6), (2, 5), (3, 5)))
    own, taken = _random(4, 3, 5), _random(5, 1, 5, 5)
    control = Control(cross_attention=CrossAttention(own, torch.tensor([2]), torch.tensor([0]), taken))
    maps = torch.softmax(query @ key.transpose(-1, -2) / 2, dim=-1)
    mixed = maps * own[:, None, None]
    mixed[2] += maps[0] @ taken[0]
    result = ControlledAttention(control)._attend(query, key, value, across=True)
    torch.testing.assert_close(result, mixed @ value, rtol=1e-4, atol=1e-5)


def test_watched_maps_are_shares_of_attention(unet: torch.nn.Module) -> None:
    """Over all tokens they sum to one in each cell, at the latents' size."""
    watched = Watched(torch.eye(TOKENS).expand(4, -1, -1), (16, 16))
    with processed_by(unet, ControlledAttention(NO_CONTROL, watched)):
        unet(_random(1, 4, 4, 16, 16), torch.full((4,), 500), encoder_hidden_states=_random(2, 4, TOKENS, 32))
    maps = watched.mean()
    assert maps.shape == (4, TOKENS, 16, 16)
    assert float(maps.min()) >= 0
    torch.testing.assert_close(maps.sum(dim=1), torch.ones(4, 16, 16))


def test_tokens_follow_their_words() -> None:
    """Tokens of a shared or replaced word take its map, those of an added word none, and padding its own."""
    tokenizer = new_tokenizer([w for w in caption_words() if w != "blue"])  # so that "blue" has several tokens
    found = wording(tokenizer, [SOURCE], [TARGET], [{}])
    source, target = PromptTokens(tokenizer, SOURCE), PromptTokens(tokenizer, TARGET)
    blue = target.of_word[4]
    assert len(blue) > 1
    # "red" was replaced by "blue striped": together these attend as much as it did.
    replaced = blue + target.of_word[5]
    torch.testing.assert_close(
        found.taken[0, source.of_word[4][0], replaced], torch.full((len(replaced),), 1 / len(replaced))
    )
    assert found.taken[0, source.of_word[5][0], target.of_word[6][0]] == 1  # mug
    assert found.taken[0, source.end, target.end] == 1
    assert not bool(found.kept[0, : target.end].any())


def test_an_added_word_keeps_its_own_map() -> None:
    """All other tokens take their counterparts', and padding that has none keeps its own."""
    tokenizer = new_tokenizer(caption_words())
    found = wording(tokenizer, ["a red mug"], ["a red striped mug"], [{}])
    added = PromptTokens(tokenizer, "a red striped mug").of_word[2]
    assert found.kept[0].nonzero()[:, 0].tolist() == added
    assert torch.equal(found.new[0, 0].nonzero()[:, 0], torch.tensor(added))
    fewer = wording(tokenizer, ["a red striped mug"], ["a red mug"], [{}])
    assert fewer.kept[0].nonzero()[:, 0].tolist() == [TOKENS - 1]
    assert float(fewer.taken[0, added].sum()) == 0


def test_equal_prompts_correspond_token_for_token() -> None:
    """Every token takes its own counterpart, nothing is kept, lost or new."""
    tokenizer = new_tokenizer(caption_words())
    for prompt in (SOURCE, "", "a mug, " * 30, "Ünïcode — zzz's 12"):
        found = wording(tokenizer, [prompt], [prompt], [{}])
        assert torch.equal(found.taken[0], torch.eye(TOKENS))
        assert not bool(found.kept.any() | found.lost.any() | found.new.any())


def test_each_row_has_its_own_words() -> None:
    """What a row of a batch gets is what it gets alone, padding of its changed words aside."""
    tokenizer = new_tokenizer(caption_words())
    sources, targets = [SOURCE, "", SOURCE], [TARGET, TARGET, SOURCE]
    weights: list[dict[str, float]] = [{"lawn": 2.0}, {}, {"red mug": -1.0, "vase": 3.0}]
    together = wording(tokenizer, sources, targets, weights)
    for i, row in enumerate(zip(sources, targets, weights, strict=True)):
        alone = wording(tokenizer, *([value] for value in row))
        for name in ("taken", "kept", "gains"):
            assert torch.equal(getattr(together, name)[i], getattr(alone, name)[0])
        assert torch.equal(together.new[i].sum(dim=0), alone.new[0].sum(dim=0))
    target = PromptTokens(tokenizer, SOURCE)
    expected = torch.ones(TOKENS)
    expected[target.of((4, 5))] = -1.0
    assert torch.equal(together.gains[2], expected)
    assert torch.equal(together.new[2].sum(dim=0), (expected == -1).float())


def test_a_word_beyond_the_window_has_no_tokens() -> None:
    """Its weight changes nothing, and its map is nowhere."""
    tokenizer = new_tokenizer(caption_words())
    found = wording(tokenizer, [SOURCE], ["a mug " * 30 + "vase"], [{"vase": 5.0}])
    assert bool((found.gains == 1).all())
    assert not bool(found.new[0].sum(dim=0)[TOKENS - 1 :].any())


@pytest.mark.parametrize("compiled", [False, True], ids=["as it is", "compiled"])
@pytest.mark.parametrize(("cells", "heads"), [(12, 40), (2048, 40), (2048, 64)], ids=["short", "long", "wide"])
def test_attention_on_gpus_is_attention(cells: int, heads: int, compiled: bool) -> None:
    """Whatever the widths of heads, which may be padded, and of values; gradients, too."""
    torch.compiler.reset()
    generator = torch.Generator().manual_seed(0)
    tensors = [
        torch.randn(2, 1, n, width, generator=generator, dtype=torch.float64, requires_grad=True)
        for n, width in ((cells, heads), (cells + 1, heads), (cells + 1, 3))
    ]
    attend = torch.compile(attention_on_gpus, fullgraph=True, backend="aot_eager") if compiled else attention_on_gpus
    found, expected = attend(*tensors), torch.nn.functional.scaled_dot_product_attention(*tensors)
    assert torch.allclose(found, expected)
    gradients = [torch.autograd.grad(output.square().sum(), tensors) for output in (found, expected)]
    assert all(torch.allclose(a, b) for a, b in zip(*gradients, strict=True))
