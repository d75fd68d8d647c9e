"""Small valid files of every format for `fuzz`, with their plain readers and kinds of damage."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import ml_dtypes
import numpy as np

from parity_tests.helpers import mutants, plain_readers
from parity_tests.helpers.checkpoint_samples import few, gguf_bytes, random_bits, save

BLIND = mutants.BLIND
READERS = {
    "y.safetensors": plain_readers.safetensors,
    "y.npz": plain_readers.npz,
    "y.msgpack": plain_readers.flax_msgpack,
    "y.pt": plain_readers.torch_file,
}


class Sample(NamedTuple):
    """A kind of checkpoint.

    Attributes:
        write: writes a valid file into a directory; returns the path to open.
        plain: its plain reader.
        knowing: format-aware kinds of damage for one of its files.
        checksums: whether format-blind damage can change no tensor.
    """

    write: Callable[[Path], Path]
    plain: Callable[[Path], dict]
    knowing: Callable[[Path], tuple]
    checksums: bool = False

    def kinds(self, name):
        """The kinds of damage for one of its files: half of them format-blind, half format-aware."""
        knowing = self.knowing(name)
        return (*BLIND, *knowing * max(1, len(BLIND) // max(1, len(knowing))))


def written(name, tensors=None, **options):
    def write(directory):
        save(directory / name, few() if tensors is None else tensors(), **options)
        return directory / name

    return write


def _sharded(directory):
    save(directory / "model.safetensors", few(), max_shard_bytes=90)
    return directory / "model.safetensors.index.json"


def _torch_sharded(directory):
    tensors, weight_map = few(), {}
    for at, name in enumerate(tensors):
        save(directory / f"pytorch_model-{at}.bin", {name: tensors[name]})
        weight_map[name] = f"pytorch_model-{at}.bin"
    path = directory / "pytorch_model.bin.index.json"
    path.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
    return path


def _old_torch(directory):
    import torch

    path = directory / "x.pt"
    tensors = {"state": {"a": torch.randn(3, 5), "b": [torch.ones(7, dtype=torch.bfloat16)]}, "epoch": 3}
    torch.save(tensors, path, _use_new_zipfile_serialization=False)
    return path


def _torch_nested(directory):
    """A state dict with views, a tensor that repeats few bytes, and two tensors that share storage."""
    import torch

    base = torch.arange(24, dtype=torch.float32)
    tree = {
        "model": {"w": base[2:14].view(3, 4).T, "tied": base[2:14], "one": torch.tensor(1.5)},
        "list": [torch.ones(3, dtype=torch.bfloat16), torch.zeros(0, 4)],
        "repeated": torch.ones(1).expand(5, 3),
        "step": 7,
    }
    torch.save(tree, directory / "x.pt")
    return directory / "x.pt"


def _compressed(directory):
    np.savez_compressed(directory / "x.npz", a=np.arange(15.0).reshape(3, 5).T, b=np.ones(7, ">i4"))
    return directory / "x.npz"


def _gguf(directory):
    tensors = {
        "a.weight": random_bits((3, 5), np.float32),
        "b": random_bits((7,), np.float16),
        "c": random_bits((2, 2, 2), ml_dtypes.bfloat16),
    }
    quantised = (("d", (2, 3, 64), "Q8_0"), ("e.weight", (3, 256), "Q4_K"), ("f", (32,), "MXFP4"))
    gguf_bytes(directory / "x.gguf", tensors, quantised)
    return directory / "x.gguf"


def _of_index(name):
    return (mutants.json_edited,) if name.suffix == ".json" else (mutants.safetensors_edited,)


def _of_torch_index(name):
    return (mutants.json_edited,) if name.suffix == ".json" else (mutants.pickle_edited,)


def _of_orbax(name):
    return (mutants.json_edited,) if name.name in ("_METADATA", ".zarray", "_sharding") else ()


def always(*kinds):
    return lambda _: kinds


def mha():
    """Tensors with the names and shapes of the mirrors' multi-head self-attention."""
    found = {}
    for at, name in enumerate(("q_proj", "k_proj", "v_proj", "out_proj")):
        found[f"{name}.weight"] = np.random.default_rng(at).normal(size=(12, 12)).astype(np.float32)
        found[f"{name}.bias"] = np.random.default_rng(at + 9).normal(size=12).astype(np.float32)
    return found


def held_by(tensors):
    """The arrays in comparable form."""
    return {name: plain_readers.held(array) for name, array in tensors.items()}


