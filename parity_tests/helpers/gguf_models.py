"""Tiny Llama, Mistral, Qwen 2 and Qwen 3 models as GGUF files, written with the package gguf."""

from dataclasses import dataclass, field
from typing import Any

import gguf
import ml_dtypes
import numpy as np
import transformers
from gguf import GGMLQuantizationType as Type

VOCAB, FFN, LAYERS, HEADS, GROUPS = 37, 256, 2, 4, 2
# Rows of whole blocks of 256 values need 256 features; heads are as wide as they like.
DIM, HEAD_DIM = 256, 64
PLAIN = {"F32": np.float32, "F16": np.float16, "F64": np.float64}
SCALES = {"Q4_K": ((0, 2), (2, 4)), "Q6_K": ((208, 210),), "Q2_K": ((80, 82), (82, 84)), "Q5_K": ((0, 2), (2, 4))}


@dataclass(frozen=True)
class Case:
    """A kind of model.

    Attributes:
        architecture: the name in the metadata.
        biases: endings of the layers' tensors that have a bias.
        norms: whether queries and keys are normalised.
        metadata: further metadata, without the architecture's name.
    """

    architecture: str
    biases: tuple[str, ...] = ()
    norms: bool = False
    metadata: dict[str, Any] = field(default_factory=dict)


CASES = {
    "llama": Case("llama"),
    "qwen2": Case("qwen2", biases=("attn_q", "attn_k", "attn_v")),
    "qwen3": Case("qwen3", norms=True),
}


def metadata_of(case, **changes):
    """The metadata of a case; a change to None removes an entry."""
    name = case.architecture
    found = {
        "context_length": 64,
        "embedding_length": DIM,
        "block_count": LAYERS,
        "feed_forward_length": FFN,
        "attention.head_count": HEADS,
        "attention.head_count_kv": GROUPS,
        "attention.layer_norm_rms_epsilon": 1e-3,
        "rope.freq_base": 100.0,
        "vocab_size": VOCAB,
    }
    found = {f"{name}.{key}": value for key, value in found.items()}
    found |= {"tokenizer.ggml.eos_token_id": 2, "tokenizer.ggml.bos_token_id": 1}
    found |= {**case.metadata, **changes}
    return {key: value for key, value in found.items() if value is not None}


def shapes_of(case, tied=False, layers=LAYERS):
    """The names and shapes of a case's tensors, in PyTorch's order of axes."""
    found = {"token_embd.weight": (VOCAB, DIM), "output_norm.weight": (DIM,)}
    if not tied:
        found["output.weight"] = (VOCAB, DIM)
    for n in range(layers):
        matrices = {
            "attn_q": (HEADS * HEAD_DIM, DIM),
            "attn_k": (GROUPS * HEAD_DIM, DIM),
            "attn_v": (GROUPS * HEAD_DIM, DIM),
            "attn_output": (DIM, HEADS * HEAD_DIM),
            "ffn_gate": (FFN, DIM),
            "ffn_up": (FFN, DIM),
            "ffn_down": (DIM, FFN),
        }
        norms = {"attn_norm": (DIM,), "ffn_norm": (DIM,)}
        if case.norms:
            norms |= {"attn_q_norm": (HEAD_DIM,), "attn_k_norm": (HEAD_DIM,)}
        found |= {f"blk.{n}.{name}.weight": shape for name, shape in (matrices | norms).items()}
        found |= {f"blk.{n}.{name}.bias": matrices[name][:1] for name in case.biases}
    return found


def values_of(shapes, seed=0):
    """Random values for tensors; norms are near 1."""
    rng = np.random.default_rng(seed)
    return {
        name: (rng.normal(size=shape) * 0.1 + (1.0 if "norm" in name else 0.0)).astype(np.float32)
        for name, shape in shapes.items()
    }


def blocks_of(values, kind):
    """The bytes of a tensor in a quantised type, as an array with one row of bytes per row of values.

    The package has no quantisers for most types: their blocks are random bytes with small scales.
    """
    try:
        return gguf.quants.quantize(values, Type[kind])
    except NotImplementedError:
        elements, size = gguf.GGML_QUANT_SIZES[Type[kind]]
        rng = np.random.default_rng(len(values))
        stored = rng.integers(0, 256, (values.size // elements, size)).astype(np.uint8)
        for first, last in SCALES[kind]:
            scale = rng.uniform(0.5, 1.0, len(stored)).astype(np.float16) * np.float16(1e-3)
            stored[:, first:last] = scale.astype(np.float16).view(np.uint8).reshape(-1, 2)
        return stored.reshape(len(values), -1)


def write(path, architecture, metadata, tensors, kind="F32"):
    """Write a GGUF file; matrices have the type `kind`, vectors are float32, as llama.cpp writes them."""
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in metadata.items():
        if isinstance(value, np.ndarray | list):
            writer.add_array(key, value if isinstance(value, list) else value.tolist())
        else:
            add = {bool: writer.add_bool, str: writer.add_string, float: writer.add_float32, int: writer.add_uint32}
            add[type(value)](key, value)
    for name, values in tensors.items():
        if values.ndim < 2 or kind in PLAIN:
            writer.add_tensor(name, values.astype(PLAIN.get(kind, np.float32) if values.ndim > 1 else np.float32))
        elif kind == "BF16":
            writer.add_tensor(name, values.astype(ml_dtypes.bfloat16).view(np.uint8), raw_dtype=Type.BF16)
        else:
            writer.add_tensor(name, blocks_of(values, kind), raw_dtype=Type[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def reference(path, kind=None, **changes):
    """The model that transformers makes of a GGUF file, in float32.

    Args:
        path: the file.
        kind: transformers' configuration class; None for the one that transformers chooses.
        changes: fields of the configuration that transformers does not read from GGUF files.
    """
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    config = transformers.AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
    plain = transformers.AutoModelForCausalLM.from_config(config)
    tensors = load_gguf_checkpoint(path, return_tensors=True, model_to_load=plain)["tensors"]
    fields = {name: value for name, value in config.to_dict().items() if name != "model_type"}
    config = (kind or type(config))(**{**fields, **changes})
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    assert not unexpected
    assert set(missing) <= {"lm_head.weight"}
    assert bool(missing) == config.tie_word_embeddings
    return model
