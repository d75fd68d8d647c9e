"""Task heads, and models with them, as catalogue entries for the proofs."""

from functools import partial

from attention_bridge.catalogue import SIZES, Mechanism, Part
from attention_bridge.catalogue.models import MODEL_SIZES
from attention_bridge.catalogue.shared import DEVLIN, EMBED, FFN, HEADS, PADDING
from attention_bridge.oracles import encoder, language_model, patterns, tasks
from attention_bridge.oracles.decoder import decoder_states
from attention_bridge.pretrained.families.describe import layer_spec, model_spec

CLASSES = 6
NORM = Part("rms_norm", {"eps": 0.01})
ONE_LAYER = {**MODEL_SIZES, "num_layers": 1}
ENCODER = Part("EncoderConfig", ONE_LAYER)
DECODER = Part("DecoderConfig", ONE_LAYER)
WINDOW = Part("SlidingWindowAttention", {"num_heads": 3, "window": 3})
LAYER = layer_spec(WINDOW, Part("GatedFeedForward", {"ffn_dim": FFN}), "pre", NORM)
LANGUAGE = model_spec(SIZES["vocab"], EMBED, [LAYER], norm=NORM)
IMAGE = Part(
    "VisionTransformerConfig",
    {
        "image_size": (4, 6),
        "patch_size": (2, 3),
        "in_channels": 2,
        "embed_dim": EMBED,
        "num_heads": HEADS,
        "num_layers": 1,
        "ffn_dim": FFN,
        "norm_eps": 0.01,
    },
)
# DINOv2's layers and registers.
SCALED = layer_spec(
    Part("MultiHeadSelfAttention", {"num_heads": HEADS}),
    Part("GatedFeedForward", {"ffn_dim": FFN, "bias": True}),
    "sandwich",
    Part("layer_norm", {"eps": 0.01}),
    output_norm=Part("layer_scale"),
)
REGISTERS = Part("VisionTransformerConfig", {**IMAGE.arguments, "num_registers": 2, "layer": SCALED})
BACKBONES = {
    "encoder": (ENCODER, partial(encoder, num_heads=HEADS, num_layers=1)),
    "decoder": (DECODER, partial(decoder_states, num_heads=HEADS, num_layers=1)),
    "language model": (
        LANGUAGE,
        partial(
            language_model.hidden_states,
            mixers=[partial(patterns.sliding_window_attention, num_heads=3, window=3)],
            ffns=[language_model.gated_feed_forward],
            eps=0.01,
        ),
    ),
    "image": (IMAGE, partial(tasks.vision_transformer, num_heads=HEADS, num_layers=1, eps=0.01)),
    "image with registers": (
        REGISTERS,
        partial(tasks.vision_transformer, num_heads=HEADS, num_layers=1, eps=0.01),
    ),
    "image without a class token": (
        Part("VisionTransformerConfig", {**IMAGE.arguments, "class_token": False}),
        partial(tasks.vision_transformer, num_heads=HEADS, num_layers=1, eps=0.01),
    ),
    "image whose prefix has no positions": (
        Part("VisionTransformerConfig", {**REGISTERS.arguments, "class_position": False}),
        partial(tasks.vision_transformer, num_heads=HEADS, num_layers=1, eps=0.01),
    ),
    "image with a distillation token": (
        Part("VisionTransformerConfig", {**IMAGE.arguments, "num_registers": 1, "register_positions": True}),
        partial(tasks.vision_transformer, num_heads=HEADS, num_layers=1, eps=0.01),
    ),
}
LEARNED = Part("LearnedPooling", {"embed_dim": EMBED, "num_heads": HEADS, "ffn_dim": FFN})


