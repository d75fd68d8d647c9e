# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Which attention? A tour of the catalogue
#
# There are dozens of mechanisms. Each changes **one** thing about the same equation: what is remembered, where words
# stand, who may be seen, how scores become weights, or how cost grows. What you should see: which change buys what.

# %% [markdown]
# ## Set up
#
# These cells are the same in every notebook. Choose a framework: everything below runs in either. In Colab, put the
# owner of your copy of the repository in place of OWNER.

# %%
import os

FRAMEWORK = "torch"  # @param ["torch", "jax"]
FRAMEWORK = os.environ.get("FRAMEWORK", FRAMEWORK)
SOURCE = "git+https://github.com/OWNER/attention-bridge@main"  # or a wheel you uploaded

# %% [markdown]
# Where the package is missing, as in Colab, it is installed, with the small packages that are missing too.
# PyTorch, JAX and all else that is there stay as they are.

# %%
import importlib
import subprocess
import sys
from importlib.util import find_spec

if find_spec("attention_bridge") is None:
    if "OWNER" in SOURCE:
        raise ValueError("put the owner of your copy of the repository in place of OWNER in the cell above")
    needed = ["einops", "jaxtyping", "matplotlib", "ml_dtypes", "numpy", "rich", "safetensors", "typer"]
    missing = [name for name in (*needed, "wadler_lindig") if find_spec(name) is None]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    subprocess.run([*pip, SOURCE, *missing], check=True)
    importlib.invalidate_caches()

# %% [markdown]
# The device is found, and matrix products are set to the full precision of float32: by default a TPU multiplies
# float32 through bfloat16, and a GPU may use TF32.

# %%
# %matplotlib inline
from functools import partial

import numpy as np

from attention_bridge import plots
from attention_bridge.parity.measure import error, tolerances
from attention_bridge.weights import transfer
from attention_bridge.weights.leaves import to_numpy

if FRAMEWORK == "torch":
    import torch

    import torch_attention as lib
    from torch_attention.demonstration import fill

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_default_device(device)
    torch.set_float32_matmul_precision("highest")
    torch.set_grad_enabled(False)
    array = partial(torch.tensor, device=device)
    NEW = {}  # what every module is built with
    kind = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    print(f"PyTorch {torch.__version__} on {kind}")
else:
    import jax
    import jax.numpy as jnp
    from flax import nnx

    import jax_attention as lib
    from jax_attention.demonstration import fill

    jax.config.update("jax_default_matmul_precision", "highest")
    array = jnp.asarray
    NEW = {"rngs": nnx.Rngs(0)}
    print(f"JAX {jax.__version__} on {jax.devices()[0].device_kind}")

numbers = partial(to_numpy, "array")  # from either framework to numpy

# %%
from IPython.display import Markdown
from matplotlib.figure import Figure

from attention_bridge.catalogue import CATALOGUE

families = {}
for mechanism in CATALOGUE:
    families.setdefault(mechanism.family, []).append(mechanism.name)
rows = [f"| {family} | {len(names)} | {', '.join(names)} |" for family, names in families.items()]
print(
    f"{len(CATALOGUE)} entries; each proven equal in both frameworks and to its paper's equation in float64"
)
Markdown("\n".join(["| family | entries | names |", "|---|---|---|", *rows]))


# %% [markdown]
# A picture for all sections: some matrices of weights side by side.


