"""Every class of transformers that writes checkpoints of a known family, with tiny random weights."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers

from parity_tests.helpers import families
from parity_tests.helpers.families import CASES, LENGTH, Case
from parity_tests.helpers.family_cases import added
from parity_tests.helpers.program import program

# A case of each module of transformers, whose other classes have the same configuration.
MODULES = {
    "albert": "albert",
    "bart": "bart",
    "bert": "bert",
    "bloom": "bloom",
    "clip": "clip",
    "deepseek_v3": "deepseek_v3",
    "distilbert": "distilbert",
    "falcon": "falcon 7b",
    "gemma": "gemma",
    "gemma2": "gemma2",
    "gemma3": "gemma3",
    "gpt2": "gpt2",
    "gpt_neox": "gpt_neox",
    "llama": "llama",
    "mistral": "mistral",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "roberta": "roberta",
    "t5": "t5",
    "vit": "vit",
    "whisper": "whisper",
    **{name: next(iter(each.CASES)) for each in added() for name in each.MODULES},
}
ABSTRACT = ("PreTrainedModel", "PretrainedModel", "PretrainedBartModel")
# Classes whose head the mirrors do not have: the model is loaded without it.
WITHOUT_HEAD = (
    "BartForQuestionAnswering",
    "BartForSequenceClassification",
    "CLIPForImageClassification",
    "T5ForQuestionAnswering",
    "T5ForSequenceClassification",
    "ViTForMaskedImageModeling",
    "WhisperForAudioClassification",
    *(name for each in added() for name in getattr(each, "WITHOUT_HEAD", ())),
)
# Layouts of a part of a model, which these classes write.
ALONE = {
    "hf.bart_decoder",
    "hf.clip_text",
    "hf.clip_vision",
    "hf.gemma3",
    "hf.t5_encoder",
    "hf.t5_gated_encoder",
    "hf.whisper_decoder",
    *(name for each in added() for name in getattr(each, "ALONE", ())),
}
IMAGES_OF_GEMMA = {
    "hidden_size": 12,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 10,
    "image_size": 8,
    "patch_size": 4,
}


class Written(NamedTuple):
    """A class of transformers and the configuration of a tiny model."""

    kind: Any
    case: Case
    config: Callable[[], Any]


def _config(kind: Any, case: Case) -> Callable[[], Any]:
    """A function that makes the configuration of a class: the case's, or the part of it for a part of the model."""

    def make() -> Any:
        whole = case.config(**case.fields)
        if kind.__name__.endswith("ForSequenceClassification") and whole.pad_token_id is None:
            whole.pad_token_id = 0
        if isinstance(whole, kind.config_class):
            return whole
        if kind.config_class is transformers.Gemma3Config:
            return transformers.Gemma3Config(
                text_config=whole.to_dict(), vision_config=IMAGES_OF_GEMMA, mm_tokens_per_image=4
            )
        parts = (whole.text_config, whole.vision_config)
        return next(part for part in parts if isinstance(part, kind.config_class))

    return make


def written() -> dict[str, Written]:
    """Every class that writes checkpoints, by its name."""
    found = {}
    for module, name in MODULES.items():
        code = importlib.import_module(f"transformers.models.{module}.modeling_{module}")
        for each in code.__all__:
            kind = getattr(code, each)
            is_model = isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel)
            if is_model and not each.endswith(ABSTRACT):
                found[each] = Written(kind, CASES[name], _config(kind, CASES[name]))
    return found


WRITTEN = written()


def model(name: str) -> torch.nn.Module:
    """A model of this class in evaluation mode, with random weights, biases and norms."""
    kind, case, config = WRITTEN[name]
    made = config()
    return families.model(replace(case, model=kind, config=lambda: made, fields={}))


