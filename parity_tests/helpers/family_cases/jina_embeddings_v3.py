"""Tiny models of Jina Embeddings v3."""

import transformers as t

from parity_tests.helpers.family_cases.case import SIZES, Case

MODULES = ("jina_embeddings_v3",)
PLAIN = {
    **SIZES,
    "hidden_size": 24,
    "num_attention_heads": 4,
    "pad_token_id": 0,
    "max_position_embeddings": 16,
}


def case(model=t.JinaEmbeddingsV3Model, **fields):
    """A model with these fields changed."""
    return Case("hf.jina_embeddings_v3", "encoder", model, t.JinaEmbeddingsV3Config, {**PLAIN, **fields})


LINEAR = {"rope_type": "linear", "rope_theta": 70.0, "factor": 3.0}
CASES = {
    "jina_embeddings_v3": case(),
    "jina_embeddings_v3, three types, eps": case(type_vocab_size=3, layer_norm_eps=0.1, vocab_size=37),
    "jina_embeddings_v3, masked language model": case(t.JinaEmbeddingsV3ForMaskedLM, hidden_act="relu"),
    "jina_embeddings_v3, linear scaling": case(rope_parameters=LINEAR, hidden_act="gelu_new"),
    "jina_embeddings_v3, base 30, three layers": case(
        rope_parameters={"rope_type": "default", "rope_theta": 30.0}, num_hidden_layers=3
    ),
    "jina_embeddings_v3, one head": case(
        num_attention_heads=1, hidden_size=10, num_hidden_layers=1, intermediate_size=7
    ),
}
