"""The names and ranks of the tensors that modules of the mirrors have, as `torch_attention` spells them.

A tensor is known by the last of its names: that of the layer and `weight` or `bias`, or that of a parameter which
belongs to no layer. What stands before, the place of a module in another, is free.
"""

LINEARS = (
    "a_proj",
    "b_proj",
    "compressed_k_proj",
    "compressed_v_proj",
    "concat_proj",
    "decay_down_proj",
    "decay_up_proj",
    "down_proj",
    "embedding_proj",
    "f_a_proj",
    "f_b_proj",
    "ffn_proj",
    "forget_proj",
    "g_a_proj",
    "g_b_proj",
    "gate_proj",
    "global_k_proj",
    "global_q_proj",
    "global_v_proj",
    "head",
    "hidden_proj",
    "image_proj",
    "in_proj",
    "k_proj",
    "kv_a_proj",
    "kv_b_proj",
    "location_proj",
    "out_proj",
    "pooler",
    "proj",
    "q_a_proj",
    "q_b_proj",
    "q_proj",
    "qk_proj",
    "readout_proj",
    "relative_k_proj",
    "relative_q_proj",
    "router",
    "score_proj",
    "selected_k_proj",
    "selected_v_proj",
    "start_proj",
    "text_proj",
    "up_proj",
    "v_proj",
    "weight_proj",
    "window_k_proj",
    "window_v_proj",
    "z_proj",
)
EMBEDDINGS = (
    "bias_embedding",
    "decoder_position_embedding",
    "encoder_position_embedding",
    "frame_position_embedding",
    "key_embedding",
    "position_embedding",
    "relative_embedding",
    "source_embedding",
    "source_position_embedding",
    "target_embedding",
    "target_position_embedding",
    "token_embedding",
    "type_embedding",
    "value_embedding",
)
NORMS = (
    "attention_norm",
    "attention_output_norm",
    "cross_norm",
    "decoder_embedding_norm",
    "decoder_norm",
    "embedding_norm",
    "encoder_embedding_norm",
    "encoder_norm",
    "ffn_norm",
    "ffn_output_norm",
    "final_norm",
    "head_norm",
    "input_norm",
    "k_norm",
    "kv_a_norm",
    "latent_norm",
    "norm",
    "q_a_norm",
    "q_norm",
    "reduction_norm",
    "self_norm",
    "slot_norm",
)
CONVOLUTIONS = {
    "conv": 3,
    "frame_conv": 3,
    "halving_conv": 3,
    "location_conv": 3,
    "value_conv": 3,
    "patch_proj": 4,
    "reduction_proj": 4,
}
WEIGHTS = {**dict.fromkeys(LINEARS + EMBEDDINGS, 2), **dict.fromkeys(NORMS, 1), **CONVOLUTIONS}
BIASES = {*LINEARS, *NORMS, *CONVOLUTIONS}

PARAMETERS = {
    0: ("logit_scale",),
    1: (
        *(
            "A_log",
            "D",
            "bias_hh",
            "bias_ih",
            "class_token",
            "dt_bias",
            "lambda_k1",
            "lambda_k2",
            "lambda_q1",
        ),
        *("lambda_q2", "log_sigma", "logit_scale", "mean", "norm_scale", "router_bias", "sinks"),
    ),
    2: (
        *("content_bias", "distance_bias", "features", "height_positions", "inducing_points", "key_mixtures"),
        *(
            "latents",
            "memory_key",
            "memory_value",
            "places",
            "position_bias",
            "positions",
            "post_map",
            "pre_map",
        ),
        *("probes", "seeds", "value_mixtures", "weight_hh", "weight_ih", "width_positions"),
    ),
    3: ("distance_weight",),
    4: ("rotations",),
}


def is_known(name: str, rank: int) -> bool:
    """Whether a module of the mirrors has a tensor of this name, wherever it stands, and this number of axes."""
    *_, layer, leaf = "", *name.split(".")
    if leaf == "weight" and layer in WEIGHTS:
        return WEIGHTS[layer] == rank
    if leaf == "bias" and layer in BIASES:
        return rank == 1
    return leaf in PARAMETERS.get(rank, ())
