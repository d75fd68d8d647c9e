"""Silent mistakes in ports, and the line that fixes each."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Trap:
    """A silent mistake; a test reproduces it and applies the cure.

    Attributes:
        name: name of its test.
        text: description of the mistake.
        cure: the fix, one line of Python.
        names: full names of this project's functions and classes in the cure.
    """

    name: str
    text: str
    cure: str
    names: tuple[str, ...] = ()


MASKS = "attention_bridge.masks"
TRANSFER = "attention_bridge.weights.transfer"

TRAPS = (
    Trap(
        "polarity",
        "True masks a key in `torch.nn.MultiheadAttention` and keeps it everywhere else: the model attends to exactly "
        "the wrong keys.",
        "masks.from_torch_mha(attn_mask, key_padding_mask, num_heads=heads)",
        (MASKS,),
    ),
    Trap(
        "inverted",
        "Flax, Keras, Equinox and Haiku expect a boolean mask and cast an additive mask of 0 and -inf: 0 becomes "
        "False, so the mask is inverted. Hugging Face models do the same with a mask of two axes.",
        "masks.to_flax(masks.from_transformers(added), query_len=query, key_len=key)",
        (MASKS,),
    ),
    Trap(
        "added_ones",
        "`attention_mask.float()` as `key_padding_mask` of `torch.nn.MultiheadAttention` adds 1 to the scores of "
        "all keys but padding, and masks none.",
        "key_padding_mask = attention_mask == 0",
    ),
    Trap(
        "eager_boolean",
        'A boolean mask of four axes masks keys in Hugging Face models with "sdpa"; with "eager" it is added to the '
        "scores as 0 and 1, and masks none.",
        "masks.to_transformers(Restriction(mask), query_len=query, key_len=key)",
        (MASKS, f"{MASKS}.Restriction"),
    ),
    Trap(
        "causal_replaced",
        "A mask of four axes replaces the causal mask of GPT-2 and Llama, so they attend to later positions.",
        "masks.to_transformers(Restriction(mask, is_causal=True), query_len=query, key_len=key)",
        (MASKS, f"{MASKS}.Restriction"),
    ),
    Trap(
        "three_axes",
        "SDPA, `jax.nn` and Flax read `(batch, query, key)` as `(heads, query, key)` if batch and heads are equal or "
        "one is 1, because missing axes are added in front.",
        "masks.to_torch_sdpa(Restriction(mask), query_len=query, key_len=key)",
        (MASKS, f"{MASKS}.Restriction"),
    ),
    Trap(
        "corner",
        "`is_causal=True` with a KV cache: the diagonal begins in the upper left corner, so a single new query attends "
        "to the first key alone.",
        "masks.lower_right(query_len, key_len)",
        (MASKS,),
    ),
    Trap(
        "hint",
        "`is_causal=True` of `torch.nn.MultiheadAttention` is only a hint that `attn_mask` is causal. If it is not, "
        "`need_weights` decides which of the two masks is used.",
        "masks.to_torch_mha(Restriction(is_causal=True), shape=(batch, heads, query, key))",
        (MASKS, f"{MASKS}.Restriction"),
    ),
    Trap(
        "window",
        "A window of W has W keys in Mistral and in this project, W + 1 in `jax.nn` and x-transformers.",
        "masks.to_jax_nn(Restriction(is_causal=True, window=W), query_len=query, key_len=key)",
        (MASKS, f"{MASKS}.Restriction"),
    ),
    Trap(
        "window_ahead",
        "`sliding_window` of Keras reaches as far ahead as behind.",
        "layer(x, x, use_causal_mask=True)",
    ),
    Trap(
        "order",
        "Keras takes query, value, key in this order: `layer(q, k, v)` uses keys as values.",
        "layer(query=q, key=k, value=v)",
    ),
    Trap(
        "batch_first",
        "`torch.nn.MultiheadAttention` takes the length first: `(batch, length, embed)` attends across the batch.",
        "nn.MultiheadAttention(embed, heads, batch_first=True)",
    ),
    Trap(
        "transposed",
        "A square weight matrix that is not transposed still fits.",
        "transfer(torch_layer, flax_model)",
        (TRANSFER,),
    ),
    Trap(
        "fused",
        "GPT-2 of Hugging Face stores weights as `(in, out)` and fuses queries, keys and values; a conversion written "
        "for BERT does not work.",
        'convert(arrays, "hf.gpt2", "jax_attention")',
        ("attention_bridge.weights.convert",),
    ),
    Trap(
        "empty_rows",
        "A sample of only padding: NaN in the gradients of `torch.nn.MultiheadAttention`, even if the loss excludes "
        "that sample; the mean of the padding in JAX.",
        "transfer(torch_layer, MultiHeadCrossAttention(embed, embed, embed, heads))  # zeros in both",
        (TRANSFER, "torch_attention.MultiHeadCrossAttention", "jax_attention.MultiHeadCrossAttention"),
    ),
    Trap(
        "fast_path",
        "The same layer with `need_weights=False`, in evaluation mode, without gradients and with an even number of "
        "heads uses another kernel, which gives NaN where training gives zeros.",
        "torch.backends.mha.set_fastpath_enabled(False)",
    ),
    Trap(
        "mean_weights",
        "`torch.nn.MultiheadAttention` returns the mean of the attention weights over heads.",
        "layer(x, memory, memory, average_attn_weights=False)",
    ),
    Trap(
        "shared_dropout",
        "Flax uses one dropout mask for all heads and samples.",
        "nnx.MultiHeadAttention(..., broadcast_dropout=False)",
    ),
    Trap(
        "config",
        "eps and the form of GELU are not in the weight files: without the configuration they are the defaults.",
        'load_pretrained(directory, "jax")',
        ("attention_bridge.pretrained.load.load_pretrained",),
    ),
    Trap(
        "decay",
        "The default weight decay of AdamW is a hundred times smaller in Optax than in PyTorch.",
        "optimizer_like(torch_optimizer)",
        ("attention_bridge.optimizers.optimizer_like",),
    ),
    Trap(
        "unseen",
        "The port runs and the shapes fit, but the outputs were never compared.",
        "assert_parity(torch_module, jax_module, x)  # names the first tensor that differs",
        ("attention_bridge.parity.comparison.assert_parity",),
    ),
    Trap(
        "unexplained",
        "The outputs differ, and the cause is unknown.",
        "diagnose(expected, found, x=x, weights=weights, setting=Setting(num_heads=heads)).verdict",
        ("attention_bridge.doctor.diagnose", "attention_bridge.doctor.Setting"),
    ),
)
