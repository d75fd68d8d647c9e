"""Whole models, built from the mechanisms, and the feed-forward networks and norms that a `Part` names."""

from jax_attention.feed_forward import ClampedFeedForward as ClampedFeedForward
from jax_attention.feed_forward import FeedForward as FeedForward
from jax_attention.feed_forward import GatedFeedForward as GatedFeedForward
from jax_attention.head_norms import head_layer_norm as head_layer_norm
from jax_attention.models.beams import BeamOutput as BeamOutput
from jax_attention.models.beams import beam_search as beam_search
from jax_attention.models.contrastive import ContrastiveConfig as ContrastiveConfig
from jax_attention.models.contrastive import ContrastiveModel as ContrastiveModel
from jax_attention.models.decoder import Decoder as Decoder
from jax_attention.models.decoder import DecoderConfig as DecoderConfig
from jax_attention.models.decoder import DecoderLayer as DecoderLayer
from jax_attention.models.description import LayerSpec as LayerSpec
from jax_attention.models.description import ModelSpec as ModelSpec
from jax_attention.models.description import Part as Part
from jax_attention.models.encoder import Encoder as Encoder
from jax_attention.models.encoder import EncoderConfig as EncoderConfig
from jax_attention.models.encoder import EncoderLayer as EncoderLayer
from jax_attention.models.encoder_decoder import EncoderDecoder as EncoderDecoder
from jax_attention.models.encoder_decoder import EncoderDecoderConfig as EncoderDecoderConfig
from jax_attention.models.encoder_decoder import StackConfig as StackConfig
from jax_attention.models.experts import MixtureOfExperts as MixtureOfExperts
from jax_attention.models.generation import generate as generate
from jax_attention.models.language import LanguageModel as LanguageModel
from jax_attention.models.recurrent_seq2seq import RecurrentCache as RecurrentCache
from jax_attention.models.recurrent_seq2seq import RecurrentSeq2Seq as RecurrentSeq2Seq
from jax_attention.models.relative_encoder_decoder import RelativeEncoderDecoder as RelativeEncoderDecoder
from jax_attention.models.relative_encoder_decoder import (
    RelativeEncoderDecoderConfig as RelativeEncoderDecoderConfig,
)
from jax_attention.models.relative_encoder_decoder import RelativeLayer as RelativeLayer
from jax_attention.models.routing import SigmoidRouting as SigmoidRouting
from jax_attention.models.routing import SoftmaxRouting as SoftmaxRouting
from jax_attention.models.sampling import filter_scores as filter_scores
from jax_attention.models.seq2seq import SimpleSeq2Seq as SimpleSeq2Seq
from jax_attention.models.sequence import SequenceModel as SequenceModel
from jax_attention.models.sequence import SequenceToSequence as SequenceToSequence
from jax_attention.models.special_tokens import SpecialTokens as SpecialTokens
from jax_attention.models.speech import SpeechConfig as SpeechConfig
from jax_attention.models.speech import SpeechTransformer as SpeechTransformer
from jax_attention.models.task_model import TaskModel as TaskModel
from jax_attention.models.task_model import TaskSpec as TaskSpec
from jax_attention.models.tasks import EmbeddingHead as EmbeddingHead
from jax_attention.models.tasks import FirstToken as FirstToken
from jax_attention.models.tasks import LastToken as LastToken
from jax_attention.models.tasks import LearnedPooling as LearnedPooling
from jax_attention.models.tasks import MaskedLanguageHead as MaskedLanguageHead
from jax_attention.models.tasks import MeanPooling as MeanPooling
from jax_attention.models.tasks import NoHead as NoHead
from jax_attention.models.tasks import QuestionAnswering as QuestionAnswering
from jax_attention.models.tasks import RewardHead as RewardHead
from jax_attention.models.tasks import SequenceClassifier as SequenceClassifier
from jax_attention.models.tasks import TokenClassifier as TokenClassifier
from jax_attention.models.vision_transformer import VisionTransformer as VisionTransformer
from jax_attention.models.vision_transformer import VisionTransformerConfig as VisionTransformerConfig
from jax_attention.norms import layer_norm as layer_norm
from jax_attention.norms import rms_norm as rms_norm
