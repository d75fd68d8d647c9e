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
# # Porting weights
#
# You port a layer from one framework to the other, check that both compute the same, break the port on purpose, and
# diagnose the mistake. The main points: a port is a table of names and axes, and a parity check is an error with a
# bound.
#
# This notebook needs both frameworks. `FRAMEWORK` is the one that the weights are ported **to**.

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
# All comparisons in this notebook run on the CPU, even if there is another device.

# %%
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import torch
from flax import nnx

import jax_attention.models
import torch_attention.models
from attention_bridge.doctor import Setting, diagnose
from attention_bridge.errors import ConversionError
from attention_bridge.parity.comparison import assert_parity, compare
from attention_bridge.pretrained import load_pretrained, save_pretrained
from attention_bridge.weights import explain, plan
from jax_attention.demonstration import fill as fill_jax
from torch_attention.demonstration import fill as fill_torch

jax.config.update("jax_default_matmul_precision", "highest")
torch.set_float32_matmul_precision("highest")
torch.set_grad_enabled(False)
torch.set_default_device("cpu")
jax.config.update("jax_default_device", jax.devices("cpu")[0])
array = torch.tensor if FRAMEWORK == "torch" else jnp.asarray
words = ["the", "cat", "sat", "still", "."]
x = np.random.default_rng(0).standard_normal((2, 5, 12)).astype(np.float32)

# %% [markdown]
# ## The same layer in two layouts
#
# A linear layer computes $x W + b$. PyTorch stores $W^\top$, `(out, in)`; Flax stores $W$, `(in, out)`. In addition,
# `torch.nn.MultiheadAttention` packs the projections of queries, keys and values into one matrix, and Flax's attention
# has a separate axis for heads. Here is a layer of the other framework, with random biases.

# %%
if FRAMEWORK == "jax":
    layout, source = "torch.mha", fill_torch(torch.nn.MultiheadAttention(12, num_heads=3, batch_first=True))
    named = dict(source.named_parameters())
else:
    layout, source = "flax.nnx.mha", nnx.MultiHeadAttention(3, 12, decode=False, rngs=nnx.Rngs(0))
    fill_jax(source)
    named = {".".join(path): leaf for path, leaf in nnx.to_flat_state(nnx.state(source, nnx.Param))}
for name, leaf in named.items():
    print(f"{name:20} {tuple(leaf.shape)}")

# %% [markdown]
# ## The plan, then the transfer
#
# Each rule is an axis pattern that works in both directions. `plan` lists the conversions without doing them, and
# `explain` describes them in words.

# %%
target = lib.MultiHeadSelfAttention(embed_dim=12, num_heads=3, **NEW)
report = plan(source, target, source_layout=layout)
print(report)
print()
print(explain(report))

# %% [markdown]
# `transfer` copies the weights. It uses every tensor of the source once and fills every tensor of the target, bit for
# bit. If it cannot, it writes nothing and raises an error with the reason.

# %%
transfer(source, target, source_layout=layout)
if FRAMEWORK == "jax":
    given = torch.tensor(x)
    expected = source(given, given, given)[0]
else:
    expected = source(jnp.asarray(x))
output, weights = target(array(x))
print(f"error {error(numbers(output), numbers(expected).astype(np.float64)):.1e}")
assert np.allclose(numbers(output), numbers(expected), atol=1e-5)

# %%
try:
    too_wide = lib.MultiHeadSelfAttention(embed_dim=16, num_heads=4, **NEW)
    transfer(source, too_wide, source_layout=layout)
except ConversionError as refusal:
    print(str(refusal).splitlines()[0])

# %% [markdown]
# ## The parity check
#
# One output that looks right proves little. `assert_parity` compares outputs, attention weights **and all gradients**
# with a reference in float64. It allows the error that rounding explains, $4u\sqrt{n}$, and names the first tensor with
# a larger error. `compare` returns the figures.

