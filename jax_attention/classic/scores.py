r"""Score functions of Luong attention (Luong, Pham & Manning 2015, section 3.1).

| class          | score                    | parameters          |
|----------------|--------------------------|---------------------|
| `DotScore`     | $q^\top k$               | none                |
| `GeneralScore` | $q^\top W k$             | `proj`              |
| `ConcatScore`  | $w^\top \tanh(W [q; k])$ | `concat_proj`, `score_proj` |
"""

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float

from jax_attention.arguments import checked
from jax_attention.arrays import einsum
from jax_attention.checks import check_sequence
from jax_attention.layers import Factory, linear
from jax_attention.ops import at_least_float32


@checked
class DotScore(nnx.Module):
    """Dot-product score q^T k, without parameters (Luong, Pham & Manning 2015).

    Queries and keys must have the same number of features.
    """

    def __call__(
        self, query: Float[Array, "batch query dim"], key: Float[Array, "batch key dim"]
    ) -> Float[Array, "batch query key"]:
        """Score every pair of query and key."""
        check_sequence("key", key, query.shape[-1])
        return einsum("bqd,bkd->bqk", at_least_float32(query), at_least_float32(key))


@checked
class GeneralScore(nnx.Module):
    """Bilinear score q^T W k (Luong, Pham & Manning 2015).

    Args:
        query_dim: features of a query.
        key_dim: features of a key.
    """

    def __init__(
        self,
        query_dim: int,
        key_dim: int,
        *,
        rngs: nnx.Rngs,
        param_dtype: DTypeLike = jnp.float32,
        dtype: DTypeLike | None = None,
    ):
        factory = Factory(rngs=rngs, param_dtype=param_dtype, dtype=dtype)
        self.query_dim = query_dim
        self.key_dim = key_dim
        self.proj = linear(key_dim, query_dim, bias=False, **factory)

    def __call__(
        self, query: Float[Array, "batch query query_dim"], key: Float[Array, "batch key key_dim"]
    ) -> Float[Array, "batch query key"]:
        """Score every pair of query and key."""
        check_sequence("query", query, self.query_dim)
        check_sequence("key", key, self.key_dim)
        return einsum("bqd,bkd->bqk", at_least_float32(query), at_least_float32(self.proj(key)))


@checked
class ConcatScore(nnx.Module):
    """Score w^T tanh(W [q; k]) of the concatenated query and key (Luong, Pham & Manning 2015).

    Args:
        query_dim: features of a query.
        key_dim: features of a key.
        hidden_dim: features of the hidden layer.
    """

    def __init__(
        self,
        query_dim: int,
        key_dim: int,
        hidden_dim: int,
        *,
        rngs: nnx.Rngs,
        param_dtype: DTypeLike = jnp.float32,
        dtype: DTypeLike | None = None,
    ):
        factory = Factory(rngs=rngs, param_dtype=param_dtype, dtype=dtype)
        self.query_dim = query_dim
        self.key_dim = key_dim
        self.concat_proj = linear(query_dim + key_dim, hidden_dim, bias=False, **factory)
        self.score_proj = linear(hidden_dim, 1, bias=False, **factory)

    def __call__(
        self, query: Float[Array, "batch query query_dim"], key: Float[Array, "batch key key_dim"]
    ) -> Float[Array, "batch query key"]:
        """Score every pair of query and key."""
        check_sequence("query", query, self.query_dim)
        check_sequence("key", key, self.key_dim)
        pairs = (*query.shape[:2], key.shape[1])
        queries = jnp.broadcast_to(query[:, :, None], (*pairs, query.shape[2]))  # batch query key query_dim
        keys = jnp.broadcast_to(key[:, None], (*pairs, key.shape[2]))  # batch query key key_dim
        hidden = jnp.tanh(
            self.concat_proj(jnp.concatenate([queries, keys], axis=-1))
        )  # batch query key hidden
        return self.score_proj(hidden)[..., 0]  # batch query key
