"""The renderer: the same pixels each time, and a true edit one render away."""

from __future__ import annotations

import itertools

import pytest
import torch

from pipeline.demo.render import Rendering, changed_mask, render
from pipeline.demo.scene import BACKGROUNDS, MATERIALS, OBJECTS, PATTERNS, Scene, random_scene
from pipeline.demo.surfaces import paint

SIZE = 32


@pytest.fixture(scope="module")
def originals() -> tuple[list[Scene], Rendering]:
    """Twelve random scenes and their pictures."""
    scenes = [random_scene(seed) for seed in range(12)]
    return scenes, render(scenes, SIZE)


def test_every_object_stands_in_every_place() -> None:
    """Every object × background, in any material and pattern, renders finite and with the object in view."""
    attributes = zip(
        itertools.product(OBJECTS, BACKGROUNDS),
        itertools.cycle(itertools.product(MATERIALS, PATTERNS)),
        strict=False,
    )
    scenes = [Scene(o, "green", m, p, b, seed=i) for i, ((o, b), (m, p)) in enumerate(attributes)]
    made = render(scenes, SIZE)
    assert made.images.shape == (48, 3, SIZE, SIZE)
    assert made.object_masks.shape == (48, 1, SIZE, SIZE)
    for values in (made.images, made.object_masks):
        assert values.isfinite().all()
        assert values.min() >= 0
        assert values.max() <= 1
    coverage = made.object_masks.mean(dim=(1, 2, 3))
    assert coverage.min() > 0.03
    assert coverage.max() < 0.6
    assert (made.images.std(dim=(1, 2, 3)) > 0.03).all()


def test_a_scene_fixes_every_pixel(originals: tuple[list[Scene], Rendering]) -> None:
    """Rendering again gives the same pixels, alone as among any others."""
    scenes, together = originals
    for i in (0, 5, 11):
        alone = render([scenes[i]], SIZE)
        torch.testing.assert_close(alone.images[0], together.images[i], rtol=0, atol=1e-5)
        torch.testing.assert_close(alone.object_masks[0], together.object_masks[i], rtol=0, atol=1e-5)
    again = render(scenes, SIZE)
    assert torch.equal(again.images, together.images)


@pytest.mark.parametrize("edit", [{"colour": "blue"}, {"pattern": "dotted"}, {"material": "matte"}])
def test_an_edit_of_the_surface_stays_on_the_object(
    originals: tuple[list[Scene], Rendering], edit: dict[str, str]
) -> None:
    """Where the object covers nothing of a pixel, its colour, pattern and material change nothing there."""
    scenes, before = originals
    after = render([scene.edited(**edit) for scene in scenes], SIZE)
    torch.testing.assert_close(after.object_masks, before.object_masks, rtol=0, atol=1e-5)
    outside = (before.object_masks == 0).expand_as(before.images)
    torch.testing.assert_close(after.images[outside], before.images[outside], rtol=0, atol=1e-5)
    changed = changed_mask(before.images, after.images).bool()
    near_object = torch.nn.functional.max_pool2d(before.object_masks, 3, stride=1, padding=1) > 0
    assert not (changed & ~near_object).any()
    edited = [scene for scene in scenes if scene.edited(**edit) != scene]
    assert sum(mask.any().item() for mask in changed) == len(edited)


def test_white_stripes_stay_white_under_every_colour() -> None:
    """From a colour to white, and back, the coloured bands change alone: light ones are in the same places."""
    generator = torch.Generator().manual_seed(0)
    p, phases = torch.rand(500, 3, generator=generator), torch.rand(16, generator=generator)
    sideways = torch.tensor([0.0, 0.0, 1.0]).expand_as(p)
    red, white = (paint(colour, "striped", p, sideways, phases, flat_faced=False)[:, 1] for colour in ("red", "white"))
    coloured, plain = red < 0.05, red > 0.8
    assert min(coloured.sum(), plain.sum()) > 150
    assert white[plain].min() > 0.6
    assert white[coloured].max() < 0.2


@pytest.mark.parametrize("pattern", ["striped", "dotted"])
def test_a_pattern_is_where_the_object_says(pattern: str) -> None:
    """A seed makes paint brighter or darker; where the second one is does not depend on it."""
    generator = torch.Generator().manual_seed(0)
    p = torch.rand(500, 3, generator=generator)
    sideways = torch.tensor([0.0, 0.0, 1.0]).expand_as(p)
    seeds = torch.rand(2, 16, generator=generator)
    light = [paint("red", pattern, p, sideways, phases, flat_faced=False)[:, 1] > 0.4 for phases in seeds]
    assert 50 < light[0].sum() < 450
    assert torch.equal(*light)


def test_another_place_keeps_the_object_where_it_is(originals: tuple[list[Scene], Rendering]) -> None:
    """Editing the background keeps camera and pose: the object covers the same pixels."""
    scenes, before = originals
    after = render([scene.edited(background="brick") for scene in scenes], SIZE)
    torch.testing.assert_close(after.object_masks, before.object_masks, rtol=0, atol=1e-5)


def test_changed_mask_marks_a_visible_change_and_its_neighbours() -> None:
    """Eight levels in one channel count, fewer do not; the pixels around share the edit's border."""
    before = torch.zeros(1, 3, 7, 7)
    after = before.clone()
    after[0, 1, 2, 3] = 8 / 255
    after[0, 2, 6, 6] = 7 / 255
    mask = changed_mask(before, after)
    expected = torch.zeros(1, 1, 7, 7)
    expected[0, 0, 1:4, 2:5] = 1
    assert torch.equal(mask, expected)
