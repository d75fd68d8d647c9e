"""Tiny models of Marian, whose files have tables of positions or none."""

import transformers as t

from parity_tests.helpers.family_cases.case import STACKS, Case

MODULES = ("marian",)
PLAIN = {**STACKS, "max_position_embeddings": 11, "bos_token_id": None}


class MarianMTModel(t.MarianMTModel):
    """Marian with sinusoidal positions that are not in the file."""

    def __init__(self, config):
        super().__init__(config)
        for stack in (self.model.encoder, self.model.decoder):
            positions = stack.embed_positions
            table = positions.create_weight()
            del positions.weight
            positions.register_buffer("weight", table, persistent=False)


# The tiny models have random tables of positions, which the class would not write.
t.MarianMTModel._keys_to_ignore_on_save = None


def case(model=t.MarianMTModel, **fields):
    """A model with these fields changed."""
    return Case("hf.bart_biased", "sequence", model, t.MarianConfig, {**PLAIN, **fields})


CASES = {
    "marian": case(),
    "marian, sinusoidal positions": case(MarianMTModel, activation_function="swish"),
    "marian, scaled, sinusoidal positions": case(MarianMTModel, scale_embedding=True, d_model=18),
    "marian, odd vocabulary": case(vocab_size=37, encoder_layers=1, decoder_attention_heads=6),
    "marian, one head": case(encoder_attention_heads=1, decoder_attention_heads=1, decoder_ffn_dim=7),
    "marian, many heads": case(d_model=30, encoder_attention_heads=15, decoder_attention_heads=10),
}
