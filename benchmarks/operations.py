"""`dot_product_attention` compared with the frameworks' own functions."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import torch
import torch.nn.functional as F
from torch.nn.attention import flex_attention as flex

import jax_attention.ops
import torch_attention.ops
from attention_bridge.weights.leaves import to_torch
from benchmarks.machine import bound_ms
from benchmarks.side_by_side import Contest, Run

TOLERANCE = {"float32": 2e-5, "bfloat16": 4e-2}


@dataclass(frozen=True)
class Case:
    """One call of attention on a batch of one; by default forward only, in float32.

    Attributes:
        length: number of queries and of keys.
        heads: number of query heads.
        kv_heads: number of key/value heads.
        head_dim: features of a head.
        is_causal: whether each query attends only to its own and earlier positions.
        window: number of visible keys, including the query's own; None for no limit.
        dtype: name of the dtype of queries, keys and values.
        backward: whether gradients of queries, keys and values are also computed.
    """

    length: int
    heads: int = 8
    kv_heads: int = 8
    head_dim: int = 64
    is_causal: bool = False
    window: int | None = None
    dtype: str = "float32"
    backward: bool = False

    def __str__(self) -> str:
        heads = f"{self.heads}" if self.heads == self.kv_heads else f"{self.heads}/{self.kv_heads}"
        kind = "causal" if self.is_causal else "all keys"
        kind = kind if self.window is None else f"window {self.window}"
        direction = "forward + backward" if self.backward else "forward"
        return f"{self.length} × {heads} × {self.head_dim}, {kind}, {self.dtype}, {direction}"

    @property
    def pairs(self) -> float:
        """The number of unmasked pairs of a query and a key, over all heads."""
        reach = self.length if self.window is None else min(self.window, self.length)
        hidden = reach * (reach - 1) / 2 if self.is_causal else 0
        return self.heads * (self.length * reach - hidden)


def cases(quick: bool) -> list[Case]:
    """The cases of the report; with `quick` a few short ones."""
    lengths = (128, 1000) if quick else (128, 256, 512, 1000, 1024, 2048, 3001, 4096, 8192)
    both = (False, True)
    found = [Case(n, is_causal=c, backward=b) for n in lengths for c in both for b in both]
    if not quick:
        found += [Case(n, head_dim=80, is_causal=True, backward=b) for n in (1024, 4096) for b in both]
        found += [Case(n, kv_heads=2, is_causal=True, backward=b) for n in (1024, 4096) for b in both]
        found += [Case(n, is_causal=True, dtype="bfloat16", backward=b) for n in (1024, 4096) for b in both]
    windows = (1000,) if quick else (2048, 8192)
    return found + [Case(n, is_causal=True, window=256, backward=b) for n in windows for b in both]


def contest(case: Case) -> Contest:
    """All implementations that can compute a case."""
    options = {"is_causal": case.is_causal, "window": case.window}
    ours = {
        "torch": torch_run(case, partial(torch_attention.ops.dot_product_attention, **options)),
        "jax": jax_run(case, partial(jax_attention.ops.dot_product_attention, **options)),
    }
    peers: dict[tuple[str, str], Run] = {
        ("torch", "torch scaled_dot_product_attention"): torch_run(case, sdpa(case)),
    }
    if case.length < 8192 or not case.backward:  # else one of its runs takes half a minute
        peers["jax", "jax.nn.dot_product_attention"] = jax_run(case, jax_nn(case))
    plain = case.window is None and case.dtype == "float32"
    if plain and case.is_causal and not case.backward and case.length in (1024, 4096):
        peers["torch", "torch flex_attention, compiled"] = torch_run(case, compiled_flex(case))
    if plain and case.length in (1024, 4096) and find_spec("tokamax"):
        peers["jax", "tokamax, XLA in chunks"] = jax_run(case, tokamax_chunked(case))
    bound = bound_ms(case.pairs, case.head_dim, case.backward) if case.dtype == "float32" else None
    return Contest(str(case), ours, peers, TOLERANCE[case.dtype], bound)


def contests(quick: bool, only: str) -> Iterator[Contest]:
    """Yield one contest for each case whose description contains `only`."""
    return (contest(case) for case in cases(quick) if only in str(case))


def numbers(case: Case) -> list[np.ndarray]:
    """Normal random queries, keys and values."""
    rng = np.random.default_rng(case.length)
    shapes = [(1, heads, case.length, case.head_dim) for heads in (case.heads, case.kv_heads, case.kv_heads)]
    dtype = getattr(ml_dtypes, case.dtype, case.dtype)
    return [rng.standard_normal(shape, np.float32).astype(dtype, copy=False) for shape in shapes]


def torch_run(case: Case, attend: Callable[..., torch.Tensor]) -> Run:
    """A run in PyTorch, ready for timing."""
    given = [to_torch(x) for x in numbers(case)]

    def forward() -> list[torch.Tensor]:
        with torch.no_grad():
            return [attend(*given)]

    def both() -> list[torch.Tensor]:
        leaves = [x.requires_grad_() for x in given]
        output = attend(*leaves)
        return [output.detach(), *torch.autograd.grad(output.sum(), leaves)]

    return both if case.backward else forward


def jax_function(case: Case, attend: Callable[..., jax.Array]) -> Callable[..., list[jax.Array]]:
    """The function of a case in JAX: returns the output, and the gradients if the case has `backward`."""

    def total(*given: jax.Array) -> tuple[jax.Array, jax.Array]:
        output = attend(*given)
        return output.astype(jnp.float32).sum(), output

    def both(*given: jax.Array) -> list[jax.Array]:
        gradients, output = jax.grad(total, argnums=(0, 1, 2), has_aux=True)(*given)
        return [output, *gradients]

    return both if case.backward else lambda *given: [attend(*given)]


def jax_run(case: Case, attend: Callable[..., jax.Array]) -> Run:
    """A compiled run in JAX, ready for timing."""
    given = [jnp.asarray(x) for x in numbers(case)]
    run = jax.jit(jax_function(case, attend))
    return lambda: jax.block_until_ready(run(*given))


def sdpa(case: Case) -> Callable[..., torch.Tensor]:
    """PyTorch's fused kernel, with a dense mask for a window."""
    grouped = case.heads != case.kv_heads
    if case.window is None:
        return partial(F.scaled_dot_product_attention, is_causal=case.is_causal, enable_gqa=grouped)
    i = torch.arange(case.length)
    mask = (i <= i[:, None]) & (i > i[:, None] - case.window)
    return partial(F.scaled_dot_product_attention, attn_mask=mask, enable_gqa=grouped)


