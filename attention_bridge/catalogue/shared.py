"""Papers, sizes and axes of inputs and masks that many entries share."""

from attention_bridge.catalogue.mechanism import SIZES, Paper

BAHDANAU = Paper("Bahdanau, Cho & Bengio", 2014, "https://arxiv.org/abs/1409.0473")
LUONG = Paper("Luong, Pham & Manning", 2015, "https://arxiv.org/abs/1508.04025")
VASWANI = Paper("Vaswani et al.", 2017, "https://arxiv.org/abs/1706.03762")
RADFORD = Paper(
    "Radford et al.",
    2018,
    "https://cdn.openai.com/research-covers/language-unsupervised/language_understanding_paper.pdf",
)
RADFORD_2019 = Paper(
    "Radford et al.",
    2019,
    "https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf",
)
DEVLIN = Paper("Devlin et al.", 2018, "https://arxiv.org/abs/1810.04805")

QUERY_KEY_VALUE = {
    "query": ("batch", "query", "query_dim"),
    "key": ("batch", "key", "key_dim"),
    "value": ("batch", "key", "value_dim"),
}
SAME_DIM = {**QUERY_KEY_VALUE, "key": ("batch", "key", "query_dim")}
SEQUENCE = {"x": ("batch", "query", "embed")}
QUERY_MEMORY = {"query": ("batch", "query", "query_dim"), "memory": ("batch", "key", "key_dim")}

ONE_HEAD_CROSS = {"mask": ("batch", "one", "query", "key")}
ONE_HEAD_SELF = {"mask": ("batch", "one", "query", "query")}
HEADS_CROSS = {"mask": ("batch", "heads", "query", "key")}
HEADS_SELF = {"mask": ("batch", "heads", "query", "query")}
PADDING = {"mask": ("batch", "one", "one", "query")}  # masks a key for all queries and heads

KEEP_ONE_HEAD_CROSS = ("batch", "query", "key")
KEEP_ONE_HEAD_SELF = ("batch", "query", "query")
KEEP_CROSS = ("batch", "heads", "query", "key")
KEEP_SELF = ("batch", "heads", "query", "query")

HEADS, EMBED, FFN = SIZES["heads"], SIZES["embed"], SIZES["ffn"]
QUERY_DIM, KEY_DIM, HIDDEN = SIZES["query_dim"], SIZES["key_dim"], SIZES["hidden"]
