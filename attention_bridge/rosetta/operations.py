"""Operations: attention without parameters."""

from attention_bridge.rosetta.peer import Empty, Peer

OURS = ("query key", "batch query key", "batch 1 1 key", "batch heads query key")
IN_FRONT = ("query key", "heads query key", "batch 1 1 key", "batch heads query key")

SDPA = Peer(
    name="torch.nn.functional.scaled_dot_product_attention",
    arrays="torch",
    call="F.scaled_dot_product_attention(q, k, v, attn_mask=mask)",
    mask="keep[:, None]",
    layout="batch heads length head_dim",
    arguments=("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa"),
    true="shows",
    floats="added",
    added="attn_mask",
    masks=IN_FRONT,
    causal="F.scaled_dot_product_attention(q, k, v, is_causal=True)",
    corner="upper left",
    empty=(Empty("", "F.scaled_dot_product_attention(q, k, v, attn_mask=mask)", "zeros"),),
    scale="scale",
)

FLEX = Peer(
    name="torch.nn.attention.flex_attention.flex_attention",
    arrays="torch",
    call="flex_attention(q, k, v, block_mask=mask)",
    mask='create_block_mask(lambda b, h, i, j: keep[b, i, j], batch, None, query, key, device="cpu")',
    layout="batch heads length head_dim",
    arguments=("query", "key", "value", "score_mod", "block_mask", "scale", "enable_gqa"),
    true="shows",
    floats="refused",
    added="score_mod",
    masks=(),
    empty=(Empty("", "flex_attention(q, k, v, block_mask=mask)", "zeros"),),
    scale="scale",
)

JAX_NN = Peer(
    name="jax.nn.dot_product_attention",
    arrays="jax",
    call="jax.nn.dot_product_attention(q, k, v, mask=mask)",
    mask="keep[:, None]",
    layout="batch length heads head_dim",
    arguments=("query", "key", "value", "bias", "mask"),
    true="shows",
    floats="refused",
    added="bias",
    masks=IN_FRONT,
    causal="jax.nn.dot_product_attention(q, k, v, is_causal=True)",
    corner="upper left",
    window="jax.nn.dot_product_attention(q, k, v, local_window_size=(3, 0))",
    window_keys=4,
    empty=(Empty("", "jax.nn.dot_product_attention(q, k, v, mask=mask)", "mean"),),
    scale="scale",
)

OUR_OP = Peer(
    name="ops.dot_product_attention of both mirrors",
    arrays="torch",
    call="torch_attention.ops.dot_product_attention(q, k, v, mask=mask)",
    mask="keep",
    layout="batch heads length head_dim",
    arguments=("query", "key", "value", "bias", "mask"),
    true="shows",
    floats="refused",
    added="bias",
    masks=OURS,
    causal="torch_attention.ops.dot_product_attention(q, k, v, is_causal=True)",
    corner="upper left",
    window="torch_attention.ops.dot_product_attention(q, k, v, is_causal=True, window=3)",
    window_keys=3,
    empty=(Empty("", "torch_attention.ops.dot_product_attention(q, k, v, mask=mask)", "zeros"),),
    scale="scale",
)

OPERATIONS = (SDPA, FLEX, JAX_NN, OUR_OP)
