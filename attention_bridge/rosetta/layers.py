"""Layers with projections, heads and attention."""

from attention_bridge.rosetta.community import EQUINOX, HAIKU, X_TRANSFORMERS
from attention_bridge.rosetta.operations import OURS
from attention_bridge.rosetta.peer import Empty, Peer

SPLIT_HEADS = (
    ("query.kernel", "embed heads head_dim"),
    ("query.bias", "heads head_dim"),
    ("key.kernel", "embed heads head_dim"),
    ("key.bias", "heads head_dim"),
    ("value.kernel", "embed heads head_dim"),
    ("value.bias", "heads head_dim"),
)
FLAX_TENSORS = (*SPLIT_HEADS, ("out.kernel", "heads head_dim embed"), ("out.bias", "embed"))
KERAS_TENSORS = (
    *((name.replace(".", "/"), shape) for name, shape in SPLIT_HEADS),
    ("attention_output/kernel", "heads head_dim embed"),
    ("attention_output/bias", "embed"),
)

TORCH_MHA = Peer(
    name="torch.nn.MultiheadAttention",
    arrays="torch",
    make="nn.MultiheadAttention(embed, heads, batch_first=True)",
    call="layer(x, memory, memory, attn_mask=mask)[0]",
    mask="~keep.repeat_interleave(heads, dim=0)",
    layout="batch length embed",
    constructor=("embed_dim", "num_heads"),
    arguments=("query", "key", "value", "key_padding_mask", "need_weights", "attn_mask"),
    true="hides",
    floats="added",
    added="attn_mask",
    masks=("query key", "batch*heads query key"),
    empty=(
        Empty("need_weights=True, the default", "layer(x, memory, memory, attn_mask=mask)[0]", "NaN"),
        Empty(
            "need_weights=False",
            "layer(x, memory, memory, attn_mask=mask, need_weights=False)[0]",
            "zeros",
        ),
    ),
    weights="layer(x, memory, memory)[1]",
    weights_axes="batch query key",
    dropped=True,
    layout_name="torch.mha",
    tensors=(
        ("in_proj_weight", "3*embed embed"),
        ("in_proj_bias", "3*embed"),
        ("out_proj.weight", "embed embed"),
        ("out_proj.bias", "embed"),
    ),
)

NNX_MHA = Peer(
    name="flax.nnx.MultiHeadAttention",
    arrays="jax",
    make="nnx.MultiHeadAttention(heads, embed, decode=False, rngs=nnx.Rngs(0))",
    call="layer(x, memory, memory, mask=mask)",
    mask="keep[:, None]",
    layout="batch length embed",
    constructor=("num_heads", "in_features", "qkv_features", "out_features"),
    arguments=("inputs_q", "inputs_k", "inputs_v", "mask"),
    true="shows",
    floats="inverted",
    masks=("query key", "heads query key", "batch 1 1 key", "batch heads query key"),
    causal="layer(x, memory, memory, is_causal=True)",
    corner="upper left",
    empty=(Empty("", "layer(x, memory, memory, mask=mask)", "mean"),),
    weights='nnx.capture(layer, nnx.Intermediate)(x, sow_weights=True)[1]["attention_weights"][0]',
    weights_axes="batch heads query key",
    dropped=False,
    layout_name="flax.nnx.mha",
    tensors=FLAX_TENSORS,
)

LINEN_MHA = Peer(
    name="flax.linen.MultiHeadDotProductAttention",
    arrays="jax",
    make="linen.MultiHeadDotProductAttention(num_heads=heads)",
    call="layer.apply(variables, x, memory, memory, mask=mask)",
    mask="keep[:, None]",
    layout="batch length embed",
    constructor=("num_heads", "dtype", "param_dtype", "qkv_features", "out_features"),
    arguments=("inputs_q", "inputs_k", "inputs_v", "inputs_kv", "mask"),
    true="shows",
    floats="inverted",
    masks=("query key", "heads query key", "batch 1 1 key", "batch heads query key"),
    empty=(Empty("", "layer.apply(variables, x, memory, memory, mask=mask)", "mean"),),
    weights=(
        'layer.apply(variables, x, sow_weights=True, mutable="intermediates")'
        '[1]["intermediates"]["attention_weights"][0]'
    ),
    weights_axes="batch heads query key",
    dropped=False,
    layout_name="flax.linen.mha",
    tensors=FLAX_TENSORS,
)

