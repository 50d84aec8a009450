from __future__ import annotations

import math

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from pipeline.quality.metrics import PERFECT_DB, psnr, ssim


def _pair(seed: int, size: tuple[int, int] = (40, 33)) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    a = rng.random((*size, 3))
    return a, np.clip(a + rng.normal(0, 0.1, a.shape), 0, 1)


def test_psnr_is_that_of_scikit_image() -> None:
    """The ratio is against 1, the largest value of a picture."""
    a, b = _pair(0)
    assert psnr(a, b) == pytest.approx(peak_signal_noise_ratio(a, b, data_range=1))


@pytest.mark.parametrize("size", [(40, 33), (11, 64)])
def test_ssim_is_that_of_scikit_image(size: tuple[int, int]) -> None:
    """Gaussian windows, population variances, and only windows that lie inside."""
    a, b = _pair(1, size)
    reference = structural_similarity(
        a, b, channel_axis=2, data_range=1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert ssim(a, b) == pytest.approx(reference, abs=1e-9)


def test_equal_images_are_perfect() -> None:
    """No figure of two equal images is infinite, so that means over many stay finite."""
    a, _ = _pair(2)
    assert (psnr(a, a), ssim(a, a)) == (PERFECT_DB, pytest.approx(1))


def test_an_image_smaller_than_the_window_has_no_ssim() -> None:
    """Nothing is measured there, which is not zero."""
    assert math.isnan(ssim(*_pair(3, (10, 40))))
