"""LoRA adapters of PEFT: merged as PEFT merges them, kept apart with PEFT's outputs, trained, and saved for PEFT."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from attention_bridge import checkpoints
from attention_bridge.pretrained import load_pretrained, read_pretrained
from attention_bridge.pretrained.adapters import merged, read_adapter
from attention_bridge.weights.leaves import to_numpy
from parity_tests.helpers import families
from parity_tests.helpers.adapters import sample

ARRAYS = {"torch": torch.from_numpy, "jax": jnp.asarray}
SEVERAL = {  # options of PEFT for which every merged tensor is compared
    "linear": ("llama", {}),
    "16 bits": ("llama", {"dtype": torch.bfloat16}),
    "half": ("llama", {"dtype": torch.float16}),
    "double": ("llama", {"dtype": torch.float64}),
    "rslora": ("llama", {"use_rslora": True}),
    "patterns": (
        "llama",
        {
            "rank_pattern": {"layers.1.self_attn.q_proj": 4, "down_proj": 2},
            "alpha_pattern": {r".*\.[01]\.mlp.up_proj": 7, "v_proj": 1},
            "use_rslora": True,
        },
    ),
    "some layers": ("llama", {"target_modules": ["q_proj", "down_proj"], "layers_to_transform": [1]}),
    "expression": ("llama", {"target_modules": r".*\.0\..*_proj", "exclude_modules": ["k_proj"]}),
    "embedding": ("llama", {"target_modules": ["embed_tokens", "q_proj"]}),
    "embedding, 16 bits": ("llama", {"target_modules": ["embed_tokens"], "dtype": torch.bfloat16}),
    "whole modules": ("llama", {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "norm"]}),
    "whole modules, 16 bits": (
        "llama",
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"], "dtype": torch.bfloat16},
    ),
    "biases": ("bert", {"target_modules": ["query", "value"], "bias": "all"}),
    "biases of the layers": ("bert", {"target_modules": ["query", "value"], "bias": "lora_only"}),
    "transposed": ("gpt2", {"fan_in_fan_out": True}),
    "transposed, without the flag": ("gpt2", {}),
    "tied embedding": ("gpt2", {"target_modules": ["wte", "c_proj"]}),
    "fused": ("gpt_neox", {"target_modules": ["query_key_value"]}),
    "dora": ("llama", {"use_dora": True}),
    "dora, 16 bits": ("llama", {"use_dora": True, "dtype": torch.bfloat16}),
    "dora, transposed": ("gpt2", {"use_dora": True}),
}
FAMILIES = [
    pytest.param(name, framework, marks=() if framework == "torch" or name == "llama" else pytest.mark.slow)
    for framework in ARRAYS
    for name in (families.SHORT if framework == "torch" else ("bert", "gpt2", "gpt_neox", "llama"))
]


def error(found, expected):
    return np.abs(found - expected).max() / np.abs(expected).max()


def outputs(name, model, framework):
    return families.ours(families.CASES[name], model, ARRAYS[framework])


def bits(tensors):
    return {name: (x.dtype, x.shape, x.tobytes()) for name, x in tensors.items()}


class TestMerged:
    @pytest.mark.parametrize("with_layout", [True, False])
    @pytest.mark.parametrize("option", SEVERAL)
    def test_every_tensor_has_the_bits_of_the_model_that_peft_merges(self, tmp_path, option, with_layout):
        name, options = SEVERAL[option]
        made = sample(name, tmp_path, **options)
        layout = read_pretrained(made.base).reading.layout if with_layout else None
        expected = made.merged()
        with checkpoints.open(made.base) as base:
            names = list(base.specs)
            before = bits(dict(base.items()))
            found = merged(base, read_adapter(made.adapter), layout)
            assert list(found.specs) == names
            after = bits(dict(found.items()))
        wanted = {key: to_numpy(key, expected[key.replace("embed_out", "lm_head")]) for key in names}
        assert after == bits(wanted)
        assert sum(after[key] != before[key] for key in names) >= 1

    @pytest.mark.parametrize(("name", "framework"), FAMILIES)
    def test_outputs_of_both_forms_are_those_of_peft(self, tmp_path, name, framework):
        made = sample(name, tmp_path)
        expected = made.reference()
        bound = 2 * families.bound(made.load().get_base_model())
        plain = outputs(name, load_pretrained(made.base, framework), framework)
        for merge in (True, False):
            model = load_pretrained(made.base, framework, adapter=made.adapter, merge=merge)
            found = outputs(name, model, framework)
            for part, reference in expected.items():
                assert error(found[part], reference) <= bound, (merge, part)
                assert error(plain[part], reference) > 100 * bound, part
