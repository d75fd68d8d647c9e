"""Matrix products as accelerators compute them in float32, emulated on any machine, in PyTorch.

An accelerator need not multiply float32 numbers as they are. GPUs may round both factors to TF32 (10 bits of
fraction, ties away from zero), TPUs to bfloat16 (7 bits, ties to even): once, or with what the rounding left over in
three passes, a b = a₁b₁ + a₁b₂ + a₂b₁ where x₁ = bf16(x) and x₂ = bf16(x - x₁). Sums are float32 in all of them. In
PyTorch `torch.set_float32_matmul_precision` chooses, in JAX `jax_default_matmul_precision`; a proof of equality pins
both, see `attention_bridge.parity.comparison.pinned_precision`.

`emulated_products` rounds the factors of every matrix product and convolution that is called meanwhile, forward and
backward, and leaves everything else as it is.
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
    """The nearest numbers of 10 bits of fraction, ties away from zero, in float32."""
    dropped = FLOAT32_FRACTION_BITS - TF32_FRACTION_BITS
    rounded = (x.contiguous().view(torch.int32) + (1 << (dropped - 1))) >> dropped << dropped
    return torch.where(x.isfinite(), rounded.view(torch.float32), x)


def to_bfloat16(x: Tensor) -> Tensor:
    """The nearest numbers of bfloat16, ties to even, in float32."""
    return x.bfloat16().float()


def in_two_parts(x: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest bfloat16 numbers, and those nearest to what is left over."""
    first = to_bfloat16(x)
    return first, to_bfloat16(x - first)


# What each factor of a product is replaced by: itself rounded, or parts whose sum it nearly is.
PRECISIONS: dict[str, Callable[[Tensor], tuple[Tensor, ...]]] = {
    "float32": lambda x: (x,),
    "bfloat16 in three passes": in_two_parts,
    "TF32": lambda x: (to_tf32(x),),
    "bfloat16 in one pass": lambda x: (to_bfloat16(x),),
}


@contextmanager
def emulated_products(precision: str) -> Iterator[None]:
    """While the context lasts, float32 products are those of `precision`, one of `PRECISIONS`.

    Attention is computed by its products one by one: a fused kernel would hide them.

    Raises:
        InputError: there is no such precision.
    """
    if precision not in PRECISIONS:
        raise InputError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision}")
    with sdpa_kernel(SDPBackend.MATH), _Products(PRECISIONS[precision]):
        yield


class _Products(TorchDispatchMode):
    """Computes the products among the operations that reach it from parts of their factors."""

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
        """A function linear in `left` and in `right`, of their parts; the product of second parts is left out."""
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
    """A product that something is added to."""

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
    """The gradients of input and weight are products with the gradient of the output; that of the bias is a sum."""
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
