"""What scores say of perfect, missing and careless edits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from skimage.metrics import structural_similarity

from pipeline.demo.scene import random_scene
from pipeline.quality.cases import Case
from pipeline.quality.metrics import ssim_map
from pipeline.quality.running import monotonicity
from pipeline.quality.scores import Measured, score, summarise

SIDE = 16


@pytest.fixture
def case() -> Case:
    """A grey photograph of which a square turns white."""
    image = np.full((SIDE, SIDE, 3), 100, np.uint8)
    changed = np.zeros((SIDE, SIDE), bool)
    changed[4:10, 4:10] = True
    truth = np.where(changed[..., None], np.uint8(220), image)
    return Case(random_scene(0), "colour", image, truth, changed, "a", "b", replaces_object=False)


def test_the_true_edit_succeeds(case: Case) -> None:
    """An output that is the truth is perfect everywhere."""
    s = score(case, case.truth)
    assert s.success
    assert s.nearer
    assert s.inside_psnr == s.outside_psnr == s.psnr == 99
    assert s.inside_ssim == pytest.approx(1)
    assert s.outside_ssim == pytest.approx(1)


def test_not_editing_is_worth_nothing(case: Case) -> None:
    """The original keeps the background perfectly, and neither succeeds nor is worth anything."""
    s = score(case, case.image)
    assert s.outside_psnr == 99
    assert (s.gain, s.worth, s.success, s.nearer) == (0, 0, False, False)


@pytest.mark.parametrize(("background", "success"), [(4, True), (5, False)])
def test_success_needs_the_background(case: Case, background: int, success: bool) -> None:
    """A made edit succeeds while the background stays within 35 dB, which is 4.5 levels of 255."""
    s = score(case, np.where(case.changed[..., None], case.truth, case.image + np.uint8(background)))
    assert s.nearer
    assert s.success is success


@pytest.mark.parametrize(("level", "nearer"), [(132, False), (140, True)])
def test_nearer_is_three_decibels(case: Case, level: int, nearer: bool) -> None:
    """3 dB nearer is about 0.71 of the original's distance of 120 levels: up to 135 is too little."""
    s = score(case, np.where(case.changed[..., None], np.uint8(level), case.image))
    assert (s.nearer, s.success) == (nearer, nearer)


def test_an_edit_of_everything_needs_no_background(case: Case) -> None:
    """Where everything changes there is no outside, and the inside decides."""
    s = score(replace(case, changed=np.ones((SIDE, SIDE), bool)), case.truth)
    assert s.outside_psnr is None
    assert s.outside_ssim is None
    assert s.success


def test_a_careless_edit_is_worth_less_and_harm_counts_in_full(case: Case) -> None:
    """Worth falls with the background; an edit away from the truth is not excused by it."""
    clean = score(case, case.truth)
    careless = score(case, case.truth + np.uint8(20))
    harmful = score(case, np.where(case.changed[..., None], np.uint8(0), case.image + np.uint8(20)))
    assert clean.worth == clean.gain
    assert 0 < careless.worth < careless.gain
    assert harmful.worth == harmful.gain < 0


def test_similarity_is_the_published_one() -> None:
    """Away from the borders, our map is scikit-image's with a Gaussian window."""
    rng = np.random.default_rng(0)
    a, b = rng.random((24, 20, 3)), rng.random((24, 20, 3)) * 0.5
    _, expected = structural_similarity(
        a, b, data_range=1, channel_axis=2, gaussian_weights=True, use_sample_covariance=False, full=True
    )
    inner = (slice(5, -5), slice(5, -5))
    np.testing.assert_allclose(ssim_map(a, b)[inner], expected.mean(axis=2)[inner], atol=1e-10)


def test_summaries_are_by_kind_and_over_what_is_there(case: Case) -> None:
    """A kind's figures are its own cases'; what was not measured of any case is None."""
    whole = replace(case, kind="two", changed=np.ones((SIDE, SIDE), bool))
    table = summarise([score(case, case.image), score(whole, whole.truth, Measured(30.0, 31.0, 1.0, 2.0))])
    assert table.keys() == {"colour", "two", "all"}
    assert [table[kind]["success"] for kind in table] == [0, 1, 0.5]
    assert table["two"]["outside_psnr"] is None
    assert table["all"]["outside_psnr"] == 99
    assert table["all"]["recon_psnr"] == 30
    assert table["two"]["seconds"] == 3
    assert table["colour"]["monotonicity"] is None


@pytest.mark.parametrize(
    ("levels", "share"),
    [
        ((100, 130, 160, 190, 220), 1),
        ((100, 130, 120, 190, 220), 3 / 4),
        ((100, 100, 100, 100, 220), 1 / 4),
        ((100, 219, 220, 220, 220), 1 / 4),
        ((100, 100, 100, 100, 100), 0),
    ],
)
def test_monotone_is_a_knob_that_moves(case: Case, levels: tuple[int, ...], share: float) -> None:
    """Steps count that lead away from the original; standing still, turning back and rounding do not."""
    path = [np.where(case.changed[..., None], np.uint8(level), case.image) for level in levels]
    assert monotonicity(case, path) == share
