"""The interactive page of weights in a real browser (Chromium): display, controls and safety.

These tests are skipped where the browser's package or a system library that it needs is missing. The rest of the page,
and its errors, are tested without a browser.
"""

import json
import re
from importlib.util import find_spec
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from attention_bridge import plots
from attention_bridge.errors import CheckpointError, InputError
from parity_tests.helpers.browser import Browser

EVIL = ["</script><script>window.harm = 1</script>", "<b>bold</b>", "&amp;", "<!--", "\u2028 \n", "{{data}}"]
KEYS = ["un", "deux", "trois", '"quatre"']
HALF = 2.0**-11  # unit roundoff of float16
SHOWN = 5e-4  # three decimals


@pytest.fixture(scope="module", params=["light", "dark"])
def browser(request):
    if find_spec("PySide6") is None:
        pytest.skip("PySide6-WebEngine is not installed")
    with Browser(dark=request.param == "dark") as opened:
        if opened.problem:
            pytest.skip(opened.problem)
        opened.is_dark = request.param == "dark"
        yield opened


@pytest.fixture
def layers(rng):
    """Two layers of three heads, six queries and six keys, with some negative weights."""
    return [rng.random((3, 6, 6)).astype(np.float32) - 0.1 for _ in range(2)]


def show(browser, tmp_path, *arguments, **options):
    path = tmp_path / "page.html"
    plots.write_html(path, *arguments, **options)
    browser.open(path)
    browser.point("h1")  # away from tokens


def token(place):
    return f"#queries button:nth-child({place + 1})"


def said(browser, part="queries"):
    """The weights in the labels of the tokens."""
    titles = browser.run(f"[...document.querySelectorAll('#{part} .token')].map(e => e.title)")
    return np.array([float(title.split(": ")[1]) for title in titles])


def agrees(browser, expected, part="queries"):
    np.testing.assert_allclose(said(browser, part), expected, atol=SHOWN + HALF)


def choose(browser, which, value):
    browser.run(
        f"(s => {{ s.value = '{value}'; s.dispatchEvent(new Event('change')); return s.value; }})"
        f"(document.getElementById('{which}'))"
    )


@pytest.mark.slow
def test_hovering_shows_a_tokens_row_and_leaving_shows_the_selected_row(browser, tmp_path, layers):
    show(browser, tmp_path, layers, EVIL, layer=1, head=2)
    agrees(browser, layers[1][2, 0])
    browser.point(token(3))
    agrees(browser, layers[1][2, 3])
    browser.point("footer")
    agrees(browser, layers[1][2, 0])
    browser.click(token(4))
    browser.point("footer")
    agrees(browser, layers[1][2, 4])


@pytest.mark.slow
def test_layer_head_and_mean_over_heads_can_be_selected(browser, tmp_path, layers):
    show(browser, tmp_path, layers, EVIL, head=None)
    agrees(browser, layers[0].mean(axis=0)[0])
    choose(browser, "layer", 1)
    agrees(browser, layers[1].mean(axis=0)[0])
    choose(browser, "head", 1)
    agrees(browser, layers[1][1, 0])


@pytest.mark.slow
def test_arrow_keys_move_from_token_to_token_and_stop_at_the_ends(browser, tmp_path, layers):
    show(browser, tmp_path, layers, EVIL)
    browser.click(token(1))
    browser.point("footer")
    for key, place in [
        ("Right", 2),
        ("Down", 3),
        ("Left", 2),
        ("Up", 1),
        ("Home", 0),
        ("Left", 0),
        ("End", 5),
    ]:
        browser.press(key)
        agrees(browser, layers[0][0, place])
    browser.press("Right")
    agrees(browser, layers[0][0, 5])
    assert browser.run("[...document.querySelectorAll('#queries button')].map(e => e.tabIndex)") == [
        -1
    ] * 5 + [0]


@pytest.mark.slow
def test_cross_attention_shades_the_key_tokens(browser, tmp_path, rng):
    weights = rng.random((1, 2, 3, 4)).astype(np.float32)
    show(browser, tmp_path, weights, ["a", "b", "c"], KEYS, head=1)
    browser.point(token(2))
    agrees(browser, weights[0, 1, 2], "keys")
    parts = browser.run(
        "[...document.querySelectorAll('#keys .token')].map(e => +e.style.getPropertyValue('--part'))"
    )
    np.testing.assert_allclose(parts, weights[0, 1, 2] / weights[0, 1, 2].max(), atol=2 * HALF)
    assert browser.run("[...document.querySelectorAll('#keys .token')].map(e => e.textContent)") == KEYS
    rows = browser.run("[...document.querySelectorAll('#largest td.name')].map(e => e.textContent)")
    assert rows == [KEYS[key] for key in np.argsort(-weights[0, 1, 2])]


