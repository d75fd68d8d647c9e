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
# Self-attention, cross-attention and causal attention are three uses of one mechanism. They differ in the source of
# keys and values, and in the keys that a query may attend to. The weights here are set by hand, so that every picture
# is easy to read. The main point: the projection matrices determine which keys match a query, and the mask determines
# which keys are visible.

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
# ## Self-attention: a sentence attends to itself
#
# $$ Q = X W_Q, \quad K = X W_K, \quad V = X W_V $$
#
# Here a word is represented only by its kind: article, noun, verb or preposition, as a one-hot vector. A key is the
# kind of its word. A query is the kind that its word **looks for**: articles, verbs and prepositions look for nouns,
# and nouns look for articles. `transfer` copies these matrices into the module, by the names of PyTorch's `state_dict`,
# in either framework.

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
plots.one_head(weights, sentence, title="Each word attends to the kind that it looks for")

# %% [markdown]
# "sat" attends to "cat" and "mat" equally: it looks for a noun and finds two.
#
# ## Without positions a sentence is a bag of words
#
# The equation does not depend on the order of the words. If you shuffle the words, the outputs are shuffled in the same
# way, and nothing else changes.

# %%
order = np.array([3, 0, 5, 2, 4, 1])
again = attention(array(identity[kinds][order][None])).output
difference = np.abs(numbers(again)[0] - numbers(output)[0][order]).max()
print(f"largest difference between shuffled outputs and outputs of shuffled words: {difference:.0e}")
assert difference < 1e-4

# %% [markdown]
# ## Heads: several patterns at once
#
# Now each word also contains its position, again as a one-hot vector. Head 0 looks for a kind as before. Head 1 looks
# for the previous position. Trained language models also contain such previous-token heads.

# %%
places = np.eye(6, dtype=np.float32)
both = np.concatenate(
    [identity[kinds], np.zeros((6, 2), np.float32), places], axis=1
)  # 4 kinds, 2 unused, 6 positions

query_map, key_map = np.zeros(
    (2, 12, 12), np.float32
)  # (out, in): rows 0 to 5 are head 0, rows 6 to 11 head 1
query_map[:4, :4], key_map[:4, :4] = asking, identity
query_map[6:, 6:], key_map[6:, 6:] = (
    12.0 * np.eye(6, k=1, dtype=np.float32),
    places,
)  # position i looks for i - 1
maps = {"q_proj": query_map, "k_proj": key_map, "v_proj": np.eye(12), "out_proj": np.eye(12)}
named = {f"{name}.weight": matrix.astype(np.float32) for name, matrix in maps.items()}

two_heads = lib.MultiHeadSelfAttention(embed_dim=12, num_heads=2, bias=False, **NEW)
transfer(named, two_heads)
plots.head_grid(two_heads(array(both[None])).weights, sentence, title="By kind, and by position")

# %% [markdown]
# The first word has no previous word: all its scores are equal, so it attends to all words equally.
#
# ## Causal: no word attends to later words
#
# A language model predicts the next word, so a query may attend only to its own position and earlier positions. A mask
# expresses this. **True in row i and column j means: query i attends to key j.**

# %%
plots.draw_mask(lib.causal_mask(6), sentence, title="The causal mask: visible keys of each query")

# %%
causal = lib.CausalSelfAttention(embed_dim=12, num_heads=2, bias=False, **NEW)
transfer(named, causal)
plots.head_grid(causal(array(both[None])).weights, sentence, title="The same heads, causal")

# %% [markdown]
# Now "sat" attends only to "cat", because "mat" comes later.
#
# You can test this: change the last word, and see which outputs change.

# %%
changed = both.copy()
changed[5] += 1.0
for name, module in (("self", two_heads), ("causal", causal)):
    before, after = (numbers(module(array(words[None])).output)[0] for words in (both, changed))
    print(f"{name:7} change of each output: {np.abs(after - before).max(-1).round(2)}")
assert (before[:5] == after[:5]).all()

# %% [markdown]
# With causal attention the first five outputs are equal, to the last bit. Therefore earlier results can be reused: a
# **KV cache** stores keys and values, and a new word costs only one row of scores. Incremental decoding gives the same
# outputs as one call with the whole sequence.

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
# ## Cross-attention: one sequence attends to another
#
# $$ Q = X W_Q, \quad K = M W_K, \quad V = M W_V $$
#
# Queries come from the target sequence $X$, and keys and values from the source sequence, the memory $M$. Here each
# word is represented by its meaning, and looks for the same meaning in the other language.

# %%
french, english = ["le", "chat", "noir", "dort"], ["the", "black", "cat", "sleeps"]
meanings = np.eye(4, dtype=np.float32)
memory, writing = array(meanings[None]), array(meanings[[0, 2, 1, 3]][None])

cross = lib.CrossAttention(query_dim=4, key_dim=4, embed_dim=4, bias=False, **NEW)
transfer({"q_proj.weight": 6 * meanings, "k_proj.weight": meanings, "v_proj.weight": meanings}, cross)
plots.alignment(cross(writing, memory).weights, french, english, title="English translated from French")

# %% [markdown]
# "black cat" and "chat noir" cross: the two sequences may have different word orders.
#
# ## Combining masks
#
# The sentences of a batch differ in length, so the shorter ones are padded. No query may attend to padding. Masks are
# boolean, and are combined with *and*.

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
# The decoder block of a Transformer has causal self-attention, then cross-attention to the encoder's output, then a
# feed-forward network. It returns the weights of both attentions.

# %%
block = fill(lib.EncoderDecoderAttention(embed_dim=12, num_heads=2, **NEW))
result = block(array(random[:, :3]), array(random))
for name, part in zip(result._fields, result, strict=True):
    print(f"{name:14}", tuple(part.shape))

# %% [markdown]
# Next: `self_attention.py`, `cross_attention.py` and `masks.py`.
#
# **Exercise.** Give `causal` the mask `lib.sliding_window_mask(6, window=2)`. Which words can "sat" still attend to?
# Which of the two heads does not change?
