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
# You build attention in a few lines of NumPy: one head, then several heads. Then you check that the package gives the
# same numbers in the framework of your choice. The main point: attention is a soft lookup, computed as a softmax of dot
# products.

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

# %% [markdown]
# ## A lookup, made soft
#
# A dictionary returns the value of the one key that equals the query. Attention compares the query with **every** key
# and returns a weighted mean of all values: better matches have larger weights.
#
# $$ \alpha_j = \frac{\exp(q \cdot k_j)}{\sum_l \exp(q \cdot k_l)}, \qquad \mathrm{output} = \sum_j \alpha_j v_j $$
#
# Here the keys of the words are orthogonal, and the query points in the direction of "cat". The longer the query
# vector, the closer the mean is to a plain lookup.

# %%
words = ["the", "cat", "sat", "still"]
keys = np.eye(4)
values = np.array([[1.0], [2.0], [3.0], [4.0]])


def softmax(scores):
    """Softmax along the last axis; subtracts the largest score to avoid overflow."""
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


lengths = (0, 1, 2, 4, 8)
soft = softmax(np.stack([length * keys[1] for length in lengths]) @ keys.T)
for length, row, output in zip(lengths, soft, soft @ values, strict=True):
    print(f"query of length {length}: weights {row.round(3)}, output {output[0]:.3f}")

# %%
plots.one_head(soft, [f"length {length}" for length in lengths], words, title="One query with growing length")

# %% [markdown]
# At length 0 all weights are equal, and the output is the plain mean, 2.5. At length 8 it is the value of "cat", 2.
#
# ## Scaled dot-product attention
#
# All queries together form a matrix, and so do the keys and the values (Vaswani et al. 2017):
#
# $$ \mathrm{Attention}(Q, K, V) = \mathrm{softmax}\left(\frac{Q K^\top}{\sqrt{d}}\right) V $$
#
# This is the whole mechanism:


# %%
def attention(query, key, value):
    """Output and weights of attention; query and key (..., length, d), value (..., length, features)."""
    scores = query @ np.swapaxes(key, -1, -2) / np.sqrt(query.shape[-1])
    weights = softmax(scores)
    return weights @ value, weights


rng = np.random.default_rng(0)
query, key, value = rng.standard_normal((3, 1, 2, 5, 8))  # batch, heads, length, features
output, weights = attention(query, key, value)
print("output", output.shape, "weights", weights.shape, "rows sum to", weights.sum(-1).round(12).min())

# %% [markdown]
# The package's own function, in your framework and in float32, gives the same numbers. How large may the difference be?
# Rounding explains an error of $4u\sqrt{n}$, where $u = 2^{-24}$ is the roundoff of float32 and $n$ is the number of
# summed terms: 8 features and 5 keys.

# %%
result = lib.ops.dot_product_attention(*(array(x.astype(np.float32)) for x in (query, key, value)))
exact, _ = attention(*(x.astype(np.float32).astype(np.float64) for x in (query, key, value)))
bound = tolerances("float32", 8 + 5)["output"]
print(f"error {error(numbers(result), exact):.1e}, rounding explains {bound:.1e}")
assert error(numbers(result), exact) < 1e-4

# %% [markdown]
# ## Why divide by the root of d?
#
# The dot product of two random vectors of $d$ features is a sum of $d$ terms of variance 1, so its standard deviation
# is $\sqrt{d}$. Large scores push the softmax onto a single key, where its gradient is almost zero. The division brings
# the standard deviation back to 1 for every $d$.

# %%
print("   d   deviation of q·k   largest weight: unscaled   divided by √d")
for d in (4, 16, 64, 256, 1024):
    q, k = rng.standard_normal((2, 500, 10, d))
    products = q[:, :1] @ np.swapaxes(k, -1, -2)  # 500 samples of one query and 10 keys
    plain, scaled = (softmax(products / factor).max(-1).mean() for factor in (1.0, np.sqrt(d)))
    print(f"{d:4}   {products.std():16.1f}   {plain:24.2f}   {scaled:13.2f}")

# %%
q, k = rng.standard_normal((2, 10, 256))
both = np.stack([softmax(q @ k.T), softmax(q @ k.T / 16)])
plots.head_grid(both, title="256 features: softmax of the products, and of the products over 16")

# %% [markdown]
# On the left nearly every query attends to a single key. On the right each query mixes several keys.
#
# ## Several heads
#
# One softmax gives one attention pattern. To have several, split the features into heads. Each head attends separately,
# and a matrix $W_O$ combines their outputs:
#
# $$ \mathrm{head}_h = \mathrm{Attention}(X W_{Q,h}, X W_{K,h}, X W_{V,h}), \qquad
#    [\mathrm{head}_1; \dots; \mathrm{head}_H] W_O $$


# %%
def multi_head_attention(x, maps, num_heads):
    """Self-attention of x (batch, length, features); maps has a matrix and a bias for each of q, k, v and out."""
    batch, length, features = x.shape

    def split(x):
        return x.reshape(batch, length, num_heads, features // num_heads).swapaxes(1, 2)

    query, key, value = (split(x @ maps[name][0] + maps[name][1]) for name in ("q", "k", "v"))
    heads, weights = attention(query, key, value)  # batch heads length features/heads
    joined = heads.swapaxes(1, 2).reshape(batch, length, features)
    return joined @ maps["out"][0] + maps["out"][1], weights


# %% [markdown]
# Now compare with the package's module: the function above gets the module's weights, and the two must agree.

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
plots.head_grid(weights, words, title="Three heads, three attention patterns")

# %% [markdown]
# The weights are random here, so the patterns have no meaning yet. But each head has its own pattern.
#
# ## Fully masked rows
#
# A mask sets the scores of masked keys to $-\infty$. If **all** keys of a query are masked, the softmax divides 0 by 0.
# The function above then gives NaN, which spreads through the whole model. The package gives exactly zero.

# %%
seen = np.array([[True, True, False], [False, False, False], [True, True, True]])
with np.errstate(invalid="ignore"):
    naive = softmax(np.where(seen, 0.0, -np.inf))
zeros = array(np.zeros((1, 3, 4), np.float32))
careful = lib.dot_product_attention_weights(zeros, zeros, mask=array(seen))[0]
print("softmax above\n", naive.round(2))
print("package\n", numbers(careful).round(2))

# %% [markdown]
# Next: `attention_basics.py` and `ops/definition.py` have the same equation with masks, biases and grouped heads.
#
# **Exercise.** Bahdanau's additive score is $w^\top \tanh(W q_i + U k_j)$. Write it in three lines of NumPy, and
# compare with `lib.BasicAttention(query_dim, key_dim, hidden_dim, **NEW)`: its projections are `q_proj`, `k_proj` and
# `score_proj`.
