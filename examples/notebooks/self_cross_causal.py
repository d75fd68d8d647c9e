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
# # Self, cross, causal
#
# Three uses of one mechanism. They differ in where keys and values come from, and in what a query may see. The
# weights here are set by hand, so that every picture can be read. What you should see: a matrix decides what a word
# asks for, a mask decides what it may see.

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
# ## Self-attention: a sentence looks at itself
#
# $$ Q = X W_Q, \quad K = X W_K, \quad V = X W_V $$
#
# Each word here is only its kind: article, noun, verb or preposition, a direction each. A key says of what kind the
# word is. A query says what kind it **asks for**: an article, a verb and a preposition ask for nouns, a noun asks for
# its article. `transfer` puts these matrices into the module, by the names of PyTorch's `state_dict`, in either
# framework.

# %%
sentence = ["the", "cat", "sat", "on", "the", "mat"]
ARTICLE, NOUN, VERB, PREPOSITION = range(4)
kinds = [ARTICLE, NOUN, VERB, PREPOSITION, ARTICLE, NOUN]
asks_for = {ARTICLE: NOUN, NOUN: ARTICLE, VERB: NOUN, PREPOSITION: NOUN}
identity = np.eye(4, dtype=np.float32)
x = array(identity[kinds][None])  # batch, length, features

asking = np.zeros((4, 4), np.float32)  # (out, in)
for kind, asked in asks_for.items():
    asking[asked, kind] = 8.0
attention = lib.SelfAttention(embed_dim=4, bias=False, **NEW)
transfer({"q_proj.weight": asking, "k_proj.weight": identity, "v_proj.weight": identity}, attention)
output, weights = attention(x)
plots.one_head(weights, sentence, title="Each word looks at the kind that it asks for")

# %% [markdown]
# "sat" looks at "cat" and at "mat" alike: it asked for a noun and found two.
#
# ## Without positions a sentence is a bag
#
# Nothing in the equation knows an order. Shuffle the words, and the outputs are shuffled with them, no more.

# %%
order = np.array([3, 0, 5, 2, 4, 1])
again = attention(array(identity[kinds][order][None])).output
difference = np.abs(numbers(again)[0] - numbers(output)[0][order]).max()
print(f"largest difference between shuffled outputs and outputs of shuffled words: {difference:.0e}")
assert difference < 1e-4

# %% [markdown]
# ## Heads: several questions at once
#
# Now each word also knows its place, again a direction each. Head 0 asks for a kind as before. Head 1 asks for the
# place before its own. Such heads of the previous word are found in trained language models too.

# %%
places = np.eye(6, dtype=np.float32)
both = np.concatenate(
    [identity[kinds], np.zeros((6, 2), np.float32), places], axis=1
)  # 4 kinds, 2 unused, 6 places

query_map, key_map = np.zeros(
    (2, 12, 12), np.float32
)  # (out, in): rows 0 to 5 are head 0, rows 6 to 11 head 1
query_map[:4, :4], key_map[:4, :4] = asking, identity
query_map[6:, 6:], key_map[6:, 6:] = 12.0 * np.eye(6, k=1, dtype=np.float32), places  # place i asks for i - 1
maps = {"q_proj": query_map, "k_proj": key_map, "v_proj": np.eye(12), "out_proj": np.eye(12)}
named = {f"{name}.weight": matrix.astype(np.float32) for name, matrix in maps.items()}

two_heads = lib.MultiHeadSelfAttention(embed_dim=12, num_heads=2, bias=False, **NEW)
transfer(named, two_heads)
plots.head_grid(two_heads(array(both[None])).weights, sentence, title="By kind, and by place")

# %% [markdown]
# The first word has none before it: all its scores are equal, so it looks everywhere.
#
# ## Causal: no word sees what comes later
#
# A language model predicts the next word, so a query may see its own place and those before it. That is a mask.
# **True in row i and column j means: query i attends to key j.**

# %%
plots.draw_mask(lib.causal_mask(6), sentence, title="Who may see whom")

