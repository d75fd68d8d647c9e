"""What goes wrong without a word, and the line that cures it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Trap:
    """A silent mistake; a test makes it, sees it, and applies the cure.

    Attributes:
        name: of its test.
        what: what happens, in words.
        cure: one line of Python.
        names: what the cure takes from this project, from where.
    """

    name: str
    what: str
    cure: str
    names: tuple[str, ...] = ()


MASKS = "attention_bridge.masks"
TRANSFER = "attention_bridge.weights.transfer"

TRAPS = (
    Trap(
        "polarity",
        "True hides in `torch.nn.MultiheadAttention` and shows everywhere else: the model sees just what it must not.",
        "masks.from_torch_mha(attn_mask, key_padding_mask, num_heads=heads)",
        (MASKS,),
    ),
    Trap(
        "inverted",
        "A mask of 0 and -inf, given where Flax, Keras, Equinox or Haiku want booleans, is cast: 0 becomes False. "
        "The same happens to one of two axes in Hugging Face models.",
        "masks.to_flax(masks.from_transformers(added), query_len=query, key_len=key)",
        (MASKS,),
    ),
    Trap(
        "added_ones",
        "`attention_mask.float()` as `key_padding_mask` of `torch.nn.MultiheadAttention` adds 1 to the scores of "
        "what is no padding, and hides nothing.",
        "key_padding_mask = attention_mask == 0",
    ),
    Trap(
        "eager_boolean",
        'A boolean mask of four axes hides in Hugging Face models with "sdpa"; with "eager" it is added to the '
        "scores as 0 and 1, and hides nothing.",
        "masks.to_transformers(Restriction(mask), query_len=query, key_len=key)",
        (MASKS, f"{MASKS}.Restriction"),
    ),
    Trap(
        "causal_replaced",
        "A mask of four axes takes the place of the causal mask of GPT-2 and Llama: they see the future.",
        "masks.to_transformers(Restriction(mask, is_causal=True), query_len=query, key_len=key)",
        (MASKS, f"{MASKS}.Restriction"),
    ),
    Trap(
        "three_axes",
        "`(batch, query, key)` is read as `(heads, query, key)` by SDPA, `jax.nn` and Flax if both are equal or one "
        "is 1. Missing axes come in front.",
        "masks.to_torch_sdpa(Restriction(mask), query_len=query, key_len=key)",
        (MASKS, f"{MASKS}.Restriction"),
    ),
    Trap(
        "corner",
        "`is_causal=True` with a cache: the diagonal begins in the upper left corner, and a single new query sees "
        "the first key alone.",
        "masks.lower_right(query_len, key_len)",
        (MASKS,),
    ),
    Trap(
        "hint",
        "`is_causal=True` of `torch.nn.MultiheadAttention` is a promise about `attn_mask`, no mask. If the promise "
        "is not kept, `need_weights` decides which of the two is used.",
        "masks.to_torch_mha(Restriction(is_causal=True), shape=(batch, heads, query, key))",
        (MASKS, f"{MASKS}.Restriction"),
    ),
    Trap(
        "window",
        "A window of W is W keys in Mistral and here, W + 1 in `jax.nn` and x-transformers.",
        "masks.to_jax_nn(Restriction(is_causal=True, window=W), query_len=query, key_len=key)",
        (MASKS, f"{MASKS}.Restriction"),
    ),
    Trap(
        "window_ahead",
        "`sliding_window` of Keras sees as far ahead as behind.",
        "layer(x, x, use_causal_mask=True)",
    ),
    Trap(
        "order",
        "Keras is called with query, value, key: `layer(q, k, v)` takes keys for values.",
        "layer(query=q, key=k, value=v)",
    ),
    Trap(
        "batch_first",
        "`torch.nn.MultiheadAttention` takes the length first: `(batch, length, embed)` attends across the batch.",
        "nn.MultiheadAttention(embed, heads, batch_first=True)",
    ),
    Trap(
        "transposed",
        "A square matrix fits without its transpose.",
        "transfer(torch_layer, flax_model)",
        (TRANSFER,),
    ),
    Trap(
        "fused",
        "Hugging Face's GPT-2 keeps `(in, out)` and queries, keys and values side by side: half of what works for "
        "BERT does not work there.",
        'convert(arrays, "hf.gpt2", "jax_attention")',
        ("attention_bridge.weights.convert",),
    ),
    Trap(
        "empty_rows",
        "A sample of padding alone: NaN in the gradients of `torch.nn.MultiheadAttention`, even if the loss leaves "
        "that sample out; the mean of padding in JAX.",
        "transfer(torch_layer, MultiHeadCrossAttention(embed, embed, embed, heads))  # zeros in both",
        (TRANSFER, "torch_attention.MultiHeadCrossAttention", "jax_attention.MultiHeadCrossAttention"),
    ),
    Trap(
        "fast_path",
        "The same layer without weights, in evaluation and without gradients, with an even number of heads: another "
        "kernel, and NaN where training gives zeros.",
        "torch.backends.mha.set_fastpath_enabled(False)",
    ),
    Trap(
        "mean_weights",
        "`torch.nn.MultiheadAttention` returns the mean of the heads' weights.",
        "layer(x, memory, memory, average_attn_weights=False)",
    ),
    Trap(
        "shared_dropout",
        "Flax drops the same weights in all heads and samples.",
        "nnx.MultiHeadAttention(..., broadcast_dropout=False)",
    ),
    Trap(
        "config",
        "eps and the form of GELU are in no file of weights: what is not read from the configuration is a default.",
        'load_pretrained(directory, "jax")',
        ("attention_bridge.pretrained.load.load_pretrained",),
    ),
    Trap(
        "decay",
        "AdamW with its defaults decays a hundred times less in Optax than in PyTorch.",
        "optimizer_like(torch_optimizer)",
        ("attention_bridge.optimizers.optimizer_like",),
    ),
    Trap(
        "unseen",
        "It runs, the shapes fit, and nobody compared.",
        "assert_parity(torch_module, jax_module, x)  # names the first tensor that differs",
        ("attention_bridge.parity.comparison.assert_parity",),
    ),
    Trap(
        "unexplained",
        "It was compared, the numbers differ, and nobody knows why.",
        "diagnose(expected, found, x=x, weights=weights, setting=Setting(num_heads=heads)).verdict",
        ("attention_bridge.doctor.diagnose", "attention_bridge.doctor.Setting"),
    ),
)
