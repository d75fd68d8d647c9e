"""The function `diagnose`: one attention layer from its outputs, or two whole models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, overload

from attention_bridge.doctor import search
from attention_bridge.doctor.diagnosis import Diagnosis
from attention_bridge.weights.leaves import framework

if TYPE_CHECKING:
    import torch
    from flax import nnx

    from attention_bridge.doctor.models.finding import ModelDiagnosis
    from attention_bridge.doctor.setting import Setting


@overload
def diagnose(reference: torch.nn.Module, port: nnx.Module, *inputs: Any, **kwargs: Any) -> ModelDiagnosis: ...


@overload
def diagnose(
    reference: Any, port: Any, *, x: Any, weights: Any, setting: Setting, **kwargs: Any
) -> Diagnosis: ...


def diagnose(reference: Any, port: Any, *inputs: Any, **kwargs: Any) -> Any:
    """Diagnose why a port differs from its reference.

    Of one attention layer: `diagnose(reference_outputs, port_outputs, x=..., weights=..., setting=...)`, as
    `attention_bridge.doctor.search.diagnose` says; neither framework is needed. Of two whole models:
    `diagnose(torch_model, jax_model, *inputs)`, as `attention_bridge.doctor.models.search.diagnose_models` says.

    Args:
        reference: outputs of the reference, `(batch, query, features)`; or a PyTorch module.
        port: outputs of the port, or a function from weights to outputs; or a Flax NNX module.
        inputs: inputs of both models, by position; none for a layer.
        kwargs: `x`, `weights`, `setting`, `memory`, `mask`, `seconds` and `progress` of a layer; of models `names`,
            `outputs`, `torch_call`, `jax_call` and the inputs by name.

    Returns:
        The diagnosis; its `verdict` is one sentence.

    Raises:
        InputError: the arguments do not fit together.
    """
    torch = framework("torch")
    if torch is not None and isinstance(reference, torch.nn.Module):
        from attention_bridge.doctor.models.search import diagnose_models

        return diagnose_models(reference, port, *inputs, **kwargs)
    return search.diagnose(reference, port, *inputs, **kwargs)
