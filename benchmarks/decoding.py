"""Greedy decoding with a decoder of GPT-2's shape (124 million parameters), compared with transformers' `generate`."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from transformers import GPT2Config, GPT2LMHeadModel

import jax_attention.models
import torch_attention.models
from attention_bridge.catalogue import Part
from attention_bridge.parity.instances import jax_with
from attention_bridge.weights import convert, transfer
from benchmarks.side_by_side import Contest

SIZES = {
    "vocab_size": 50257,
    "embed_dim": 768,
    "num_heads": 12,
    "num_layers": 12,
    "ffn_dim": 3072,
    "max_len": 1024,
}
QUICK_SIZES = SIZES | {"vocab_size": 1000, "embed_dim": 96, "num_layers": 2, "ffn_dim": 384}


class Case(NamedTuple):
    """One decoding task.

    Attributes:
        batch: number of prompts.
        length: tokens of each prompt.
        new: number of tokens to generate.
    """

    batch: int
    length: int
    new: int

    def __str__(self) -> str:
        return f"decoding, {self.batch} × {self.length} tokens, {self.new} more"


def contests(quick: bool, only: str) -> Iterator[Contest]:
    """Yield one contest for each case whose description contains `only`."""
    cases = [Case(1, 16, 8)] if quick else [Case(1, 32, 64), Case(1, 512, 64), Case(4, 32, 64)]
    chosen = [case for case in cases if only in str(case)]
    if chosen:
        models = build(QUICK_SIZES if quick else SIZES)
        yield from (contest(case, *models) for case in chosen)


def build(sizes: dict[str, int]) -> tuple[Any, Any, Any]:
    """Build the decoder of both mirrors and of transformers with the same random weights."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=sizes["vocab_size"],
        n_embd=sizes["embed_dim"],
        n_head=sizes["num_heads"],
        n_layer=sizes["num_layers"],
        n_inner=sizes["ffn_dim"],
        n_positions=sizes["max_len"],
        bos_token_id=None,
        eos_token_id=None,
        initializer_range=0.1,  # large, so that rounding cannot change the most likely token
    )
    theirs = GPT2LMHeadModel(config).eval()
    weights, _ = convert(theirs.transformer.state_dict(), "hf.gpt2", "torch_attention")
    ours = torch_attention.models.Decoder(torch_attention.models.DecoderConfig(**sizes)).eval()
    transfer(weights, ours)
    in_jax = jax_with(Part("Decoder", {"config": Part("DecoderConfig", sizes)}), weights, {})
    return ours, in_jax, theirs


def contest(case: Case, ours: Any, in_jax: Any, theirs: Any) -> Contest:
    """Decoding from one prompt by all three models; each time is divided by the number of generated tokens."""
    rng = np.random.default_rng(case.length)
    prompt = rng.integers(0, ours.config.vocab_size, (case.batch, case.length))
    torch_prompt, jax_prompt = torch.from_numpy(prompt), jnp.asarray(prompt)

    def by_transformers() -> torch.Tensor:
        options = {"max_new_tokens": case.new, "min_new_tokens": case.new, "do_sample": False}
        mask = torch.ones_like(torch_prompt)
        made = theirs.generate(torch_prompt, attention_mask=mask, pad_token_id=0, **options)
        return made[:, case.length :]

    return Contest(
        str(case),
        {
            "torch": lambda: torch_attention.models.generate(ours, torch_prompt, case.new),
            "jax": lambda: jax.block_until_ready(jax_attention.models.generate(in_jax, jax_prompt, case.new)),
        },
        {("torch", "transformers generate"): by_transformers},
        0.0,
        steps=case.new,
    )
