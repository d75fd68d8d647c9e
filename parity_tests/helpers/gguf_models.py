"""Tiny Llama, Qwen 2 and Qwen 3 models as GGUF files, written with the package gguf and read by transformers."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import gguf
import ml_dtypes
import numpy as np
import transformers
from gguf import GGMLQuantizationType as Type

VOCAB, LAYERS, BASE = 37, 2, 100.0
PLAIN = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}
# Where the blocks of types that the package does not quantise hold scales, in float16.
SCALES = {"Q2_K": (80, 82), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "IQ4_XS": (0,)}


class Sizes(NamedTuple):
    """The sizes of a model."""

    dim: int
    ffn: int
    heads: int
    groups: int
    head_dim: int


SMALL = Sizes(dim=96, ffn=160, heads=4, groups=2, head_dim=32)
SQUARE = SMALL._replace(dim=128)  # heads times head_dim, as transformers' Qwen 2 has it
LARGE = Sizes(dim=256, ffn=512, heads=4, groups=2, head_dim=192)  # blocks of K types hold 256 values


@dataclass(frozen=True)
class Case:
    """A kind of model.

    Attributes:
        architecture: its name in the metadata.
        biases: tensors of each layer that have a bias.
        norms: whether queries and keys are normalised.
    """

    architecture: str
    biases: tuple[str, ...] = ()
    norms: bool = False


ALL = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
CASES = {
    "llama": Case("llama"),
    "llama with biases": Case("llama", biases=ALL),
    "qwen2": Case("qwen2", biases=ALL[:3]),
    "qwen3": Case("qwen3", norms=True),
}


TINY = Sizes(dim=12, ffn=20, heads=3, groups=1, head_dim=6)
NO_TOKENIZER = {
    "tokenizer.ggml.model": "no_vocab",
    "tokenizer.ggml.eos_token_id": None,
    "tokenizer.ggml.bos_token_id": None,
}
# Of each file that `fixtures/make_gguf.py` ran in llama.cpp: the case, its sizes, and changes to the metadata.
COMPUTED = {
    "llama": ("llama", TINY, NO_TOKENIZER),
    "llama with biases and rope_freqs": ("llama with biases", TINY, NO_TOKENIZER),
    "llama with linear scaling, tied": (
        "llama",
        TINY,
        {**NO_TOKENIZER, "llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 3.0},
    ),
    "qwen2 with yarn": (
        "qwen2",
        TINY._replace(head_dim=4),
        {
            **NO_TOKENIZER,
            "qwen2.rope.scaling.type": "yarn",
            "qwen2.rope.scaling.factor": 4.0,
            "qwen2.rope.scaling.original_context_length": 16,
        },
    ),
    "qwen3": ("qwen3", TINY, NO_TOKENIZER),
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": BASE,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}


def llama3_factors(count):
    """The divisors of the frequencies, as llama.cpp's converter computes them for Llama 3.1."""
    found = []
    for n in range(count):
        turns = LLAMA3["original_max_position_embeddings"] * BASE ** (-n / count) / (2 * math.pi)
        smooth = (turns - 1.0) / (4.0 - 1.0)
        found.append(1.0 if turns > 4.0 else 4.0 if turns < 1.0 else 1 / ((1 - smooth) / 4.0 + smooth))
    return np.array(found, np.float32)


def metadata_of(case, sizes=SMALL, **changes):
    """The metadata of a case; a change to None removes an entry."""
    found = {
        "context_length": 64,
        "embedding_length": sizes.dim,
        "block_count": LAYERS,
        "feed_forward_length": sizes.ffn,
        "attention.head_count": sizes.heads,
        "attention.head_count_kv": sizes.groups,
        "attention.key_length": sizes.head_dim,
        "attention.value_length": sizes.head_dim,
        "rope.dimension_count": sizes.head_dim,
        "attention.layer_norm_rms_epsilon": 1e-3,
        "rope.freq_base": BASE,
        "vocab_size": VOCAB,
    }
    found = {f"{case.architecture}.{key}": value for key, value in found.items()}
    found |= {"tokenizer.ggml.eos_token_id": 2, "tokenizer.ggml.bos_token_id": 1}
    found["general.architecture"] = case.architecture  # which the package writes itself
    return {key: value for key, value in {**found, **changes}.items() if value is not None}


