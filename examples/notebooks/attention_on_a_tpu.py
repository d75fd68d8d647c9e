# ---
# jupyter:
#   accelerator: TPU
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
# # Attention on a TPU
#
# In Colab: Runtime → Change runtime type → a TPU, and `FRAMEWORK = "jax"` below. Every cell also runs on a CPU or a
# GPU; the text describes the differences. The main points: a TPU multiplies in pieces of 8 bits, you can choose and
# measure the precision, and a timing is only valid after the device has finished.
#
# PyTorch needs the package torch_xla for a TPU, which this notebook does not use. With `FRAMEWORK = "torch"` the cells
# run on the GPU if there is one, else on the CPU.

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
# ## The device

# %%
if FRAMEWORK == "jax":
    platform = jax.default_backend()
    for one in jax.devices():
        print(one.id, one.platform, one.device_kind)
else:
    platform = device.type
    print(
        device, torch.cuda.get_device_name() if platform == "cuda" else f"{torch.get_num_threads()} threads"
    )

# %% [markdown]
# ## A causal module, compared with float64
#
# The same module runs on every device. How large is its error? The package has a float64 reference of each mechanism,
# written in NumPy from the paper. The error is
#
# $$ \mathrm{err} = \frac{\max |x - x_{64}|}{\max |x_{64}|} $$

# %%
from attention_bridge.oracles.self_attention import causal_self_attention

EMBED, HEADS = 128, 2
rng = np.random.default_rng(0)
named = {}
for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
    named[f"{name}.weight"] = (rng.standard_normal((EMBED, EMBED)) / np.sqrt(EMBED)).astype(np.float32)
    named[f"{name}.bias"] = (0.1 * rng.standard_normal(EMBED)).astype(np.float32)
x = rng.standard_normal((1, 64, EMBED)).astype(np.float32)

module = transfer(named, lib.CausalSelfAttention(EMBED, HEADS, **NEW))
output, weights = module(array(x))
wide = {name: weight.astype(np.float64) for name, weight in named.items()}
exact, exact_weights = causal_self_attention(wide, x.astype(np.float64), num_heads=HEADS)
print(f"output {error(numbers(output), exact):.1e}, weights {error(numbers(weights), exact_weights):.1e}")
print(f"rounding in float32 explains {tolerances('float32', 4 * EMBED + x.size)['output']:.1e}")

# %%
plots.head_grid(weights, title=f"Two causal heads, computed on {platform}")

# %% [markdown]
# ## How a TPU multiplies
#
# A float32 has 24 significant bits, a bfloat16 has 8. The matrix unit of a TPU multiplies bfloat16 numbers and sums in
# float32. To multiply float32 numbers, it splits each into pieces of 8 bits, $x = x_1 + x_2 + x_3$:
#
# | `precision` | passes | products |
# |---|---|---|
# | `default` | 1 | $x_1 y_1$ |
# | `high` | 3 | also $x_1 y_2 + x_2 y_1$ |
# | `highest` | 6 | also $x_2 y_2 + x_1 y_3 + x_3 y_1$ |
#
# NumPy can emulate these passes on any machine, so you can see a TPU's results without a TPU.

# %%
import ml_dtypes


def pieces(x):
    """Split float32 numbers into three bfloat16 numbers that sum to them, the largest first."""
    found = []
    for _ in range(3):
        found.append(x.astype(ml_dtypes.bfloat16).astype(np.float32))
        x = x - found[-1]
    return found


PASSES = {"default": [(0, 0)], "high": [(0, 1), (1, 0)], "highest": [(1, 1), (0, 2), (2, 0)]}
left, right = rng.standard_normal((2, 256, 256)).astype(np.float32)
exact_product = left.astype(np.float64) @ right.astype(np.float64)
emulated, total = {}, np.zeros_like(left)
for precision, pairs in PASSES.items():
    total = total + sum(pieces(left)[i] @ pieces(right)[j] for i, j in pairs)
    emulated[precision] = error(total, exact_product)
    print(f"{precision:8} {emulated[precision]:.1e}")
assert emulated["default"] > 100 * emulated["high"]
assert emulated["high"] > 4 * emulated["highest"]

# %% [markdown]
# Three passes reduce the error by a factor of a few hundred. Six passes gain less, because the float32 sums limit the
# precision. Now measure the device. In JAX the precision is an argument; in PyTorch it is a setting with the names
# `medium`, `high` and `highest`.

# %%
for precision in PASSES:
    if FRAMEWORK == "jax":
        product = jnp.matmul(array(left), array(right), precision=precision)
    else:
        torch.set_float32_matmul_precision("medium" if precision == "default" else precision)
        product = array(left) @ array(right)
        torch.set_float32_matmul_precision("highest")
    measured = error(numbers(product), exact_product)
    print(f"{precision:8} here, on {platform}: {measured:.1e}   a TPU's passes: {emulated[precision]:.1e}")

# %% [markdown]
# On a TPU both columns are similar. On a GPU `default` or `high` may mean TF32, which has 11 bits. On most CPUs all
# three lines are equal, because a CPU multiplies float32 directly. So **a test of precision on a CPU proves nothing
# about a TPU**.
#
# ## The effect on attention
#
# Attention consists of matrix products with a softmax between them, and the softmax turns an absolute error of the
# scores into a relative error of the weights. Here is the whole module at each precision, and with weights and inputs
# in bfloat16.

# %%
found = {}
for precision in PASSES:
    if FRAMEWORK == "jax":
        with jax.default_matmul_precision(precision):
            found[precision] = module(array(x)).output
    else:
        torch.set_float32_matmul_precision("medium" if precision == "default" else precision)
        found[precision] = module(array(x)).output
        torch.set_float32_matmul_precision("highest")

