"""Each implementation is as precise as the definition: at most twice its error against float64, in every dtype.

Errors are pooled over several random inputs: the largest and the root mean square, of outputs and of every gradient. An
implementation whose backward pass saves less than the definition's is compared with a definition that saves equally
little, without a tolerance of its own:

- Tiles (for rows longer than one tile) and the ring save the output of a row instead of its weights (`from_output`).
  The term subtracted from every score's gradient is then the output times its gradient, which rounds differently.
- Kernels of a framework also save only the logsumexp of a row, one float32 (`one_number`), and may round the weights
  and their gradients to the dtype of the values (`rounded_weights`).
"""

from functools import cache, partial

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch
import torch.distributed as dist
from jax.sharding import PartitionSpec

import jax_attention.ops as jax_ops
import torch_attention.ops as torch_ops
from jax_attention.ops import blockwise as jax_blockwise
from jax_attention.ops import call as jax_call
from jax_attention.ops.distributed import ring as jax_ring
from jax_attention.ops.distributed import shards as jax_shards
from jax_attention.ops.native import splash_attention
from jax_attention.sharding import make_mesh as jax_mesh
from torch_attention.ops import blockwise as torch_blockwise
from torch_attention.ops import tile_loop
from torch_attention.ops.call import checked_call
from torch_attention.ops.definition import call_scores, call_values, call_weights
from torch_attention.ops.distributed.ring import ring_part
from torch_attention.ops.distributed.shards import Shards
from torch_attention.sharding import make_mesh

pytestmark = pytest.mark.usefixtures("as_shipped")

BATCH, HEADS, KV_HEADS, QUERY, KEY, DIM = 2, 8, 4, 33, 47, 16
DRAWS = 12
FACTOR = 2.0
DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}
SCORES = {"ordinary": 1.0, "large": 30.0}  # standard deviations
LEARNED = ("bias", "sinks")


def options(name, rng):
    """The options of a call; a float32 bias stays float32 in every dtype."""
    mask = rng.random((BATCH, 1, QUERY, KEY)) < 0.6
    mask[0, 0, 3] = False
    bias, sinks = 3 * rng.standard_normal((1, HEADS, QUERY, KEY)), rng.standard_normal(HEADS)
    bias, sinks = bias.astype(np.float32), sinks.astype(np.float32)
    return {
        "all keys": {},
        "window": {"is_causal": True, "window": 20, "query_offset": 14},
        "mask": {"mask": mask},
        "softcap": {"softcap": 20.0},
        "bias": {"bias": bias},
        "sinks": {"sinks": sinks},
        "everything": {"bias": bias, "mask": mask, "softcap": 20.0, "sinks": sinks},
    }[name]


CASES = ("all keys", "window", "mask", "softcap", "bias", "sinks", "everything")


@cache
def drawn(name, dtype, scores, dim=DIM):
    """Differentiable arrays, options and cotangents of each random input."""
    found = []
    for seed in range(DRAWS):
        rng = np.random.default_rng(seed)
        query = SCORES[scores] * rng.standard_normal((BATCH, HEADS, QUERY, dim))
        key, value = rng.standard_normal((2, BATCH, KV_HEADS, KEY, dim))
        cotangent = rng.standard_normal(query.shape).astype(DTYPES[dtype])
        given = {"query": query, "key": key, "value": value}
        given = {word: x.astype(DTYPES[dtype]) for word, x in given.items()}
        rest = options(name, rng)
        given |= {word: rest.pop(word) for word in LEARNED if word in rest}
        found.append((given, rest, cotangent))
    return found


