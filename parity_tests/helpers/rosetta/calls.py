"""Runs the snippets of `attention_bridge.rosetta`, and looks at who reaches whom."""

import copy
import math
import os
import warnings
from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any

import einops
import jax
import jax.numpy as jnp
import numpy as np
import torch

import torch_attention
from attention_bridge.rosetta import Peer

os.environ.setdefault("KERAS_BACKEND", "torch")

SIZES = {"batch": 2, "heads": 3, "query": 5, "key": 7, "head_dim": 4, "embed": 12, "kv_heads": 1}
BATCH, HEADS, QUERY, KEY, HEAD_DIM, EMBED, KV_HEADS = SIZES.values()


@cache
def names() -> dict[str, Any]:
    """What the snippets import; the warnings of these imports are not ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return imported()


def imported() -> dict[str, Any]:
    found: dict[str, Any] = {
        "torch": torch,
        "jax": jax,
        "torch_attention": torch_attention,
        "nn": torch.nn,
        "F": torch.nn.functional,
        "keras": import_module("keras"),
        "eqx": import_module("equinox"),
        "hk": import_module("haiku"),
        "nnx": import_module("flax.nnx"),
        "linen": import_module("flax.linen"),
    }
    flex = import_module("torch.nn.attention.flex_attention")
    transformers = import_module("transformers")
    size = {"num_hidden_layers": 1, "vocab_size": 9, "intermediate_size": 11, "num_attention_heads": HEADS}
    ends = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    grouped = size | ends | {"hidden_size": EMBED, "num_key_value_heads": KV_HEADS, "head_dim": HEAD_DIM}
    configs = {
        "bert_config": transformers.BertConfig(hidden_size=EMBED, **size),
        "gpt2_config": transformers.GPT2Config(
            n_embd=EMBED, n_head=HEADS, n_layer=1, vocab_size=9, n_inner=11, **ends
        ),
        "llama_config": transformers.LlamaConfig(**grouped, attention_dropout=0.5),
        "mistral_config": transformers.MistralConfig(**grouped, sliding_window=3),
    }
    models = {n: getattr(transformers, n) for n in ("BertModel", "GPT2Model", "LlamaModel", "MistralModel")}
    own = {name: getattr(flex, name) for name in ("flex_attention", "create_block_mask")}
    return found | SIZES | configs | models | own | {"Attention": import_module("x_transformers").Attention}


def is_operation(peer: Peer) -> bool:
    return not peer.make


def is_model(peer: Peer) -> bool:
    return peer.name.startswith("transformers")


def array(peer: Peer, x: np.ndarray) -> Any:
    """As the framework of the peer takes it."""
    if peer.arrays == "jax":
        return jnp.asarray(x)
    return torch.from_numpy(np.array(x))  # Keras runs on PyTorch here


def to_numpy(x: Any) -> np.ndarray:
    return x.detach().numpy() if isinstance(x, torch.Tensor) else np.asarray(x)


def inputs(peer: Peer, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """`x` and `memory`, with heads apart if the peer is an operation."""
    shapes = {"x": QUERY, "memory": KEY}
    before, last = ((BATCH, HEADS), HEAD_DIM) if is_operation(peer) else ((BATCH,), EMBED)
    return {name: rng.standard_normal((*before, n, last)).astype(np.float32) for name, n in shapes.items()}


class Bench:
    """A peer with random weights, ready to be called."""

    def __init__(self, peer: Peer, rng: np.random.Generator, make: str | None = None):
        self.peer, self.rng = peer, rng
        self.given = inputs(peer, rng)
        self.scope = names() | {"mask": None}
        if not is_operation(peer):
            self.build(make or peer.make)

    def build(self, make: str) -> None:
        self.fill()
        layer = self.scope["layer"] = eval(make, self.scope)
        self.tensors: dict[str, np.ndarray] = {}
        draw = lambda p: (self.rng.standard_normal(p.shape) / 2).astype(np.float32)  # noqa: E731
        if isinstance(layer, torch.nn.Module) and self.peer.arrays == "torch":
            self.tensors = {name: draw(p) for name, p in layer.named_parameters()}
            for name, p in layer.named_parameters():
                p.data = torch.from_numpy(self.tensors[name])
            layer.eval()
            if is_model(self.peer):
                self.scope["eager"] = copy.deepcopy(layer)
                self.scope["eager"].set_attn_implementation("eager")
        elif self.peer.arrays == "keras":
            self.call(self.peer.call)
            self.tensors = {w.path.split("/", 1)[1]: draw(np.empty(tuple(w.shape))) for w in layer.weights}
            for w in layer.weights:
                w.assign(self.tensors[w.path.split("/", 1)[1]])
        else:
            self.build_jax(layer, draw)

    def build_jax(self, layer: Any, draw: Callable[[Any], np.ndarray]) -> None:
        x = self.scope["x"]
        if hasattr(layer, "init"):  # Linen and Haiku keep their parameters outside
            of_haiku = "hk." in self.peer.make
            tree = layer.init(jax.random.key(0), *([x] * 3 if of_haiku else [x]))
            tree = jax.tree.map(lambda p: jnp.asarray(draw(p)), tree)
            self.scope["params" if of_haiku else "variables"] = tree
        elif "eqx." in self.peer.make:
            eqx = self.scope["eqx"]
            arrays, rest = eqx.partition(layer, eqx.is_array)
            tree = jax.tree.map(lambda p: jnp.asarray(draw(p)), arrays)
            self.scope["layer"] = eqx.combine(tree, rest)
        else:
            nnx = self.scope["nnx"]
            tree = jax.tree.map(lambda p: jnp.asarray(draw(p)), nnx.state(layer, nnx.Param))
            nnx.update(layer, tree)
            tree = nnx.to_pure_dict(tree)
        paths = jax.tree_util.tree_flatten_with_path(tree)[0]
        self.tensors = {joined(path): np.asarray(leaf) for path, leaf in paths}

    def fill(self, **changed: np.ndarray) -> None:
        given = self.given | changed
        if is_operation(self.peer):
            for name, x in zip("qkv", (given["x"], given["memory"], given["memory"]), strict=True):
                x = einops.rearrange(x, f"batch heads length head_dim -> {self.peer.layout}")
                self.scope[name] = array(self.peer, x)
        else:
            self.scope |= {name: array(self.peer, x) for name, x in given.items()}

    def mask(self, keep: np.ndarray) -> Any:
        """`keep` in the words of the peer."""
        self.scope["keep"] = array(self.peer, keep)
        return eval(self.peer.mask, self.scope)

    def call(self, call: str, mask: Any = None, **changed: np.ndarray) -> np.ndarray:
        """The output, `(batch, query, embed)`."""
        self.fill(**changed)
        self.scope["mask"] = mask
        out = to_numpy(eval(call, self.scope))
        if is_operation(self.peer):
            out = einops.rearrange(out, f"{self.peer.layout} -> batch length (heads head_dim)")
        return out

    def moved(self, call: str) -> str:
        """Whose keys the call reads: those of `memory`, or of `x` if there is one sequence."""
        return "memory" if is_operation(self.peer) or "memory" in call else "x"

    def reach(self, call: str, mask: Any = None) -> np.ndarray:
        """`(batch, query, key)`: whether the value of the key reaches the output of the query."""
        moved = self.moved(call)
        base = self.call(call, mask)
        assert np.isfinite(base).all()
        columns = []
        for j in range(self.given[moved].shape[-2]):
            other = self.given[moved].copy()
            other[..., j, :] += self.rng.standard_normal(other.shape[-1]).astype(np.float32)
            columns.append((self.call(call, mask, **{moved: other}) != base).any(-1))
        return np.stack(columns, axis=-1)


def joined(path: tuple[Any, ...]) -> str:
    """The names of a leaf, without those of the tree around the layer."""
    parts = [str(getattr(key, "key", getattr(key, "name", ""))) for key in path]
    parts = [piece for part in parts for piece in part.split("/")]
    return ".".join(part for part in parts if part not in ("params", "multi_head_attention", "value_"))


def size(words: str) -> tuple[int, ...]:
    """`batch*heads query key` in numbers."""
    sizes = SIZES | {"1": 1, "3": 3}
    return tuple(math.prod(sizes[factor] for factor in word.split("*")) for word in words.split())
