"""Sentence embeddings of encoder families other than BERT, from folders that sentence-transformers writes."""

import numpy as np
import pytest
import torch
import transformers
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

from attention_bridge.pretrained.text import TextModel, embed
from parity_tests.helpers import tiny_checkpoints
from parity_tests.helpers import tiny_tokenizers as tiny

TEXTS = ["Attention is all you need.", "x", "Paris is the capital of France, and 東京 the one of Japan."]
SIZES = {
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "max_position_embeddings": 66,
}
ROBERTA_WORDS = (
    "<s>",
    "<pad>",
    "</s>",
    "<unk>",
    "<mask>",
)  # padding is token 1, which positions do not count


def trained(directory):
    """A tokenizer with the special tokens of RoBERTa, as `tokenizer.json`; the size of its vocabulary."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=110, special_tokens=[*ROBERTA_WORDS], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(tiny.SENTENCES, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), False, False)
    names = ("bos_token", "pad_token", "eos_token", "unk_token", "mask_token")
    words = dict(zip(names, ROBERTA_WORDS, strict=True)) | {"cls_token": "<s>", "sep_token": "</s>"}
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **words)
    fast.save_pretrained(directory)
    return tokenizer.get_vocab_size()


def electra(directory):
    """The same for ELECTRA: a WordPiece vocabulary."""
    size = tiny.word_piece(directory).get_vocab_size()
    transformers.ElectraTokenizer.from_pretrained(directory).save_pretrained(directory)
    return size


FAMILIES = {
    "mpnet": (transformers.MPNetModel, transformers.MPNetConfig, trained, {}),
    "xlm-roberta": (
        transformers.XLMRobertaModel,
        transformers.XLMRobertaConfig,
        trained,
        {"type_vocab_size": 1},
    ),
    "camembert": (transformers.CamembertModel, transformers.CamembertConfig, trained, {"type_vocab_size": 1}),
    "electra": (transformers.ElectraModel, transformers.ElectraConfig, electra, {"embedding_size": 8}),
}


@pytest.mark.parametrize("framework", ["torch", pytest.param("jax", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", FAMILIES)
def test_folders_of_sentence_transformers_give_their_embeddings(tmp_path, name, framework):
    kind, config, tokenizer, fields = FAMILIES[name]
    (tmp_path / "given").mkdir()
    size = tokenizer(tmp_path / "given")
    tiny_checkpoints.save(tmp_path / "given", kind(config(vocab_size=size, **SIZES, **fields)))
    torch.manual_seed(3)
    parts = [
        Transformer(str(tmp_path / "given"), max_seq_length=60),
        Pooling(12, pooling_mode="mean"),
        Dense(12, 5),
        Normalize(),
    ]
    reference = SentenceTransformer(modules=parts, device="cpu")
    reference.save(str(tmp_path / "folder"))
    expected = reference.encode(TEXTS)
    found = embed(TextModel.open(tmp_path / "folder", framework), TEXTS)
    assert found.shape == (3, 5)
    assert np.abs(found - expected).max() <= 2e-6
