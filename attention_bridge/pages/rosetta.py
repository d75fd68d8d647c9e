"""The Markdown page `docs/rosetta.md`, made from the facts in `attention_bridge.rosetta`."""

from collections.abc import Iterable
from textwrap import fill

from attention_bridge.pages.markdown import table
from attention_bridge.rosetta.defaults import DEFAULTS
from attention_bridge.rosetta.peer import Peer
from attention_bridge.rosetta.peers import PEERS
from attention_bridge.rosetta.traps import TRAPS
from attention_bridge.rosetta.versions import VERSIONS

PAGE = """# Rosetta

The same attention call in every framework, for porting code between them. Tests run every call below and compare its
behaviour with this page.

Printed by `python -m attention_bridge.pages.rosetta`; valid for
{versions}.

`keep` is a boolean mask of this project, `(batch, query, key)`: True where the query attends to the key. `x` and
`memory` are `(batch, length, embed)`; queries come from `x`, keys and values from `memory`.

## The same mask

{masks}

*True* is the meaning of True in a boolean mask: it *shows* a key to the query or *hides* (masks) it. A mask of 0 and
-inf is *added* to the scores, *refused* with an error, or *inverted*: 0 is cast to False and -inf to True, so the call
attends to exactly the masked keys. *Shapes* are the accepted mask shapes; *misread* shapes are accepted silently but
read as another shape. A layer of Equinox has no batch axis, so its shapes are for one sample.
`attention_bridge.masks` converts any of these masks to any other.

## The same call

{calls}

`torch.nn.MultiheadAttention` takes `(length, batch, embed)` unless `batch_first=True`. Layers of NNX need the argument
`decode`, layers of Haiku an initialiser.

{parameters}

All of them scale the scores by `1 / sqrt(head_dim)`. *Added* is the argument for an additive bias of the scores,
*scale* the argument for another scale; a dash means that there is no such argument.

## Causal calls and windows

{causal}

*Upper left*: the first query attends to the first key alone, for any number of keys. *Lower right*: the last query
attends to all keys, as decoding with a KV cache needs. `attention_bridge.masks.lower_right` makes the second mask for
calls of the first kind.

## Attention weights

{weights}

`eager` is the same model built with `attn_implementation="eager"`; the default returns no weights.

## Names and shapes

`heads*head_dim` is one axis with the heads one after the other. Linen puts `params` before these names; Haiku and Keras
put the name of the layer. For models, the tensors of one layer's attention are listed.

{tensors}

`attention_bridge.weights.convert` and `transfer` know these layouts by the names in the second column.

## Defaults that differ

{defaults}

## Fully masked rows

{empty}

A fully masked row is a query that may attend to no key. *Zeros* are before the output projection, whose bias is still
added. The *mean* is over *all* values, masked ones included, and gradients flow into them. This project gives zeros on
every path, in the gradients too.

## Silent traps

{traps}
"""


def page() -> str:
    """Make the page `docs/rosetta.md`."""
    return PAGE.format(
        versions=fill(", ".join(f"{name} {version}" for name, version in VERSIONS.items()), 118),
        masks=table(("call", "`keep` converted", "True", "0 and -inf", "shapes", "3 axes"), _masks()),
        calls=table(
            ("call", "build", "use", "axes"),
            ((_name(p), _code(p.make), _code(p.call), f"`({p.layout.replace(' ', ', ')})`") for p in PEERS),
        ),
        parameters=table(
            ("call", "first parameters of the class", "first parameters of the call", "added", "scale"),
            (
                (
                    _name(p),
                    _code(", ".join(p.constructor)),
                    _code(", ".join(p.arguments)),
                    _code(p.added),
                    _code(p.scale),
                )
                for p in PEERS
            ),
        ),
        causal=table(("call", "causal", "end of the diagonal", "window of 3", "visible keys"), _causal()),
        weights=table(
            ("call", "call that returns them", "axes", "dropout"),
            (
                (
                    _name(p),
                    _code(p.weights),
                    f"`({p.weights_axes.replace(' ', ', ')})`",
                    "already applied" if p.dropped else "not applied",
                )
                for p in PEERS
                if p.weights
            ),
        ),
        tensors=table(
            ("layer", "layout", "tensors"),
            (
                (
                    _name(p),
                    _code(p.layout_name),
                    "<br>".join(f"`{name}` ({', '.join(shape.split())})" for name, shape in p.tensors),
                )
                for p in PEERS
                if p.tensors
            ),
        ),
        defaults=table(
            ("", "PyTorch", "Flax", "Keras", "Equinox", "Haiku"),
            ((d.text, d.torch, d.flax, d.keras, d.equinox, d.haiku) for d in DEFAULTS),
        ),
        empty=table(
            ("call", "options", "result"),
            ((_name(p), each.when, each.result) for p in PEERS for each in p.empty),
        ),
        traps="\n".join(f"{n}. {trap.text}<br>`{trap.cure}`" for n, trap in enumerate(TRAPS, 1)),
    ).rstrip("\n")


def _masks() -> Iterable[tuple[str, ...]]:
    for p in PEERS:
        shapes = _shapes(p.masks) or "a function, not an array"
        if p.misread:
            shapes += f"; misread: {_shapes(p.misread)}"
        yield _name(p), _code(p.mask), p.true, p.floats, shapes, _three(p)


def _shapes(shapes: Iterable[str]) -> str:
    return " ".join(f"`({shape.replace(' ', ', ')})`" for shape in shapes)


def _three(peer: Peer) -> str:
    """Interpretation of a mask of three axes."""
    readings = {
        "batch query key": "one mask per sample",
        "heads query key": "one mask per head",
        "batch*heads query key": "one mask per head of each sample, sample by sample",
    }
    for shape, reading in readings.items():
        if shape in peer.masks:
            return reading
    misread = [shape for shape in readings if shape in peer.misread]
    return "accepted and misread" if misread else "refused"


def _causal() -> Iterable[tuple[str, ...]]:
    for p in PEERS:
        keys = str(p.window_keys or "")
        window = "; ".join(part for part in (p.window_make, p.window) if part)
        yield (
            _name(p),
            _code(p.causal),
            p.corner or "",
            _code(window),
            f"{keys}, and as many ahead" if p.window_ahead else keys,
        )


def _name(peer: Peer) -> str:
    return f"**{peer.name}**" if peer.name.endswith("mirrors") else peer.name


def _code(text: str) -> str:
    return f"`{text}`" if text else "–"


if __name__ == "__main__":
    print(page())
