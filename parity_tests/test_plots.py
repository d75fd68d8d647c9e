"""Pictures of attention: any framework's arrays in, a whole file or none out."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from matplotlib.image import imread

from attention_bridge import plots

WORDS = ["[CLS]", "the", "cat", "$", "5"]


@pytest.fixture
def weights(rng):
    drawn = rng.random((5, 5)).astype(np.float32)
    return drawn / drawn.sum(axis=1, keepdims=True)


def panels(figure):
    return [axes for axes in figure.axes if axes.images]


def test_the_three_panels_show_torch_jax_and_their_difference(weights):
    figure = plots.comparison(torch.from_numpy(weights), jnp.asarray(weights) + 1e-3, WORDS, title="A title")
    left, right, difference = (np.asarray(axes.images[0].get_array()) for axes in panels(figure))
    np.testing.assert_array_equal(left, weights)
    np.testing.assert_allclose(right, weights + 1e-3, rtol=1e-6)
    np.testing.assert_allclose(difference, -1e-3, rtol=1e-3)
    assert figure.get_suptitle() == "A title"


def test_torch_and_jax_share_one_scale_and_zero_is_the_middle_of_the_difference(weights):
    left, right, difference = panels(plots.comparison(weights, 0.5 * weights, WORDS))
    assert left.images[0].get_clim() == right.images[0].get_clim() == (0, weights.max())
    low, high = difference.images[0].get_clim()
    assert low == -high


def test_rows_are_queries_and_columns_are_keys(rng):
    figure = plots.comparison(rng.random((2, 3)), rng.random((2, 3)), ["a", "b"], ["x", "y", "z"])
    axes = panels(figure)[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["x", "y", "z"]


def test_shapes_that_do_not_fit_are_named(weights):
    with pytest.raises(
        ValueError, match=r"jax_weights must have shape \(query, key\) = \(5, 5\), got \(4, 5\)"
    ):
        plots.comparison(weights, weights[:4], WORDS)
    with pytest.raises(ValueError, match=r"torch_weights must have shape \(query, key\), got \(1, 5, 5\)"):
        plots.comparison(weights[None], weights, WORDS)
    with pytest.raises(TypeError, match="torch_weights is a list"):
        plots.comparison(weights.tolist(), weights, WORDS)


@pytest.mark.parametrize("title", ["A title", "$5 or $6, \\frac{ and [bold]"])
def test_a_png_is_written_and_opens_whatever_the_words_are(tmp_path, weights, title):
    plots.save(plots.comparison(weights, weights, WORDS, title=title, subtitle=title), tmp_path / "a.png")
    height, width, _ = imread(tmp_path / "a.png").shape
    assert height > 300
    assert width > 900


@pytest.mark.parametrize(("ending", "first"), [("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_the_ending_says_the_format(tmp_path, weights, ending, first):
    plots.save(plots.comparison(weights, weights, WORDS), tmp_path / f"a.{ending}")
    assert (tmp_path / f"a.{ending}").read_bytes().startswith(first)


def test_a_failed_picture_leaves_the_old_one_and_nothing_beside_it(tmp_path, weights, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(b"old")
    figure = plots.comparison(weights, weights, WORDS)

    def half(temporary, **options):
        temporary.write_bytes(b"ha")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(figure, "savefig", half)
    with pytest.raises(OSError, match="No space left"):
        plots.save(figure, path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