if FRAMEWORK == "jax":
    half, cast = {"dtype": jnp.bfloat16, "param_dtype": jnp.bfloat16}, jnp.bfloat16
else:
    half, cast = {"dtype": torch.bfloat16}, torch.bfloat16
short = {name: weight.astype(ml_dtypes.bfloat16) for name, weight in named.items()}
small = transfer(short, lib.CausalSelfAttention(EMBED, HEADS, **NEW, **half))
found["bfloat16"] = small(array(x, dtype=cast)).output
for name, output in found.items():
    print(f"{name:9} error against float64 {error(numbers(output), exact):.1e}")

# %% [markdown]
# For training, bfloat16 is usual and fast. For **parity**, that is, to show that two programs compute the same, use
# `highest`: otherwise the device's rounding hides all smaller mistakes.
#
# ## Splash attention
#
# The scores of $n$ words are $n^2$ numbers. A fused kernel never stores them all: it iterates over tiles of keys, keeps
# a running maximum $m$ and sum $\ell$, and rescales its partial results when the maximum grows:
#
# $$ m' = \max(m, \max_j s_j), \quad \ell' = e^{m - m'} \ell + \sum_j e^{s_j - m'}, \quad
#    o' = e^{m - m'} o + \sum_j e^{s_j - m'} v_j $$
#
# On a TPU that kernel is **splash attention**, short for sparse flash attention: it knows the mask in advance and skips
# tiles that are fully masked. It needs heads of 64 features or a multiple of 128. With `need_weights=False`, or through
# `dot_product_attention`, long sequences use it automatically.
#
# Here are all implementations, by name, for one causal call. An implementation that does not support the call raises an
# error with the reason.

# %%
from attention_bridge.oracles.common import dot_product_attention

known = importlib.import_module(f"{FRAMEWORK}_attention.ops.dispatch").IMPLEMENTATIONS
names = [
    name for name in known if name not in ("flex", "splash")
]  # without flex, which needs a minute to compile
if FRAMEWORK == "jax":
    from jax_attention.ops.native import SPLASH, splash_attention

    names.append("splash")
    if platform != "tpu":  # interpret mode: slow, but with the steps of the kernel
        known["splash"] = SPLASH._replace(run=partial(splash_attention, interpret=True))

query, key, value = rng.standard_normal((3, 1, 2, 256, 64)).astype(np.float32)
right, _ = dot_product_attention(*(x.astype(np.float64) for x in (query, key, value)), is_causal=True)
given = [array(x) for x in (query, key, value)]
for name in names:
    try:
        result = lib.ops.dot_product_attention(*given, is_causal=True, implementation=name)
        print(f"{name:10} error against float64 {error(numbers(result), right):.1e}")
    except NotImplementedError as refusal:
        print(f"{name:10} {refusal}")

# %% [markdown]
# ## Correct timing
#
# There are two traps. The **first call** compiles, so it is much slower than the second. And a device works
# **asynchronously**: a call returns as soon as the work is queued. Stop the clock only when the result is ready: use
# `block_until_ready` in JAX, and `torch.cuda.synchronize` in PyTorch on a GPU (on the CPU PyTorch always waits).

# %%
import time

layer = lib.CausalSelfAttention(256, 4, **NEW)
batch = array(rng.standard_normal((2, 512, 256)).astype(np.float32))


def wait(result):
    """Wait until the device has finished."""
    if FRAMEWORK == "jax":
        result.block_until_ready()
    elif platform == "cuda":
        torch.cuda.synchronize()


def milliseconds(function, wait_for_it=True, repeats=5):
    """The median time of a call, after one warm-up call."""
    wait(function())
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = function()
        if wait_for_it:
            wait(result)
        times.append(1000 * (time.perf_counter() - start))
        wait(result)
    return sorted(times)[repeats // 2]


calls = {"with weights": lambda: layer(batch).output}
if FRAMEWORK == "jax":
    graph, state = nnx.split(layer)
    compiled = jax.jit(lambda state, x: nnx.merge(graph, state)(x, need_weights=False).output)
    start = time.perf_counter()
    wait(compiled(state, batch))
    print(f"first call of jit, compiling: {1000 * (time.perf_counter() - start):8.1f} ms")
    calls["need_weights=False, jit"] = lambda: compiled(state, batch)
else:
    calls["need_weights=False"] = lambda: layer(batch, need_weights=False).output

print(f"{'':24} {'not waited for':>15} {'waited for':>12}   (ms, on {platform})")
for name, call in calls.items():
    print(f"{name:24} {milliseconds(call, wait_for_it=False):15.2f} {milliseconds(call):12.2f}")

# %% [markdown]
# The first column is the time to **queue** the work, the second the time until the **result** is ready. The larger the
# gap, the more misleading a benchmark that does not wait.
#
# ## Comparison of TPU and CPU
#
# | | TPU | CPU |
# |---|---|---|
# | float32 products by default | one pass of bfloat16 | float32 |
# | `highest` | six passes, close to float32 | no change |
# | float64 | not in hardware, slow | native; JAX needs `jax_enable_x64` |
# | long sequences, `need_weights=False` | splash attention | blockwise attention, or PyTorch's fused kernel |
# | sizes | multiples of 128 use the full vector width | any |
# | compilation | always, once per shape | the same with `jit` |
#
# So check parity with `highest` or on the CPU, train in bfloat16, and pad to few different shapes.
#
# **Exercise.** Plot the error of `emulated` products against the length of the sum, from 16 to 4096, for one pass and
# for six passes. Which one grows like $\sqrt{n}$?
