"""Layers of Equinox, Haiku and x-transformers."""

from attention_bridge.rosetta.peer import Empty, Peer

EQUINOX = Peer(
    name="equinox.nn.MultiheadAttention",
    arrays="jax",
    make="eqx.nn.MultiheadAttention(heads, embed, key=jax.random.key(0))",
    call="jax.vmap(layer)(x, memory, memory, mask)",
    mask="keep",
    layout="length embed",
    constructor=("num_heads", "query_size", "key_size", "value_size", "output_size"),
    arguments=("query", "key_", "value", "mask"),
    true="shows",
    floats="inverted",
    masks=("query key", "heads query key"),
    empty=(Empty("", "jax.vmap(layer)(x, memory, memory, mask)", "mean"),),
    layout_name="equinox.mha",
    tensors=(
        ("query_proj.weight", "heads*head_dim embed"),
        ("key_proj.weight", "heads*head_dim embed"),
        ("value_proj.weight", "heads*head_dim embed"),
        ("output_proj.weight", "embed heads*head_dim"),
    ),
)

HAIKU = Peer(
    name="haiku.MultiHeadAttention",
    arrays="jax",
    make=(
        "hk.transform(lambda *xs: "
        "hk.MultiHeadAttention(heads, head_dim, w_init=hk.initializers.VarianceScaling())(*xs))"
    ),
    call="layer.apply(params, None, x, memory, memory, mask)",
    mask="keep[:, None]",
    layout="batch length embed",
    constructor=("num_heads", "key_size"),
    arguments=("query", "key", "value", "mask"),
    true="shows",
    floats="inverted",
    masks=("batch 1 1 key", "batch heads query key"),
    empty=(Empty("", "layer.apply(params, None, x, memory, memory, mask)", "mean"),),
    layout_name="haiku.mha",
    tensors=(
        ("query.w", "embed heads*head_dim"),
        ("query.b", "heads*head_dim"),
        ("key.w", "embed heads*head_dim"),
        ("key.b", "heads*head_dim"),
        ("value.w", "embed heads*head_dim"),
        ("value.b", "heads*head_dim"),
        ("linear.w", "heads*head_dim embed"),
        ("linear.b", "embed"),
    ),
)

X_TRANSFORMERS = Peer(
    name="x_transformers.Attention",
    arrays="torch",
    make="Attention(embed, heads=heads, dim_head=head_dim)",
    call="layer(x, context=memory, attn_mask=mask)",
    mask="keep[:, None]",
    layout="batch length embed",
    constructor=("dim", "dim_head", "dim_context", "heads", "causal"),
    arguments=("x", "context", "mask", "context_mask", "attn_mask"),
    true="shows",
    floats="refused",
    added="attn_bias",
    masks=("query key", "heads query key", "batch 1 1 key", "batch heads query key"),
    causal="layer(x, context=memory, causal=True)",
    corner="lower right",
    window_make="Attention(embed, heads=heads, dim_head=head_dim, causal=True, max_attend_past=3)",
    window="layer(x)",
    window_keys=4,
    empty=(Empty("", "layer(x, context=memory, attn_mask=mask)", "zeros"),),
    weights="layer(x, return_intermediates=True)[1].post_softmax_attn",
    weights_axes="batch heads query key",
    dropped=False,
    layout_name="x_transformers.attention",
    tensors=(
        ("to_q.weight", "heads*head_dim embed"),
        ("to_k.weight", "heads*head_dim embed"),
        ("to_v.weight", "heads*head_dim embed"),
        ("to_out.weight", "embed heads*head_dim"),
    ),
)
