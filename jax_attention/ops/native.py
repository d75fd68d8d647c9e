"""JAX's own attention kernels, adapted to this package's conventions.

`xla` and `cudnn` are `jax.nn.dot_product_attention`. On its own it expects the length axis before the heads, returns
the mean of all values for a fully masked row, and NaN where a bias of -inf masks a whole row. Here all restrictions are
combined into one mask; fully masked rows are unmasked inside the kernel and their output is set to zero. No mask is
built for restrictions by position alone if queries and keys have the same positions. `splash` is the TPU attention
kernel that comes with Pallas; lengths are padded to its tiles.
"""

from functools import cache, partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as splash_mask
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Float

from jax_attention.ops.call import Call, Implementation
from jax_attention.ops.definition import call_masks
from jax_attention.ops.masked_values import ignoring_dead_keys
from jax_attention.ops.tiles import pad_axis

LANES = 128  # a TPU's vector width: the tiles of splash attention are multiples of it
ONE_PASS = (
    None,
    "default",
    "fastest",
    "bfloat16",
)  # the compiler supports multi-pass products only in float32


def xla_refusal(call: Call) -> str | None:
    """Reason why `jax.nn.dot_product_attention` does not support a call; None if it does."""
    if call.return_logsumexp:
        return "jax.nn.dot_product_attention gives no logsumexp here"
    if call.softcap is not None:
        return "jax.nn.dot_product_attention has no softcap"
    if call.sinks is not None:
        return "jax.nn.dot_product_attention has no sinks"
    if call.dropout_keep is not None:
        return "jax.nn.dot_product_attention takes no dropout mask"
    if call.query.dtype == jnp.float64:
        return "jax.nn.dot_product_attention takes its softmax in float32, got float64"
    if call.value.shape[-1] != call.query.shape[-1]:
        return (
            "jax.nn.dot_product_attention needs value_dim = head_dim, "
            f"got {call.value.shape[-1]} and {call.query.shape[-1]}"
        )
    if call.query.ndim > 4:
        return f"jax.nn.dot_product_attention takes one batch axis, got query of shape {call.query.shape}"
    return None


def cudnn_refusal(call: Call) -> str | None:
    """Reason why cuDNN does not support a call; None if it does."""
    refusal = xla_refusal(call)
    if refusal:
        return refusal
    if call.query.dtype not in (jnp.float16, jnp.bfloat16):
        return f"cuDNN computes in float16 or bfloat16, got {call.query.dtype}"
    if call.query.shape[-1] % 8 or call.query.shape[-1] > 128:
        return f"cuDNN needs a head_dim of at most 128 and a multiple of 8, got {call.query.shape[-1]}"
    if call.query.shape[-2] % 2 or call.key.shape[-2] % 2:
        return f"cuDNN has gradients for even lengths, got {call.query.shape[-2]} and {call.key.shape[-2]}"
    if call.bias is not None and call.bias.dtype != call.query.dtype:
        return f"cuDNN rounds a bias to the dtype of the query, got {call.bias.dtype} and {call.query.dtype}"
    if call.query.ndim < 4:
        return f"cuDNN takes one batch axis, got query of shape {call.query.shape}"
    if not _gpu_is_here():
        return f"cuDNN needs an NVIDIA GPU of compute capability 8.0 or above, got {jax.default_backend()}"
    return None


@cache
def _gpu_is_here() -> bool:
    """Whether JAX finds GPUs that support cuDNN's attention; without one, its operations cannot even be traced."""
    try:
        return all(float(device.compute_capability) >= 8.0 for device in jax.devices("cuda"))
    except RuntimeError:
        return False


def _needs_mask(call: Call) -> bool:
    """Whether a call needs a mask or bias of the size of the scores in `jax.nn.dot_product_attention`."""
    if call.bias is not None or call.mask is not None:
        return True
    seen, square = call.visibility, call.query.shape[-2] == call.key.shape[-2]
    if not seen.is_uniform or (seen.before is None and seen.after not in (None, 0)):
        return True
    starts_together = isinstance(seen.query_offset, int) and seen.query_offset == 0
    return not seen.is_total and not (square and starts_together and seen.after is not None)


def native_attention(
    call: Call, implementation: Literal["xla", "cudnn"]
) -> Float[Array, "*batch heads query dim"]:
    """Run a call with `jax.nn.dot_product_attention`."""
    query, key, value = (jnp.swapaxes(x, -3, -2) for x in (call.query, call.key, call.value))
    seen = call.visibility
    if not _needs_mask(call):  # then every query attends at least to its own key
        output = jax.nn.dot_product_attention(
            query,
            key,
            value,
            scale=call.scale,
            is_causal=seen.after == 0,
            local_window_size=None if seen.before is None else (seen.before, seen.after or 0),
            implementation=implementation,
        )
        return jnp.swapaxes(output, -3, -2)  # ... heads query head_dim
    bias, visible = call_masks(call)
    if visible is not None:
        alive = visible.any(axis=-1, keepdims=True)  # ... query 1
        visible = visible | ~alive
    output = jax.nn.dot_product_attention(
        query, key, value, bias, visible, scale=call.scale, implementation=implementation
    )
    output = jnp.swapaxes(output, -3, -2)  # ... heads query head_dim
    return output if visible is None else jnp.where(alive, output, 0.0)


