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
# # Attention from scratch
#
# You build attention in a few lines of numpy: one head, then several. Then the package gives the same numbers, in
# the framework of your choice. What you should see: attention is a lookup that is soft, and a softmax of products
# is all there is to it.

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

# %% [markdown]
# ## A lookup, made soft
#
# A dictionary finds the one key that equals the query. Attention compares the query with **every** key, and reads
# a mean of all values: keys that match better weigh more.
#
# $$ \alpha_j = \frac{\exp(q \cdot k_j)}{\sum_l \exp(q \cdot k_l)}, \qquad \mathrm{output} = \sum_j \alpha_j v_j $$
#
# Here each word's key is a direction of its own, and the query points at "cat". The longer the query, the closer
# the mean comes to a plain lookup.

# %%
words = ["the", "cat", "sat", "still"]
keys = np.eye(4)
values = np.array([[1.0], [2.0], [3.0], [4.0]])


def softmax(scores):
    """Positive numbers that sum to one along the last axis; the largest score is taken off against overflow."""
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


lengths = (0, 1, 2, 4, 8)
soft = softmax(np.stack([length * keys[1] for length in lengths]) @ keys.T)
for length, row, output in zip(lengths, soft, soft @ values, strict=True):
    print(f"query of length {length}: weights {row.round(3)}, output {output[0]:.3f}")

# %%
plots.one_head(soft, [f"length {length}" for length in lengths], words, title="One query, ever longer")

# %% [markdown]
# At length 0 nothing is preferred: the output is the plain mean, 2.5. At length 8 it is the value of "cat", 2.
#
# ## Scaled dot-product attention
#
# All queries at once are a matrix, so are keys and values (Vaswani et al. 2017):
#
# $$ \mathrm{Attention}(Q, K, V) = \mathrm{softmax}\left(\frac{Q K^\top}{\sqrt{d}}\right) V $$
#
# This is the whole mechanism:


# %%
def attention(query, key, value):
    """Output and weights; query and key (..., length, d), value (..., length, features)."""
    scores = query @ np.swapaxes(key, -1, -2) / np.sqrt(query.shape[-1])
    weights = softmax(scores)
    return weights @ value, weights


rng = np.random.default_rng(0)
query, key, value = rng.standard_normal((3, 1, 2, 5, 8))  # batch, heads, length, features
output, weights = attention(query, key, value)
print("output", output.shape, "weights", weights.shape, "rows sum to", weights.sum(-1).round(12).min())

# %% [markdown]
# The package's own function, in your framework and in float32, gives the same numbers. How far apart may they be?
# Rounding explains an error of $4u\sqrt{n}$, where $u = 2^{-24}$ is the roundoff of float32 and $n$ counts the
# terms that are summed: 8 features and 5 keys.

# %%
theirs = lib.ops.dot_product_attention(*(array(x.astype(np.float32)) for x in (query, key, value)))
exact, _ = attention(*(x.astype(np.float32).astype(np.float64) for x in (query, key, value)))
bound = tolerances("float32", 8 + 5)["output"]
print(f"error {error(numbers(theirs), exact):.1e}, rounding explains {bound:.1e}")
assert error(numbers(theirs), exact) < 1e-4

# %% [markdown]
# ## Why divide by the root of d?
#
# A product of two random vectors of $d$ features is a sum of $d$ terms of variance 1: its standard deviation is
# $\sqrt{d}$. Such scores drive the softmax to a single key, and there its gradient is zero. The division brings the
# deviation back to 1, whatever $d$ is.

# %%
print("   d   deviation of q·k   largest weight: as it is   divided by √d")
for d in (4, 16, 64, 256, 1024):
    q, k = rng.standard_normal((2, 500, 10, d))
    products = q[:, :1] @ np.swapaxes(k, -1, -2)  # one query, 10 keys, 500 times
    plain, scaled = (softmax(products / factor).max(-1).mean() for factor in (1.0, np.sqrt(d)))
    print(f"{d:4}   {products.std():16.1f}   {plain:24.2f}   {scaled:13.2f}")

# %%
q, k = rng.standard_normal((2, 10, 256))
both = np.stack([softmax(q @ k.T), softmax(q @ k.T / 16)])
plots.head_grid(both, title="256 features: the products, and the products over 16")

# %% [markdown]
# On the left nearly every query looks at one key alone. On the right each mixes several.
#
# ## Several heads
#
# One softmax can look in one way. So the features are cut into heads, each head attends by itself, and a matrix
# $W_O$ joins them:
#
# $$ \mathrm{head}_h = \mathrm{Attention}(X W_{Q,h}, X W_{K,h}, X W_{V,h}), \qquad
#    [\mathrm{head}_1; \dots; \mathrm{head}_H] W_O $$


# %%
def multi_head_attention(x, maps, num_heads):
    """Self-attention of x (batch, length, features); maps holds a matrix and a bias for each of q, k, v and out."""
    batch, length, features = x.shape

    def split(x):
        return x.reshape(batch, length, num_heads, features // num_heads).swapaxes(1, 2)

    query, key, value = (split(x @ maps[name][0] + maps[name][1]) for name in ("q", "k", "v"))
    heads, weights = attention(query, key, value)  # batch heads length features/heads
    joined = heads.swapaxes(1, 2).reshape(batch, length, features)
    return joined @ maps["out"][0] + maps["out"][1], weights


# %% [markdown]
# Now the package's module. Its weights go into our function, and the two must agree.

# %%
mha = fill(lib.MultiHeadSelfAttention(embed_dim=12, num_heads=3, **NEW))
maps = {}
for name in ("q", "k", "v", "out"):
    layer = getattr(mha, f"{name}_proj")
    matrix = numbers(lib.layers.weight_matrix(layer)).astype(np.float64)  # (in, out)
    maps[name] = matrix, numbers(layer.bias[...]).astype(np.float64)

x = rng.standard_normal((2, 4, 12)).astype(np.float32)
ours, our_weights = multi_head_attention(x.astype(np.float64), maps, num_heads=3)
output, weights = mha(array(x))

bound = tolerances("float32", 4 * 12 + x.size)["output"]
for name, found, right in (("output", output, ours), ("weights", weights, our_weights)):
    print(f"{name:8} {tuple(found.shape)}: error {error(numbers(found), right):.1e}, allowed {bound:.1e}")
    assert error(numbers(found), right) < 1e-4

# %%
plots.head_grid(weights, words, title="Three heads look in three ways")

# %% [markdown]
# The weights are random here, so the pictures mean nothing yet; that each head has its own is what counts.
#
# ## What the few lines forget
#
# A mask hides keys: their scores become $-\infty$. A query that sees **no** key then divides 0 by 0. Our lines give
# NaN, and NaN spreads through a whole model. The package gives exactly zero.

# %%
seen = np.array([[True, True, False], [False, False, False], [True, True, True]])
with np.errstate(invalid="ignore"):
    naive = softmax(np.where(seen, 0.0, -np.inf))
zeros = array(np.zeros((1, 3, 4), np.float32))
careful = lib.dot_product_attention_weights(zeros, zeros, mask=array(seen))[0]
print("ours\n", naive.round(2))
print("the package's\n", numbers(careful).round(2))

# %% [markdown]
# Read on in `attention_basics.py` and `ops/definition.py`: the same equation, with masks, biases and grouped heads.
#
# **Exercise.** Bahdanau's additive score is $w^\top \tanh(W q_i + U k_j)$. Write it in three lines of numpy, and
# compare with `lib.BasicAttention(query_dim, key_dim, hidden_dim, **NEW)`: its maps are `q_proj`, `k_proj` and
# `score_proj`.
