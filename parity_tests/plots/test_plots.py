"""Pictures of attention: arrays of any framework, and complete files or none."""

import re
from itertools import pairwise

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgb
from matplotlib.image import imread

from attention_bridge import plots
from attention_bridge.errors import InputError

WORDS = ["[CLS]", "the", "cat", "$", "5"]


@pytest.fixture
def weights(rng):
    drawn = rng.random((5, 5)).astype(np.float32)
    return drawn / drawn.sum(axis=1, keepdims=True)


def panels(figure):
    return [axes for axes in figure.axes if axes.images]


def test_three_panels_show_torch_jax_and_their_difference(weights):
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
def test_png_is_written_for_any_words(tmp_path, weights, title):
    plots.save(plots.comparison(weights, weights, WORDS, title=title, subtitle=title), tmp_path / "a.png")
    height, width, _ = imread(tmp_path / "a.png").shape
    assert height > 300
    assert width > 900


@pytest.mark.parametrize(("ending", "first"), [("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_suffix_sets_the_format(tmp_path, weights, ending, first):
    plots.save(plots.comparison(weights, weights, WORDS), tmp_path / f"a.{ending}")
    assert (tmp_path / f"a.{ending}").read_bytes().startswith(first)


def test_failed_save_keeps_the_old_picture_and_leaves_no_other_file(tmp_path, weights, monkeypatch):
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
    """A mask of four axes from each framework, with the same mask in numpy."""
    drawn = rng.random((2, 3, 4, 5)) < 0.5
    return {"torch": torch.from_numpy, "jax": jnp.asarray, "numpy": np.asarray}[request.param](drawn), drawn


def test_vector_picture_has_each_cell_of_a_mask_in_its_colour(tmp_path, mask):
    given, drawn = mask
    plots.save(plots.draw_mask(given), tmp_path / "mask.svg")
    groups = (tmp_path / "mask.svg").read_text().split('<g id="cells">')[1:]
    assert len(groups) == 6  # one panel per batch element and head
    for group, matrix in zip(groups, drawn.reshape(6, 4, 5), strict=True):
        fills = re.findall(r"<path d=[^>]*style=\"fill: (#\w{6})", group.partition("</g>")[0])
        colours = np.where(matrix, plots.SEEN, plots.HIDDEN).ravel()
        assert fills == colours.tolist()


def test_raster_picture_has_each_cell_of_a_mask_in_its_position(tmp_path, mask):
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


def test_mask_panels_have_titles_and_a_single_panel_has_none():
    def titles(*shape):
        return [axes.get_title() for axes in plots.draw_mask(np.ones(shape, bool)).axes]

    assert titles(5, 7) == titles(1, 1, 5, 7) == [""]
    assert titles(2, 5, 7) == ["batch 0", "batch 1"]
    assert titles(2, 2, 5, 7)[1:3] == ["batch 0, head 1", "batch 1, head 0"]


def test_mask_labels_are_tokens_or_numbers():
    def labels(*tokens, shape=(2, 2)):
        [axes] = plots.draw_mask(np.ones(shape, bool), *tokens).axes
        return [[label.get_text() for label in x] for x in (axes.get_yticklabels(), axes.get_xticklabels())]

    assert labels() == [["0", "1"], ["0", "1"]]
    assert labels(["a", "$"]) == [["a", "$"], ["a", "$"]]
    assert labels(["a", "b"], ["x", "y"]) == [["a", "b"], ["x", "y"]]
    assert labels(["a", "b"], shape=(2, 3)) == [["a", "b"], ["0", "1", "2"]]


def test_invalid_mask_raises(weights):
    with pytest.raises(TypeError, match=r"mask must be boolean .*, got float32"):
        plots.draw_mask(weights)
    with pytest.raises(ValueError, match=r"mask must have shape \(query, key\), .*, got \(5,\)"):
        plots.draw_mask(weights[0] > 0)
    with pytest.raises(
        ValueError, match="query_tokens must be 5 labels, as the shape of the mask needs, got 2"
    ):
        plots.draw_mask(weights > 0, ["a", "b"])


LAYERS, HEADS, QUERIES, KEYS = 2, 3, 4, 5


@pytest.fixture(params=["torch", "jax", "numpy"])
def layers(request, rng):
    """Weights of two layers, `(batch, heads, query, key)`, from each framework, with the same weights in numpy."""
    drawn = [rng.random((6, HEADS, QUERIES, KEYS)).astype(np.float32) for _ in range(LAYERS)]
    convert = {"torch": torch.from_numpy, "jax": jnp.asarray, "numpy": np.asarray}[request.param]
    return [convert(layer) for layer in drawn], np.stack(drawn)


def drawn_in(figure):
    return [np.asarray(axes.images[0].get_array()) for axes in panels(figure)]


def texts(labels):
    return [label.get_text() for label in labels]


def test_grid_has_one_panel_per_head_and_layer_and_one_colour_bar(layers):
    given, expected = layers
    figure = plots.head_grid(given, batch=4)
    assert len(figure.axes) == LAYERS * HEADS + 1
    np.testing.assert_array_equal(drawn_in(figure), expected[:, 4].reshape(-1, QUERIES, KEYS))
    assert {axes.images[0].get_clim() for axes in panels(figure)} == {(0, expected[:, 4].max())}
    assert [axes.get_title() for axes in panels(figure)] == [
        "0 · 0",
        "0 · 1",
        "0 · 2",
        "1 · 0",
        "1 · 1",
        "1 · 2",
    ]
    one = plots.head_grid(given[1], heads=[2, 0])
    np.testing.assert_array_equal(drawn_in(one), expected[1, 0, [2, 0]])
    assert [axes.get_title() for axes in panels(one)] == ["head 2", "head 0"]


def test_grid_labels_the_panels_at_its_edges(rng):
    figure = plots.head_grid(rng.random((6, 2, 3)), ["a", "b"], ["x", "y", "z"])
    found = [(texts(a.get_yticklabels()), texts(a.get_xticklabels())) for a in panels(figure)]
    rows, columns = ["a", "b"], ["x", "y", "z"]
    assert found == [(rows, []), ([], []), ([], columns), ([], columns), (rows, columns), ([], columns)]


def test_single_head_or_the_mean_over_heads_is_drawn_with_labels(layers):
    given, expected = layers
    figure = plots.one_head(given[0], list("abcd"), list("vwxyz"), head=2, batch=1)
    [image], [axes] = drawn_in(figure), panels(figure)
    np.testing.assert_array_equal(image, expected[0, 1, 2])
    assert texts(axes.get_yticklabels()) == list("abcd")
    assert texts(axes.get_xticklabels()) == list("vwxyz")
    assert figure.get_suptitle() == "Head 2"
    [mean] = drawn_in(plots.one_head(given[0], head=None))
    np.testing.assert_array_equal(mean, expected[0, 0].mean(axis=0))


def test_alignment_frames_the_largest_weight_of_each_target_token(layers):
    given, expected = layers
    figure = plots.alignment(given[0], list("vwxyz"), list("abcd"), head=1)
    [axes] = panels(figure)
    corners = [(patch.get_x() + 0.5, patch.get_y() + 0.5) for patch in axes.patches]
    assert corners == [(key, query) for query, key in enumerate(expected[0, 0, 1].argmax(axis=-1))]
    assert axes.xaxis.get_label_position() == "top"
    assert texts(axes.get_xticklabels()) == list("vwxyz")


def test_alignments_on_one_sheet_share_a_scale_and_have_own_titles(rng):
    given = [
        rng.random((2, 3, 4)),
        jnp.asarray(rng.random((3, 5))),
        torch.from_numpy(rng.random((1, 2, 2, 6))),
    ]
    sources, targets = [list("abcd"), list("abcde"), list("abcdef")], [list("xyz"), list("xyz"), list("xy")]
    drawn = [given[0].mean(axis=0), np.asarray(given[1]), given[2][0].mean(axis=0).numpy()]
    figure = plots.alignments(given, sources, targets, ["one", "two", "$three"], title="A title")
    shown = panels(figure)
    assert len({axes.images[0].get_clim() for axes in shown}) == 1
    assert shown[0].images[0].get_clim() == (0, pytest.approx(max(matrix.max() for matrix in drawn)))
    assert [axes.get_title("left") for axes in shown] == ["one", "two", "$three"]
    assert {(axes.get_xlim(), axes.get_ylim()) for axes in shown} == {((-0.5, 5.5), (2.5, -0.5))}
    assert [axes.get_visible() for axes in figure.axes[:4]] == [True, True, True, False]
    for axes, matrix, source, target in zip(shown, drawn, sources, targets, strict=True):
        np.testing.assert_allclose(axes.images[0].get_array(), matrix, rtol=1e-6)
        corners = [(patch.get_x() + 0.5, patch.get_y() + 0.5) for patch in axes.patches]
        assert corners == [(key, query) for query, key in enumerate(matrix.argmax(axis=-1))]
        assert (texts(axes.get_xticklabels()), texts(axes.get_yticklabels())) == (source, target)


def test_colour_scale_ends_at_the_maximum_or_the_given_top_and_is_signed(rng):
    weights = rng.random((4, 5))

    def limits(array, **options):
        return panels(plots.one_head(array, **options))[0].images[0].get_clim()

    assert limits(weights) == (0, np.float32(weights.max()))
    assert limits(weights, top=1.0) == (0, 1)
    low, high = limits(weights - 0.5)
    assert low == -high < 0
    assert limits(np.zeros((2, 2))) == (0, 1)


def test_long_labels_are_cut_and_many_are_thinned(rng):
    long = "x" * 30
    [axes] = panels(plots.one_head(rng.random((2, 2)), [long, " \n"]))
    assert texts(axes.get_yticklabels()) == ["x" * 17 + "…", " ⏎"]
    figure = plots.one_head(rng.random((197, 197)))
    labels = texts(panels(figure)[0].get_yticklabels())
    assert labels[:3] == ["0", "4", "8"]
    FigureCanvasAgg(figure).draw()
    boxes = [label.get_window_extent() for label in panels(figure)[0].get_yticklabels()]
    assert not any(a.overlaps(b) for a, b in pairwise(boxes))


def test_rollout_is_the_product_of_half_attention_and_half_identity(rng):
    weights = [rng.random((2, heads, 4, 4)) for heads in (3, 5, 6)]
    found = plots.rollout([torch.from_numpy(weights[0]), *weights[1:]])
    for b in range(2):
        expected = np.eye(4)
        for layer in weights:
            step = np.zeros((4, 4))
            for i in range(4):
                for j in range(4):
                    step[i, j] = 0.5 * sum(head[i, j] for head in layer[b]) / len(layer[b]) + 0.5 * (i == j)
            after = np.zeros((4, 4))
            for i in range(4):
                for j in range(4):
                    after[i, j] = sum(step[i, k] * expected[k, j] for k in range(4))
            expected = after
        assert np.abs(found[b] - expected).max() <= 1e-12 * np.abs(expected).max()
        backwards = plots.rollout(weights[::-1])[b]
        assert np.abs(backwards - expected).max() > 1e-3


def test_overlay_highlights_the_patches_that_a_token_attends_to(rng):
    image, weights = rng.random((12, 18, 3)), rng.random((2, 3, 8, 8)).astype(np.float32)
    figure = plots.image_overlay(
        torch.from_numpy(image), weights, query=7, head=1, batch=1, num_prefix_tokens=2, grid=(2, 3)
    )
    left, right = panels(figure)
    np.testing.assert_allclose(left.images[0].get_array(), image, rtol=1e-6)
    np.testing.assert_array_equal(right.images[1].get_array(), weights[1, 1, 7, 2:].reshape(2, 3))
    assert right.images[1].get_extent() == [-0.5, 17.5, 11.5, -0.5]
    frame = left.patches[0]  # patch 5: second row, third column
    assert (frame.get_x(), frame.get_y(), frame.get_width(), frame.get_height()) == (11.5, 5.5, 6, 6)
    assert not panels(plots.image_overlay(image, weights, num_prefix_tokens=4))[0].patches


def test_rollout_is_drawn_over_the_image(rng):
    image, weights = rng.integers(0, 256, (6, 6), dtype=np.uint8), [rng.random((3, 5, 5)) for _ in range(2)]
    _, right = panels(plots.rollout_overlay(image, weights, query=2))
    np.testing.assert_array_equal(right.images[1].get_array(), plots.rollout(weights)[2, 1:].reshape(2, 2))


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["png", "svg"])
def test_every_picture_is_written(tmp_path, rng, ending):
    square = rng.random((2, 5, 5))
    for figure in (
        plots.head_grid([square, square], ["$", "\\frac{", "a", "b", "c"]),
        plots.one_head(square),
        plots.alignment(square, WORDS, WORDS),
        plots.image_overlay(rng.random((8, 8)), square),
        plots.rollout_overlay(rng.random((8, 8)), [square, square]),
    ):
        plots.save(figure, tmp_path / f"a.{ending}")
        assert (
            (tmp_path / f"a.{ending}").read_bytes().startswith({"png": b"\x89PNG", "svg": b"<?xml"}[ending])
        )


def test_bad_input_raises_one_sentence(tmp_path, rng):
    weights, image = rng.random((2, 3, 4, 5)), rng.random((8, 8, 3))
    square = rng.random((3, 5, 5))
    infinite = np.where(weights > 0.5, np.inf, weights)
    for call, sentence in [
        (lambda: plots.one_head(weights[0, 0, 0]), r"weights must have shape \(..., heads, query, key\) or"),
        (lambda: plots.one_head(weights, head=3), "head must be from 0 to 2, got 3"),
        (lambda: plots.one_head(weights, batch=2), "batch must be from 0 to 1, got 2"),
        (lambda: plots.one_head(weights, head=-1), "head must be from 0 to 2, got -1"),
        (
            lambda: plots.one_head(weights, ["a"]),
            "query_tokens must be 4 labels, as the shape of the weights needs, got 1",
        ),
        (
            lambda: plots.alignments([square], [WORDS], [WORDS], ["a", "b"]),
            "must have the same length, at least 1, and columns at least 1, got 1, 1, 1, 2 and 2",
        ),
        (lambda: plots.alignments([], [], [], []), "got 0, 0, 0, 0 and 2"),
        (lambda: plots.alignments([square], [WORDS], [WORDS], ["a"], columns=0), "got 1, 1, 1, 1 and 0"),
        (lambda: plots.one_head(weights > 0), "weights must hold real numbers, got bool"),
        (lambda: plots.one_head(weights[:0]), r"weights must not be empty, got \(0, 3, 4, 5\)"),
        (
            lambda: plots.one_head(infinite),
            rf"must be finite, got {np.isinf(infinite).sum()} of 120 that are not",
        ),
        (
            lambda: plots.head_grid([weights, weights[:, 1:]]),
            r"weights\[1\] must have the shape of weights\[0\]",
        ),
        (lambda: plots.head_grid([weights] * 200), "layers and heads must make 1 to 400 panels, got 600"),
        (lambda: plots.head_grid(weights, layers=[1]), "layers must be from 0 to 0, got 1"),
        (
            lambda: plots.rollout(square),
            "weights must be a list with one array for each layer, got a ndarray",
        ),
        (
            lambda: plots.rollout([weights]),
            r"weights\[0\] must have shape \(..., heads, tokens, tokens\), got",
        ),
        (
            lambda: plots.image_overlay(image, weights, grid=(3, 3)),
            r"grid must have as many patches .*, 4, got",
        ),
        (lambda: plots.image_overlay(image, square, query=5), "query must be from 0 to 4, got 5"),
        (
            lambda: plots.image_overlay(image[..., :2], square),
            r"image must have shape \(height, width, 3\) or",
        ),
        (
            lambda: plots.image_overlay(255 * image, square),
            "image must be uint8, or from 0 to 1, got values",
        ),
        (
            lambda: plots.save(plots.one_head(square), tmp_path / "a.gif"),
            r"must end in .png, .svg, .pdf, got",
        ),
    ]:
        with pytest.raises(InputError, match=sentence):
            call()
    assert list(tmp_path.iterdir()) == []
