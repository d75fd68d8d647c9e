"""The facts as a page in Markdown."""

from collections.abc import Iterable
from textwrap import fill

from attention_bridge.pages.markdown import table
from attention_bridge.rosetta.defaults import DEFAULTS
from attention_bridge.rosetta.peer import Peer
from attention_bridge.rosetta.peers import PEERS
from attention_bridge.rosetta.traps import TRAPS
from attention_bridge.rosetta.versions import VERSIONS

PAGE = """# Rosetta

The same attention call in every framework, for a port on a Friday evening. Tests run every call below and compare
what it does with what is written here.

Printed by `python -m attention_bridge.pages.rosetta`; true of
{versions}.

`keep` is a boolean mask of this project, `(batch, query, key)`: True where the query attends to the key. `x` and
`memory` are `(batch, length, embed)`; queries come from `x`, keys and values from `memory`.

## The same mask

{masks}

*True* says what True does to a key. *Inverted* means: 0 is cast to False and -inf to True, and the call sees just
what the mask hides. *Shapes* are those that are read as they say, *misread* those that are taken without a word and
read as something else. A layer of Equinox has no batch: its shapes are those of one sample.
`attention_bridge.masks` makes any of these masks out of any other.

## The same call

{calls}

`torch.nn.MultiheadAttention` takes `(length, batch, embed)` unless it is told `batch_first=True`. Layers of NNX must
be told `decode`, those of Haiku an initialiser.

{parameters}

Scores are scaled by `1 / sqrt(head_dim)` in all of them. What is added to scores goes into `added`, another scale
into `scale`; a dash means that there is no such argument.

## Causal calls and windows

{causal}

*Upper left*: the first query sees the first key alone, however many keys there are. *Lower right*: the last query
sees all keys, as a cache needs it. `attention_bridge.masks.lower_right` is the second in the words of the first.

## Attention weights

{weights}

`eager` is the same model built with `attn_implementation="eager"`: the default makes no weights.

## Names and shapes

`heads*head_dim` is one axis that holds the heads one after the other. Before these names Linen puts `params`, Haiku
and Keras the name of the layer. Models are shown with the tensors of one layer's attention.

{tensors}

`attention_bridge.weights.convert` and `transfer` know each of these layouts by the name beside it.

## Defaults that differ

{defaults}

## A query that sees nothing

{empty}

Zeros are those before the output projection, whose bias remains. The mean is that of *all* values, hidden ones too,
and gradients flow into them. This project gives zeros, in the gradients too, on every path.

## Silent traps

{traps}
"""


def page() -> str:
    """The page `docs/rosetta.md`."""
    return PAGE.format(
        versions=fill(", ".join(f"{name} {version}" for name, version in VERSIONS.items()), 118),
        masks=table(
            ("call", "`keep` in its words", "True", "0 and -inf there", "shapes", "3 axes"), _masks()
        ),
        calls=table(
            ("call", "build", "use", "axes"),
            ((_name(p), _code(p.make), _code(p.call), f"`({p.layout.replace(' ', ', ')})`") for p in PEERS),
        ),
        parameters=table(
            ("call", "first parameters of the class", "of the call", "added", "scale"),
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
        causal=table(("call", "causal", "its diagonal ends", "window of 3", "keys seen"), _causal()),
        weights=table(
            ("call", "how to get them", "axes", "dropout"),
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
            ((d.what, d.torch, d.flax, d.keras, d.equinox, d.haiku) for d in DEFAULTS),
        ),
        empty=table(
            ("call", "when", "what it gets"),
            ((_name(p), each.when, each.result) for p in PEERS for each in p.empty),
        ),
        traps="\n".join(f"{n}. {trap.what}<br>`{trap.cure}`" for n, trap in enumerate(TRAPS, 1)),
    ).rstrip("\n")


def _masks() -> Iterable[tuple[str, ...]]:
    for p in PEERS:
        shapes = _shapes(p.masks) or "a function, no array"
        if p.misread:
            shapes += f"; misread: {_shapes(p.misread)}"
        yield _name(p), _code(p.mask), p.true, p.floats, shapes, _three(p)


def _shapes(shapes: Iterable[str]) -> str:
    return " ".join(f"`({shape.replace(' ', ', ')})`" for shape in shapes)


def _three(peer: Peer) -> str:
    """How a mask of three axes is read."""
    readings = {
        "batch query key": "a mask a sample",
        "heads query key": "a mask a head",
        "batch*heads query key": "a mask for each head of each sample, sample by sample",
    }
    for shape, reading in readings.items():
        if shape in peer.masks:
            return reading
    misread = [shape for shape in readings if shape in peer.misread]
    return "taken and misread" if misread else "refused"


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