@pytest.mark.slow
def test_fully_masked_token_is_reported(browser, tmp_path):
    show(browser, tmp_path, np.zeros((2, 2)), ["a", "b"])
    assert browser.run("document.getElementById('says').textContent") == "“a” (0) attends to no token"
    assert (said(browser) == 0).all()


@pytest.mark.slow
def test_tokens_and_titles_are_escaped(browser, tmp_path, layers):
    show(browser, tmp_path, layers, EVIL, title=EVIL[0])
    shown = browser.run("[...document.querySelectorAll('#queries button')].map(e => e.textContent)")
    assert [shown[i] for i in (0, 1, 2, 3, 5)] == [EVIL[i] for i in (0, 1, 2, 3, 5)]
    assert browser.run("document.title") == EVIL[0]
    assert browser.run("document.querySelectorAll('b').length") == 0
    assert browser.run("typeof window.harm") == "undefined"


@pytest.mark.slow
def test_page_loads_nothing_else_and_logs_no_errors(browser, tmp_path, layers):
    show(browser, tmp_path, layers, EVIL)
    asked = browser.requests()
    assert asked
    assert all(address.startswith("file:") and address.endswith("page.html") for address in asked)
    assert browser.complaints() == []


@pytest.mark.slow
def test_text_is_readable_on_the_strongest_shade_in_both_modes(browser, tmp_path, layers):
    def luminance(colour):
        channels = np.array([float(x) for x in re.findall(r"[\d.]+", colour)[:3]])
        channels = channels if colour.startswith("color(") else channels / 255
        linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        return linear @ [0.2126, 0.7152, 0.0722]

    show(browser, tmp_path, np.array([[1.0, 0.0], [-1.0, 0.0]]), ["a", "b"])
    assert browser.run("matchMedia('(prefers-color-scheme: dark)').matches") == browser.is_dark
    seen = set()
    for query in (0, 1):
        browser.point(token(query))
        for key in (0, 1):
            style = browser.run(
                f"(s => [s.color, s.backgroundColor])(getComputedStyle(document.querySelector('{token(key)}')))"
            )
            dim, bright = sorted(map(luminance, style))
            assert (bright + 0.05) / (dim + 0.05) >= 4.5  # WCAG 2, level AA
            seen.add(style[1])
    assert len(seen) == 3  # positive, negative and none


@pytest.mark.slow
def test_broken_script_is_detected_by_the_browser(browser, tmp_path, layers):
    page = plots.html(layers, EVIL).replace("data.weights)", "data.wrong)")
    (tmp_path / "page.html").write_text(page)
    browser.open(tmp_path / "page.html")
    assert browser.run("document.querySelectorAll('.token').length") == 0


def inside(page):
    return json.loads(re.search(r'id="data">(.*?)</script>', page)[1])


@pytest.mark.parametrize("convert", [torch.from_numpy, jnp.asarray, np.asarray])
def test_arrays_of_either_framework_give_the_same_page(rng, convert):
    weights = rng.random((2, 3, 4, 4)).astype(np.float32)
    pages = [plots.html(convert(weights), list("abcd"), batch=1), plots.html(weights[1], list("abcd"))]
    assert pages[0] == pages[1]
    assert inside(pages[0])["heads"] == 3


def test_page_states_the_size_of_its_weights(rng):
    page = plots.html([rng.random((4, 50, 50))] * 2, list(map(str, range(50))))
    assert "40 kB of weights, as float16" in page
    assert len(page) < 40_000 * 4 / 3 + 15_000


def test_bad_input_raises_one_sentence(tmp_path, rng):
    weights = rng.random((3, 4, 5))
    words = list("abcd")
    for call, sentence in [
        (
            lambda: plots.html(weights, words),
            r"key_tokens must be given if queries \(4\) and keys \(5\) differ in number",
        ),
        (
            lambda: plots.html(weights, words, words),
            "key_tokens must be 5 labels, as the shape of the weights needs, got 4",
        ),
        (lambda: plots.html(weights, words, "abcde", head=3), "head must be from 0 to 2, got 3"),
        (lambda: plots.html([], words), "weights must have at least one layer, got none"),
        (lambda: plots.html(1e6 * weights, words, "abcde"), "weights must be at most 65504, got"),
        (lambda: plots.write_html(tmp_path / "a.htm", weights, words, "abcde"), r"must end in \.html, got"),
    ]:
        with pytest.raises(InputError, match=sentence):
            call()
    with pytest.raises(CheckpointError, match="is not a directory"):
        plots.write_html(tmp_path / "none" / "a.html", weights, words, "abcde")
    assert list(Path(tmp_path).iterdir()) == []
