r"""LoRA: low-rank adaptation of linear layers (Hu et al. 2021).

$$ y = x W^\top + b + s\, \mathrm{dropout}(x)\, A^\top B^\top, \qquad s = \alpha / r $$

| symbol | argument or parameter                                                                  |
|--------|----------------------------------------------------------------------------------------|
| W, b   | `base`, the linear layer, which is not trained                                         |
| A      | `lora_A`, (rank, in), random at first                                                  |
| B      | `lora_B`, (out, rank), zeros at first, so that the outputs are the base's              |
| r      | `rank`                                                                                 |
| α      | `alpha`                                                                                |
| s      | `lora_scale`; with `use_rslora` it is α / √r (Kalajdzievski 2023)                      |
| m      | `lora_magnitude_vector`, (out,), with `use_dora` (Liu et al. 2024); at first ‖W‖       |

DoRA trains the norm m of each row of the weight apart from its direction; the norm below has no gradient:

$$ y = x W'^\top + b, \qquad W' = m \, \frac{W + s B A}{\lVert W + s B A \rVert} $$

    model = add_lora(model, 8, alpha=16.0)  # then train lora_parameters(model) only
    model = merge_lora(model)  # plain linear layers again
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Bool, Float

from jax_attention.arguments import checked
from jax_attention.layers import Dropout
from jax_attention.lora_embedding import LoRAEmbedding

NAMES = ("lora_A", "lora_B", "lora_magnitude_vector", "lora_embedding_A", "lora_embedding_B")


@checked
class LoRALinear(nnx.Module):
    """Linear layer with a low-rank update beside it; only the update is trained (Hu et al. 2021).

    The update is computed in at least float32, as in PEFT, and the output has the dtype of the base's output. It is
    trained by gradients with respect to `lora_A` and `lora_B` alone: in PyTorch the parameters of the base require no
    gradient; in JAX the parameters of the update have the type `nnx.LoRAParam`.

    Args:
        base: linear layer to adapt, which is kept as it is.
        rank: rank r of the update.
        alpha: numerator α of the scale.
        use_rslora: whether the scale is α / √r instead of α / r.
        use_dora: whether the norm of each row of the weight is trained apart (DoRA).
        dropout: probability that an entry of the update's input is dropped in training.

    Raises:
        TypeError: `base` is not a linear layer.
        ValueError: `rank` is below 1, or `dropout` is not in [0, 1).
    """

    def __init__(
        self,
        base: nnx.Linear,
        rank: int,
        *,
        alpha: float,
        use_rslora: bool = False,
        use_dora: bool = False,
        dropout: float = 0.0,
        rngs: nnx.Rngs,
    ):
        kernel = base.kernel[...]
        dtype = jnp.promote_types(kernel.dtype, jnp.float32)
        in_features, out_features = kernel.shape
        self.base = base
        self.rank, self.alpha = rank, alpha
        self.use_rslora, self.use_dora = use_rslora, use_dora
        self.lora_scale = alpha / (math.sqrt(rank) if use_rslora else rank)
        self.dropout = Dropout(dropout, rngs=rngs)
        bound = 1.0 / math.sqrt(in_features)  # as in PEFT
        drawn = jax.random.uniform(rngs.params(), (rank, in_features), dtype, -bound, bound)
        self.lora_A = nnx.LoRAParam(drawn)
        self.lora_B = nnx.LoRAParam(jnp.zeros((out_features, rank), dtype))
        norms = jnp.linalg.norm(kernel.astype(dtype), axis=0) if use_dora else None  # out
        self.lora_magnitude_vector = None if norms is None else nnx.LoRAParam(norms)

    def __call__(
        self, x: Float[Array, "*batch in_features"], keep: Bool[Array, "*batch in_features"] | None = None
    ) -> Float[Array, "*batch out_features"]:
        """Apply the layer; `keep` is a boolean dropout mask, True keeps, used instead of sampling one."""
        output = self.base(x)  # *batch out
        wide = self.dropout(x.astype(self.lora_A.dtype), keep)  # *batch in
        update = wide @ self.lora_A[...].T @ self.lora_B[...].T * self.lora_scale  # *batch out
        if self.lora_magnitude_vector is not None:
            plain = wide @ self.base.kernel[...].astype(wide.dtype)  # *batch out
            factors = self.lora_magnitude_vector[...] / self._norms()  # out
            update = factors * (plain + update) - plain  # *batch out
        return (output.astype(update.dtype) + update).astype(output.dtype)

    def delta(self) -> Float[Array, "out_features in_features"]:
        """Product of the factors, s B A."""
        return jnp.matmul(self.lora_B[...], self.lora_A[...], precision="highest") * self.lora_scale

    def merged_weight(self) -> Float[Array, "out_features in_features"]:
        """Weight matrix of the adapted layer, in the dtype of the base."""
        wide = self._sum()  # out in
        if self.lora_magnitude_vector is not None:
            wide = (self.lora_magnitude_vector[...] / self._norms())[:, None] * wide  # out in
        return wide.astype(self.base.kernel.dtype)

    def merged(self) -> nnx.Linear:
        """Plain layer with the update added to its weight, rounded once to its dtype, as in PEFT."""
        self.base.kernel[...] = self.merged_weight().T
        return self.base

    def _sum(self) -> Float[Array, "out_features in_features"]:
        delta = self.delta()
        dtype = jnp.promote_types(self.base.kernel.dtype, delta.dtype)
        return self.base.kernel[...].T.astype(dtype) + delta.astype(dtype)

    def _norms(self) -> Float[Array, "out_features"]:
        return jnp.linalg.norm(jax.lax.stop_gradient(self._sum()), axis=1)


@checked
def add_lora(
    model: nnx.Module,
    rank: int,
    *,
    alpha: float,
    targets: Sequence[str] = ("q_proj", "v_proj"),
    use_rslora: bool = False,
    use_dora: bool = False,
    dropout: float = 0.0,
    rngs: nnx.Rngs,
) -> nnx.Module:
    """Replace layers of a model by `LoRALinear` and `LoRAEmbedding`, in place; the outputs stay the same at first.

    All other parameters are frozen: in PyTorch they require no gradient; in JAX, differentiate and optimise with
    respect to `nnx.LoRAParam`. The new layers are in training mode: `model.eval()` turns their dropout off.

    Args:
        model: module that contains the layers.
        rank: rank r of the updates.
        alpha: numerator α of the scale.
        targets: names of linear layers and embeddings, or ends of their paths, such as "q_proj" or
            "layers.0.attention.q_proj".
        use_rslora: whether the scale is α / √r instead of α / r.
        use_dora: whether the norm of each row of a weight is trained apart (DoRA).
        dropout: probability that an entry of an update's input is dropped in training.

    Returns:
        The model.

    Raises:
        ValueError: a target is the name of no such layer, or an argument is out of its range.
    """
    kinds = (nnx.Linear, nnx.Embed)
    found = {path: layer for path, layer in _modules(model) if type(layer) in kinds}
    chosen = {path: layer for path, layer in found.items() if any(_ends(path, name) for name in targets)}
    for name in targets:
        if not any(_ends(path, name) for path in chosen):
            known = ", ".join(sorted({path.rpartition(".")[2] for path in found}))
            raise ValueError(f"targets must be names of linear layers or embeddings ({known}), got {name!r}")
    shared: dict[str, Any] = {"alpha": alpha, "use_rslora": use_rslora, "rngs": rngs}
    of_linear: dict[str, Any] = {**shared, "use_dora": use_dora, "dropout": dropout}
    made: dict[str, Any] = {
        path: LoRALinear(layer, rank, **of_linear)
        if isinstance(layer, nnx.Linear)
        else LoRAEmbedding(layer, rank, **shared)
        for path, layer in chosen.items()
    }
    for path, layer in made.items():
        replace_module(model, path, layer)
    return model


@checked
def merge_lora(model: nnx.Module) -> nnx.Module:
    """Add each update to the weight of its base, and restore the plain layers, in place.

    Args:
        model: module that contains `LoRALinear` layers and `LoRAEmbedding`.

    Returns:
        The model.
    """
    for path, layer in list(lora_layers(model)):
        replace_module(model, path, layer.merged())
    return model


def lora_layers(model: nnx.Module) -> Iterator[tuple[str, LoRALinear | LoRAEmbedding]]:
    """Yield the path and the layer of each `LoRALinear` and `LoRAEmbedding` in a model."""
    for path, module in _modules(model):
        if isinstance(module, LoRALinear | LoRAEmbedding):
            yield path, module


@checked
def lora_parameters(model: nnx.Module) -> dict[str, Any]:
    """The parameters of all updates in a model by their path; one that several layers share is listed once."""
    found: dict[str, Any] = {}
    for path, layer in lora_layers(model):
        for name in NAMES:
            parameter = getattr(layer, name, None)
            if parameter is not None and not any(parameter is other for other in found.values()):
                found[f"{path}.{name}"] = parameter
    return found


def replace_module(model: nnx.Module, path: str, module: nnx.Module) -> None:
    """Replace the module at a path of a model."""
    *parents, name = path.split(".")
    holder: Any = model
    for each in parents:
        holder = holder[int(each)] if isinstance(holder, nnx.List) else getattr(holder, each)
    if isinstance(holder, nnx.List):
        holder[int(name)] = module
    else:
        setattr(holder, name, module)


def _modules(model: nnx.Module) -> Iterator[tuple[str, Any]]:
    """The paths of a model's modules, joined by dots, and the modules."""
    for path, module in nnx.iter_modules(model):
        yield ".".join(map(str, path)), module


def _ends(path: str, name: str) -> bool:
    return path == name or path.endswith(f".{name}")