def head(name, made, oracle):
    """A catalogue entry for a head on hidden vectors, with its oracle."""
    pools = "pool" in getattr(oracle, "keywords", {}) or made.name == "LateClassifier"
    return Mechanism(
        name=name,
        family="models",
        file="models/tasks/",
        paper=DEVLIN,
        equation=r"y = \mathrm{head}(x)",
        module=Part(made.name, {"embed_dim": EMBED, **made.arguments}),
        inputs={"x": ("batch", "query", "embed")},
        masks=PADDING if pools else {},
        oracle=partial(tasks.alone, head=oracle),
        weights=False,
    )


def task_model(name, backbone, made, oracle):
    """A catalogue entry for a head on a backbone, with its oracle; rounding in bfloat16 would add up."""
    config, below = BACKBONES[backbone]
    is_image = backbone.startswith("image")
    return Mechanism(
        name=f"{name} on {backbone}",
        family="models",
        file="models/task_model.py",
        paper=DEVLIN,
        equation=r"y = \mathrm{head}(\mathrm{backbone}(x))",
        module=Part("TaskModel", {"config": Part("TaskSpec", {"backbone": config, "head": made})}),
        inputs={"inputs": ("batch", "height", "width", "channels")} if is_image else {},
        tokens={} if is_image else {"inputs": ("batch", "query")},
        masks={} if is_image else PADDING,
        sizes={**SIZES, "height": 4, "width": 6, "channels": 2},
        oracle=partial(tasks.task_model, backbone=below, head=oracle),
        dtypes=("float32", "float64"),
    )


def classifier(**arguments):
    return Part("SequenceClassifier", {"num_classes": CLASSES, **arguments})


by_attention = partial(tasks.learned_pooling, num_heads=HEADS)
FIRST_CLASSES = (
    classifier(activation="tanh"),
    partial(tasks.sequence_classifier, pool=tasks.first_token, activation="tanh"),
)
LAST_CLASSES = (
    classifier(pooling=Part("LastToken"), bias=False),
    partial(tasks.sequence_classifier, pool=tasks.last_token),
)
ATTENDED_CLASSES = classifier(pooling=LEARNED), partial(tasks.sequence_classifier, pool=by_attention)
FIRST_AND_MEAN_CLASSES = (
    classifier(pooling=Part("FirstAndMeanPooling", {"skip": 3})),
    partial(tasks.sequence_classifier, pool=partial(tasks.first_and_mean_pooling, skip=3)),
)
NORMED_CLASSES = (
    classifier(
        pooling=Part("NormedPooling", {"embed_dim": EMBED, "pooling": Part("MeanPooling", {"skip": 1})})
    ),
    partial(
        tasks.sequence_classifier,
        pool=partial(tasks.normed_pooling, pool=partial(tasks.mean_pooling, skip=1)),
    ),
)
DISTILLED_CLASSES = Part("DistilledClassifier", {"num_classes": CLASSES}), tasks.distilled_classifier
TOKEN_CLASSES = Part("TokenClassifier", {"num_classes": CLASSES}), tasks.token_classifier
REPLACED = (
    Part("TokenClassifier", {"num_classes": 1, "activation": "gelu"}),
    partial(tasks.token_classifier, activation="gelu"),
)
NORMED = {
    "activation": "gelu",
    "hidden_bias": False,
    "hidden_norm": Part("layer_norm", {"dim": EMBED, "eps": tasks.EPS, "bias": False}),
}
NORMED_CLASSES = (
    classifier(pooling=Part("MeanPooling"), **NORMED),
    partial(tasks.sequence_classifier, pool=tasks.mean_pooling, activation="gelu"),
)
NORMED_TOKENS = (
    Part("TokenClassifier", {"num_classes": CLASSES, **NORMED}),
    partial(tasks.token_classifier, activation="gelu"),
)
NORMED_ANSWERS = Part("QuestionAnswering", NORMED), partial(tasks.question_answering, activation="gelu")
ANSWERS = Part("QuestionAnswering"), tasks.question_answering
REWARD = Part("RewardHead"), partial(tasks.reward, pool=tasks.last_token)
MEAN = Part("EmbeddingHead"), partial(tasks.embedding, pool=tasks.mean_pooling)
ATTENDED = (
    Part("EmbeddingHead", {"pooling": LEARNED, "feature_dim": 7, "bias": True, "normalised": False}),
    partial(tasks.embedding, pool=by_attention, normalised=False),
)
MASKED = Part("MaskedLanguageHead"), tasks.masked_language
UNTIED = (
    Part("MaskedLanguageHead", {"tied": False, "activation": "gelu_tanh", "norm_eps": 0.01, "token_dim": 7}),
    partial(tasks.masked_language, activation="gelu_tanh", eps=0.01),
)
LINEAR = Part("LinearLanguageHead"), tasks.linear_language
UNTIED_LINEAR = Part("LinearLanguageHead", {"tied": False, "bias": True}), tasks.linear_language
LATE_CLASSES = (
    Part("LateClassifier", {"num_classes": CLASSES, "activation": "gelu"}),
    partial(tasks.late_classifier, activation="gelu"),
)

