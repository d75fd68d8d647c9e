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
# There are dozens of attention mechanisms. Each changes **one** part of the same equation: the size of the KV cache,
# the positional encoding, the visible keys, the function from scores to weights, or the growth of the cost. This
# notebook shows the benefit of each change.

# %% [markdown]
# ## Set up
#
# These cells are the same in every notebook. Choose a framework; all cells below run in either one. In Colab, replace
# OWNER by the owner of your copy of the repository.

# %%
import os

FRAMEWORK = "torch"  # @param ["torch", "jax"]
FRAMEWORK = os.environ.get("FRAMEWORK", FRAMEWORK)
SOURCE = "git+https://github.com/OWNER/attention-bridge@main"  # or a wheel you uploaded

# %% [markdown]
# If the package is missing, as in Colab, this cell installs it with the small packages that it needs. It does not
# change PyTorch, JAX or other installed packages.

# %%
import importlib
import subprocess
import sys
from importlib.util import find_spec

if find_spec("attention_bridge") is None:
    if "OWNER" in SOURCE:
        raise ValueError("replace OWNER by the owner of your copy of the repository in the cell above")
    needed = ["einops", "jaxtyping", "matplotlib", "ml_dtypes", "numpy", "rich", "safetensors", "typer"]
    missing = [name for name in (*needed, "wadler_lindig") if find_spec(name) is None]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    subprocess.run([*pip, SOURCE, *missing], check=True)
    importlib.invalidate_caches()

# %% [markdown]
# This cell finds the device and sets matrix products to full float32 precision: by default a TPU multiplies float32
# in bfloat16, and a GPU may use TF32.

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
    NEW = {}  # arguments of every module
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

numbers = partial(to_numpy, "array")  # from either framework to NumPy

# %%
from IPython.display import Markdown
from matplotlib.figure import Figure

from attention_bridge.catalogue import CATALOGUE

families = {}
for mechanism in CATALOGUE:
    families.setdefault(mechanism.family, []).append(mechanism.name)
rows = [f"| {family} | {len(names)} | {', '.join(names)} |" for family, names in families.items()]
print(f"{len(CATALOGUE)} entries; each is tested in both frameworks against its paper's equation in float64")
Markdown("\n".join(["| family | entries | names |", "|---|---|---|", *rows]))


# %% [markdown]
# This function draws several matrices of weights side by side.


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
# ## Heads: the size of the KV cache
#
# To generate text, a model caches a key and a value of each word, for each head. Sharing them among heads makes the KV
# cache smaller:
#
# $$ \mathrm{head}_h = \mathrm{softmax}\left(Q_h K_g^\top / \sqrt{d}\right) V_g, \qquad g = \lfloor h G / H \rfloor $$
#
# Here are 8 heads of 16 features, and the number of values that each class caches per word.


# %%
def count(arrays):
    """The number of elements of an array, or of all arrays in a tuple."""
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
    print(f"{name:32} {kept:4} values per word")

# %% [markdown]
# With one group for all heads the cache is an eighth of the size, but all heads share the same keys. Latent attention
# has an equally small cache: a short vector of 24 values, and 8 values for the position. Each head computes its own
# keys and values from this vector.
#
# ## Positions: one word, twenty times
#
# Attention alone does not depend on the order. With the same word at every position, all scores are equal, and any
# remaining pattern comes from the positional encoding.

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
poster(weights, "The effect of positional encodings alone")

# %% [markdown]
# Without positions a word attends equally to all earlier words. Rotary embeddings give weights that oscillate with the
# distance. ALiBi always prefers near words. T5's bias is learned (random here), with one value per bucket of distances.
#
# ## Patterns: visible keys
#
# All pairs of $n$ words cost $n^2$, and most pairs can be left out. Here the same word is at every position again, so
# all visible keys of a query have the same weight.

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
poster(weights, "Visible keys of each query")

# %%
for name, found in weights.items():
    print(f"{name:24} {(numbers(found)[0, 0] > 0).sum():4} of {LENGTH**2} pairs")

# %% [markdown]
# ## Scores: from scores to weights
#
# The softmax never gives zero. Sparsemax and entmax give exact zeros. A sigmoid weights each key independently, so rows
# no longer sum to one.

# %%
mechanisms = {
    "softmax": lib.MultiHeadSelfAttention,
    "Entmax15Attention": lib.Entmax15Attention,
    "SparsemaxAttention": lib.SparsemaxAttention,
    "SigmoidAttention": lib.SigmoidAttention,
}
weights = {name: fill(each(24, 2, **NEW))(0.3 * text).weights for name, each in mechanisms.items()}
poster(weights, "The same projections, other weights")

# %%
for name, found in weights.items():
    head = numbers(found)[0, 0]
    rows = head.sum(-1)
    print(f"{name:20} {(head == 0).mean():4.0%} exact zeros, rows sum to {rows.min():.2f} … {rows.max():.2f}")

# %% [markdown]
# ## Linear: a recurrent state of constant size
#
# Without the softmax, the sum over keys is a matrix that can be updated word by word: the **recurrent state**. A linear
# attention layer stores nothing else.
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
# The next steps change the update of the state. Retention lets old words decay at a fixed rate, and gated linear
# attention at a rate that depends on each word. The delta rule **overwrites** the value of a similar key.
# `need_weights=True` returns the equivalent attention matrix of such a layer.

# %%
weights = {
    name: fill(getattr(lib, name)(24, 2, **NEW))(text, need_weights=True).weights
    for name in ("LinearAttention", "MultiScaleRetention", "GatedLinearAttention", "DeltaNet")
}
poster(weights, "Linear attention as a matrix; blue is negative")

# %% [markdown]
# ## Which one to choose?
#
# | goal | start with | note |
# |---|---|---|
# | a plain sequence model | `MultiHeadSelfAttention`, `CausalSelfAttention` | the usual baseline |
# | a small KV cache | `GroupedQueryAttention`, then `MultiHeadLatentAttention` | little loss of quality |
# | positions | `RotaryEmbedding` | for texts longer than in training: its scalings, or `ALiBi` |
# | long texts, local context | `SlidingWindowAttention`, mixed with full layers | several layers reach distant words |
# | endless streams | `StreamingAttention` | words outside the window are dropped |
# | constant memory | `GatedDeltaNet`, `KimiDeltaAttention`, `Mamba2` | add softmax layers for exact recall |
# | long texts, learned choice of keys | `NativeSparseAttention`, `DeepSeekSparseAttention` | harder to train |
# | alignments | `BasicAttention`, `CrossAttention` | weights are a hint, not an explanation |
# | many inputs, few outputs | `PerceiverAttention`, `AttentionPooling` | the latents are a bottleneck |
# | images | `ViTBlock`, `ShiftedWindowAttention` | the tokens are patches |
#
# `attention-bridge list` and `docs/catalogue.md` have every equation and paper.
#
# **Exercise.** Give `StreamingAttention` a `RotaryEmbedding(12)` as its `position`, and 200 words as input. Does the
# last row depend on word 100? Change that word and look.