def hashes(directory: Path) -> dict[str, str]:
    """The SHA-256 of every file of a directory, by its path."""
    return {
        path.relative_to(directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def reference(name: str, built: torch.nn.Module) -> dict[str, np.ndarray]:
    """The outputs of transformers at real tokens, by the names of the mirrors' outputs."""
    dtype = next(built.parameters()).dtype
    given = {
        each: torch.from_numpy(x.astype(str(dtype)[6:]) if x.dtype == np.float64 else x)
        for each, x in families.inputs(WRITTEN[name].case).items()
    }
    built.config._experts_implementation = "eager"  # its grouped matrix product has no float64
    built.config.use_cache = False
    with torch.no_grad():
        found = built(**_arguments(name, given))
    everywhere = torch.ones(1, 1, dtype=torch.bool)
    there = everywhere if "samples" in given else given.get("there", everywhere)
    return {each: x.numpy() for each, x in _outputs(name, found, there).items()}


def _arguments(name: str, given: dict[str, Any]) -> dict[str, Any]:
    if "samples" in given:
        return {"input_values": given["samples"]}
    if "image" in given and not name.startswith(("CLIPText", "CLIPModel", "SiglipText", "SiglipModel")):
        image = given["image"].permute(0, 3, 1, 2)
        return families.image_arguments(name, image, WRITTEN[name].config())
    if "frames" in given and name != "WhisperForCausalLM":
        return {
            "input_features": given["frames"].transpose(1, 2),
            "decoder_input_ids": given["target"].long(),
        }
    if name == "WhisperForCausalLM":
        return {"input_ids": given["target"].long()}
    options = {"input_ids": given["tokens"].long(), "attention_mask": given["there"].long()}
    if name.endswith("MultipleChoice"):
        options = {each: x[:, None] for each, x in options.items()}
    if WRITTEN[name].case.kind == "sequence" and not _is_alone(name):
        options["decoder_input_ids"] = given["target"].long()
    if name in ("CLIPModel", "SiglipModel"):
        options["pixel_values"] = given["image"].permute(0, 3, 1, 2)
    return options


def _is_alone(name: str) -> bool:
    """Whether a class is the encoder or the decoder of an encoder-decoder."""
    alone = name.endswith(("EncoderModel", "ForCausalLM"))
    return alone or ("T5" in name and name.endswith("ForTokenClassification"))


def _outputs(name: str, found: Any, there: torch.Tensor) -> dict[str, Any]:
    at = there[..., None]
    if name == "SiglipTextModel":
        return {"embeddings": found.pooler_output}
    if name == "SiglipVisionModel":
        return {"last_hidden_state": found.last_hidden_state, "pooled": found.pooler_output}
    if name in ("CLIPModel", "SiglipModel"):
        return {"scores": found.logits_per_text, "text": found.text_embeds, "image": found.image_embeds}
    if name.endswith("WithProjection"):
        return {"embeddings": found.text_embeds if "Text" in name else found.image_embeds}
    if name == "CLIPVisionModel":
        return {"first": found.pooler_output}
    if name.startswith(("ViTFor", "ViTModel")):
        return {"pooled": found.logits if "Classification" in name else found.pooler_output}
    if name.endswith("Backbone"):
        return {}  # feature maps of chosen layers, which the mirrors do not have
    if WRITTEN[name].case.kind in families.IMAGES:
        pooled = getattr(found, "pooler_output", None)
        named = {"logits": getattr(found, "logits", None), "pooled": pooled}
        named["last_hidden_state"] = getattr(found, "last_hidden_state", None)
        return {each: x for each, x in named.items() if x is not None}
    if "QuestionAnswering" in name:
        return {"start_logits": found.start_logits * there, "end_logits": found.end_logits * there}
    if name.endswith("ForPreTraining") and WRITTEN[name].case.kind == "sound":
        return {}  # it compares frames with a codebook
    if name == "ElectraForPreTraining":
        return {"logits": (found.logits * there)[..., None]}
    if name.endswith("ForPreTraining"):
        return {"logits": found.prediction_logits * at}
    if not hasattr(found, "logits"):
        if WRITTEN[name].case.kind in ("sequence", "speech") and not _is_alone(name):
            return {}  # the model computes logits, which this class does not
        return {"last_hidden_state": found.last_hidden_state * at}
    per_token = found.logits.ndim == 3 and found.logits.shape[1] == LENGTH
    return {"logits": found.logits * at if per_token else found.logits}


def ours(
    name: str, built: Any, array: Callable[[np.ndarray], Any], wanted: set[str]
) -> dict[str, np.ndarray]:
    """The outputs of a mirror's model for the same inputs, at real tokens."""
    given = families.inputs(WRITTEN[name].case)
    found = program(built, lambda built: _named_outputs(name, built, array, wanted))()
    there, results = given.get("there"), {}
    for each, x in families.numpy_of(found).items():
        masks = there is not None and x.ndim > 1 and x.shape[1] == LENGTH and each not in ("scores", "text")
        results[each] = x * (there[..., None] if x.ndim == 3 else there) if masks else x
    return results


def _named_outputs(
    name: str, built: Any, array: Callable[[np.ndarray], Any], wanted: set[str]
) -> dict[str, Any]:
    given = {
        each: array(x.astype(np.float32) if x.dtype == np.float64 else x)
        for each, x in families.inputs(WRITTEN[name].case).items()
    }
    kind = type(built).__name__
    there = given.get("there")
    backbone = type(getattr(built.config, "backbone", built.config)).__name__
    if kind == "ContrastiveModel":
        found = built(given["tokens"], given["image"], there[:, None, None])
    elif kind == "SpeechTransformer":
        found = built(given["frames"], given["target"])
    elif kind in ("EncoderDecoder", "RelativeEncoderDecoder"):
        found = built(given["tokens"], given["target"], there[:, None, None])
    elif backbone in ("VisionHierarchySpec", "VisionTransformerConfig"):
        found = built(given["image"])
    elif backbone == "WaveformSpec":
        found = built(given["samples"])
    elif name == "WhisperForCausalLM":
        found = built(given["target"])
    elif "last_hidden_state" in wanted and kind in ("Decoder", "LanguageModel"):
        found = built.read(
            given["tokens"], there
        )  # tied embeddings give logits, which this class does not compute
    else:
        found = built(given["tokens"], there)
    return {
        each: found.last_hidden_state[:, 0] if each == "first" else getattr(found, each) for each in wanted
    }