# %%
causal = lib.CausalSelfAttention(embed_dim=12, num_heads=2, bias=False, **NEW)
transfer(named, causal)
plots.head_grid(causal(array(both[None])).weights, sentence, title="The same heads, causal")

# %% [markdown]
# Now "sat" looks at "cat" alone: "mat" has not been said yet.
#
# The claim can be tested. Change the last word, and see which outputs change.

# %%
changed = both.copy()
changed[5] += 1.0
for name, module in (("self", two_heads), ("causal", causal)):
    before, after = (numbers(module(array(words[None])).output)[0] for words in (both, changed))
    print(f"{name:7} change of each output: {np.abs(after - before).max(-1).round(2)}")
assert (before[:5] == after[:5]).all()

# %% [markdown]
# In the causal one the first five outputs are the same, to the last bit. That is why earlier work can be kept: a
# **cache** remembers keys and values, and a new word costs one row. Reading on gives what reading all at once gives.

# %%
whole = causal(array(both[None])).output
cache, parts = lib.GrowingCache(), []
for i in range(6):
    part, cache, row = causal(array(both[None, i : i + 1]), cache=cache)
    parts.append(numbers(part))
    print(f"word {i}: weights {tuple(row.shape)}")
print(f"error against one call: {error(np.concatenate(parts, axis=1), numbers(whole)):.0e}")
assert np.allclose(np.concatenate(parts, axis=1), numbers(whole), atol=1e-4)

# %% [markdown]
# ## Cross-attention: one sequence looks at another
#
# $$ Q = X W_Q, \quad K = M W_K, \quad V = M W_V $$
#
# Queries come from what is being written, keys and values from a memory $M$: what was read. Here each word is its
# meaning, and a word asks for its own meaning in the other language.

# %%
french, english = ["le", "chat", "noir", "dort"], ["the", "black", "cat", "sleeps"]
meanings = np.eye(4, dtype=np.float32)
memory, writing = array(meanings[None]), array(meanings[[0, 2, 1, 3]][None])

cross = lib.CrossAttention(query_dim=4, key_dim=4, embed_dim=4, bias=False, **NEW)
transfer({"q_proj.weight": 6 * meanings, "k_proj.weight": meanings, "v_proj.weight": meanings}, cross)
plots.alignment(cross(writing, memory).weights, french, english, title="English written from French")

# %% [markdown]
# "black cat" and "chat noir" cross: attention needs no order in common.
#
# ## Masks combine
#
# Sentences of a batch differ in length and are filled up with padding. Padding must not be seen. Masks are boolean,
# and are joined with *and*.

# %%
tokens = np.array([[7, 8, 9, 4, 2], [5, 6, 3, 0, 0]])
keep = lib.padding_mask(array(tokens), pad_id=0)  # batch, 1, 1, key
plots.draw_mask(lib.and_masks(lib.causal_mask(5), keep), title="Causal, and no padding")

# %%
module = fill(lib.CausalSelfAttention(embed_dim=12, num_heads=2, **NEW))
random = np.random.default_rng(0).standard_normal((2, 5, 12)).astype(np.float32)
weights = numbers(module(array(random), keep).weights)
print(
    "weight on padding:",
    weights[1, :, :, 3:].max(),
    "  smallest sum of a row:",
    weights.sum(-1).min().round(6),
)
assert (weights[1, :, :, 3:] == 0).all()

# %% [markdown]
# ## All three in one block
#
# A Transformer's decoder block looks back at itself (causal), then across at the encoder, then thinks (a feed-forward
# network). It returns both kinds of weights.

# %%
block = fill(lib.EncoderDecoderAttention(embed_dim=12, num_heads=2, **NEW))
result = block(array(random[:, :3]), array(random))
for name, part in zip(result._fields, result, strict=True):
    print(f"{name:14}", tuple(part.shape))

# %% [markdown]
# Read on in `self_attention.py`, `cross_attention.py` and `masks.py`.
#
# **Exercise.** Give `causal` the mask `lib.sliding_window_mask(6, window=2)`. Which word can "sat" still see? Which
# of the two heads does not mind?
