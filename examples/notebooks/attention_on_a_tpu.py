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
# GPU, and says what differs there. What you should see: a TPU multiplies in pieces of 8 bits, precision is a choice
# that you can measure, and a time means nothing until the device has finished.
#
# PyTorch reaches a TPU through a package of its own, torch_xla, which is not used here: with `FRAMEWORK = "torch"` the
# cells run on the GPU if there is one, else on the CPU.

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
# ## A causal module, against float64
#
# The same module runs on whatever is there. How wrong is it? The package has each mechanism a second time, in numpy
# and float64, written from the paper. The measure is
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
plots.head_grid(weights, title=f"Two causal heads, made on {platform}")

# %% [markdown]
# ## How a TPU multiplies
#
# A float32 has 24 significant bits, a bfloat16 has 8. The matrix unit of a TPU multiplies bfloat16 and sums in
# float32. For a product of float32, each number is cut into pieces, $x = x_1 + x_2 + x_3$, of 8 bits each:
#
# | `precision` | passes | products |
# |---|---|---|
# | `default` | 1 | $x_1 y_1$ |
# | `high` | 3 | and $x_1 y_2 + x_2 y_1$ |
# | `highest` | 6 | and $x_2 y_2 + x_1 y_3 + x_3 y_1$ |
#
# Numpy can do the same anywhere, so you can see what a TPU computes without one.

# %%
import ml_dtypes


def pieces(x):
    """Cut float32 into three bfloat16 numbers that sum to it, the largest first."""
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
# Three passes gain a factor of some hundreds. Six gain less, for now float32 itself is the limit, in which the sums are
# taken. Now the device. In JAX the precision is
# an argument; in PyTorch it is a setting, with the names `medium`, `high` and `highest`.

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
# On a TPU both columns are alike. On a GPU `default` or `high` may mean TF32, whose 11 bits lie between. On most CPUs
# all three lines are the same: a CPU multiplies float32 as it is, so **a test of precision on a CPU proves nothing
# about a TPU**.
#
# ## What it does to attention
#
# Attention is matrix products with a softmax between, and a softmax turns an absolute error of scores into a
# relative one of weights. Here the whole module at each precision, and with weights and inputs in bfloat16.

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
# For training, bfloat16 is the rule, and it is fast. For **parity**, that is to prove that two programs compute the
# same, ask for `highest`: otherwise the device's rounding hides every smaller mistake.
#
# ## Splash attention
#
# The scores of $n$ words are $n^2$ numbers. A fused kernel never writes them down: it walks over tiles of keys, keeps
# a running maximum $m$ and sum $\ell$, and corrects what it has when the maximum grows:
#
# $$ m' = \max(m, \max_j s_j), \quad \ell' = e^{m - m'} \ell + \sum_j e^{s_j - m'}, \quad
#    o' = e^{m - m'} o + \sum_j e^{s_j - m'} v_j $$
#
# On a TPU that kernel is **splash attention**, short for sparse flash: it knows the mask beforehand, and skips tiles
# that it hides. It wants heads of 64 features or a multiple of 128. Called with `need_weights=False`, or through
# `dot_product_attention`, long sequences take it by themselves.
#
# Here are the implementations by their names, for one causal call. One that cannot do the call says why.

# %%
from attention_bridge.oracles.common import dot_product_attention

known = importlib.import_module(f"{FRAMEWORK}_attention.ops.dispatch").IMPLEMENTATIONS
names = [
    name for name in known if name not in ("flex", "splash")
]  # flex would be compiled first, for a minute
if FRAMEWORK == "jax":
    from jax_attention.ops.native import SPLASH, splash_attention

    names.append("splash")
    if platform != "tpu":  # simulated, slowly, but with the kernel's own steps
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
# ## Timing honestly
#
# Two traps. The **first call** compiles; it is not the speed of the second. And a device works **asynchronously**: a
# call returns as soon as the work is queued. Stop the clock only when the result is there: `block_until_ready` in
# JAX, `torch.cuda.synchronize` in PyTorch on a GPU (on the CPU PyTorch waits by itself).

# %%
import time

layer = lib.CausalSelfAttention(256, 4, **NEW)
batch = array(rng.standard_normal((2, 512, 256)).astype(np.float32))


def wait(result):
    """Return when the device has finished."""
    if FRAMEWORK == "jax":
        result.block_until_ready()
    elif platform == "cuda":
        torch.cuda.synchronize()


def milliseconds(function, wait_for_it=True, repeats=5):
    """The median time of a call, after one that is not counted."""
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
# The first column is the time to **ask**, the second the time to **get**. The larger the gap, the more a careless
# benchmark flatters.
#
# ## On a CPU, then
#
# | | TPU | CPU |
# |---|---|---|
# | float32 products by default | one pass of bfloat16 | float32 |
# | `highest` | six passes, near float32 | changes nothing |
# | float64 | not in hardware, slow | native; JAX needs `jax_enable_x64` |
# | long sequences, `need_weights=False` | splash attention | tiles of this library's own, or PyTorch's fused kernel |
# | sizes | multiples of 128 fill its lanes | any |
# | compiling | always, once for every shape | the same with `jit` |
#
# So prove parity in `highest` or on the CPU, train in bfloat16, and pad to few shapes.
#
# **Exercise.** Draw the error of `emulated` products against the length of the sum, from 16 to 4096, for one pass and
# for six. Which grows like $\sqrt{n}$?
