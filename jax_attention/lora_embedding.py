r"""LoRA of an embedding: low-rank adaptation of its vectors (Hu et al. 2021).

$$ y_t = E_t + s\, A_{:,t}^\top B^\top, \qquad s = \alpha / r $$

| symbol | argument or parameter                                                                  |
|--------|----------------------------------------------------------------------------------------|
| E      | the vectors of the base, which are not trained                                         |
| A      | `lora_embedding_A`, (rank, tokens), zeros at first, so that the outputs are the base's |
| B      | `lora_embedding_B`, (dim, rank), random at first                                       |
| r      | `rank`                                                                                 |
| α      | `alpha`                                                                                |
| s      | `lora_scale`; with `use_rslora` it is α / √r (Kalajdzievski 2023)                      |
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Float, Int

from jax_attention.arguments import checked


@checked
class LoRAEmbedding(nnx.Embed):
    """Embedding with a low-rank update beside it; only the update is trained (Hu et al. 2021).

    The update is computed in at least float32, and the output has the dtype of the base. An output layer that is tied
    to the embedding uses the vectors of the base alone, as in PEFT.

    Args:
        base: embedding to adapt, whose vectors are kept as they are.
        rank: rank r of the update.
        alpha: numerator α of the scale.
        use_rslora: whether the scale is α / √r instead of α / r.

    Raises:
        TypeError: `base` is not an embedding.
        ValueError: `rank` is below 1.
    """

    def __init__(
        self, base: nnx.Module, rank: int, *, alpha: float, use_rslora: bool = False, rngs: nnx.Rngs
    ):
        if not isinstance(base, nnx.Embed):
            raise TypeError(f"base must be an embedding, got {type(base).__name__}")
        weight = base.embedding[...]
        count, dim = weight.shape
        super().__init__(count, dim, **_options(base), rngs=rngs)
        self.embedding = base.embedding
        self.rank, self.alpha, self.use_rslora = rank, alpha, use_rslora
        self.lora_scale = alpha / (math.sqrt(rank) if use_rslora else rank)
        dtype = jnp.promote_types(weight.dtype, jnp.float32)
        self.lora_embedding_A = nnx.LoRAParam(jnp.zeros((rank, count), dtype))
        self.lora_embedding_B = nnx.LoRAParam(jax.random.normal(rngs.params(), (dim, rank), dtype))

    def __call__(self, tokens: Int[Array, "*batch"]) -> Float[Array, "*batch dim"]:  # type: ignore[override]
        """Look up the vectors of tokens, with their updates."""
        output = super().__call__(tokens)  # *batch dim
        rows = self.lora_embedding_A[...].T[tokens]  # *batch rank
        update = rows @ self.lora_embedding_B[...].T * self.lora_scale  # *batch dim
        return (output.astype(update.dtype) + update).astype(output.dtype)

    def delta(self) -> Float[Array, "tokens dim"]:
        """Update of the vectors, s (B A)ᵀ."""
        a, b = self.lora_embedding_A[...], self.lora_embedding_B[...]
        return jnp.matmul(b, a, precision="highest").T * self.lora_scale

    def merged(self) -> nnx.Embed:
        """Embedding with the update added to its vectors, which PEFT rounds to their dtype before."""
        count, dim = self.embedding.shape
        plain = nnx.Embed(count, dim, **_options(self), rngs=nnx.Rngs(0))
        self.embedding[...] += self.delta().astype(self.embedding.dtype)
        plain.embedding = self.embedding
        return plain


def _options(base: nnx.Embed) -> dict[str, Any]:
    """Options of a new embedding, whose vectors are replaced after."""
    zeros = nnx.initializers.zeros
    return {"dtype": base.dtype, "param_dtype": base.param_dtype, "embedding_init": zeros}