HEADS_ALONE = (
    head("classes by the first token", *FIRST_CLASSES),
    head("classes by the last token", *LAST_CLASSES),
    head("classes by attention", *ATTENDED_CLASSES),
    head("classes by the first token and the mean", *FIRST_AND_MEAN_CLASSES),
    head("classes by the normed mean", *NORMED_CLASSES),
    head("classes by two tokens", *DISTILLED_CLASSES),
    head("classes of tokens", *TOKEN_CLASSES),
    head("classes by the mean of logits", *LATE_CLASSES),
    head("replaced tokens", *REPLACED),
    head("classes by the mean, normed", *NORMED_CLASSES),
    head("classes of tokens, normed", *NORMED_TOKENS),
    head("answers, normed", *NORMED_ANSWERS),
    head(
        "masked language without biases",
        Part(
            "MaskedLanguageHead",
            {**UNTIED[0].arguments, "vocab_size": SIZES["vocab"], "bias": False},
        ),
        UNTIED[1],
    ),
    head("answers", *ANSWERS),
    head("reward", *REWARD),
    head("embedding by the mean", *MEAN),
    head("embedding by attention", *ATTENDED),
    head(
        "masked language, untied",
        Part("MaskedLanguageHead", {**UNTIED[0].arguments, "vocab_size": SIZES["vocab"]}),
        UNTIED[1],
    ),
    head(
        "linear language, untied",
        Part("LinearLanguageHead", {**UNTIED_LINEAR[0].arguments, "vocab_size": SIZES["vocab"]}),
        UNTIED_LINEAR[1],
    ),
)
TASK_MODELS = (
    task_model("linear language", "encoder", *LINEAR),
    task_model("linear language, untied", "encoder", *UNTIED_LINEAR),
    task_model("classes by the mean of logits", "language model", *LATE_CLASSES),
    task_model("masked language", "encoder", *MASKED),
    task_model("masked language, untied", "encoder", *UNTIED),
    task_model("classes by the first token", "encoder", *FIRST_CLASSES),
    task_model("classes by the last token", "language model", *LAST_CLASSES),
    task_model("classes by attention", "image", *ATTENDED_CLASSES),
    task_model("classes by the first token and the mean", "image with registers", *FIRST_AND_MEAN_CLASSES),
    task_model(
        "classes by the first token and the mean",
        "image whose prefix has no positions",
        *FIRST_AND_MEAN_CLASSES,
    ),
    task_model("classes by the normed mean", "image without a class token", *NORMED_CLASSES),
    task_model("classes by two tokens", "image with a distillation token", *DISTILLED_CLASSES),
    task_model("classes of tokens", "encoder", *TOKEN_CLASSES),
    task_model("answers", "encoder", *ANSWERS),
    task_model("reward", "decoder", *REWARD),
    task_model("embedding by the mean", "encoder", *MEAN),
    task_model("no head", "language model", Part("NoHead"), tasks.no_head),
)