KERAS_EMPTY = (
    Empty("", "layer(x, memory, attention_mask=mask)", "mean"),
    Empty(
        "return_attention_scores=True",
        "layer(x, memory, attention_mask=mask, return_attention_scores=True)[0]",
        "zeros",
    ),
)

KERAS_MHA = Peer(
    name="keras.layers.MultiHeadAttention",
    arrays="keras",
    make="keras.layers.MultiHeadAttention(heads, head_dim)",
    call="layer(x, memory, attention_mask=mask)",
    mask="keep",
    layout="batch length embed",
    constructor=("num_heads", "key_dim", "value_dim"),
    arguments=("query", "value", "key", "query_mask", "value_mask", "key_mask", "attention_mask"),
    true="shows",
    floats="inverted",
    masks=("query key", "batch query key", "batch 1 1 key", "batch heads query key"),
    causal="layer(x, memory, use_causal_mask=True)",
    corner="upper left",
    window_make="keras.layers.MultiHeadAttention(heads, head_dim, sliding_window=3)",
    window="layer(x, x)",
    window_keys=3,
    window_ahead=True,
    empty=KERAS_EMPTY,
    weights="layer(x, memory, return_attention_scores=True)[1]",
    weights_axes="batch heads query key",
    dropped=False,
    layout_name="keras.mha",
    tensors=KERAS_TENSORS,
)

KERAS_GQA = Peer(
    name="keras.layers.GroupQueryAttention",
    arrays="keras",
    make="keras.layers.GroupQueryAttention(head_dim, heads, kv_heads)",
    call="layer(x, memory, attention_mask=mask)",
    mask="keep",
    layout="batch length embed",
    constructor=("head_dim", "num_query_heads", "num_key_value_heads"),
    arguments=("query", "value", "key", "query_mask", "value_mask", "key_mask", "attention_mask"),
    true="shows",
    floats="inverted",
    masks=("query key", "batch query key", "batch 1 1 key", "batch heads query key"),
    causal="layer(x, memory, use_causal_mask=True)",
    corner="upper left",
    window_make="keras.layers.GroupQueryAttention(head_dim, heads, kv_heads, sliding_window=3)",
    window="layer(x, x)",
    window_keys=3,
    window_ahead=True,
    empty=KERAS_EMPTY,
    weights="layer(x, memory, return_attention_scores=True)[1]",
    weights_axes="batch heads query key",
    dropped=False,
    layout_name="keras.gqa",
    tensors=tuple(
        (name, shape.replace("heads", "kv_heads") if name.startswith(("key", "value")) else shape)
        for name, shape in KERAS_TENSORS
    ),
)

OUR_LAYER = Peer(
    name="MultiHeadCrossAttention of both mirrors",
    arrays="torch",
    make="torch_attention.MultiHeadCrossAttention(embed, embed, embed, heads)",
    call="layer(x, memory, mask).output",
    mask="keep",
    layout="batch length embed",
    constructor=("query_dim", "key_dim", "embed_dim", "num_heads"),
    arguments=("query", "memory", "mask"),
    true="shows",
    floats="refused",
    masks=OURS,
    empty=(Empty("", "layer(x, memory, mask).output", "zeros"),),
    weights="layer(x, memory).weights",
    weights_axes="batch heads query key",
    dropped=False,
    scale="scale",
    layout_name="torch_attention",
    tensors=tuple(
        (f"{name}_proj.{kind}", shape)
        for name in ("q", "k", "v", "out")
        for kind, shape in (("weight", "embed embed"), ("bias", "embed"))
    ),
)

LAYERS = (
    TORCH_MHA,
    NNX_MHA,
    LINEN_MHA,
    KERAS_MHA,
    KERAS_GQA,
    EQUINOX,
    HAIKU,
    X_TRANSFORMERS,
    OUR_LAYER,
)
