"""The mistakes that ports make between the projections of an attention layer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

from attention_bridge.doctor.models.core import Core


class Mistake(NamedTuple):
    """A mistake in words and the computation that has it."""

    sign: str
    cure: str
    core: Core


def mistakes(core: Core, embed: int, length: int, masked: bool) -> Iterator[Mistake]:
    """Every single mistake that applies to a right computation.

    Args:
        core: the right computation.
        embed: number of features of the layer's input.
        length: number of queries.
        masked: whether there is a mask.
    """
    for rows in (_heads, _scores, _positions, _visible, _cached):
        yield from rows(core, embed, length, masked)


def _heads(core: Core, embed: int, length: int, masked: bool) -> Iterator[Mistake]:
    if core.heads > 1:
        raw = "exchange the axes of heads and length before a reshape"
        for split, of in (
            ("raw", "queries, keys and values"), ("q raw", "queries"), ("k raw", "keys"), ("v raw", "values"),
            ("qk raw", "queries and keys"), ("kv raw", "keys and values"),
        ):  # fmt: skip
            sign = f"reshapes {of} to heads without exchanging the axes of heads and length"
            yield Mistake(sign, raw, replace(core, split=split))
        sign = "reshapes from heads without exchanging the axes of heads and length first"
        yield Mistake(sign, raw, replace(core, merge="raw"))
        yield Mistake(
            "reshapes to heads and back without exchanging the axes of heads and length",
            raw,
            replace(core, merge="raw", split="raw"),
        )
        for split, of in (("inner", "queries, keys and values"), ("q inner", "queries"), ("k inner", "keys"),
                          ("v inner", "values"), ("qk inner", "queries and keys")):  # fmt: skip
            sign = f"splits the features of {of} as (head_dim, heads) although they are (heads, head_dim)"
            yield Mistake(sign, "split the features as (heads, head_dim)", replace(core, split=split))
        yield Mistake(
            "has its heads in reverse", "keep the order of the heads", replace(core, merge="reversed")
        )
    if core.kv_heads not in (1, core.heads):
        yield Mistake(
            "tiles the key/value heads where the reference repeats them: head h uses h % G instead of h // (H / G)",
            "repeat each key/value head for its group (repeat, not tile)",
            replace(core, groups="tile"),
        )
    for order, one, other in (
        ("kqv", "queries", "keys"),
        ("qvk", "keys", "values"),
        ("vkq", "queries", "values"),
    ):
        if core.kv_heads == core.heads or order == "qvk":
            yield Mistake(
                f"exchanges {one} and {other}", "use each projection in its role", replace(core, order=order)
            )
    yield Mistake(
        "exchanges batch and length before attention",
        "keep the batch first",
        replace(core, swapped=True),
    )


def _scores(core: Core, embed: int, length: int, masked: bool) -> Iterator[Mistake]:
    head_dim = embed / core.heads
    scale = head_dim**-0.5 if core.scale is None else core.scale
    for factor, sign in (
        (1.0, "does not scale the scores"),
        (scale**2, "scales the scores twice"),
        (embed**-0.5, "scales the scores by 1 / sqrt(embed_dim)"),
        (None, "scales the scores by 1 / sqrt(head_dim)"),
        (1 / head_dim, "scales the scores by 1 / head_dim"),
        (scale**0.5, "scales the scores by the square root of the scale"),
    ):
        if factor != core.scale:
            yield Mistake(sign, "scale the scores as the reference does", replace(core, scale=factor))
    if core.softcap is not None:
        yield Mistake("does not cap the scores", f"cap them at {core.softcap:g}", replace(core, softcap=None))
    else:
        for cap in (20.0, 30.0, 50.0):
            sign = f"caps the scores at {cap:g}, which the reference does not"
            yield Mistake(sign, "do not cap the scores", replace(core, softcap=cap))
    yield Mistake(
        "takes the softmax over the queries", "take it over the keys", replace(core, softmax="queries")
    )


def _positions(core: Core, embed: int, length: int, masked: bool) -> Iterator[Mistake]:
    if core.rope != "none":
        other = "interleaved" if core.rope == "half" else "half"
        names = {"half": "halves (i, i + d/2)", "interleaved": "neighbours (2i, 2i + 1)"}
        yield Mistake(
            f"turns pairs of {names[other]} in RoPE, and the reference pairs of {names[core.rope]}",
            f"pair {names[core.rope]}",
            replace(core, rope=other),
        )
        yield Mistake("does not apply RoPE", "apply RoPE to queries and keys", replace(core, rope="none"))
        for roped, sign in (("q", "does not apply RoPE to keys"), ("k", "does not apply RoPE to queries"),
                            ("qkk", "applies RoPE to keys twice")):  # fmt: skip
            yield Mistake(sign, "apply RoPE once to queries and keys", replace(core, roped=roped))
        yield Mistake("rotates by the negative angle", "negate the angle", replace(core, sign=-core.sign))
        for field, of in (("first", "queries"), ("first_key", "keys")):
            for step in (1, -1, 2, -2, 3, -3, 4, -4):
                yield Mistake(
                    f"turns the {of} as if they were {_places(step)}",
                    f"shift the positions of the {of} by {-step}",
                    replace(core, **{field: getattr(core, field) + step}),
                )
        for factor in (2.0, 4.0, 8.0, 16.0, 32.0):
            yield Mistake(
                f"divides positions by {factor:g}, a linear scaling of RoPE that the reference has not",
                "do not scale positions",
                replace(core, stretch=core.stretch * factor),
            )
        if core.stretch != 1:
            yield Mistake("does not scale positions", f"divide positions by {core.stretch:g}",
                          replace(core, stretch=1.0))  # fmt: skip
        if core.turned is not None:
            yield Mistake("turns all features of a head", f"turn the first {core.turned} features",
                          replace(core, turned=None))  # fmt: skip
        half = int(embed / core.heads) // 2
        if core.turned != half and half % 2 == 0 and half:
            yield Mistake("turns only half of the features of a head", "turn the features as the reference does",
                          replace(core, turned=half))  # fmt: skip
    if core.alibi != "none":
        for kind, sign in (("none", "has no ALiBi bias"), ("positive", "adds ALiBi's bias with the wrong sign"),
                           ("reversed", "has ALiBi's slopes in reverse order")):  # fmt: skip
            yield Mistake(sign, "add -slope * distance, the largest slope first", replace(core, alibi=kind))


def _visible(core: Core, embed: int, length: int, masked: bool) -> Iterator[Mistake]:
    if core.causal:
        for window in (None,) if core.window is not None else ():
            yield Mistake("attends to all earlier keys", "apply the window", replace(core, window=window))
        yield Mistake("attends to later positions", "mask the keys after the query's position",
                      replace(core, causal=False))  # fmt: skip
        yield Mistake(
            "attends to one position after the query's own", "mask it", replace(core, late=core.late + 1)
        )
        yield Mistake("masks each query's own position", "let it be seen", replace(core, late=core.late - 1))
    else:
        yield Mistake("masks later positions", "do not mask them", replace(core, causal=True))
    if core.window is not None:
        for step, sign in ((1, "more"), (-1, "fewer")):
            yield Mistake(
                f"attends to one key {sign} than the window allows",
                f"set the window to {core.window}",
                replace(core, window=core.window + step),
            )
    if masked and core.mask == "keys":
        for kind, sign in (
            ("none", "ignores the mask"),
            ("inverted", "inverts the mask: it attends to padding and hides real keys"),
            ("queries", "applies the mask to queries instead of keys"),
            ("other", "applies the mask of another sample of the batch"),
        ):
            yield Mistake(sign, "apply the mask to the keys of its own sample", replace(core, mask=kind))


def _places(step: int) -> str:
    """A distance in positions in words."""
    number = "one place" if abs(step) == 1 else f"{abs(step)} places"
    return f"{number} too {'late' if step > 0 else 'early'}"


def _cached(core: Core, embed: int, length: int, masked: bool) -> Iterator[Mistake]:
    """Mistakes of a decode step with a KV cache, and of a bias that the layer is given."""
    if core.bias == "given":
        yield Mistake(
            "does not add the bias that it is given", "add it to the scores", replace(core, bias="none")
        )
    if not core.offset:
        return
    begin = f"begin at {core.offset}, the number of cached keys"
    if core.rope != "none":
        yield Mistake("turns new queries and keys as if they were at position 0", begin,
                      replace(core, first=0, first_key=0))  # fmt: skip
        yield Mistake("turns new queries as if they were at position 0", begin, replace(core, first=0))
        yield Mistake("turns new keys as if they were at position 0", begin, replace(core, first_key=0))
        for step in (1, -1, 2, -2):
            yield Mistake(
                f"turns new queries and keys as if they were {_places(step)}",
                begin,
                replace(core, first=core.first + step, first_key=core.first_key + step),
            )
        yield Mistake("turns cached keys twice", "cache keys after RoPE and turn only new ones",
                      replace(core, cached="twice"))  # fmt: skip
    yield Mistake(
        "does not attend to the KV cache", "attend to cached and new keys", replace(core, cached="lost")
    )
    yield Mistake("counts distances and the causal mask from position 0 in a decode step", begin,
                  replace(core, offset=0))  # fmt: skip
