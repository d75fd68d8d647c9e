"""Rotary frequencies that depend on the length of the text: a Llama's logits, for texts of every length."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers as t

from attention_bridge.pretrained import load_pretrained
from parity_tests.helpers.family_cases.case import NONE, SIZES

ORIGINAL, LONGEST = 4, 7
FACTORS = {"short_factor": [1.0, 1.2, 1.4, 2.0], "long_factor": [2.0, 3.0, 4.0, 5.0]}
SCALINGS = {
    "dynamic": ({"factor": 3.0}, ORIGINAL),
    "longrope": ({**FACTORS, "original_max_position_embeddings": ORIGINAL}, 20),
    "longrope with an amplitude": ({**FACTORS, "factor": 2.0, "attention_factor": 1.5}, ORIGINAL),
    "longrope without extension": (FACTORS, ORIGINAL),
    "proportional": ({"partial_rotary_factor": 0.6, "factor": 2.0}, 20),
}


@pytest.mark.parametrize("framework", ["torch", "jax"])
@pytest.mark.parametrize("name", SCALINGS)
def test_texts_of_every_length_have_the_logits_of_transformers(name, framework, tmp_path):
    options, max_len = SCALINGS[name]
    torch.manual_seed(1)
    config = t.LlamaConfig(
        **SIZES,
        **NONE,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=max_len,
        rope_parameters={"rope_type": name.partition(" ")[0], "rope_theta": 50.0, **options},
    )
    theirs = t.LlamaForCausalLM(config).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    theirs.save_pretrained(tmp_path)
    ours = load_pretrained(tmp_path, framework)
    array = torch.as_tensor if framework == "torch" else jnp.asarray
    tokens, caches = torch.randint(0, SIZES["vocab_size"], (2, LONGEST)), ours.start(LONGEST)
    for length in range(1, LONGEST + 1):
        theirs.model.rotary_emb = type(theirs.model.rotary_emb)(config)  # made for the longest text so far
        with torch.no_grad():
            expected = theirs(tokens[:, :length]).logits.numpy()
            found = ours(array(tokens[:, :length].numpy())).logits
            step = ours(array(tokens[:, length - 1 : length].numpy()), caches=caches)
        caches = step.caches
        bound = 1e-5 * np.abs(expected).max()
        assert np.abs(np.asarray(found) - expected).max() < bound, length
        if length <= ORIGINAL:  # the caches hold keys of shorter texts
            assert np.abs(np.asarray(step.logits)[:, -1] - expected[:, -1]).max() < bound, length