# %%
torch_module = torch_attention.MultiHeadSelfAttention(embed_dim=12, num_heads=3)
jax_module = jax_attention.MultiHeadSelfAttention(embed_dim=12, num_heads=3, rngs=nnx.Rngs(0))
transfer(source, torch_module.eval(), source_layout=layout)
transfer(source, jax_module, source_layout=layout)
jax_module.eval()
assert_parity(torch_module, jax_module, x)
for line in compare(torch_module, jax_module, x)[:5]:
    print(line)

# %%
tensor = torch.tensor(x)
both = [
    numbers(module)[0, 1] for module in (torch_module(tensor).weights, jax_module(jnp.asarray(x)).weights)
]
plots.comparison(*both, words, title="One head, in both frameworks")

# %% [markdown]
# ## Broken on purpose
#
# A square matrix has the right shape even if it is not transposed. No error is raised, but the numbers are wrong. The
# parity check finds the mistake and its location.

# %%
jax_module.k_proj.kernel[...] = jax_module.k_proj.kernel[...].T
try:
    assert_parity(torch_module, jax_module, x)
    raise RuntimeError("the parity check must fail here")
except AssertionError as failure:
    print(str(failure).splitlines()[0])

# %% [markdown]
# ## The doctor
#
# The doctor takes the reference's weights and outputs, and the port's outputs. It simulates all mistakes that it knows,
# and names the one that gives the port's outputs.

# %%
hub = {name: numbers(weight) for name, weight in torch_module.state_dict().items()}
reference = numbers(torch_module(tensor).output)
wrong = numbers(jax_module(jnp.asarray(x)).output)
print(diagnose(reference, wrong, x=x, weights=hub, setting=Setting(num_heads=3)).verdict)

# %%
swapped = {**hub, "q_proj.weight": hub["k_proj.weight"], "k_proj.weight": hub["q_proj.weight"]}
swapped |= {"q_proj.bias": hub["k_proj.bias"], "k_proj.bias": hub["q_proj.bias"]}
other = transfer(swapped, torch_attention.MultiHeadSelfAttention(embed_dim=12, num_heads=3))
wrong = numbers(other(tensor).output)
print(diagnose(reference, wrong, x=x, weights=hub, setting=Setting(num_heads=3)).verdict)

# %% [markdown]
# ## Whole models, through a file
#
# Save a model with its configuration, and load it into the other framework. `load_pretrained` loads directories of
# Hugging Face's transformers in the same way, by their `config.json`: BERT, GPT-2, Llama, Mistral, Qwen, Gemma, T5,
# Whisper, ViT, CLIP and others.

# %%
sizes = {"embed_dim": 48, "num_heads": 4, "num_layers": 2, "ffn_dim": 96, "max_len": 32}
if FRAMEWORK == "jax":
    config = torch_attention.models.DecoderConfig(vocab_size=100, **sizes)
    written = fill_torch(torch_attention.models.Decoder(config))
    tokens, put = torch.tensor([[7, 8, 9]]), jnp.asarray([[7, 8, 9]])
else:
    config = jax_attention.models.DecoderConfig(vocab_size=100, **sizes)
    written = fill_jax(jax_attention.models.Decoder(config, rngs=nnx.Rngs(0)))
    tokens, put = jnp.asarray([[7, 8, 9]]), torch.tensor([[7, 8, 9]])

with tempfile.TemporaryDirectory() as directory:
    save_pretrained(written, directory)
    print("written:", ", ".join(sorted(path.name for path in Path(directory).iterdir())))
    read = load_pretrained(directory, framework=FRAMEWORK)

before, after = numbers(written(tokens).output), numbers(read(put).output)
print(
    f"{type(written).__module__} -> {type(read).__module__}: error {error(after, before.astype(np.float64)):.1e}"
)
assert error(after, before.astype(np.float64)) < 1e-5

# %% [markdown]
# The command `attention-bridge convert` converts files tensor by tensor, without a model.
#
# **Exercise.** In a copy of `hub`, set one bias to zero and give the doctor the outputs. Then change two things at
# once. When does it report that it cannot distinguish several mistakes, and which inputs would help then?
