"""`hf.whisper`: Hugging Face `WhisperForConditionalGeneration`; its key projections have no bias.

`hf.whisper_decoder` is the decoder alone, `WhisperForCausalLM`.

https://github.com/huggingface/transformers/blob/main/src/transformers/models/whisper/modeling_whisper.py
"""

from attention_bridge.weights.layout import Layout, Tied, Unused, ZeroBias
from attention_bridge.weights.layouts.hf_bart import NOT_OF_DECODER, decoder_rules, stack_rules
from attention_bridge.weights.rule import Rule

HF_WHISPER = Layout(
    "hf.whisper",
    rules=(
        Rule("model.encoder.conv{1,2}.{name}", "{frame,halving}_conv.{name}"),
        Rule("model.encoder.embed_positions.weight", "frame_position_embedding.weight"),
        Rule("model.decoder.embed_{tokens,positions}.weight", "{token,position}_embedding.weight"),
        Rule("model.{encoder,decoder}.layer_norm.{name}", "{encoder,decoder}_norm.{name}"),
        *stack_rules("encoder"),
        *stack_rules("decoder"),
    ),
    spellings=tuple((f"{part}.{{rest}}", f"model.{part}.{{rest}}") for part in ("encoder", "decoder")),
    tied=(Tied("proj_out.weight", "model.decoder.embed_tokens.weight", "tied embeddings"),),
    unused=tuple(
        Unused(name, "a classifier of sounds, not part of the encoder-decoder")
        for name in ("projector.{rest}", "classifier.{rest}", "layer_weights")
    ),
    zero_biases=tuple(
        ZeroBias(f"{{path}}{part}.k_proj.bias", f"{{path}}{part}.k_proj.weight", "keys have no bias")
        for part in ("attention", "self_attention", "cross_attention")
    ),
)

HF_WHISPER_DECODER = Layout(
    "hf.whisper_decoder",
    rules=(
        Rule("model.decoder.embed_{tokens,positions}.weight", "{token,position}_embedding.weight"),
        Rule("model.decoder.layer_norm.{name}", "final_norm.{name}"),
        *decoder_rules(),
    ),
    spellings=(("decoder.{rest}", "model.decoder.{rest}"),),
    tied=HF_WHISPER.tied,
    unused=NOT_OF_DECODER,
    zero_biases=HF_WHISPER.zero_biases[:1],
)