def to_torch(x):
    if not isinstance(x, np.ndarray):
        return x
    if x.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(x.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(np.array(x))


def in_torch(attend, given, rest, cotangent):
    """Output and gradients, as float64 numpy arrays."""
    leaves = {word: to_torch(x).requires_grad_() for word, x in given.items()}
    output = attend(**leaves, **{word: to_torch(x) for word, x in rest.items()})
    gradients = torch.autograd.grad(output, list(leaves.values()), to_torch(cotangent).to(output.dtype))
    found = {"output": output} | dict(zip(leaves, gradients, strict=True))
    return {word: x.detach().double().numpy() for word, x in found.items()}


def run_torch(attend, draws):
    return [in_torch(attend, *each) for each in draws]


def run_jax(attend, draws):
    """Output and gradients for every random input, from one compiled function."""
    fixed = {word: x for word, x in draws[0][1].items() if not isinstance(x, np.ndarray)}

    @jax.jit
    def both(given, rest, cotangent):
        output, pull = jax.vjp(lambda given: attend(**given, **rest, **fixed), given)
        return {"output": output} | pull(cotangent)[0]

    found = []
    for given, rest, cotangent in draws:
        rest = {word: x for word, x in rest.items() if word not in fixed}
        results = both(*jax.tree.map(jnp.asarray, (given, rest, cotangent)))
        found.append({word: np.asarray(x).astype(np.float64) for word, x in results.items()})
    return found


@cache
def truth(name, dtype, scores, dim=DIM):
    """The definition in float64."""
    attend = partial(torch_ops.dot_product_attention, implementation="reference")
    return [
        in_torch(
            attend, {word: x.astype(np.float64) for word, x in given.items()}, rest, cotangent.astype(float)
        )
        for given, rest, cotangent in drawn(name, dtype, scores, dim)
    ]


def pooled(found, right):
    """The largest error over all inputs and the root mean square, by array, relative to its largest value."""
    errors = {}
    for word in right[0]:
        each = [(f[word] - r[word]) / np.abs(r[word]).max() for f, r in zip(found, right, strict=True)]
        errors[word] = np.array([np.abs(each).max(), np.sqrt(np.square(each).mean())])
    return errors


class Narrow(torch.autograd.Function):
    """Round weights to a dtype, and their gradients in the backward pass."""

    @staticmethod
    def forward(ctx, weights, dtype):
        ctx.dtype = dtype
        return weights.to(dtype).to(weights.dtype)

    @staticmethod
    def backward(ctx, gradient):
        return gradient.to(ctx.dtype).to(gradient.dtype), None


class FromOutput(torch.autograd.Function):
    """Attention whose backward pass subtracts each row's output times its gradient instead of a mean over the weights.

    `narrow` is the dtype of weights and output. With `one_number`, the weights are recomputed from each row's
    logsumexp.
    """

    @staticmethod
    def forward(ctx, scores, value, narrow, one_number):
        log_sum = scores.logsumexp(-1, keepdim=True)
        weights = scores.softmax(-1).nan_to_num(0.0)
        output = (weights.to(narrow).to(scores.dtype) @ value).to(narrow).to(scores.dtype)
        again = (scores - log_sum).exp().nan_to_num(0.0) if one_number else weights
        ctx.save_for_backward(again, value, output)
        ctx.narrow = narrow
        return output

    @staticmethod
    def backward(ctx, gradient):
        weights, value, output = ctx.saved_tensors
        change = gradient @ value.mT - (gradient * output).sum(-1, keepdim=True)
        narrow, wide = (weights * change).to(ctx.narrow), weights.to(ctx.narrow).to(weights.dtype)
        return narrow.to(weights.dtype), wide.mT @ gradient, None, None


def rounded_weights(query, key, value, bias=None, mask=None, **rest):
    """The definition with weights in the dtype of the values."""
    call = checked_call(query, key, value, bias, mask, **rest)
    return call_values(call, Narrow.apply(call_weights(call), value.dtype))


def from_output(query, key, value, bias=None, mask=None, sinks=None, *, of_kernel=False, **rest):
    """The definition whose backward pass saves only the output and the values that recompute the weights."""
    scores, seen = call_scores(checked_call(query, key, value, bias, mask, **rest))
    scores = scores if seen is None else torch.where(seen, scores, -torch.inf)
    values = value.to(scores.dtype).repeat_interleave(HEADS // KV_HEADS, dim=-3)
    if sinks is not None:  # extra keys with values of zero
        scores = torch.cat([scores, sinks[:, None, None].expand(*scores.shape[:-1], 1)], -1)
        values = torch.cat([values, torch.zeros_like(values[..., :1, :])], -2)
    narrow = value.dtype if of_kernel else scores.dtype
    return FromOutput.apply(scores, values, narrow, of_kernel).to(value.dtype)


one_number = partial(from_output, of_kernel=True)


@cache
def allowed(mirror, name, dtype, scores, kept, dim=DIM):
    """The definition's errors in that dtype, or the larger errors of a definition that saves as little as a kernel."""
    draws, right = drawn(name, dtype, scores, dim), truth(name, dtype, scores, dim)
    if mirror == "torch":
        run = run_torch(partial(torch_ops.dot_product_attention, implementation="reference"), draws)
    else:
        run = run_jax(partial(jax_ops.dot_product_attention, implementation="reference"), draws)
    errors = pooled(run, right)
    for definition in kept:
        others = pooled(run_torch(definition, draws), right)
        errors = {word: np.maximum(errors[word], others[word]) for word in errors}
    return errors


def check(mirror, attend, name, dtype, scores, kept=(), dim=DIM):
    """Assert at most twice the definition's errors, forward and backward."""
    draws, right = drawn(name, dtype, scores, dim), truth(name, dtype, scores, dim)
    found = pooled((run_torch if mirror == "torch" else run_jax)(attend, draws), right)
    bounds = allowed(mirror, name, dtype, scores, kept, dim)
    ratios = {word: found[word] / bounds[word] for word in found}
    assert not (beyond := {word: ratio for word, ratio in ratios.items() if (ratio > FACTOR).any()}), beyond


def in_tiles(monkeypatch):
    """Set small tiles, so that a row has several."""
    for module in (torch_blockwise, jax_blockwise):
        monkeypatch.setattr(module, "ROWS", 32)
        monkeypatch.setattr(module, "COLUMNS", 16)


every_dtype = pytest.mark.parametrize("dtype", DTYPES)
every_size = pytest.mark.parametrize("scores", SCORES)
every_case = pytest.mark.parametrize("name", CASES)
IN_TORCH = {"default": (None, (one_number,)), "sdpa": ("sdpa", (one_number,)), "blockwise": ("blockwise", ())}


def check_torch(implementation, name, dtype, scores):
    asked, kept = IN_TORCH[implementation]
    rest = options(name, np.random.default_rng(0))
    refused = {"softcap", "sinks"} & {*rest} or ("bias" in rest and dtype != "float32")
    if implementation == "sdpa" and refused:
        return
    attend = partial(torch_ops.dot_product_attention, implementation=asked)
    check("torch", attend, name, dtype, scores, kept if dtype == "float32" and not refused else ())


@pytest.mark.parametrize("implementation", IN_TORCH)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["mask", "everything"])
def test_torch_is_as_precise_as_the_definition_at_large_scores(implementation, name, dtype):
    check_torch(implementation, name, dtype, "large")


@pytest.mark.parametrize("name", ["everything"])
def test_jax_tiles_are_as_precise_as_the_definition_at_large_scores(name):
    attend = partial(jax_ops.dot_product_attention, implementation="blockwise")
    check("jax", attend, name, "bfloat16", "large")


def test_statistics_in_16_bits_are_detected(monkeypatch):
    attend = partial(torch_ops.dot_product_attention, implementation="blockwise")
    check("torch", attend, "mask", "bfloat16", "ordinary")
    monkeypatch.setattr(tile_loop, "at_least_float32", lambda x: x)
    with pytest.raises(AssertionError):
        check("torch", attend, "mask", "bfloat16", "ordinary")


def test_output_rounded_before_its_gradient_is_detected():
    with pytest.raises(AssertionError, match="query"):
        check("torch", one_number, "mask", "bfloat16", "large")


@pytest.mark.survey
@every_case
@every_size
@every_dtype
class TestTorch:
    @pytest.mark.parametrize("implementation", IN_TORCH)
    def test_one_tile(self, implementation, name, dtype, scores):
        check_torch(implementation, name, dtype, scores)

    def test_in_tiles(self, name, dtype, scores, monkeypatch):
        in_tiles(monkeypatch)
        attend = partial(torch_ops.dot_product_attention, implementation="blockwise")
        check("torch", attend, name, dtype, scores, (from_output,))

    def test_ring(self, name, dtype, scores, tmp_path):
        dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
        try:
            shards = Shards(make_mesh({"sequence": 1}), (), (), 0)

            def ring(query, key, value, bias=None, mask=None, **rest):
                return ring_part(checked_call(query, key, value, bias, mask, **rest), shards=shards)

            check("torch", ring, name, dtype, scores, (from_output,))
        finally:
            dist.destroy_process_group()


@pytest.mark.survey
@pytest.mark.parametrize("name", ["window", "bias", "everything"])
@every_size
@every_dtype
class TestJax:
    def test_in_tiles(self, name, dtype, scores, monkeypatch):
        in_tiles(monkeypatch)
        attend = partial(jax_ops.dot_product_attention, implementation="blockwise")
        check("jax", attend, name, dtype, scores, (from_output,))

    def test_xla(self, name, dtype, scores):
        if {"softcap", "sinks"} & {*options(name, np.random.default_rng(0))}:
            return  # these kernels reject it
        attend = partial(jax_ops.dot_product_attention, implementation="xla")
        check("jax", attend, name, dtype, scores, () if dtype == "float32" else (rounded_weights,))

    def test_ring(self, name, dtype, scores):
        mesh = jax_mesh({"sequence": 1})

        def ring(**given):
            def part(given):
                call = jax_call.checked_call(**given, **fixed)
                return jax_ring.ring_part(call, shards=jax_shards.Shards(mesh, (), (), "sequence"))

            fixed = {word: given.pop(word) for word in [*given] if not isinstance(given[word], jax.Array)}
            return jax.shard_map(
                part, mesh=mesh, in_specs=PartitionSpec(), out_specs=PartitionSpec(), check_vma=False
            )(given)

        check("jax", ring, name, dtype, scores, (from_output,))


@pytest.mark.survey
@every_size
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["all keys", "window", "softcap"])
def test_splash_interpreted(name, dtype, scores):
    def splash(**given):
        return splash_attention(jax_call.checked_call(**given), interpret=True)

    with jax.default_matmul_precision("default"):
        check("jax", splash, name, dtype, scores, (rounded_weights, one_number), dim=64)
