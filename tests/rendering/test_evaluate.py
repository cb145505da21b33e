"""Scores against scikit-image and against the definition, and what an evaluation adds up to."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vqrf.cameras import Camera
from vqrf.data.scene import View
from vqrf.fields.field import RadianceField
from vqrf.rendering.evaluate import EQUAL_PSNR, Evaluation, ViewScore, evaluate, psnr, ssim
from vqrf.rendering.render import Image, bytes_from_colors, render


def pictures(height: int, width: int, noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A smooth picture with an edge, and the same with noise; in 0..1."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / 10
    picture = np.stack([0.5 + 0.4 * np.sin(x + y), 0.5 + 0.4 * np.cos(x - y), np.where(x > 1.2, 0.9, 0.1)], -1)
    return picture, np.clip(picture + noise * random.normal(size=picture.shape), 0, 1)


def ssim_by_definition(a: np.ndarray, b: np.ndarray) -> float:
    """Wang 2004, one window at a time, with weighted moments about the mean."""
    y, x = np.mgrid[-5:6, -5:6]
    weights = np.exp(-(x**2 + y**2) / (2 * 1.5**2))
    weights /= weights.sum()
    values = []
    for row in range(a.shape[0] - 10):
        for column in range(a.shape[1] - 10):
            for channel in range(a.shape[2]):
                p, q = (image[row : row + 11, column : column + 11, channel] for image in (a, b))
                m_p, m_q = (weights * p).sum(), (weights * q).sum()
                v_p, v_q = (weights * (p - m_p) ** 2).sum(), (weights * (q - m_q) ** 2).sum()
                covariance = (weights * (p - m_p) * (q - m_q)).sum()
                luminance = (2 * m_p * m_q + 0.01**2) / (m_p**2 + m_q**2 + 0.01**2)
                values.append(luminance * (2 * covariance + 0.03**2) / (v_p + v_q + 0.03**2))
    return float(np.mean(values))


@pytest.mark.parametrize("noise", [0.0, 0.01, 0.1, 1.0])
def test_ssim_is_its_definition_window_by_window(noise: float) -> None:
    a, b = pictures(17, 14, noise)
    assert ssim(a, b) == pytest.approx(ssim_by_definition(a, b), abs=1e-12)


@pytest.mark.parametrize("noise", [0.01, 0.1, 1.0])
def test_ssim_is_that_of_scikit_image_without_its_border(noise: float) -> None:
    metrics = pytest.importorskip("skimage.metrics", reason="needs scikit-image, the oracle")
    a, b = pictures(40, 31, noise)
    _, values = metrics.structural_similarity(
        a,
        b,
        channel_axis=-1,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=1.0,
        full=True,
    )
    # scikit-image pads and averages over a crop of 5 pixels, which is where the 11 x 11 window fits.
    assert ssim(a, b) == pytest.approx(values[5:-5, 5:-5].mean(), abs=1e-10)


@pytest.mark.parametrize("noise", [0.001, 0.1])
def test_psnr_is_that_of_scikit_image(noise: float) -> None:
    metrics = pytest.importorskip("skimage.metrics", reason="needs scikit-image, the oracle")
    a, b = pictures(20, 30, noise)
    assert psnr(a, b) == pytest.approx(metrics.peak_signal_noise_ratio(b, a, data_range=1.0), abs=1e-9)


@given(st.integers(0, 1000), st.floats(1e-3, 0.5))
def test_scores_are_symmetric_and_highest_for_equal_images(seed: int, noise: float) -> None:
    a, b = pictures(13, 12, noise, seed)
    assert psnr(a, b) == psnr(b, a) < psnr(a, a) == math.inf
    assert ssim(a, b) == pytest.approx(ssim(b, a), abs=1e-12)
    assert -1 <= ssim(a, b) < ssim(a, a) == pytest.approx(1, abs=1e-12)


def test_twice_the_error_costs_six_decibel() -> None:
    target = np.full((5, 4, 3), 0.25)
    assert psnr(target + 0.1, target) - psnr(target + 0.2, target) == pytest.approx(20 * math.log10(2))


def test_images_that_do_not_compare_are_refused() -> None:
    image = np.zeros((12, 12, 3))
    with pytest.raises(ValueError, match="one shape"):
        psnr(image, image[..., :2])
    with pytest.raises(ValueError, match="one shape"):
        ssim(image, image[1:])
    with pytest.raises(ValueError, match="at least 11x11"):
        ssim(image[:10], image[:10])


def views_of(field: RadianceField, camera: Camera) -> list[View]:
    """Two views: one that the field renders to the byte, and one that is 0.1 darker."""
    image = render(field, camera).rgb
    return [
        View(camera, bytes_from_colors(image), "same"),
        View(camera, bytes_from_colors(image - 0.1), "darker"),
    ]


def test_a_field_is_scored_view_by_view_on_what_it_renders(ball_field: RadianceField, ball_camera: Camera) -> None:
    views = views_of(ball_field, ball_camera)
    seen: list[tuple[View, Image, ViewScore]] = []
    result = evaluate(ball_field, views, on_view=lambda *call: seen.append(call))
    assert [score.name for score in result.views] == ["same", "darker"]
    assert [(view, score) for view, _, score in seen] == list(zip(views, result.views, strict=True))
    for view, image, score in seen:
        np.testing.assert_array_equal(image.rgb, render(ball_field, ball_camera).rgb)
        assert score.psnr == psnr(image.rgb, view.colors())
        assert score.ssim == ssim(image.rgb, view.colors())
        assert score.seconds > 0
    assert result.views[0].psnr > 50, "only rounding to bytes is between them"
    assert result.views[1].psnr == pytest.approx(20, abs=0.5)
    assert evaluate(ball_field.volume(), views).psnr == result.psnr


def test_what_a_view_does_not_look_at_is_in_no_score(ball_field: RadianceField, ball_camera: Camera) -> None:
    image = render(ball_field, ball_camera).rgb
    colors = bytes_from_colors((image + 0.05).clip(0, 1))
    spoilt = colors.copy()
    spoilt[-3:] = 0
    weight = np.full(colors.shape[:2], 255, np.uint8)
    weight[-3:] = 0
    (good,) = evaluate(ball_field, [View(ball_camera, spoilt, "a", weight=weight)]).views
    (bad,) = evaluate(ball_field, [View(ball_camera, spoilt, "a")]).views
    assert good.psnr == pytest.approx(psnr(image[:-3], colors[:-3].astype(np.float32) / np.float32(255)), abs=1e-6)
    assert bad.psnr < good.psnr - 3 and bad.ssim < good.ssim
    half = np.full(colors.shape[:2], 128, np.uint8)  # each pixel counts half, which is all alike
    assert psnr(image, image + 0.1, half) == pytest.approx(20.0, abs=1e-4)
    assert psnr(image, image + 0.1, np.zeros_like(half)) == math.inf


def test_the_score_of_a_dataset_is_the_mean_of_its_views() -> None:
    result = Evaluation((ViewScore("a", 20.0, 0.5, 1.0), ViewScore("b", 40.0, 0.7, 3.0)))
    assert (result.psnr, result.ssim, result.seconds_per_view) == (30.0, pytest.approx(0.6), 2.0)


@pytest.mark.parametrize("n_equal", [0, 1, 5])
def test_a_view_that_is_equal_to_its_photo_does_not_hide_the_others(n_equal: int) -> None:
    equal = [ViewScore(f"{i}", math.inf if i % 2 else 61.0, 1.0, 1.0, is_equal=True) for i in range(n_equal)]
    result = Evaluation((ViewScore("a", 20.0, 0.5, 1.0), *equal, ViewScore("b", 40.0, 0.7, 3.0)))
    assert (result.psnr, result.n_equal) == (30.0, n_equal)
    assert (f"{n_equal} of them equal" in result.to_text((9, 9))) == (n_equal > 0)


def test_where_every_view_is_equal_to_its_photo_the_mean_is_finite_and_over_all() -> None:
    equal, close = ViewScore("a", math.inf, 1.0, 1.0), ViewScore("b", 60.0, 1.0, 1.0, is_equal=True)
    assert Evaluation((equal,)).psnr == EQUAL_PSNR
    assert Evaluation((equal, close)).psnr == (EQUAL_PSNR + 60) / 2


def test_a_view_is_equal_to_its_photo_if_its_rendering_rounds_to_the_photo(
    ball_field: RadianceField, ball_camera: Camera
) -> None:
    same, darker = views_of(ball_field, ball_camera)
    off = same.image.copy()
    off[3, 4, 1] ^= 1
    views = [same, darker, View(ball_camera, off, "a byte off")]
    assert [score.is_equal for score in evaluate(ball_field, views).views] == [True, False, False]


def test_an_evaluation_as_json_says_everything_and_no_infinity() -> None:
    views = (ViewScore("a", math.inf, 1.0, 0.5), ViewScore("b", 30.0, 0.9, 0.5))
    tree = json.loads(json.dumps(Evaluation(views, 120, {"header": 20, "codes": 100}).facts()), parse_constant=pytest.fail)
    assert tree == {
        "psnr": 30.0,
        "n_equal": 1,
        "ssim": 0.95,
        "seconds_per_view": 0.5,
        "file_bytes": 120,
        "sections": {"header": 20, "codes": 100},
        "views": [
            {"name": "a", "psnr": None, "ssim": 1.0, "seconds": 0.5, "is_equal": True},
            {"name": "b", "psnr": 30.0, "ssim": 0.9, "seconds": 0.5, "is_equal": False},
        ],
    }


def test_there_is_no_evaluation_of_no_views(ball_field: RadianceField) -> None:
    with pytest.raises(ValueError, match="no views"):
        evaluate(ball_field, [])


def test_other_metrics_are_taken_of_what_was_rendered_and_the_photo(ball_field: RadianceField, ball_camera: Camera) -> None:
    views = views_of(ball_field, ball_camera)
    seen = []

    def metric(image: np.ndarray, target: np.ndarray) -> float:
        seen.append((image, target))
        return len(seen) / 2

    result = evaluate(ball_field, views, metrics={"flip": metric})
    for (image, target), view in zip(seen, views, strict=True):
        np.testing.assert_array_equal(image, render(ball_field, ball_camera).rgb)
        np.testing.assert_array_equal(target, view.colors())
    assert [view.metrics for view in result.views] == [{"flip": 0.5}, {"flip": 1.0}]
    assert result.facts()["metrics"] == result.metrics == {"flip": 0.75}
    assert "flip 0.7500" in result.to_text((9, 9))


def test_where_only_psnr_is_asked_for_it_is_the_same(ball_field: RadianceField, ball_camera: Camera) -> None:
    views = views_of(ball_field, ball_camera)
    alone = evaluate(ball_field, views, with_ssim=False)
    assert alone.psnr == evaluate(ball_field, views).psnr
    assert math.isnan(alone.ssim)