# %%
def poster(named, title, *, across=4):
    """Draw the first head of each array of weights (..., query, key) in a panel with its name."""
    down = -(-len(named) // across)
    figure = Figure(figsize=(3.1 * across, 3.2 * down + 0.5), layout="constrained")
    figure.suptitle(title, fontsize=14, fontweight="bold")
    panels = figure.subplots(down, across, squeeze=False).flat
    for axes, (name, weights) in zip(panels, named.items(), strict=False):
        matrix = numbers(weights).reshape(-1, *weights.shape[-2:])[0].astype(np.float64)
        limit = np.abs(matrix).max()
        signed = matrix.min() < 0
        colours = {"cmap": "RdBu_r", "vmin": -limit} if signed else {"cmap": "magma_r", "vmin": 0.0}
        plots.heatmap(axes, matrix, [], [], title=name, vmax=limit, **colours)
    for axes in list(panels):
        axes.remove()
    return figure


rng = np.random.default_rng(0)
LENGTH = 20
text = array(rng.standard_normal((1, LENGTH, 24)).astype(np.float32))  # 20 different words
same = array(np.tile(0.6 * rng.standard_normal(24).astype(np.float32), (1, LENGTH, 1)))  # one word, 20 times

# %% [markdown]
# ## Heads: what has to be remembered
#
# To write a text, a model remembers a key and a value of each word, for each head. Share them among heads and the
# cache shrinks:
#
# $$ \mathrm{head}_h = \mathrm{softmax}\left(Q_h K_g^\top / \sqrt{d}\right) V_g, \qquad g = \lfloor h G / H \rfloor $$
#
# Here are 8 heads of 16 features, and the numbers that each class keeps of one word.


# %%
def count(arrays):
    """How many numbers there are in arrays, or in tuples of them."""
    return sum(map(count, arrays)) if isinstance(arrays, tuple) else int(np.prod(arrays.shape))


latent = {"kv_lora_rank": 24, "nope_head_dim": 16, "rope_head_dim": 8, "value_head_dim": 16}
rotary = lib.RotaryEmbedding(8, interleaved=True)
ladder = {
    "CausalSelfAttention": lib.CausalSelfAttention(128, 8, **NEW),
    "GroupedQueryAttention, 2 groups": lib.GroupedQueryAttention(
        128, 8, num_kv_heads=2, is_causal=True, **NEW
    ),
    "MultiQueryAttention": lib.MultiQueryAttention(128, 8, is_causal=True, **NEW),
    "MultiHeadLatentAttention": lib.MultiHeadLatentAttention(
        128, 8, **latent, position=rotary, is_causal=True, **NEW
    ),
}
wide = array(rng.standard_normal((1, LENGTH, 128)).astype(np.float32))
for name, module in ladder.items():
    kept = count(module(wide, cache=lib.GrowingCache()).cache.entries) // LENGTH
    print(f"{name:32} {kept:4} numbers a word")

# %% [markdown]
# One group for all heads keeps an eighth, but then all heads look with the same keys. Latent attention keeps as little:
# a short vector, 24 numbers and 8 for the position, from which each head makes keys and values of its own.
#
# ## Positions: one word, twenty times
#
# Attention by itself knows no order. Say the same word again and again: all scores are equal, and whatever pattern is
# left comes from positions alone.

# %%
schemes = {
    "none": None,
    "RotaryEmbedding": lib.RotaryEmbedding(12),
    "ALiBi": lib.ALiBi(2),
    "T5Bias": fill(lib.T5Bias(2, **NEW)),
}
weights = {}
for name, scheme in schemes.items():
    module = fill(lib.GroupedQueryAttention(24, 2, num_kv_heads=2, is_causal=True, position=scheme, **NEW))
    weights[name] = module(same).weights
poster(weights, "What is left is the position")

# %% [markdown]
# Without positions a word looks evenly at all before it. Rotary angles make waves in the distance; ALiBi prefers what
# is near, always; T5's bias is learned (random here), in buckets of distance.
#
# ## Patterns: who may be seen
#
# All pairs of $n$ words cost $n^2$. Most can be left out. The same word again: in a
# row, every key that is seen weighs the same.

# %%
global_words = array(np.arange(LENGTH)[None] % 10 == 0)
weights = {
    "SlidingWindowAttention": fill(lib.SlidingWindowAttention(24, 2, window=4, **NEW))(same).weights,
    "ChunkedAttention": fill(lib.ChunkedAttention(24, 2, chunk_size=5, **NEW))(same).weights,
    "StreamingAttention": fill(lib.StreamingAttention(24, 2, window=4, num_sinks=2, **NEW))(same).weights,
    "LongformerAttention": fill(lib.LongformerAttention(24, 2, one_sided_window=2, **NEW))(
        same, global_tokens=global_words
    ).weights,
}
poster(weights, "Who sees whom")

# %%
for name, found in weights.items():
    print(f"{name:24} {(numbers(found)[0, 0] > 0).sum():4} of {LENGTH**2} pairs")

# %% [markdown]
# ## Scores: how they become weights
#
# Softmax never gives zero. Sparsemax and entmax do; a sigmoid gives each key its own weight, and rows no longer sum
# to one.

# %%
mechanisms = {
    "softmax": lib.MultiHeadSelfAttention,
    "Entmax15Attention": lib.Entmax15Attention,
    "SparsemaxAttention": lib.SparsemaxAttention,
    "SigmoidAttention": lib.SigmoidAttention,
}
weights = {name: fill(each(24, 2, **NEW))(0.3 * text).weights for name, each in mechanisms.items()}
poster(weights, "The same maps, other weights")

# %%
for name, found in weights.items():
    head = numbers(found)[0, 0]
    rows = head.sum(-1)
    print(f"{name:20} {(head == 0).mean():4.0%} exact zeros, rows sum to {rows.min():.2f} … {rows.max():.2f}")

# %% [markdown]
# ## Linear: memory that does not grow
#
# Leave out the softmax, and the sum over keys can be taken once: it is a matrix, the **state**, to which each word is
# added. Nothing else is remembered.
#
# $$ S_i = S_{i-1} + \phi(k_i)\, v_i^\top, \qquad o_i = \phi(q_i)^\top S_i $$

# %%
recurrent = fill(lib.LinearAttention(24, 2, **NEW))
softmax = fill(lib.CausalSelfAttention(24, 2, **NEW))
print("words   cache of softmax   state of linear attention")
for length in (16, 64, 256, 1024):
    words = array(rng.standard_normal((1, length, 24)).astype(np.float32))
    cache = softmax(words, cache=lib.GrowingCache(), need_weights=False).cache.entries
    print(f"{length:5} {count(cache):18} {count(recurrent(words).state):27}")

# %% [markdown]
# The ladder goes on: retention lets old words fade at a fixed rate, gated linear attention at a rate that each word
# decides, and the delta rule **overwrites** what was stored under a like key. `need_weights=True` shows the matrix
# that such a layer would have had as attention.

# %%
weights = {
    name: fill(getattr(lib, name)(24, 2, **NEW))(text, need_weights=True).weights
    for name in ("LinearAttention", "MultiScaleRetention", "GatedLinearAttention", "DeltaNet")
}
poster(weights, "Linear attention as a matrix; blue is negative")

# %% [markdown]
# ## So, which?
#
# | you want | begin with | and know that |
# |---|---|---|
# | a model of a sequence, no more | `MultiHeadSelfAttention`, `CausalSelfAttention` | everything is compared with it |
# | to write text with a small cache | `GroupedQueryAttention`, then `MultiHeadLatentAttention` | little is lost |
# | positions | `RotaryEmbedding` | for longer texts than trained on: its scalings, or `ALiBi` |
# | long texts, local meaning | `SlidingWindowAttention`, mixed with full layers | layers reach far words |
# | endless streams | `StreamingAttention` | what leaves the window is forgotten |
# | constant memory | `GatedDeltaNet`, `KimiDeltaAttention`, `Mamba2` | for exact recall mix in softmax layers |
# | long texts, learned choice of keys | `NativeSparseAttention`, `DeepSeekSparseAttention` | it takes care to train |
# | to see an alignment | `BasicAttention`, `CrossAttention` | weights are a hint, not an explanation |
# | many inputs, few outputs | `PerceiverAttention`, `AttentionPooling` | the latents are a bottleneck |
# | pictures | `ViTBlock`, `ShiftedWindowAttention` | patches are the words |
#
# `attention-bridge list` and `docs/catalogue.md` have every equation and paper.
#
# **Exercise.** Give `StreamingAttention` a `RotaryEmbedding(12)` as its `position`, and feed it 200 words. Does the
# last row depend on word 100? Change that word and see.
