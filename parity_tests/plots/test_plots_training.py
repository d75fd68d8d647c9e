"""Pictures of training: loss curves, and images highlighted where models attend."""

import numpy as np
import pytest

from attention_bridge import plots
from attention_bridge.errors import InputError


def test_two_curves_are_drawn_with_their_relative_difference(rng, tmp_path):
    other = rng.uniform(0.5, 3.0, 40)
    one = other * (1 + np.where(np.arange(40) == 7, 3e-6, 1e-7))
    figure = plots.curves({"PyTorch": one, "JAX": other}, title="A run")
    upper, lower = figure.axes
    for line, curve in zip(upper.lines, (one, other), strict=True):
        np.testing.assert_array_equal(line.get_xdata(), np.arange(1, 41))
        np.testing.assert_array_equal(line.get_ydata(), curve)
    assert [text.get_text() for text in upper.get_legend().get_texts()] == ["PyTorch", "JAX"]
    np.testing.assert_allclose(lower.lines[0].get_ydata(), np.abs(one / other - 1), rtol=1e-12)
    assert lower.get_title(loc="right") == "largest 3.0e-06"
    assert {axes.get_yscale() for axes in figure.axes} == {"log"}
    plots.save(figure, tmp_path / "curves.png")


def test_long_curve_is_drawn_faintly_with_its_moving_average(rng):
    curve = rng.uniform(0.5, 3.0, 203)
    faint, mean = plots.curves({"JAX": curve}).axes[0].lines
    np.testing.assert_array_equal(faint.get_ydata(), curve)
    assert faint.get_alpha() < 1
    expected = [curve[i : i + 5].mean() for i in range(199)]
    np.testing.assert_allclose(mean.get_ydata(), expected, rtol=1e-12)
    np.testing.assert_array_equal(mean.get_xdata(), np.arange(3, 202))


def test_equal_curves_are_drawn(rng, tmp_path):
    curve = rng.uniform(0.5, 3.0, 11)
    plots.save(plots.curves({"PyTorch": curve, "JAX": curve}), tmp_path / "curves.png")


def test_single_curve_is_drawn_without_a_difference(rng):
    [axes] = plots.curves({"JAX": rng.uniform(0.5, 3.0, 11)}).axes
    assert len(axes.lines) == 1


def test_invalid_curves_raise(rng):
    curve = rng.uniform(0.5, 3.0, 11)
    for pattern, losses in {
        "one curve or two, got 0": {},
        "one curve or two, got 3": {"a": curve, "b": curve, "c": curve},
        "same number of steps, got": {"a": curve, "b": curve[1:]},
        r"losses\['a'\] must have shape": {"a": curve[None]},
        "positive numbers": {"a": curve - 1.0},
        "finite": {"a": np.append(curve, np.nan)},
    }.items():
        with pytest.raises(InputError, match=pattern):
            plots.curves(losses)


def test_each_model_has_a_row_of_highlighted_images(rng, tmp_path):
    images, light = rng.random((3, 8, 6)), {"PyTorch": rng.random((3, 4, 2)), "JAX": rng.random((3, 4, 2))}
    figure = plots.lit_images(images, light, ["a", "b", "$c"], title="Light", label="rollout")
    panels = figure.axes[:9]
    assert [axes.get_title() for axes in panels[:3]] == ["a", "b", "$c"]
    assert [panels[i].get_ylabel() for i in (0, 3, 6)] == ["image", "PyTorch", "JAX"]
    top = max(given.max() for given in light.values())
    for row, given in zip((panels[3:6], panels[6:9]), light.values(), strict=True):
        for axes, patches in zip(row, given, strict=True):
            drawn = axes.images[-1]
            np.testing.assert_allclose(drawn.get_array(), patches, rtol=1e-6)
            assert drawn.get_clim() == pytest.approx((0, top))
    assert figure.axes[9].get_ylabel() == "rollout"
    plots.save(figure, tmp_path / "lit.png")


def test_highlights_that_do_not_fit_the_images_raise(rng):
    images, light = rng.random((3, 8, 6)), rng.random((3, 4, 2))
    for pattern, given, names in (
        ("there must be one name per image, got 3, 1 and 2", {"a": light}, "ab"),
        ("must not be empty", {}, "abc"),
        (r"light\['a'\] must have shape \(images, rows, columns\), for 3 images", {"a": light[1:]}, "abc"),
        ("at least 0", {"a": light - 1}, "abc"),
    ):
        with pytest.raises(InputError, match=pattern):
            plots.lit_images(images, given, list(names))