SAFETENSORS = always(mutants.safetensors_edited)
NPZ = always(mutants.npz_edited, mutants.zip_edited)
TORCH = always(mutants.pickle_edited, mutants.pickle_edited, mutants.zip_edited)
SAMPLES = {
    "safetensors": Sample(written("x.safetensors"), plain_readers.safetensors, SAFETENSORS),
    "safetensors index": Sample(
        _sharded, lambda path: plain_readers.index(path, plain_readers.safetensors), _of_index
    ),
    "torch index": Sample(
        _torch_sharded, lambda path: plain_readers.index(path, plain_readers.torch_file), _of_torch_index
    ),
    "npz": Sample(written("x.npz"), plain_readers.npz, NPZ, checksums=True),
    "npz, compressed": Sample(_compressed, plain_readers.npz, NPZ, checksums=True),
    "msgpack": Sample(
        written("x.msgpack"), plain_readers.flax_msgpack, always(mutants.msgpack_edited)
    ),
    "torch": Sample(_torch_nested, plain_readers.torch_file, TORCH, checksums=True),
    "old torch": Sample(_old_torch, plain_readers.torch_file, always()),
    "gguf": Sample(_gguf, plain_readers.gguf, always()),
    "keras": Sample(written("x.weights.h5"), plain_readers.keras, always()),
    "orbax": Sample(written("x", format="orbax"), lambda path: held_by(few()), _of_orbax, checksums=True),
}  # fmt: skip


def named(name):
    """The sample of a format, with tensor names that the mirrors know."""
    file = {"safetensors": "x.safetensors", "npz": "x.npz", "torch": "x.pt"}[name]
    return SAMPLES[name]._replace(write=written(file, mha))


def configs():
    """A configuration of every family of transformers, of Meta's Llama, and each in the mirrors' own format."""
    from parity_tests.helpers import families

    found = {}
    for name, case in families.CASES.items():
        found[name] = json.loads(json.dumps(case.config(**case.fields).to_dict(), default=str))
    found["meta"] = {
        "dim": 12, "n_layers": 2, "n_heads": 3, "vocab_size": 31, "multiple_of": 4, "norm_eps": 1e-5,
    }  # fmt: skip
    return found | own_configs(found)


def own_configs(theirs):
    """The same models as configurations in the mirrors' own format."""
    from attention_bridge.catalogue.part import build
    from attention_bridge.pretrained.families import read_config
    from attention_bridge.pretrained.families.describe import as_part
    from attention_bridge.pretrained.families.readers.own import MODEL_TYPE, as_json

    found = {}
    for name, given in theirs.items():
        model = read_config(given).model
        config = as_json(as_part(build(model.arguments["config"], "torch_attention", {})))
        found[f"own, {name}"] = {"model_type": MODEL_TYPE, "model": model.name, "config": config}
    return found


def write_model(directory):
    """Write a small BERT with Hugging Face names; returns the bytes of its configuration, and its tensors."""
    from parity_tests.helpers import families

    directory.mkdir(parents=True)
    case = families.CASES["bert"]
    tensors = {name: x.detach().numpy() for name, x in families.model(case).state_dict().items()}
    tensors = {name: np.ascontiguousarray(x) for name, x in tensors.items() if x.dtype == np.float32}
    save(directory / "model.safetensors", tensors)
    config = json.dumps(case.config(**case.fields).to_dict(), default=str).encode()
    (directory / "config.json").write_bytes(config)
    return config, plain_readers.safetensors(directory / "model.safetensors")


# Fields for which another positive number gives another model.
ARITHMETIC = frozenset((
    "rope_theta", "rotary_pct", "attn_logit_softcapping", "final_logit_softcapping", "rms_norm_eps",
    "layer_norm_eps", "layer_norm_epsilon", "hidden_size", "vocab_size", "num_hidden_layers", "head_dim",
    "num_attention_heads", "num_key_value_heads", "query_pre_attn_scalar", "routed_scaling_factor", "image_size",
    "d_model", "patch_size", "q_lora_rank", "kv_lora_rank", "intermediate_size", "n_embd", "n_head", "n_layer",
    "num_experts_per_tok", "first_k_dense_replace", "encoder_layers", "decoder_layers", "d_kv", "d_ff",
))  # fmt: skip
UNUSED = frozenset({
    # Fields that the reference does not read either.
    ("bart", "num_hidden_layers"), ("bart, scaled", "num_hidden_layers"), ("whisper", "num_hidden_layers"),
})  # fmt: skip
