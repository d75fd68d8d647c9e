"""The gallery: every mask and every mechanism on one sentence, and the poster that contains them."""

import inspect

import jaxtyping
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

import torch_attention.masks
from attention_bridge import plots
from attention_bridge.catalogue import CATALOGUE, select
from attention_bridge.errors import InputError
from attention_bridge.plots.gallery import drawing, instances
from attention_bridge.plots.gallery.maps import Map
from attention_bridge.plots.gallery.masks import CALLS, masks
from attention_bridge.plots.gallery.sentence import DOCUMENTS, ORDER, PHRASES, WORDS, features, latents
from attention_bridge.plots.posters import KINDS, Panel

LENGTH = len(WORDS)


@pytest.fixture(scope="module")
def found():
    """Every mechanism's matrices in PyTorch, without the tests' shape checks."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    computed = {mechanism.name: drawing.compute(mechanism, "torch") for mechanism in CATALOGUE}
    jaxtyping.config.update("jaxtyping_disable", before)
    return computed


def matrix(found, name):
    [only] = found[name]
    return only.matrix


def test_every_mechanism_has_a_titled_panel_in_its_family(found):
    assert set(drawing.TITLES) == set(drawing.FAMILIES) == {"masks", *(m.family for m in CATALOGUE)}
    asked = drawing.mechanisms(drawing.FAMILIES)
    assert asked == list(CATALOGUE)
    for mechanism in asked:
        panels = drawing.panels(mechanism, found[mechanism.name])
        assert panels
        assert {panel.title for panel in panels} == {mechanism.name.partition("-")[0]}
        notes = [panel.note for panel in panels]
        assert all(notes)
        assert len(set(notes)) == len(notes)
        assert {panel.kind for panel in panels} <= KINDS.keys()


def test_every_panel_holds_finite_values_that_vary(found):
    for name, maps in found.items():
        for each in maps:
            assert each.matrix.ndim == 2, name
            assert np.isfinite(each.matrix).all(), name
            assert len(np.unique(each.matrix.round(6))) > 10, name


def test_every_mask_is_shown_and_the_same_in_both():
    public = {name for name, f in inspect.getmembers(torch_attention.masks, inspect.isfunction)
              if f.__module__ == "torch_attention.masks" and not name.startswith("_")}  # fmt: skip
    assert public - {"mask_text"} == CALLS.keys()
    ours, theirs = masks("torch"), masks("jax")
    for name in CALLS:
        assert ours[name].shape == (LENGTH, LENGTH)
        assert ours[name].any()
        assert not ours[name].all()
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


def test_causal_panels_are_zero_above_the_diagonal(found):
    above = np.triu(np.ones((LENGTH, LENGTH), dtype=bool), 1)
    for mechanism in CATALOGUE:
        for each in found[mechanism.name]:
            if mechanism.causal and "cross" not in each.label:
                assert not each.matrix[above].any(), mechanism.name
    assert matrix(found, "SelfAttention")[above].all()


@pytest.mark.parametrize(
    ("mechanism", "mask"),
    [
        ("SlidingWindowAttention", "sliding_window_mask"),
        ("ChunkedAttention", "chunked_mask"),
        ("StreamingAttention", "streaming_mask"),
        ("CausalSelfAttention", "causal_mask"),
    ],
)
def test_pattern_has_the_form_of_its_mask(found, mechanism, mask):
    np.testing.assert_array_equal(matrix(found, mechanism) > 0, masks("torch")[mask])


def test_windows_and_axes_follow_the_grid(found):
    rows, columns = np.divmod(np.arange(LENGTH), 6)
    window = matrix(found, "WindowAttention")
    same = (rows[:, None] // 2 == rows // 2) & (columns[:, None] // 2 == columns // 2)
    np.testing.assert_array_equal(window > 0, same)
    np.testing.assert_allclose(window.sum(axis=1), 1)
    shifted = matrix(found, "ShiftedWindowAttention")
    inside = ((rows[:, None] + 1) // 2 == (rows + 1) // 2) & (
        (columns[:, None] + 1) // 2 == (columns + 1) // 2
    )
    np.testing.assert_array_equal(shifted > 0, inside)
    lines = matrix(found, "AxialAttention")
    np.testing.assert_array_equal(lines > 0, (rows[:, None] == rows) | (columns[:, None] == columns))
    np.testing.assert_allclose(lines.sum(axis=1), 2)


def test_words_attend_to_similar_words(found):
    words = np.array(WORDS)
    for name, asking in (("SelfAttention", words), ("CrossAttention", words[ORDER])):
        weights, same = matrix(found, name), asking[:, None] == words
        assert weights[same].mean() > 4 * weights[~same].mean()


def test_input_is_the_same_for_every_width():
    for width in (4, 5, 12, 18):
        assert features(width).shape == (LENGTH, width)
        assert 0.4 < np.mean(features(width) ** 2) < 1.5
    likeness = features(12) @ features(12).T / 6
    np.testing.assert_allclose(likeness, latents() @ latents().T, atol=1e-12)
    assert len(DOCUMENTS) == LENGTH == 24
    assert " ".join(np.array(WORDS)[ORDER]) == " ".join((PHRASES[2], PHRASES[0], PHRASES[1]))


def test_unknown_argument_is_named():
    with pytest.raises(ValueError, match="has no value for the argument temperature"):
        instances._argument("temperature", np.zeros(3))


@pytest.fixture(scope="module")
def whole():
    """The titles and notes of the whole poster, with placeholder matrices."""
    labels = {
        "Encoder": ("layer 0", "layer 1"),
        "EncoderDecoderAttention": ("self-attention", "cross-attention"),
    }
    eye = np.eye(4)
    groups = {drawing.TITLES["masks"]: drawing.mask_panels(masks("torch"))}
    for mechanism in CATALOGUE:
        each = labels.get(mechanism.name.partition("-")[0], ("",))
        maps = [Map(label, "weights", eye) for label in each]
        groups.setdefault(drawing.TITLES[mechanism.family], []).extend(drawing.panels(mechanism, maps))
    lead = Panel("how alike the words are", latents() @ latents().T, kind="scores")
    figure = plots.poster(groups, title="A title", text="Some\nwords", lead=lead, tokens=WORDS)
    return groups, figure


class TestThePoster:
    def test_all_panels_are_in_their_order(self, whole):
        groups, figure = whole
        titles = [panel.title for members in groups.values() for panel in members]
        shown = [axes.get_title() for axes in figure.axes if axes.get_title()]
        assert shown == ["how alike the words are", *titles]

    def test_no_text_overlaps_or_crosses_the_edge(self, whole):
        _, figure = whole
        boxes = written(figure)
        assert len(boxes) > 200
        assert not overlaps(boxes)
        width, height = figure.bbox.width, figure.bbox.height
        assert all(b.x0 > 0 and b.y0 > 0 and b.x1 < width and b.y1 < height for _, b in boxes)

    def test_overlapping_text_is_detected(self):
        members = [Panel("Name" * 12, np.eye(3)) for _ in range(2)]
        assert overlaps(written(plots.poster({"a group": members}, title="A title")))

    def test_small_groups_share_a_row_and_no_two_panels_overlap(self, whole):
        _, figure = whole
        boxes = [axes.get_window_extent() for axes in figure.axes]
        for i, one in enumerate(boxes):
            assert not any(one.overlaps(other) for other in boxes[:i])
        named = {text.get_text(): text.get_position()[1] for text in figure.texts}
        assert named[drawing.TITLES["basics"]] == named[drawing.TITLES["self"]]

    def test_zero_is_grey_and_negative_weights_use_the_signed_colour_map(self, rng):
        signed = rng.standard_normal((3, 4))
        figure = plots.poster(
            {"a": [Panel("one", np.eye(3)), Panel("two", signed, kind="effective")]}, title="A title"
        )
        one, two = (axes.images[0] for axes in figure.axes if axes.get_title())
        assert np.ma.getmaskarray(one.get_array()).sum() == 6
        assert two.get_cmap().name == KINDS["effective"].signed
        low, high = two.get_clim()
        assert low == -high

    @pytest.mark.parametrize(
        ("panel", "message"),
        [
            (Panel("one", np.ones((2, 3, 4))), r"one must be \(query, key\), got \(2, 3, 4\) of float64"),
            (
                Panel("one", np.ones((2, 3)), kind="mask"),
                r"one must be a boolean \(query, key\), got \(2, 3\)",
            ),
            (
                Panel("one", np.ones((2, 3)), kind="heat"),
                "kind must be one of mask, weights, effective, scores",
            ),
            (Panel("one", np.full((2, 3), np.nan)), "one must be finite"),
        ],
    )
    def test_invalid_panel_raises(self, panel, message):
        with pytest.raises(InputError, match=message):
            plots.poster({"a": [panel]}, title="A title")

    def test_empty_poster_raises(self):
        with pytest.raises(InputError, match="at least one panel, got none"):
            plots.poster({"a": []}, title="A title")


def test_family_is_selected_by_name():
    assert drawing.mechanisms(["low_rank"]) == select(["LinformerAttention", "NystromAttention"])
    with pytest.raises(InputError, match="got magic"):
        drawing.mechanisms(["masks", "magic"])


def written(figure):
    """Every text of a figure, with its box in pixels."""
    FigureCanvasAgg(figure).draw()
    texts = [*figure.texts]
    for axes in figure.axes:
        texts += [axes.title, *axes.texts, *axes.get_xticklabels(), *axes.get_yticklabels()]
    return [(text.get_text(), text.get_window_extent()) for text in texts if text.get_text()]


def overlaps(boxes):
    return [
        (one, other)
        for i, (one, box) in enumerate(boxes)
        for other, second in boxes[:i]
        if box.overlaps(second)
    ]