def compiled_flex(case: Case) -> Callable[..., torch.Tensor]:
    """PyTorch's flex attention, compiled, with a causal block mask."""
    blocks = flex.create_block_mask(
        lambda b, h, i, j: j <= i, None, None, case.length, case.length, device="cpu"
    )
    attend = torch.compile(flex.flex_attention)
    return partial(attend, block_mask=blocks, enable_gqa=case.heads != case.kv_heads)


def jax_nn(case: Case) -> Callable[..., jax.Array]:
    """`jax.nn.dot_product_attention` for a case."""
    window = None if case.window is None else (case.window - 1, 0)
    return _length_first(
        partial(jax.nn.dot_product_attention, is_causal=case.is_causal, local_window_size=window)
    )


def tokamax_chunked(case: Case) -> Callable[..., jax.Array]:
    """Tokamax's chunked online softmax, made of XLA operations."""
    import tokamax
    from absl import flags

    if not flags.FLAGS.is_parsed():  # else absl would parse this command's options
        flags.FLAGS.mark_as_parsed()
    return _length_first(
        partial(
            tokamax.dot_product_attention,
            is_causal=case.is_causal,
            implementation="xla_chunked",
            precision=jax.lax.DotAlgorithmPreset.F32_F32_F32,
        )
    )


def _length_first(attend: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """Adapt a function of `(batch, length, heads, head_dim)` arrays to `(batch, heads, length, head_dim)`."""
    return lambda *given: jnp.swapaxes(attend(*(jnp.swapaxes(x, 1, 2) for x in given)), 1, 2)
