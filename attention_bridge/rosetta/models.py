"""Models of Hugging Face, which take masks for the whole model."""

from attention_bridge.rosetta.peer import Empty, Peer

CALL = "layer(inputs_embeds=x, attention_mask=mask).last_hidden_state"
MASK = "torch.where(keep[:, None], 0.0, torch.finfo(x.dtype).min)"
# `bert_config` and so on are configurations with the sizes: `BertConfig(...)`.
PADDED = "layer(inputs_embeds=x, attention_mask=keep[:, 0]).last_hidden_state"
SDPA = Empty('sample of only padding, attn_implementation="sdpa", the default', PADDED, "zeros")
EAGER = Empty(
    'sample of only padding, attn_implementation="eager"', PADDED.replace("layer(", "eager("), "mean"
)
SHAPES = ("batch key", "batch 1 1 key", "batch heads query key")

BERT = Peer(
    name="transformers.BertModel",
    arrays="torch",
    make="BertModel(bert_config)",
    call=CALL,
    mask=MASK,
    layout="batch length embed",
    arguments=("input_ids", "attention_mask"),
    true="shows",
    floats="inverted",
    added="attention_mask of 4 axes",
    masks=SHAPES,
    misread=("query key",),
    empty=(SDPA, EAGER),
    weights="eager(inputs_embeds=x, output_attentions=True).attentions[0]",
    weights_axes="batch heads query key",
    dropped=True,
    layout_name="hf.bert",
    tensors=(
        ("encoder.layer.0.attention.self.query.weight", "heads*head_dim embed"),
        ("encoder.layer.0.attention.self.query.bias", "heads*head_dim"),
        ("encoder.layer.0.attention.self.key.weight", "heads*head_dim embed"),
        ("encoder.layer.0.attention.self.value.weight", "heads*head_dim embed"),
        ("encoder.layer.0.attention.output.dense.weight", "embed heads*head_dim"),
    ),
)

GPT2 = Peer(
    name="transformers.GPT2Model",
    arrays="torch",
    make="GPT2Model(gpt2_config)",
    call=CALL,
    mask=MASK,
    layout="batch length embed",
    arguments=("input_ids", "past_key_values", "attention_mask"),
    true="shows",
    floats="inverted",
    added="attention_mask of 4 axes",
    masks=SHAPES,
    misread=("batch query key", "batch*heads query key"),
    causal="layer(inputs_embeds=x).last_hidden_state",
    corner="lower right",
    empty=(SDPA, EAGER),
    weights="eager(inputs_embeds=x, output_attentions=True).attentions[0]",
    weights_axes="batch heads query key",
    dropped=True,
    layout_name="hf.gpt2",
    tensors=(
        ("h.0.attn.c_attn.weight", "embed 3*embed"),
        ("h.0.attn.c_attn.bias", "3*embed"),
        ("h.0.attn.c_proj.weight", "embed embed"),
        ("h.0.attn.c_proj.bias", "embed"),
    ),
)

LLAMA = Peer(
    name="transformers.LlamaModel",
    arrays="torch",
    make="LlamaModel(llama_config)",
    call=CALL,
    mask=MASK,
    layout="batch length embed",
    arguments=("input_ids", "attention_mask"),
    true="shows",
    floats="inverted",
    added="attention_mask of 4 axes",
    masks=SHAPES,
    misread=("query key",),
    causal="layer(inputs_embeds=x).last_hidden_state",
    corner="lower right",
    window_make="MistralModel(mistral_config)",
    window="layer(inputs_embeds=x).last_hidden_state",
    window_keys=3,
    empty=(SDPA, EAGER),
    weights="eager(inputs_embeds=x, output_attentions=True).attentions[0]",
    weights_axes="batch heads query key",
    dropped=True,
    layout_name="hf.llama",
    tensors=(
        ("layers.0.self_attn.q_proj.weight", "heads*head_dim embed"),
        ("layers.0.self_attn.k_proj.weight", "kv_heads*head_dim embed"),
        ("layers.0.self_attn.v_proj.weight", "kv_heads*head_dim embed"),
        ("layers.0.self_attn.o_proj.weight", "embed heads*head_dim"),
    ),
)

MODELS = (BERT, GPT2, LLAMA)
