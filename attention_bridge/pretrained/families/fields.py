"""Checked access to the fields of a configuration; unread fields raise an error that names them.

An ignored field could silently change the outputs. So every field must be read by its family or be known to be
harmless.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, TypeVar

from attention_bridge.errors import CheckpointError
from attention_bridge.pretrained.families.shown import listed, shown

Value = TypeVar("Value")
Names = tuple[str, ...]
_REQUIRED: Any = object()
LARGEST, MOST_LAYERS = 2**31 - 1, 10_000
LARGEST_NUMBER = 3.4028234e38  # the largest finite float32

ACTIVATIONS = {
    "gelu": "gelu",
    "relu": "relu",
    "relu2": "relu_squared",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "silu": "silu",
    "swish": "silu",
    "tanh": "tanh",
}
OWN_ACTIVATIONS = {word: word for word in sorted(set(ACTIVATIONS.values()))}  # names in the mirrors
# Fields that control text generation. Older files repeat them all in the model's configuration.
GENERATION = frozenset((
    "assistant_confidence_threshold", "assistant_early_exit", "bad_words_ids", "begin_suppress_tokens",
    "cache_implementation", "constraints", "diversity_penalty", "do_sample", "dola_layers", "early_stopping",
    "encoder_no_repeat_ngram_size", "encoder_repetition_penalty", "eos_token_ids", "epsilon_cutoff", "eta_cutoff",
    "exponential_decay_length_penalty", "force_words_ids", "forced_bos_token_id", "forced_eos_token_id",
    "generation_config", "guidance_scale", "length_penalty", "low_memory", "max_length", "max_new_tokens", "max_time",
    "min_length", "min_new_tokens", "min_p", "no_repeat_ngram_size", "num_assistant_tokens",
    "num_assistant_tokens_schedule", "num_beam_groups", "num_beams", "num_return_sequences", "output_logits",
    "output_scores", "penalty_alpha", "prompt_lookup_num_tokens", "remove_invalid_values", "renormalize_logits",
    "repetition_penalty", "return_dict_in_generate", "sequence_bias", "stop_strings", "suppress_tokens",
    "temperature", "token_healing", "top_h", "top_k", "top_p", "typical_p", "watermarking_config",
))  # fmt: skip
# Fields that do not affect a model's outputs: training, tokens, task heads, bookkeeping.
HARMLESS = frozenset(
    (
        "_attn_implementation",
        "_attn_implementation_internal",
        "_commit_hash",
        "_name_or_path",
        "_num_labels",
        "activation_dropout",
        "apply_spec_augment",
        "architectures",
        "attention_dropout",
        "attention_probs_dropout_prob",
        "attn_dropout",
        "attn_pdrop",
        "auto_map",  # custom code, which is never run: known families follow the reference implementation
        "aux_loss_alpha",
        "bos_token_id",
        "chunk_size_feed_forward",
        "classifier_dropout",
        "classifier_dropout_prob",
        "classifier_proj_size",
        "cls_token_id",
        "decoder_layerdrop",
        "decoder_start_token_id",
        "directionality",
        "dropout",
        "dropout_rate",
        "dtype",
        "embd_pdrop",
        "encoder_layerdrop",
        "encoder_stride",
        "eos_token_id",
        "ep_size",
        "finetuning_task",
        "forced_decoder_ids",
        "gradient_checkpointing",
        "hidden_dropout",
        "hidden_dropout_prob",
        "id2label",
        "init_std",
        "initializer_factor",
        "initializer_range",
        "keys_to_ignore_at_inference",
        "label2id",
        "language",
        "license",
        "logit_scale_init_value",
        "mask_feature_length",
        "mask_feature_min_masks",
        "mask_feature_prob",
        "mask_time_length",
        "mask_time_min_masks",
        "mask_time_prob",
        "max_sequence_length",
        "median_filter_width",
        "model_max_length",
        "model_type",
        "n_ctx",
        "n_special",
        "name",
        "num_labels",
        "num_nextn_predict_layers",
        "output_attentions",
        "output_hidden_states",
        "output_past",
        "output_router_logits",
        "pad_token_id",
        "pooler_fc_size",
        "pooler_num_attention_heads",
        "pooler_num_fc_layers",
        "pooler_output_size",
        "pooler_size_per_head",
        "pooler_type",
        "predict_special_tokens",
        "prefix",
        "pretraining_tp",
        "problem_type",
        "qa_dropout",
        "resid_pdrop",
        "return_dict",
        "router_aux_loss_coef",
        "sep_token_id",
        "sentence_transformers",
        "seq_aux",
        "seq_classif_dropout",
        "sinusoidal_pos_embds",
        "summary_activation",
        "summary_first_dropout",
        "summary_proj_to_labels",
        "summary_type",
        "summary_use_proj",
        "task_specific_params",
        "tf_legacy_loss",
        "tokenizer_class",
        "torch_dtype",
        "torchscript",
        "transformers_version",
        "unk_token_id",
        "unsloth_fixed",
        "unsloth_version",
        "use_bfloat16",
        "use_cache",
        "use_flash_attn",
        "use_weighted_layer_sum",
    )
)
# Fields that could affect the outputs of any model, and the values with which they do not.
NEUTRAL: dict[str, tuple[object, ...]] = {
    "pruned_heads": ({}, None),
    "quantization_config": (None,),
    "use_mrope": (False, None),
    "tie_encoder_decoder": (False, None),
    "cross_attention_hidden_size": (None,),
    "is_decoder": (False,),
    "is_encoder_decoder": (False,),
    "add_cross_attention": (False,),
}


class Fields:
    """The fields of a configuration; the methods check types and ranges and record which fields were read.

    Args:
        given: content of the configuration.
        source: name of the configuration in messages.
        defaults: values of fields that are absent; a field that is null has none.
        task: the task that was asked for; None for the task of the checkpoint.
    """

    def __init__(
        self,
        given: Mapping[str, Any],
        source: object = "config.json",
        defaults: Mapping[str, Any] | None = None,
        task: str | None = None,
    ):
        self.given = given
        self.source = source
        self.defaults = defaults or {}
        self.task = task
        self.seen: set[str] = set()

    def raw(self, *names: str, default: Any = None) -> Any:
        """The unchecked value of the first of these names that exists and is not null, or else the default."""
        self.seen.update(names)
        found = next((self.given[name] for name in names if self.given.get(name) is not None), None)
        if found is None and not any(name in self.given for name in names):
            found = next((self.defaults[name] for name in names if name in self.defaults), None)
        return default if found is None else found

    def size(self, *names: str, default: Any = _REQUIRED, most: int = LARGEST) -> int:
        """A positive integer."""
        return self.whole(*names, default=default, least=1, most=most)

    def layers(self, *names: str, default: Any = _REQUIRED) -> int:
        """A number of layers, at most 10,000."""
        return self.size(*names, default=default, most=MOST_LAYERS)

    def whole(self, *names: str, default: Any = _REQUIRED, least: int = 0, most: int = LARGEST) -> int:
        """An integer from `least` to `most`."""
        value = self._value(names, default)
        if value is default is not _REQUIRED:
            return default
        if type(value) is not int or value < least:
            kind = "a positive whole number" if least == 1 else f"a whole number of at least {least} as"
            raise CheckpointError(f"{self.source} must have {kind} {names[0]}, got {shown(value)}")
        if value > most:
            raise CheckpointError(f"{self.source} must have {names[0]} of at most {most}, got {shown(value)}")
        return value

    def number(self, *names: str, default: Any = _REQUIRED, zero: bool = False) -> float:
        """A positive number in the range of float32; with `zero`, zero is allowed, too."""
        value = self._value(names, default)
        if value is default is not _REQUIRED:
            return default
        given = type(value) in (int, float)
        if not given or not (value > 0 or (zero and value == 0)) or value > LARGEST_NUMBER:
            kind = "zero or a positive number" if zero else "a positive number"
            raise CheckpointError(f"{self.source} must have {kind} {names[0]}, got {shown(value)}")
        return float(value)

    def finite(self, name: str) -> float:
        """A number of either sign in the range of float32."""
        value = self.raw(name)
        if type(value) not in (int, float) or not abs(value) <= LARGEST_NUMBER:
            raise CheckpointError(f"{self.source} must have a number {name}, got {shown(value)}")
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        """A boolean."""
        value = self.raw(name, default=default)
        if not isinstance(value, bool):
            raise CheckpointError(f"{self.source} must have {name} true or false, got {shown(value)}")
        return value

    def word(self, *names: str, words: Mapping[str, Value], default: Value = _REQUIRED) -> Value:
        """The value in `words` of a field that must hold one of its keys."""
        value = self._value(names, default)
        if value is default is not _REQUIRED:
            return default
        if not isinstance(value, str) or value not in words:
            raise CheckpointError(
                f"{self.source} must have {names[0]} {', '.join(words)}, got {shown(value)}"
            )
        return words[value]

    def only(self, name: str, *accepted: object) -> None:
        """Raise unless the field, or its default, has one of these values, of the same type."""
        value = self.given.get(name, self.defaults.get(name, accepted[0]))
        self.seen.add(name)
        if not any(type(value) is type(each) and value == each for each in accepted):
            raise CheckpointError(f"{self.source} must have {name} {accepted[0]!r}, got {shown(value)}")

    def dim_and_heads(
        self, dim: Names, heads: Names, *, defaults: tuple[Any, Any] = (_REQUIRED, _REQUIRED)
    ) -> tuple[int, int]:
        """The model's features and its number of heads, which must divide them; each by the first name that exists."""
        sizes = self.size(*dim, default=defaults[0]), self.size(*heads, default=defaults[1])
        self.divides(dim[0], sizes[0], heads[0], sizes[1])
        return sizes

    def divides(self, whole: str, whole_size: int, part: str, part_size: int) -> None:
        """Raise unless `part_size` divides `whole_size`."""
        if whole_size % part_size:
            raise CheckpointError(
                f"{self.source} must have a {whole} that {part} divides, got {whole_size} and {part_size}"
            )

    def part(self, name: str, defaults: Mapping[str, Any] | None = None) -> Fields:
        """The fields of a nested object; with `defaults` it may be absent."""
        value = self.raw(name, default=None if defaults is None else {})
        if not isinstance(value, Mapping):
            raise CheckpointError(f"{self.source} must have the fields {name}, got {shown(value)}")
        return Fields(value, f"{name} of {self.source}", defaults)

    def finish(self) -> None:
        """Raise if there are unread fields that are not known to be harmless.

        Raises:
            CheckpointError: there are such fields; the message names them.
        """
        for name, accepted in NEUTRAL.items():
            if name in self.given and name not in self.seen:
                self.only(name, *accepted)
        null = {name for name, value in self.given.items() if value is None or name.startswith("_")}
        self.refuse_unread(
            "fields that may change the arithmetic and are not understood",
            HARMLESS | GENERATION | null,
            "; ignore= leaves out those that do not",
        )

    def refuse_unread(self, what: str, known: Collection[str] = (), advice: str = "") -> None:
        """Raise if there are unread fields.

        Args:
            what: description of the fields in the message, such as "fields that are not known".
            known: names that are allowed to be unread.
            advice: end of the message.

        Raises:
            CheckpointError: there are such fields; the message names them.
        """
        if unread := sorted(self.given.keys() - self.seen - {*known}):
            raise CheckpointError(f"{self.source} has {what}: {listed(unread)}{advice}")

    def _value(self, names: tuple[str, ...], default: object) -> Any:
        return self.raw(*names, default=None if default is _REQUIRED else default)
