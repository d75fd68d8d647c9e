"""Tiny transformers models of every family with random weights; axes that meet have different sizes."""

from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from parity_tests.helpers.family_cases import added_cases
from parity_tests.helpers.family_cases.case import LENGTH, NONE, SIZES, STACKS, VOCAB, Case
from parity_tests.helpers.program import program

BATCH, TARGET = 2, 5
IMAGES = ("image", "pyramid")  # kinds whose input is an image
SAMPLES = 67  # of sound

GROUPED = {**SIZES, "hidden_size": 20, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6}
QWEN2 = {**SIZES, "hidden_size": 24, "num_attention_heads": 4, "num_key_value_heads": 2}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 100.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
YARN = {"rope_type": "yarn", "rope_theta": 100.0, "factor": 4.0, "original_max_position_embeddings": 16}
DEEPSEEK_YARN = {**YARN, "mscale": 0.7, "mscale_all_dim": 0.9}
T5 = {
    "vocab_size": VOCAB,
    "d_model": 12,
    "d_kv": 5,
    "d_ff": 20,
    "num_layers": 2,
    "num_decoder_layers": 3,
    "num_heads": 3,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 6,
}
DEEPSEEK = {
    "vocab_size": VOCAB,
    "hidden_size": 12,
    "intermediate_size": 20,
    "moe_intermediate_size": 7,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "num_key_value_heads": 3,
    "n_routed_experts": 6,
    "n_shared_experts": 2,
    "n_group": 3,
    "topk_group": 2,
    "num_experts_per_tok": 3,
    "kv_lora_rank": 8,
    "q_lora_rank": 9,
    "qk_rope_head_dim": 4,
    "v_head_dim": 5,
    "qk_nope_head_dim": 6,
    "first_k_dense_replace": 1,
    **NONE,
}
IMAGE = {**{k: v for k, v in SIZES.items() if k != "vocab_size"}, "image_size": (8, 12), "patch_size": (4, 3)}
CLIP = {
    "text_config": {**SIZES, "max_position_embeddings": 11, "eos_token_id": 30, "bos_token_id": 1},
    "vision_config": {**IMAGE, "hidden_size": 16, "num_attention_heads": 4, "image_size": 8, "patch_size": 4},
    "projection_dim": 10,
}
t = transformers
CASES = {
    "bert": Case("hf.bert", "encoder", t.BertModel, t.BertConfig, {**SIZES, "max_position_embeddings": 11}),
    "roberta": Case(
        "hf.bert", "encoder", t.RobertaModel, t.RobertaConfig, {**SIZES, "max_position_embeddings": 13}, padding=1
    ),
    "roberta without a pooler, tanh": Case(
        "hf.bert",
        "encoder",
        t.RobertaForMaskedLM,
        t.RobertaConfig,
        {**SIZES, "max_position_embeddings": 13, "hidden_act": "gelu_new", "type_vocab_size": 1},
        padding=1,
    ),
    "distilbert": Case(
        "hf.distilbert",
        "encoder",
        t.DistilBertModel,
        t.DistilBertConfig,
        {"vocab_size": VOCAB, "dim": 12, "n_layers": 2, "n_heads": 3, "hidden_dim": 20,
         "max_position_embeddings": 11},
    ),
    "albert": Case(
        "hf.albert",
        "encoder",
        t.AlbertModel,
        t.AlbertConfig,
        {**SIZES, "embedding_size": 8, "max_position_embeddings": 11, "num_hidden_layers": 3},
    ),
    "gpt2": Case(
        "hf.gpt2",
        "language",
        t.GPT2LMHeadModel,
        t.GPT2Config,
        {"vocab_size": VOCAB, "n_embd": 12, "n_head": 3, "n_layer": 2, "n_inner": 20, "n_positions": 11, **NONE},
    ),
    "gpt_neox": Case(
        "hf.gpt_neox",
        "language",
        t.GPTNeoXForCausalLM,
        t.GPTNeoXConfig,
        {**SIZES, "rope_parameters": {"rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 0.5},
         **NONE},
    ),
    "gpt_neox in sequence, tied": Case(
        "hf.gpt_neox",
        "language",
        t.GPTNeoXForCausalLM,
        t.GPTNeoXConfig,
        {**SIZES, "use_parallel_residual": False, "tie_word_embeddings": True,
         "rope_parameters": {"rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 1.0}, **NONE},
    ),
    "llama": Case("hf.llama", "language", t.LlamaForCausalLM, t.LlamaConfig, {**GROUPED, **NONE}),
    "llama with biases, tied, stretched": Case(
        "hf.llama",
        "language",
        t.LlamaForCausalLM,
        t.LlamaConfig,
        {**GROUPED, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True,
         "rope_parameters": LLAMA3, **NONE},
    ),
    "llama with yarn": Case(
        "hf.llama", "language", t.LlamaForCausalLM, t.LlamaConfig, {**GROUPED, "rope_parameters": YARN, **NONE}
    ),
    "mistral": Case(
        "hf.llama", "language", t.MistralForCausalLM, t.MistralConfig, {**GROUPED, "sliding_window": 3, **NONE}
    ),
    "qwen2": Case("hf.llama", "language", t.Qwen2ForCausalLM, t.Qwen2Config,
                  {**QWEN2, **NONE}),
    "qwen2 with windows": Case(
        "hf.llama",
        "language",
        t.Qwen2ForCausalLM,
        t.Qwen2Config,
        {**QWEN2, "use_sliding_window": True,
         "sliding_window": 3, "max_window_layers": 1, **NONE},
    ),
    "qwen3": Case("hf.llama", "language", t.Qwen3ForCausalLM, t.Qwen3Config, {**GROUPED, **NONE}),
    "gemma": Case("hf.llama", "language", t.GemmaForCausalLM, t.GemmaConfig, {**GROUPED, **NONE}),
    # No window may hold only padding: the eager form of transformers gives NaN there.
    "gemma2": Case(
        "hf.gemma",
        "language",
        t.Gemma2ForCausalLM,
        t.Gemma2Config,
        {**GROUPED, "sliding_window": 4, "query_pre_attn_scalar": 9, "attn_logit_softcapping": 2.0,
         "final_logit_softcapping": 3.0, "attn_implementation": "eager", **NONE},
    ),
    "gemma3": Case(
        "hf.gemma",
        "language",
        t.Gemma3ForCausalLM,
        t.Gemma3TextConfig,
        {**GROUPED, "num_key_value_heads": 1, "sliding_window": 3, "query_pre_attn_scalar": 9,
         "layer_types": ["sliding_attention", "full_attention"],
         "rope_parameters": {"sliding_attention": {"rope_type": "default", "rope_theta": 30.0},
                             "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 100.0}},
         **NONE},
    ),
    "deepseek_v3": Case("hf.deepseek_v3", "language", t.DeepseekV3ForCausalLM, t.DeepseekV3Config, DEEPSEEK),
    "deepseek_v3 with yarn, no latent of queries": Case(
        "hf.deepseek_v3",
        "language",
        t.DeepseekV3ForCausalLM,
        t.DeepseekV3Config,
        {**DEEPSEEK, "q_lora_rank": None, "rope_parameters": DEEPSEEK_YARN, "norm_topk_prob": False},
    ),
    "bloom": Case(
        "hf.bloom",
        "language",
        t.BloomForCausalLM,
        t.BloomConfig,
        {"vocab_size": VOCAB, "hidden_size": 12, "n_layer": 2, "n_head": 3, **NONE},
    ),
    "falcon 7b": Case(
        "hf.falcon",
        "language",
        t.FalconForCausalLM,
        t.FalconConfig,
        {"vocab_size": VOCAB, "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3,
         "ffn_hidden_size": 20, **NONE},
    ),
    "falcon 40b": Case(
        "hf.falcon_two_norms",
        "language",
        t.FalconForCausalLM,
        t.FalconConfig,
        {"vocab_size": VOCAB, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 6,
         "num_kv_heads": 2, "new_decoder_architecture": True, "ffn_hidden_size": 20, **NONE},
    ),
    "falcon, one norm, one key per head": Case(
        "hf.falcon",
        "language",
        t.FalconForCausalLM,
        t.FalconConfig,
        {"vocab_size": VOCAB, "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3,
         "multi_query": False, "tie_word_embeddings": False, "ffn_hidden_size": 20, **NONE},
    ),
    "t5": Case("hf.t5", "sequence", t.T5ForConditionalGeneration, t.T5Config, T5),
    "t5 gated, untied": Case(
        "hf.t5_gated",
        "sequence",
        t.T5ForConditionalGeneration,
        t.T5Config,
        {**T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    ),
    "bart": Case(
        "hf.bart", "sequence", t.BartForConditionalGeneration, t.BartConfig,
        {**STACKS, "max_position_embeddings": 11},
    ),
    "bart, scaled": Case(
        "hf.bart", "sequence", t.BartForConditionalGeneration, t.BartConfig,
        {**STACKS, "max_position_embeddings": 11, "scale_embedding": True, "activation_function": "relu"},
    ),
    "whisper": Case(
        "hf.whisper",
        "speech",
        t.WhisperForConditionalGeneration,
        t.WhisperConfig,
        {**STACKS, "num_mel_bins": 5, "max_source_positions": 9, "max_target_positions": 8},
    ),
    "vit": Case("hf.vit", "image", t.ViTModel, t.ViTConfig, IMAGE),
    "vit with classes": Case(
        "hf.vit", "image", t.ViTForImageClassification, t.ViTConfig, {**IMAGE, "num_labels": 4}
    ),
    "clip": Case("hf.clip", "contrastive", t.CLIPModel, t.CLIPConfig, CLIP),
    "clip, the old end": Case(
        "hf.clip",
        "contrastive",
        t.CLIPModel,
        t.CLIPConfig,
        {**CLIP, "text_config": {**CLIP["text_config"], "eos_token_id": 2}},
    ),
}  # fmt: skip
CASES |= {name: case for cases in added_cases().values() for name, case in cases.items()}
# Models with other tensors than the text model's, which a warning names.
WITH_OTHER_TENSORS = (
    *added_cases()["multimodal"],
    *added_cases()["paligemma"],
    "gemma3n, parts not scaled",
    "qwen3_5, in a multimodal model",
)
# Some of the families in the short run; a share of the others is added by the commit.
SHORT = ("bert", "distilbert", "albert", "gpt2", "gpt_neox", "llama", "qwen3", "gemma3", "deepseek_v3", "bloom",
         "falcon 40b", "t5 gated, untied", "bart", "whisper", "vit", "clip")  # fmt: skip
SHORT_IN_JAX = ("bert", "llama")


def marks(name: str, short: Collection[str]) -> tuple[Any, ...]:
    """Marks of a test of a case: slow outside the short run; the warning about other tensors is expected."""
    slow = () if name in short else (pytest.mark.slow,)
    rest = pytest.mark.filterwarnings("ignore:.*save_pretrained writes them again")
    return (*slow, rest) if name in WITH_OTHER_TENSORS else slow


def model(case: Case) -> torch.nn.Module:
    """The model in evaluation mode, with random weights, biases and norms."""
    torch.manual_seed(0)
    built = case.model(case.config(**case.fields)).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, x in (*built.named_parameters(), *built.named_buffers()):
            if name.endswith("encoder.embed_positions.weight") and "RoFormer" in type(built).__name__:
                continue  # the sines and cosines of rotary positions
            if name.endswith(
                ("e_score_correction_bias", "final_logits_bias", "layer_scalar")
            ) or name in dict(built.named_parameters()):
                norm = (
                    "norm" in name.lower() and name.endswith("weight") and "Gemma" not in type(built).__name__
                )
                drawn = torch.empty(x.shape).normal_(std=0.3, generator=generator)
                x.copy_(drawn + 1.0 if norm else drawn)
    return built


def inputs(case: Case) -> dict[str, np.ndarray]:
    """Random inputs: tokens with right padding, sound frames, or images."""
    rng = np.random.default_rng(2)
    tokens = rng.integers(3, VOCAB - 1, (BATCH, LENGTH)).astype(np.int32)
    there = np.arange(LENGTH) < np.array([[LENGTH], [4]])
    if case.kind == "contrastive":
        tokens[0, -1] = tokens[1, 3] = VOCAB - 1  # the end token is the highest number
    given = {"tokens": np.where(there, tokens, case.padding), "there": there}
    if case.kind in ("sequence", "speech"):
        given["target"] = rng.integers(3, VOCAB, (BATCH, TARGET)).astype(np.int32)
    if case.kind == "speech":
        given = {"frames": rng.normal(size=(BATCH, 18, 5)), "target": given["target"]}
    if case.kind in IMAGES:
        size = case.fields.get("image_size", (8, 12))
        height, width = (size, size) if isinstance(size, int) else size
        return {"image": rng.normal(size=(BATCH, height, width, case.fields.get("num_channels", 3)))}
    if case.kind == "sound":
        there = np.arange(SAMPLES) < np.array([[SAMPLES], [SAMPLES - 23]])
        return {"samples": rng.normal(size=(BATCH, SAMPLES)) * there, "there": there}
    if case.kind == "contrastive":
        given["image"] = rng.normal(size=(3, 8, 8, 3))
    return given


def reference(case: Case, built: torch.nn.Module) -> dict[str, np.ndarray]:
    """The float64 outputs of transformers, where its models support float64."""
    built = built.double()
    built.config._experts_implementation = "eager"  # its grouped matrix product has no float64
    built.config.use_cache = False  # a cache of recurrent layers alone has no length
    with torch.no_grad():
        found = CALLS[case.kind](built, tensors(case))
        return {name: x.numpy() for name, x in found.items() if x is not None}


def tensors(case: Case) -> dict[str, torch.Tensor]:
    """The inputs as transformers takes them: images with channels first."""
    given = {name: torch.from_numpy(x) for name, x in inputs(case).items()}
    return {name: x.permute(0, 3, 1, 2) if name == "image" else x for name, x in given.items()}


def _encoder(built: Any, given: dict[str, Any]) -> dict[str, Any]:
    base = getattr(built, built.base_model_prefix, built)
    found = base(given["tokens"].long(), attention_mask=given["there"].long())
    pooled = getattr(found, "pooler_output", None)
    there = given["there"][..., None]
    return {"output": found.last_hidden_state * there} | ({} if pooled is None else {"pooled": pooled})


def _language(built: Any, given: dict[str, Any]) -> dict[str, Any]:
    found = built(given["tokens"].long(), attention_mask=given["there"].long())
    return {"output": found.logits * given["there"][..., None]}


def _sequence(built: Any, given: dict[str, Any]) -> dict[str, Any]:
    found = built(
        given["tokens"].long(), attention_mask=given["there"].long(), decoder_input_ids=given["target"].long()
    )
    return {"output": found.logits}


def _speech(built: Any, given: dict[str, Any]) -> dict[str, Any]:
    found = built(given["frames"].transpose(1, 2), decoder_input_ids=given["target"].long())
    return {"output": found.logits}


def image_arguments(name: str, image: torch.Tensor, config: Any) -> dict[str, torch.Tensor]:
    """The arguments of a model of transformers of this class for images, channels first."""
    if not name.startswith("ViTMAE"):
        return {"pixel_values": image}
    count = (image.shape[2] // config.patch_size) * (image.shape[3] // config.patch_size)
    return {"pixel_values": image, "noise": torch.arange(count).expand(len(image), -1)}  # keeps the order


def _image(built: Any, given: dict[str, Any]) -> dict[str, Any]:
    found = built(**image_arguments(type(built).__name__, given["image"], built.config))
    if hasattr(found, "logits"):
        return {"pooled": found.logits}
    return {"output": found.last_hidden_state, "pooled": getattr(found, "pooler_output", None)}


def _pyramid(built: Any, given: dict[str, Any]) -> dict[str, Any]:
    """The outputs, the states between stages, and the map of the last layer of each stage."""
    found = built(given["image"], output_hidden_states=True, output_attentions=True)
    if hasattr(found, "logits"):
        parts = {"pooled": found.logits}
    else:
        parts = {"output": found.last_hidden_state, "pooled": found.pooler_output}
    depths = built.config.depths
    parts |= {f"state {n}": x for n, x in enumerate(found.hidden_states)}
    return parts | {f"map {sum(depths[: n + 1]) - 1}": x for n, x in enumerate(found.attentions)}


def _sound(built: Any, given: dict[str, Any]) -> dict[str, Any]:
    """The results of each sound alone, without padding, among zeros."""
    found = []
    for n, there in enumerate(given["there"]):
        each = built(
            given["samples"][n : n + 1, : int(there.sum())], output_hidden_states=True, output_attentions=True
        )
        parts = {"output": each.logits if hasattr(each, "logits") else each.last_hidden_state}
        parts |= {f"state {n}": x for n, x in enumerate((each.hidden_states or ())[:-1])}
        parts |= {f"map {n}": x for n, x in enumerate(each.attentions or ())}
        found.append(parts)
    return {
        name: torch.cat([_filled(each[name], found[0][name].shape) for each in found]) for name in found[0]
    }


def _filled(x: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """The array with zeros after its entries, up to the length of another."""
    after = [(0, more - size) for size, more in zip(x.shape, shape, strict=True)]
    return torch.nn.functional.pad(x, [size for pair in after[::-1] for size in pair])


def _contrastive(built: Any, given: dict[str, Any]) -> dict[str, Any]:
    found = built(given["tokens"].long(), given["image"], attention_mask=given["there"].long())
    return {"scores": found.logits_per_text, "text": found.text_embeds, "image": found.image_embeds}


CALLS: dict[str, Callable[[Any, dict[str, Any]], dict[str, Any]]] = {
    "encoder": _encoder,
    "language": _language,
    "sequence": _sequence,
    "speech": _speech,
    "image": _image,
    "pyramid": _pyramid,
    "sound": _sound,
    "contrastive": _contrastive,
}


def ours(case: Case, built: Any, array: Callable[[np.ndarray], Any]) -> dict[str, np.ndarray]:
    """The outputs of a mirror's model for the same inputs."""
    return numpy_of(program(built, lambda built: outputs(case, built, array))())


def outputs(case: Case, built: Any, array: Callable[[np.ndarray], Any]) -> dict[str, Any]:
    """The outputs of a mirror's model for the same inputs, as arrays of its framework or None."""
    given = {
        name: array(x.astype(np.float32) if x.dtype == np.float64 else x) for name, x in inputs(case).items()
    }
    there = given["there"][:, None, None] if "there" in given else None
    if case.kind == "encoder":
        found = built(given["tokens"], given["there"])
        last, pooled = found.last_hidden_state, getattr(found, "pooled", None)
        return {"output": last * given["there"][..., None], "pooled": pooled}
    if case.kind == "language":
        return {"output": built(given["tokens"], there).output * given["there"][..., None]}
    if case.kind == "sequence":
        return {"output": built(given["tokens"], given["target"], there).output}
    if case.kind == "speech":
        return {"output": built(given["frames"], given["target"]).output}
    if case.kind == "image":
        found = built(given["image"])
        pooled = found.logits if hasattr(found, "logits") else found.pooled
        return {"output": found.last_hidden_state, "pooled": pooled}
    if case.kind == "pyramid":
        return _pyramid_outputs(built, given)
    if case.kind == "sound":
        return _sound_outputs(built, given)
    return dict(built(given["tokens"], given["image"], there)._asdict())


def _pyramid_outputs(built: Any, given: dict[str, Any]) -> dict[str, Any]:
    """The outputs, states and maps of a mirror's hierarchy of stages."""
    found = built(given["image"], need_weights=True, need_hidden_states=True)
    pooled = found.logits if hasattr(found, "logits") else found.pooled
    parts = {"output": found.last_hidden_state, "pooled": pooled}
    states = enumerate(found.hidden_states)
    parts |= {f"state {n}": x.reshape(x.shape[0], -1, x.shape[-1]) for n, x in states}
    return parts | {f"map {n}": x.reshape(-1, *x.shape[-3:]) for n, x in enumerate(found.attentions)}


def _sound_outputs(built: Any, given: dict[str, Any]) -> dict[str, Any]:
    """The outputs, states and maps of a mirror's encoder of sound, at real frames."""
    found = built(given["samples"], given["there"], need_weights=True, need_hidden_states=True)
    backbone = getattr(built, "backbone", built)
    real = backbone.frame_mask(given["there"], given["samples"])
    logits = getattr(found, "logits", None)
    output = found.last_hidden_state if logits is None else logits
    parts = {"output": output if output.ndim == 2 else output * real[..., None]}
    parts |= {f"state {n}": x * real[..., None] for n, x in enumerate(found.hidden_states[:-1])}
    both = real[:, None, :, None] & real[:, None, None]
    return parts | {f"map {n}": x * both for n, x in enumerate(found.attentions)}


def numpy_of(found: dict[str, Any]) -> dict[str, np.ndarray]:
    """Arrays of either framework as numpy arrays, without those that are None."""
    present = {name: x for name, x in found.items() if x is not None}
    return {
        name: x.detach().numpy() if isinstance(x, torch.Tensor) else np.asarray(x)
        for name, x in present.items()
    }


def bound(built: torch.nn.Module) -> float:
    """4 u sqrt(n), with n the terms of all sums: each linear map, and scores and values of each attention."""
    maps = [x.shape[-1] for name, x in built.named_parameters() if x.ndim >= 2 and "embed" not in name]
    attentions = sum("attention" in type(m).__name__.lower() for m in built.modules())
    return 4 * 2.0**-24 * float(np.sqrt(sum(maps) + attentions * 2 * LENGTH))
