"""What takes longer: code that the compilers generate, and sizes that people use."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from flax import nnx

import jax_attention
import torch_attention
from attention_bridge.catalogue import CATALOGUE, Mechanism
from attention_bridge.parity.comparison import assert_parity, error
from attention_bridge.parity.instances import cases, inputs, torch_module
from attention_bridge.parity.run import is_float, named_outputs
from attention_bridge.weights import transfer

pytestmark = pytest.mark.slow
ONE_OF_EACH_FAMILY = {mechanism.family: mechanism for mechanism in reversed(CATALOGUE)}.values()
CHECKED = hasattr(torch_attention.SelfAttention.forward, "__wrapped__")


@pytest.mark.skipif(
    CHECKED, reason="shape checks wrap every function, too many for the compiler: `make test-slow`"
)
@pytest.mark.filterwarnings("ignore")  # the code generator's own
@pytest.mark.parametrize("mechanism", ONE_OF_EACH_FAMILY, ids=lambda mechanism: mechanism.name)
def test_generated_code_equals_eager(mechanism: Mechanism) -> None:
    given = {
        name: torch.from_numpy(x.astype(np.float32) if is_float(x) else x)
        for name, x in inputs(mechanism, cases(mechanism, "float32")[-1]).items()
        if name != "dropout_keep"
    }
    module = torch_module(mechanism, "float32")
    for need_weights in (True, False):
        torch.compiler.reset()
        ours = named_outputs(
            torch.compile(module, fullgraph=True)(**given, **mechanism.options(need_weights))
        )
        for name, x in named_outputs(module(**given, **mechanism.options(need_weights))).items():
            assert error(ours[name].detach().numpy(), x.detach().numpy()) < 2e-6, name


@pytest.mark.parametrize("need_weights", [True, False])
def test_a_layer_of_the_size_of_bert_is_the_same_in_both(
    rng: np.random.Generator, need_weights: bool
) -> None:
    embed_dim, num_heads, length = 768, 12, 197
    ours = torch_attention.MultiHeadSelfAttention(embed_dim, num_heads)
    theirs = jax_attention.MultiHeadSelfAttention(embed_dim, num_heads, rngs=nnx.Rngs(0))
    x = rng.standard_normal((2, length, embed_dim)).astype(np.float32)
    mask = rng.random((2, 1, length, length)) < 0.9
    assert_parity(ours, transfer(ours, theirs), x, mask, need_weights=need_weights)


CHUNKED = """
from benchmarks.linear import FORMS, run_jax
for form in FORMS:
    if not form.is_quadratic:
        run_jax(form, 128, "forward + backward")()
        print(form.mechanism)
"""


def test_chunked_forms_of_usual_sizes_run_in_jax_as_users_compile_them() -> None:
    environment = {name: x for name, x in os.environ.items() if name != "XLA_FLAGS"}  # those of the tests
    done = subprocess.run(
        [sys.executable, "-c", CHUNKED], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "KimiDeltaAttention" in done.stdout
