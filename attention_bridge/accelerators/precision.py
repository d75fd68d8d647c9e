"""Emulation, in PyTorch and on any machine, of the float32 matrix products of accelerators.

Accelerators may round the factors of float32 products. GPUs may round both factors to TF32 (10 bits of fraction, ties
away from zero). TPUs may round them to bfloat16 (7 bits of fraction, ties to even), in one pass, or in three passes
that include the rounding residuals: a b = a₁b₁ + a₁b₂ + a₂b₁ where x₁ = bf16(x) and x₂ = bf16(x - x₁). Sums are float32
in all cases. `torch.set_float32_matmul_precision` chooses in PyTorch, `jax_default_matmul_precision` in JAX; a proof of
equality pins both with `attention_bridge.parity.comparison.pinned_precision`.

`emulated_products` rounds the factors of every matrix product and convolution called in its context, forward and
backward, and leaves all other operations unchanged.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from attention_bridge.errors import InputError

aten = torch.ops.aten
TF32_FRACTION_BITS, FLOAT32_FRACTION_BITS = 10, 23


def to_tf32(x: Tensor) -> Tensor:
    """Round float32 values to 10 bits of fraction, ties away from zero."""
    dropped = FLOAT32_FRACTION_BITS - TF32_FRACTION_BITS
    rounded = (x.contiguous().view(torch.int32) + (1 << (dropped - 1))) >> dropped << dropped
    return torch.where(x.isfinite(), rounded.view(torch.float32), x)


def to_bfloat16(x: Tensor) -> Tensor:
    """Round float32 values to bfloat16, ties to even; the result is float32."""
    return x.bfloat16().float()


def in_two_parts(x: Tensor) -> tuple[Tensor, Tensor]:
    """Split into the nearest bfloat16 values and the bfloat16-rounded residual."""
    first = to_bfloat16(x)
    return first, to_bfloat16(x - first)


# The replacement of each factor of a product: one rounded value, or parts that nearly sum to it.
PRECISIONS: dict[str, Callable[[Tensor], tuple[Tensor, ...]]] = {
    "float32": lambda x: (x,),
    "bfloat16 in three passes": in_two_parts,
    "TF32": lambda x: (to_tf32(x),),
    "bfloat16 in one pass": lambda x: (to_bfloat16(x),),
}


@contextmanager
def emulated_products(precision: str) -> Iterator[None]:
    """Compute float32 products in `precision`, one of `PRECISIONS`, while the context is active.

    Fused attention kernels are disabled, since they would hide their products.

    Raises:
        InputError: the precision is unknown.
    """
    if precision not in PRECISIONS:
        raise InputError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision}")
    with sdpa_kernel(SDPBackend.MATH), _Products(PRECISIONS[precision]):
        yield


class _Products(TorchDispatchMode):
    """Mode that computes matrix products and convolutions from the parts of their factors."""

    def __init__(self, parts: Callable[[Tensor], tuple[Tensor, ...]]):
        super().__init__()
        self.parts = parts

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func not in RULES or next(x for x in args if isinstance(x, Tensor)).dtype != torch.float32:
            return func(*args, **kwargs)
        return RULES[func](self.product, *args, **kwargs)

    def product(self, function: Callable[..., Any], left: Tensor, *right: Tensor) -> Any:
        """Apply a bilinear function to the parts of its arguments; the product of the second parts is omitted."""
        first, *left_over = self.parts(left)
        others = [self.parts(x) for x in right]
        found = function(first, *(parts[0] for parts in others))
        for second in left_over:
            found = _sum(found, function(first, *(parts[1] for parts in others)))
            found = _sum(found, function(second, *(parts[0] for parts in others)))
        return found


def _sum(a: Any, b: Any) -> Any:
    return tuple(map(_sum, a, b)) if isinstance(a, tuple) else None if a is None else a + b


def _matrices(function: Any) -> Callable[..., Tensor]:
    return lambda product, left, right: product(function, left, right)


def _added(function: Any) -> Callable[..., Tensor]:
    """Rule for a matrix product with an addend, such as `addmm`."""

    def rule(
        product: Any, addend: Tensor, left: Tensor, right: Tensor, *, beta: float = 1, alpha: float = 1
    ) -> Tensor:
        return beta * addend + alpha * product(function, left, right)

    return rule


def _convolution(product: Any, x: Tensor, weight: Tensor, bias: Tensor | None, *options: Any) -> Tensor:
    found = product(lambda x, weight: aten.convolution.default(x, weight, None, *options), x, weight)
    return found if bias is None else found + bias.reshape(-1, *(1 for _ in range(weight.ndim - 2)))


def _convolution_backward(
    product: Any, gradient: Tensor, x: Tensor, weight: Tensor, *options: Any
) -> tuple[Tensor | None, ...]:
    """Rule for convolution gradients: products for input and weight, a sum for the bias."""
    *others, (of_x, of_weight, of_bias) = options

    def products(gradient: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor | None, ...]:
        return aten.convolution_backward.default(gradient, x, weight, *others, [of_x, of_weight, False])

    axes = [axis for axis in range(gradient.ndim) if axis != 1]
    return (*product(products, gradient, x, weight)[:2], gradient.sum(axes) if of_bias else None)


RULES: dict[Any, Callable[..., Any]] = {
    aten.mm.default: _matrices(aten.mm.default),
    aten.bmm.default: _matrices(aten.bmm.default),
    aten.mv.default: _matrices(aten.mv.default),
    aten.dot.default: _matrices(aten.dot.default),
    aten.addmm.default: _added(aten.mm.default),
    aten.addmv.default: _added(aten.mv.default),
    aten.baddbmm.default: _added(aten.bmm.default),
    aten.convolution.default: _convolution,
    aten.convolution_backward.default: _convolution_backward,
}
