"""How alike two images are: the definition, in NumPy, as pictures are scored where PyTorch is not.

Twin: the compiled core's `images.cpp`, twenty times as fast, in float64 too.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]

SSIM_WINDOW, SSIM_SIGMA = 11, 1.5
"""Pixels: side and standard deviation of the Gaussian window (Wang 2004, sec. III-C)."""

SSIM_K1, SSIM_K2 = 0.01, 0.03
"""Constants that keep the quotient stable where an image is dark or flat (Wang 2004, sec. III-B)."""


def measure_ssim(image: NDArray[np.floating], target: NDArray[np.floating]) -> float:
    """Structural similarity, the mean over channels and over all pixels whose window lies inside the image.

        SSIM = (2 m_a m_b + c1) (2 s_ab + c2) / ((m_a^2 + m_b^2 + c1) (s_a^2 + s_b^2 + c2))

    where m, s^2 and s_ab are means, variances and covariance under a Gaussian window of 11 x 11 pixels with standard deviation
    1.5 that sums to 1 (variances are not scaled by n / (n - 1)), and for values in 0..1 c1 = 0.01^2, c2 = 0.03^2.

    Args:
      image, target: [H,W,C] of one shape and dtype, 0..1, at least 11 x 11.

    Returns:
      -1..1, 1 for images that are equal.

    Deterministic.

    Raises:
      ValueError: the shapes differ, or the window does not fit.

    Source: Wang, Bovik, Sheikh, Simoncelli, "Image quality assessment: from error visibility to structural similarity", 2004,
    eq. 13 to 16; per colour channel and without padding, as NeRF papers compute it.
    """
    if image.ndim != 3 or image.shape != target.shape or min(image.shape[:2]) < SSIM_WINDOW:
        shapes = f"{list(image.shape)} and {list(target.shape)}"
        raise ValueError(f"ssim: expected two images [H,W,C], at least {SSIM_WINDOW}x{SSIM_WINDOW}, got {shapes}")
    a, b = image.astype(np.float64), target.astype(np.float64)
    mean_a, mean_b = _window_mean(a), _window_mean(b)
    variances = _window_mean(a * a + b * b) - mean_a**2 - mean_b**2
    covariance = _window_mean(a * b) - mean_a * mean_b
    c1, c2 = SSIM_K1**2, SSIM_K2**2
    numerator = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    return float(np.mean(numerator / ((mean_a**2 + mean_b**2 + c1) * (variances + c2))))


def _window_mean(values: Float64) -> Float64:
    """[H-10,W-10,C]: the Gaussian mean around each pixel of [H,W,C]; rows and columns one after the other."""
    offsets = np.arange(SSIM_WINDOW) - SSIM_WINDOW // 2
    shares = np.exp(-0.5 * (offsets / SSIM_SIGMA) ** 2)
    shares /= shares.sum()
    height, width = values.shape[0] - SSIM_WINDOW + 1, values.shape[1] - SSIM_WINDOW + 1
    zero: Float64 = np.zeros(())
    rows = sum((share * values[k : k + height] for k, share in enumerate(shares)), zero)
    return sum((share * rows[:, k : k + width] for k, share in enumerate(shares)), zero)