def tensors_of(case, sizes=SMALL, tied=False, seed=0):
    """Random tensors of a case, in float32; norms are near 1."""
    dim, ffn, heads, groups, head_dim = sizes
    shapes = {"token_embd.weight": (VOCAB, dim), "output_norm.weight": (dim,)}
    if not tied:
        shapes["output.weight"] = (VOCAB, dim)
    rows = (heads * head_dim, groups * head_dim, groups * head_dim, dim, ffn, ffn, dim)
    columns = (dim, dim, dim, heads * head_dim, dim, dim, ffn)
    matrices = dict(zip(ALL, zip(rows, columns, strict=True), strict=True))
    norms = {"attn_norm": (dim,), "ffn_norm": (dim,)}
    if case.norms:
        norms |= {"attn_q_norm": (head_dim,), "attn_k_norm": (head_dim,)}
    for n in range(LAYERS):
        shapes |= {f"blk.{n}.{name}.weight": shape for name, shape in (matrices | norms).items()}
        shapes |= {f"blk.{n}.{name}.bias": matrices[name][:1] for name in case.biases}
    rng = np.random.default_rng(seed)
    return {
        name: (rng.normal(size=shape) * 0.1 + (1.0 if "norm" in name else 0.0)).astype(np.float32)
        for name, shape in shapes.items()
    }


def blocks_of(values, kind):
    """A tensor in a quantised type: one row of bytes per row of values.

    The package does not quantise to most types: their blocks are random bytes with small scales.
    """
    try:
        return gguf.quants.quantize(values, Type[kind])
    except NotImplementedError:
        held, size = gguf.GGML_QUANT_SIZES[Type[kind]]
        rng = np.random.default_rng(len(values))
        stored = rng.integers(0, 256, (values.size // held, size)).astype(np.uint8)
        for start in SCALES[kind]:
            scale = (rng.uniform(0.5, 1.0, (len(stored), 1)) * 2e-4).astype(np.float16)
            stored[:, start : start + 2] = scale.view(np.uint8)
        return stored.reshape(len(values), -1)


def write(path, case, metadata, tensors, kind="F32"):
    """Write a GGUF file; vectors are float32, as llama.cpp writes them, and matrices have a type or types in turn."""
    writer = gguf.GGUFWriter(path, case.architecture)
    add = {bool: writer.add_bool, str: writer.add_string, float: writer.add_float32, int: writer.add_uint32}
    for key, value in ((key, value) for key, value in metadata.items() if key != "general.architecture"):
        if isinstance(value, list):
            writer.add_array(key, value)
        else:
            add[type(value)](key, value)
    kinds = [kind] if isinstance(kind, str) else kind
    for at, (name, values) in enumerate(tensors.items()):
        chosen = kinds[at % len(kinds)] if values.ndim > 1 else "F32"
        if chosen == "BF16":
            writer.add_tensor(name, values.astype(PLAIN[chosen]).view(np.uint8), raw_dtype=Type.BF16)
        elif chosen in PLAIN:
            writer.add_tensor(name, values.astype(PLAIN[chosen]))
        else:
            writer.add_tensor(name, blocks_of(values, chosen), raw_dtype=Type[chosen])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def make(directory, name="llama", kind="F32", sizes=SMALL, tied=False, more=(), **changes):
    """Write the file of a case with random tensors, and `more` of them; `changes` are to the metadata."""
    case = CASES[name]
    tensors = {**tensors_of(case, sizes, tied), **dict(more)}
    return write(directory / "model.gguf", case, metadata_of(case, sizes, **changes), tensors, kind)


def reference(path, kind=None, **changes):
    """The model that transformers makes of a GGUF file, in float32.

    Args:
        path: the file.
        kind: transformers' configuration class; None for the one that transformers chooses.
        changes: fields of the configuration that transformers does not read from GGUF files.
    """
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    config = transformers.AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
    fields = {name: value for name, value in config.to_dict().items() if name != "model_type"}
    named = transformers.AutoModelForCausalLM.from_config(type(config)(**{**fields, **changes}))
    tensors = load_gguf_checkpoint(path, return_tensors=True, model_to_load=named)["tensors"]
    config = (kind or type(config))(**{**fields, **changes})
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    assert not unexpected
    assert missing == (["lm_head.weight"] if config.tie_word_embeddings else [])
    return model
