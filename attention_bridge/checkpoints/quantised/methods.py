"""The quantisation methods by `quant_method`: which are dequantised, and which are refused by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from attention_bridge.checkpoints.quantised import awq, bnb_4bit, bnb_int8, fp8, gptq, mxfp4
from attention_bridge.checkpoints.quantised.logical import Logical, Stored
from attention_bridge.checkpoints.quantised.settings import Settings, short
from attention_bridge.errors import CheckpointError

Plan = Callable[[Stored, Settings], Iterator[tuple[str, Logical]]]


class Method(NamedTuple):
    """A quantisation method.

    Attributes:
        name: its name, for messages.
        plan: function that describes the dequantised tensors.
    """

    name: str
    plan: Plan


METHODS = {
    "fp8": Method("FP8", fp8.plan),
    "mxfp8": Method("MXFP8", fp8.plan),
    "mxfp4": Method("MXFP4", mxfp4.plan),
    "gptq": Method("GPTQ", gptq.plan),
    "awq": Method("AWQ", awq.plan),
}
BNB_4BIT = Method("bitsandbytes 4-bit", bnb_4bit.plan)
BNB_INT8 = Method("bitsandbytes 8-bit", bnb_int8.plan)
KNOWN = (*METHODS, "bitsandbytes")
REFUSED = {
    "aqlm": "AQLM, additive codebooks",
    "auto-round": "AutoRound, several packings of whole numbers",
    "bitnet": "BitNet, ternary weights",
    "compressed-tensors": "compressed-tensors of vLLM's LLM Compressor",
    "eetq": "EETQ, 8-bit whole numbers in the order of a GPU kernel",
    "fbgemm_fp8": "FBGEMM, FP8 with scales per row",
    "fouroversix": "Four Over Six, an NVFP4 variant",
    "fp_quant": "FP-Quant, rotated MXFP4 or NVFP4",
    "gemma": "Gemma's own quantisation",
    "gguf": "GGUF, which has a file format of its own",
    "higgs": "HIGGS, rotated vector grids",
    "hqq": "HQQ, half-quadratic quantisation",
    "metal": "whole numbers in the order of Apple's Metal kernels",
    "modelopt": "NVIDIA's ModelOpt",
    "nvfp4": "NVFP4 of NVIDIA",
    "quanto": "Quanto of Optimum",
    "quark": "Quark of AMD",
    "sinq": "SINQ, whole numbers with two scales",
    "spqr": "SpQR, sparse and quantised weights",
    "torchao": "torchao, PyTorch's quantised tensors",
    "vptq": "VPTQ, vector codebooks",
}


def method(settings: Settings) -> Method:
    """The method of a `quantization_config`.

    Args:
        settings: the `quantization_config`.

    Raises:
        CheckpointError: the method is absent, unknown, or one that is not dequantised.
    """
    given = settings.given.get("quant_method")
    four, eight = settings.flag("load_in_4bit", False), settings.flag("load_in_8bit", False)
    if given is None and (four or eight):  # transformers before 4.31 wrote no quant_method
        given = "bitsandbytes"
    name = given.lower().replace("_", "-") if isinstance(given, str) else ""
    if name == "bitsandbytes":
        if four == eight:
            raise CheckpointError(
                f"{settings.source} must have a quantization_config with load_in_4bit or load_in_8bit true, "
                f"got {four} and {eight}"
            )
        return BNB_4BIT if four else BNB_INT8
    if name in METHODS:
        return METHODS[name]
    what = {known.replace("_", "-"): text for known, text in REFUSED.items()}.get(name)
    if what is None:
        raise CheckpointError(
            f"{settings.source} must have a quantization_config with a quant_method that is dequantised "
            f"({', '.join(KNOWN)}), got {short(given)}; save the model dequantised and load that"
        )
    raise CheckpointError(
        f"{settings.source} has the quant_method {given}, which is not dequantised here ({what}); load the model "
        f"with its own library, dequantise it, and save that"
    )