def xla_attention(call: Call) -> Float[Array, "*batch heads query dim"]:
    """Run a call with XLA; float16 runs in float32, because JAX cannot compile its products for the CPU."""
    if call.query.dtype != jnp.float16:
        return native_attention(call, "xla")
    query, key, value = (x.astype(jnp.float32) for x in (call.query, call.key, call.value))
    return native_attention(call._replace(query=query, key=key, value=value), "xla").astype(jnp.float16)


def splash_refusal(call: Call) -> str | None:
    """Reason why splash attention does not support a call; None if it does."""
    seen = call.visibility
    if call.return_logsumexp:
        return "splash attention gives no logsumexp here"
    if not seen.is_uniform:
        return "splash attention takes one query_offset here, and no lengths and segments"
    if call.bias is not None or call.mask is not None:
        return "splash attention takes no bias and no mask beyond is_causal and window"
    if call.sinks is not None:
        return "splash attention has no sinks"
    if call.dropout_keep is not None:
        return "splash attention takes no dropout mask"
    if call.query.dtype not in (jnp.float32, jnp.bfloat16):
        return f"splash attention computes in float32 or bfloat16, got {call.query.dtype}"
    precision = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
    if call.query.dtype == jnp.bfloat16 and precision not in ONE_PASS:
        return (
            f"splash attention multiplies bfloat16 in one pass, got jax_default_matmul_precision={precision}"
        )
    if jax.config.read("jax_enable_x64"):
        return "splash attention counts in 32 bits, got jax_enable_x64=True"
    if not isinstance(seen.query_offset, int) or seen.query_offset < 0:
        return "splash attention needs a query_offset of at least 0 that is known at compile time"
    # Distance of the last query from the last key.
    beyond = seen.query_offset + call.query.shape[-2] - call.key.shape[-2]
    if seen.before is not None and seen.before < beyond:
        return f"splash attention needs a key in every window, got {seen.before} keys and a query {beyond} behind"
    if call.query.shape[-1] % LANES and call.query.shape[-1] != 64:
        return f"splash attention needs a head_dim of 64 or a multiple of {LANES}, got {call.query.shape[-1]}"
    return None


def _refuse_other_platforms(*_: Any) -> Any:
    raise NotImplementedError("splash attention needs a TPU, got another platform")


# Raises at lowering on other platforms, because a program's platform is known only there; its gradient raises too.
_no_tpu = Primitive("no_tpu")
_no_tpu.def_impl(_refuse_other_platforms)
_no_tpu.def_abstract_eval(lambda x: x)
mlir.register_lowering(_no_tpu, _refuse_other_platforms)
ad.deflinear2(_no_tpu, lambda d_output, _: [_no_tpu.bind(d_output)])
batching.primitive_batchers[_no_tpu] = lambda given, axes: (_no_tpu.bind(*given), axes[0])


def splash_on_tpu(call: Call) -> Float[Array, "*batch heads query value_dim"]:
    """Run `splash_attention`; on other platforms raise a one-sentence error instead of Pallas's own."""

    def refused(query: Array, key: Array, value: Array) -> Array:
        total = query.sum() + key.sum() + value.sum()
        return _no_tpu.bind(jnp.broadcast_to(total, (*query.shape[:-1], value.shape[-1])))

    def run(query: Array, key: Array, value: Array) -> Array:
        return ignoring_dead_keys(splash_attention)(call._replace(query=query, key=key, value=value))

    return jax.lax.platform_dependent(call.query, call.key, call.value, tpu=run, default=refused)


def splash_attention(call: Call, interpret: bool = False) -> Float[Array, "*batch heads query value_dim"]:
    """Run a call with the TPU kernel; `interpret` runs it on any platform, slowly."""
    heads, query_len, _ = call.query.shape[-3:]
    key_len = call.key.shape[-2]
    query, key, value = (pad_axis(x, -2, LANES) for x in (call.query, call.key, call.value))
    shape = (query.shape[-2], key.shape[-2])
    before, after, offset = call.visibility.before, call.visibility.after, call.visibility.query_offset
    assert isinstance(offset, int)
    seen: splash_mask.Mask
    if call.visibility.is_total:
        seen = splash_mask.FullMask(shape)
    elif before is None and after == 0:
        seen = splash_mask.CausalMask(shape, offset)
    else:
        seen = splash_mask.LocalMask(shape, (before, after), offset)
    kernel = splash.make_splash_mha(
        splash_mask.MultiHeadMask([seen] * heads),
        head_shards=1,
        q_seq_shards=1,
        attn_logits_soft_cap=call.softcap,
        interpret=interpret,
    )
    # Padding keys in the last tile get a segment without queries.
    segments = splash.SegmentIds(
        jnp.zeros(shape[0], jnp.int32), (jnp.arange(shape[1]) >= key_len).astype(jnp.int32)
    )
    batch = query.shape[:-3]
    flat = (x.reshape(-1, *x.shape[-3:]) for x in (query * call.scale, key, value))
    output = jax.vmap(kernel, in_axes=(0, 0, 0, None))(*flat, segments)
    return output.reshape(*batch, *output.shape[1:])[..., :query_len, :]


XLA = Implementation("xla", xla_refusal, ignoring_dead_keys(xla_attention))
CUDNN = Implementation(
    "cudnn", cudnn_refusal, ignoring_dead_keys(partial(native_attention, implementation="cudnn"))
)
SPLASH = Implementation("splash", splash_refusal, splash_on_tpu)
NATIVE = (XLA, CUDNN, SPLASH)
