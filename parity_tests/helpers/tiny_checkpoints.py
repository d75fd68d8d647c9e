"""Directories with a tiny model of transformers, with random weights, and a tiny tokenizer."""

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file

from parity_tests.helpers import tiny_tokenizers as tiny

BERT = {
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "max_position_embeddings": 64,
}
LLAMA = {
    **BERT,
    "hidden_size": 24,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
STACKS = {
    "d_model": 12,
    "encoder_layers": 2,
    "decoder_layers": 1,
    "encoder_attention_heads": 3,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 20,
    "decoder_ffn_dim": 14,
    "max_position_embeddings": 70,
}
T5 = {
    "d_model": 12,
    "d_kv": 5,
    "d_ff": 20,
    "num_layers": 2,
    "num_decoder_layers": 1,
    "num_heads": 3,
    "decoder_start_token_id": 0,
}


def save(directory: Path, model: Any) -> Any:
    """Draw larger weights than the initial ones, so that scores differ, and write the model."""
    torch.manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.4)
    model.eval().save_pretrained(directory)
    return model


def bert(directory: Path, kind: str, **fields: Any) -> Any:
    """A BERT with the head of a class such as `BertForMaskedLM`."""
    size = tiny.word_piece(directory).get_vocab_size()
    model = getattr(transformers, kind)(transformers.BertConfig(vocab_size=size, **BERT, **fields))
    tokenizer = transformers.BertTokenizer.from_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return save(directory, model)


def decoder(directory: Path, kind: str) -> Any:
    """A GPT-2 or a Llama, whose end token is far from probable."""
    if kind == "gpt2":
        size = tiny.byte_pairs(directory, ["<|endoftext|>"]).get_vocab_size()
        tiny.write(directory, kind, tokenizer_class="GPT2Tokenizer")
        config = transformers.GPT2Config(
            vocab_size=size, n_embd=12, n_head=3, n_layer=2, n_positions=64, bos_token_id=0, eos_token_id=0
        )
        return save(directory, transformers.GPT2LMHeadModel(config))
    size = tiny.llama(directory).get_vocab_size()
    tiny.write(directory, kind, tokenizer_class="LlamaTokenizer")
    return save(directory, transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=size, **LLAMA)))


def encoder_decoder(directory: Path, kind: str) -> Any:
    """A T5 or a BART."""
    if kind == "t5":
        size = tiny.unigram(directory, end=True).get_vocab_size()
        tiny.write(directory, kind, tokenizer_class="T5Tokenizer", extra_ids=0)
        return save(
            directory, transformers.T5ForConditionalGeneration(transformers.T5Config(vocab_size=size, **T5))
        )
    size = tiny.byte_pairs(directory, ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]).get_vocab_size()
    tiny.write(directory, kind, tokenizer_class="BartTokenizer")
    model = transformers.BartForConditionalGeneration(transformers.BartConfig(vocab_size=size, **STACKS))
    model.generation_config.update(forced_bos_token_id=0, forced_eos_token_id=None)
    return save(directory, model)


def embedding_gemma(directory: Path) -> Any:
    """A Gemma 3 as an encoder, with the modules of EmbeddingGemma: mean, two linear layers, length 1."""
    size = tiny.llama(directory).get_vocab_size()
    tiny.write(directory, "gemma3_text", tokenizer_class="LlamaTokenizer", pad_token="<unk>")
    config = transformers.Gemma3TextConfig(
        vocab_size=size, **LLAMA, head_dim=6, sliding_window=8, use_bidirectional_attention=True
    )
    names = {
        "0": "Transformer",
        "1_Pooling": "Pooling",
        "2_Dense": "Dense",
        "3_Dense": "Dense",
        "4": "Normalize",
    }
    rows = [
        {
            "idx": n,
            "name": str(n),
            "path": name if "_" in name else "",
            "type": f"sentence_transformers.models.{kind}",
        }
        for n, (name, kind) in enumerate(names.items())
    ]
    (directory / "modules.json").write_text(json.dumps(rows))
    (directory / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": 24, "pooling_mode_mean_tokens": True, "include_prompt": True}
    (directory / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    for place, given, made in (("2_Dense", 24, 40), ("3_Dense", 40, 24)):
        (directory / place).mkdir()
        dense = {"in_features": given, "out_features": made, "bias": False}
        dense["activation_function"] = "torch.nn.modules.linear.Identity"
        (directory / place / "config.json").write_text(json.dumps(dense))
        save_file({"linear.weight": torch.randn(made, given)}, directory / place / "model.safetensors")
    return save(directory, transformers.Gemma3TextModel(config))
