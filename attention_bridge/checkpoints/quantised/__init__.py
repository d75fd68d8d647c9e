"""Dequantisation of quantised checkpoints while they are read, tensor by tensor, as the reference does it.

`unquantised` reads a checkpoint by its config.json, quantised or not; `dequantised` by a `quantization_config`.

| `quant_method`                | stored                                          | dtype before the model's        |
|-------------------------------|-------------------------------------------------|---------------------------------|
| `fp8`, `mxfp8`                | 8-bit floats, scales per block, row or tensor   |                                 |
| `mxfp4`                       | 4-bit floats, a power of two for 32 values      |                                 |
| `bitsandbytes`, 8 bits        | int8, a scale per row                           |                                 |
| `bitsandbytes`, 4 bits        | NF4 or FP4, a scale per block, perhaps nested   | dtype of the quantisation state |
| `gptq`                        | 2, 3, 4 or 8 bits, scale and zero per group     | dtype of `scales`               |
| `awq`                         | 4 bits, scale and zero per group                | dtype of `scales`               |

Products are computed in float32 and rounded as the last column says, then to the model's dtype. transformers writes
the model's dtype too: `dtype` (or `torch_dtype`) of config.json, or without one the dtype of the checkpoint's first
float tensor.
"""

from __future__ import annotations

from attention_bridge.checkpoints.quantised.reading import dequantised, quantised_without_config, surplus_bias
from attention_bridge.checkpoints.quantised.with_config import TRANSPOSED, unquantised

__all__ = ["TRANSPOSED", "dequantised", "quantised_without_config", "surplus_bias", "unquantised"]
