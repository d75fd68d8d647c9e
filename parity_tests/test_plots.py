"""Pictures of attention: any framework's arrays in, a whole file or none out."""

import re

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgb
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


@pytest.fixture(params=["torch", "jax", "numpy"])
def mask(request, rng):
    """A mask of four axes from each framework, and the same in numpy."""
    drawn = rng.random((2, 3, 4, 5)) < 0.5
    return {"torch": torch.from_numpy, "jax": jnp.asarray, "numpy": np.asarray}[request.param](drawn), drawn


def test_a_picture_of_lines_holds_each_cell_of_a_mask_in_its_colour(tmp_path, mask):
    given, drawn = mask
    plots.save(plots.draw_mask(given), tmp_path / "mask.svg")
    groups = (tmp_path / "mask.svg").read_text().split('<g id="cells">')[1:]
    assert len(groups) == 6  # a panel for each element of the batch and each head
    for group, matrix in zip(groups, drawn.reshape(6, 4, 5), strict=True):
        fills = re.findall(r"<path d=[^>]*style=\"fill: (#\w{6})", group.partition("</g>")[0])
        colours = np.where(matrix, plots.SEEN, plots.HIDDEN).ravel()
        assert fills == colours.tolist()


def test_a_picture_of_points_has_each_cell_of_a_mask_where_it_belongs(tmp_path, mask):
    figure = plots.draw_mask(mask[0])
    plots.save(figure, tmp_path / "mask.png")
    image = imread(tmp_path / "mask.png")[..., :3]
    figure.set_dpi(160)
    FigureCanvasAgg(figure).draw()
    places = np.array([(j + 0.5, i + 0.5) for i in range(4) for j in range(5)])
    for axes, matrix in zip(figure.axes, mask[1].reshape(6, 4, 5), strict=True):
        across, up = axes.transData.transform(places).astype(int).T
        found = [to_hex(colour) for colour in image[image.shape[0] - 1 - up, across]]
        assert found == np.where(matrix, plots.SEEN, plots.HIDDEN).ravel().tolist()
    assert to_rgb(plots.SEEN) != to_rgb(plots.HIDDEN)


def test_the_panels_of_a_mask_say_which_they_are_and_a_single_one_says_nothing():
    def titles(*shape):
        return [axes.get_title() for axes in plots.draw_mask(np.ones(shape, bool)).axes]

    assert titles(5, 7) == titles(1, 1, 5, 7) == [""]
    assert titles(2, 5, 7) == ["batch 0", "batch 1"]
    assert titles(2, 2, 5, 7)[1:3] == ["batch 0, head 1", "batch 1, head 0"]


def test_the_labels_of_a_mask_are_the_tokens_or_numbers():
    def labels(*tokens, shape=(2, 2)):
        [axes] = plots.draw_mask(np.ones(shape, bool), *tokens).axes
        return [[label.get_text() for label in x] for x in (axes.get_yticklabels(), axes.get_xticklabels())]

    assert labels() == [["0", "1"], ["0", "1"]]
    assert labels(["a", "$"]) == [["a", "$"], ["a", "$"]]
    assert labels(["a", "b"], ["x", "y"]) == [["a", "b"], ["x", "y"]]
    assert labels(["a", "b"], shape=(2, 3)) == [["a", "b"], ["0", "1", "2"]]


def test_what_is_no_mask_is_not_drawn(weights):
    with pytest.raises(TypeError, match=r"mask must be boolean .*, got float32"):
        plots.draw_mask(weights)
    with pytest.raises(ValueError, match=r"mask must have shape \(query, key\), .*, got \(5,\)"):
        plots.draw_mask(weights[0] > 0)
    with pytest.raises(ValueError, match="query_tokens must be 5, one for each of the mask, got 2"):
        plots.draw_mask(weights > 0, ["a", "b"])
