"""Roles of parts: the classes and functions that each argument of a description accepts.

A class fits a role by the module that defines it (its room) and by the result of its call. A new class in a room is
therefore accepted without an entry here.
"""

from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import torch_attention.models.alternating_updates as alternating_updates
import torch_attention.models.dense_and_experts as dense_and_experts
import torch_attention.models.experts as experts
import torch_attention.models.laurel as laurel
import torch_attention.models.parallel_mixers as parallel_mixers
import torch_attention.models.plain_experts as plain_experts
import torch_attention.models.residual_streams as residual_streams
import torch_attention.models.routing as routing
import torch_attention.models.sparse_feed_forward as sparse_feed_forward
import torch_attention.models.token_inputs as token_inputs
import torch_attention.models.xielu as xielu
from torch_attention import (
    attention_basics,
    cross_attention,
    feed_forward,
    gates,
    head_norms,
    heads,
    latents,
    layer_scale,
    linear,
    low_rank,
    norms,
    patterns,
    positions,
    scores,
    self_attention,
    sparse,
    vision,
)
from torch_attention.models.module_classes import call_arguments, call_results, is_module_class
from torch_attention.models.tasks import (
    classification,
    embedding,
    late_classification,
    linear_language,
    masked_language,
    no_head,
    pooling,
    question_answering,
    reward,
)
from torch_attention.ops.heads import Placed
from torch_attention.outputs import AttentionOutput, CachedOutput, RecurrentOutput
from torch_attention.positions import absolute, rotary_scaling
from torch_attention.positions.distance_embedding import DistanceRows
from torch_attention.sparse import lightning_indexer
from torch_attention.vision import patch_grids
from torch_attention.vision.grids import GridOutput

# Modules whose classes mix tokens.
MECHANISMS = (
    attention_basics,
    cross_attention,
    gates,
    heads,
    latents,
    linear,
    low_rank,
    patterns,
    positions,
    scores,
    self_attention,
    sparse,
)
HEADS = (
    classification,
    embedding,
    late_classification,
    linear_language,
    masked_language,
    no_head,
    question_answering,
    reward,
)


class Role(NamedTuple):
    """Requirements on a class or function that is given as an argument.

    Attributes:
        expected: description of the requirement for error messages.
        rooms: modules that define accepted classes or functions.
        takes: arguments that the call must take.
        results: accepted classes of the call's result; empty for any result.
    """

    expected: str
    rooms: tuple[ModuleType, ...]
    takes: frozenset[str] = frozenset()
    results: frozenset[Any] = frozenset()

    def fits(self, make: Callable[..., Any]) -> bool:
        """Whether a class or function fits this role."""
        if not any(is_defined_in(room, make) for room in self.rooms):
            return False
        if not self.takes and not self.results:
            return True
        return (
            is_module_class(make)
            and self.takes <= call_arguments(make)
            and (not self.results or call_results(make) <= self.results)
        )


NORM = Role("a norm, rms_norm or layer_norm", (norms, head_norms, layer_scale))
FUNCTION = Role("a number or a function such as yarn_amplitude", (rotary_scaling,))

# Roles of the parts of a model, and the arguments that the model supplies to each.
OF_MODELS = {
    "mixer": Role(
        "a class that mixes one sequence, such as CausalSelfAttention",
        (*MECHANISMS, parallel_mixers),
        frozenset({"x"}),
        frozenset({AttentionOutput, CachedOutput, RecurrentOutput}),
    ),
    "ffn": Role(
        "a feed-forward network such as GatedFeedForward",
        (feed_forward, sparse_feed_forward, xielu, dense_and_experts, experts, plain_experts),
    ),
    "norm": NORM,
    "token_input": Role("a TokenInput", (token_inputs,), frozenset({"token"})),
    "layer_embedding": Role("a LayerEmbedding", (token_inputs,), frozenset({"tokens"})),
    "laurel": Role("a LearnedAugmentedResidual", (laurel,)),
    "updates": Role("AlternatingUpdates", (alternating_updates,)),
    "streams": Role("ResidualStreams", (residual_streams,), frozenset({"x"})),
    "head": Role("a task head such as SequenceClassifier", HEADS),
}
FILLED_IN = {
    frozenset({"embed_dim", "is_causal"}): "mixer",
    frozenset({"embed_dim"}): "ffn",
    frozenset({"dim"}): "norm",
    frozenset({"embed_dim", "input_dim"}): "token_input",
    frozenset({"embed_dim", "num_layers"}): "layer_embedding",
    frozenset({"embed_dim", "num_streams"}): "updates",
    frozenset({"embed_dim", "vocab_size", "token_dim"}): "head",
}

# Roles of the parts of a stage, which works on grids.
ON_GRIDS = {
    "embedding": Role("an embedding of a grid, such as PatchGrid or PatchMerging", (patch_grids,)),
    "mixer": Role(
        "attention over a grid, such as ShiftedWindowAttention",
        (vision,),
        frozenset({"x"}),
        frozenset({GridOutput}),
    ),
    "ffn": Role("a feed-forward network such as FeedForward", (feed_forward,)),
}

# Roles of the arguments of a part: modules, or numbers that a function may compute.
OF_MODULES = {
    "attention": Role("attention with latents or grouped heads, such as MultiHeadLatentAttention", (heads,)),
    "attention_mixer": Role(
        "causal attention, such as GroupedQueryAttention",
        MECHANISMS,
        frozenset({"x", "cache"}),
        frozenset({AttentionOutput, CachedOutput}),
    ),
    "embedding_position": Role("a positional embedding such as SinusoidalEmbedding", (absolute,)),
    "hidden_norm": NORM,
    "indexer": Role("an indexer such as LightningIndexer", (lightning_indexer,)),
    "k_norm": NORM,
    "pooling": Role("a pooling of tokens such as MeanPooling", (pooling,)),
    "position": Role("a position scheme such as RotaryEmbedding", (positions,), results=frozenset({Placed})),
    "q_norm": NORM,
    "recurrent_mixer": Role(
        "a recurrent layer, such as Mamba2",
        MECHANISMS,
        frozenset({"x", "state"}),
        frozenset({RecurrentOutput}),
    ),
    "routing": Role("a routing of experts such as SoftmaxRouting", (routing,)),
}
# The positional encoding that the layers of a model share, which may be embeddings of distances.
SHARED_POSITION = OF_MODULES["position"]._replace(results=frozenset({Placed, DistanceRows}))
FREQUENCIES = FUNCTION._replace(expected="numbers or a function such as llama3_frequencies")
OF_NUMBERS = {"amplitude": FUNCTION, "frequencies": FREQUENCIES, "long_frequencies": FREQUENCIES}


def is_defined_in(room: ModuleType, thing: Any) -> bool:
    """Whether a module or one of its submodules defines a class or function."""
    return f"{thing.__module__}.".startswith(f"{room.__name__}.")
